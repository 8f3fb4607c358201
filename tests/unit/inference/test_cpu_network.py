"""The network laid out for a CPU against the plain one, of which it is a rearrangement."""

import itertools
import platform
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_bundle

from unheard.audio.signal import InputSpec
from unheard.inference import cpu_network, products
from unheard.inference.accelerator_network import AcceleratorNetwork
from unheard.inference.cpu_network import CpuNetwork, attend, fold_time_norm
from unheard.inference.engine import Engine
from unheard.inference.products import QuantizedLinear, has_int8_products
from unheard.interop.bundle import ModelBundle
from unheard.models.config import ConvLayer, CtcConfig, EncoderConfig
from unheard.models.ctc import CtcModel
from unheard.models.feature_encoder import TimeNorm

LENGTHS = (400, 5_000, 12_345, 40_000)
"""[samples]; one frame, and more than one stretch of the convolutions."""

CONVS = tuple(
    ConvLayer(channels=32, kernel=kernel, stride=stride)
    for kernel, stride in ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)
)
ENCODERS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"conv_norm": "layer", "conv_bias": True, "norm_first": True},
    "large-lv60": {"conv_norm": "layer", "conv_bias": True},
    "xls-r": {"conv_norm": "group", "conv_bias": True, "norm_first": True},
    "mms": {"conv_norm": "layer", "norm_first": True, "adapter_dim": 8},
    "odd": {"positional_kernel": 5, "positional_groups": 3, "heads": 3, "norm_epsilon": 1e-3},
    "mini": {
        "conv_layers": (
            ConvLayer(channels=24, kernel=400, stride=160),
            ConvLayer(channels=24, kernel=3, stride=2),
        ),
        "norm_first": True,
    },
}


def make_model(kind: str, *, seed: int = 0) -> CtcModel:
    """Random weights that are felt everywhere: norms and biases too."""
    settings: dict[str, Any] = {
        "conv_layers": CONVS,
        "dim": 24,
        "ffn_dim": 48,
        "layers": 3,
        "heads": 4,
        "positional_kernel": 8,
        "positional_groups": 4,
    }
    torch.manual_seed(seed)
    model = CtcModel(CtcConfig(encoder=EncoderConfig(**settings | ENCODERS[kind]), vocab=11))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("weight", "weight_v")) and parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.add_(0.1 * noise)
    return model.eval()


def make_sounds(lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [
        (generator.standard_normal(length) * (1.1 + np.sin(np.arange(length) / 700)) + 0.3).astype(
            np.float32
        )
        for length in lengths
    ]


def plain(model: CtcModel, sound: np.ndarray) -> torch.Tensor:
    """The plain network in float64, one recording."""
    wide = CtcModel(model.config).double().eval()
    wide.load_state_dict(model.state_dict())
    with torch.inference_mode():
        return torch.log_softmax(wide(torch.from_numpy(sound)[None].double()).logits[0], dim=-1)


def run(network: CpuNetwork, sounds: list[np.ndarray]) -> list[torch.Tensor]:
    counts = [network.config.encoder.num_frames(len(sound)) for sound in sounds]
    with torch.inference_mode():
        return network.log_probs(list(zip(sounds, counts, strict=True)))


def largest(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    assert [one.shape for one in found] == [one.shape for one in expected]
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ENCODERS)
def test_float32_is_the_plain_network_up_to_rounding(kind: str) -> None:
    model = make_model(kind)
    shortest = model.config.encoder.receptive_field_samples
    sounds = make_sounds((shortest, *LENGTHS[1:]))
    expected = [plain(model, sound) for sound in sounds]
    assert largest(run(CpuNetwork(model, dtype=torch.float32), sounds), expected) < 2e-5
    # The bound is one that a slightly different network fails.
    with torch.no_grad():
        model.encoder.transformer.layers[1].attention.key.weight[0, 0] += 0.02  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
    assert largest(run(CpuNetwork(model, dtype=torch.float32), sounds), expected) > 2e-5


@pytest.mark.parametrize("kind", ["base", "large", "mms", "mini"])
def test_without_onednn_it_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sounds = make_model(kind), make_sounds((5_000, 12_345))
    expected = [plain(model, sound) for sound in sounds]
    monkeypatch.setattr(products, "has_packed_products", lambda: False)
    monkeypatch.setattr(cpu_network, "has_packed_products", lambda: False)
    assert largest(run(CpuNetwork(model, dtype=torch.float32), sounds), expected) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score_bytes", [1, 3_000, 60_000])
def test_attention_in_stretches_is_attention(
    dtype: torch.dtype, score_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row, some rows, and several heads at a time."""
    monkeypatch.setattr(cpu_network, "SCORE_BYTES", score_bytes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    generator = torch.Generator().manual_seed(1)
    joined = torch.randn(48, 3 * 32, generator=generator)
    joined[41:] = 0
    joined = joined.to(dtype)
    heard = torch.empty(48, 32, dtype=dtype)
    attend(joined, heard, frames=41, heads=4)
    assert (heard[:41].double() - softmax_attention(joined[:41])).abs().max() < {
        torch.float32: 1e-5,
        torch.bfloat16: 2e-2,
    }[dtype]


def softmax_attention(joined: torch.Tensor, *, heads: int = 4) -> torch.Tensor:
    """Attention as it is written down, to the base two."""
    parts = joined.double().unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
    query, key, value = parts
    weights = torch.softmax(query @ key.transpose(1, 2) * np.log(2), dim=-1)
    return (weights @ value).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("score_bytes", [1, 1_500_000])
@pytest.mark.parametrize("loudness", [30.0, -30.0])
def test_scores_beyond_the_range_of_the_type_are_still_a_softmax(
    loudness: float, score_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two to the thousand is no number, and two to minus a thousand is none to divide by."""
    monkeypatch.setattr(cpu_network, "SCORE_BYTES", score_bytes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    generator = torch.Generator().manual_seed(2)
    joined = torch.randn(32, 3 * 32, generator=generator)
    joined[:, :32] = joined[:, :32].abs() * loudness
    joined[:, 32:64] = joined[:, 32:64].abs() + 2
    assert (joined[:, :32] @ joined[:, 32:64].t()).abs().min() > 1_000
    heard = torch.empty(32, 32)
    attend(joined, heard, frames=32, heads=4)
    assert (heard.double() - softmax_attention(joined)).abs().max() < 1e-3


@pytest.mark.parametrize("channels", [4, 64])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_the_folded_norm_is_the_norm(channels: int, offset: float) -> None:
    """By either way to the statistics; with a sound far from zero too."""
    generator = torch.Generator().manual_seed(4)
    samples = torch.randn(4_001, generator=generator) + offset
    weight = torch.randn(channels, 10, generator=generator)
    norm = TimeNorm(channels, epsilon=1e-5)
    with torch.inference_mode():
        norm.weight.copy_(1 + 0.1 * torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
        mean = float(samples.mean())
        folded, bias = fold_time_norm(samples, weight, norm, stride=5, offset=mean)
        taps = (samples - mean).unfold(0, 10, 5)
        wide = samples.double().unfold(0, 10, 5) @ weight.double().t()
        expected = norm.double()(wide[None], None)[0]
        assert (taps @ folded.t() + bias - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["base", "large"])
def test_bfloat16_and_int8_stay_within_their_bounds(kind: str) -> None:
    """The bounds of docs/speed.md, on networks as sure of themselves as trained ones."""
    model, sounds = make_model(kind), make_sounds((12_345, 40_000))
    with torch.no_grad():
        model.head.weight.mul_(4)
    expected = [plain(model, sound) for sound in sounds]
    spread = float(torch.cat(expected).std())
    assert spread > 1
    rough = largest(run(CpuNetwork(model, dtype=torch.bfloat16), sounds), expected)
    assert 1e-4 < rough < 0.1 * spread
    if has_int8_products():
        network = CpuNetwork(model, dtype=torch.bfloat16, int8=True)
        eighths = largest(run(network, sounds), expected)
        assert rough / 2 < eighths < 0.3 * spread
    # Four bits, to see that the bounds can be broken.
    with torch.no_grad():
        for parameter in model.encoder.transformer.parameters():
            step = parameter.abs().amax() / 7
            parameter.copy_(torch.round(parameter / step) * step)
    assert largest(run(CpuNetwork(model, dtype=torch.bfloat16), sounds), expected) > 0.3 * spread


@pytest.mark.skipif(not has_int8_products(), reason="this processor has no VNNI")
def test_a_loud_row_costs_other_rows_nothing_in_8_bits() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(32, 64, generator=generator)
    rows = torch.randn(8, 64, generator=generator)
    linear = QuantizedLinear(weight, torch.randn(32, generator=generator), dtype=torch.float32)
    quiet = linear(rows)
    expected = rows.double() @ weight.double().t() + linear.bias
    assert (quiet - expected).abs().max() < 0.3
    loud = rows.clone()
    loud[3] *= 1e4
    assert torch.equal(linear(loud)[:3], quiet[:3])
    assert linear(torch.zeros(2, 64)).equal(linear.bias.expand(2, -1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["base", "large"])
def test_a_recording_is_alone_in_its_batch(kind: str, dtype: str) -> None:
    if dtype == "int8" and not has_int8_products():
        pytest.skip("this processor has no VNNI")
    values = torch.float32 if dtype == "float32" else torch.bfloat16
    network = CpuNetwork(make_model(kind), dtype=values, int8=dtype == "int8")
    sounds = make_sounds()
    together = run(network, sounds)
    alone = [run(network, [sound])[0] for sound in sounds]
    assert largest(together, alone) < {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.02}[dtype]
    assert run(network, sounds[:2])[1].equal(run(network, [sounds[1], sounds[0]])[0])


@pytest.mark.parametrize(
    ("padding", "attention_mask"), list(itertools.product(["masked", "zeros"], [True, False]))
)
@pytest.mark.parametrize("kind", ["base", "large"])
def test_every_way_to_pad_is_that_of_the_plain_network(
    kind: str, padding: Any, attention_mask: bool
) -> None:
    spec = InputSpec(normalize=True, padding=padding, attention_mask=attention_mask)
    bundle = ModelBundle(model=make_model(kind), alphabet=None, input_spec=spec)
    sounds = make_sounds()
    ours = Engine(bundle, dtype="float32", writes_text=False).log_probs(sounds)
    wide = ModelBundle(model=make_model(kind).double(), alphabet=None, input_spec=spec)
    engine = Engine(wide, writes_text=False)
    expected = engine.log_probs(sounds)
    assert engine.dtype == "float64"
    assert largest(ours, expected) < 2e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_padded_network_of_accelerators_is_the_plain_one(dtype: Any) -> None:
    """On the CPU, where it can be tried; its weight norm is worked out once."""
    bundle = make_bundle()
    model, spec = bundle.model, bundle.input_spec
    assert isinstance(model, CtcModel)
    network = AcceleratorNetwork(model, spec=spec, dtype=dtype)
    sounds = make_sounds((12_345, 5_000))
    with torch.inference_mode():
        found = network.log_probs(sounds)
    expected = [plain(model, sound) for sound in sounds]
    found = [row[: len(one)] for row, one in zip(found, expected, strict=True)]
    assert largest(found, expected) < {"float32": 2e-5, "bfloat16": 1.5, "float16": 0.2}[dtype]
    assert all(one.dtype == torch.float32 for one in found)
    assert next(model.parameters()).dtype == torch.float32


def test_the_weights_are_those_of_the_first_use() -> None:
    """A laid-out network is a copy: who goes on training makes a new engine."""
    bundle = make_bundle()
    engine = Engine(replace(bundle), dtype="float32")
    sounds = make_sounds((5_000,))
    before = engine.log_probs(sounds)
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.mul_(1.5)
    assert largest(engine.log_probs(sounds), before) == 0
    assert largest(Engine(bundle, dtype="float32").log_probs(sounds), before) > 0.01


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="only x86 has oneDNN's packed products",
)
def test_torch_still_has_the_operators_that_it_does_not_document() -> None:
    """Without them everything works, at a third of the speed: nobody would notice."""
    assert products.has_packed_products()
    assert hasattr(torch.ops.onednn, "qlinear_pointwise")
    assert hasattr(torch.ops.onednn, "qlinear_prepack")
