"""Graphs of every kind of network, run by ONNX Runtime beside our own network."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.tiny_models import tiny_encoder

from unheard.interop.onnx.graph import Graph, Value, write_graph
from unheard.interop.onnx.network import Outputs, choose_outputs, make_graph, quantize_columns
from unheard.models.config import ConvLayer, CtcConfig, EncoderConfig
from unheard.models.ctc import CtcModel
from unheard.models.filterbank import start_as_filterbank

GROUP, LAYER = tiny_encoder("group"), tiny_encoder("layer")
MINI = replace(
    GROUP,
    norm_first=True,
    conv_layers=(
        ConvLayer(channels=16, kernel=40, stride=16),
        ConvLayer(channels=8, kernel=3, stride=2),
        ConvLayer(channels=8, kernel=1, stride=1),
    ),
)
KINDS = {
    "group": GROUP,
    "layer": LAYER,
    "adapters": replace(LAYER, adapter_dim=4),
    "mini": MINI,
    "odd positional kernel": replace(GROUP, positional_kernel=7),
}
VOCAB = 7
PLAIN = choose_outputs(0, [], VOCAB)


def make_model(encoder: EncoderConfig, *, seed: int = 0) -> CtcModel:
    torch.manual_seed(seed)
    model = CtcModel(CtcConfig(encoder=encoder, vocab=VOCAB)).eval()
    with torch.no_grad():
        # Nothing that could be left out without a trace: no ones, no zeros, no small weights.
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim < 2 else 0.5
            weight.add_(torch.randn(weight.shape) * spread if "weight_g" not in name else 0)
        if encoder == MINI:
            start_as_filterbank(
                model.encoder.feature_encoder,
                sample_rate=16_000,
                generator=torch.Generator().manual_seed(seed),
            )
    return model


def save(
    graph: Graph, path: Path, *, outputs: Outputs = PLAIN, inline_bytes: int = 1 << 30
) -> Path:
    write_graph(
        graph,
        path,
        source=Value(name="x", axes=("N", "samples")),
        result=Value(name="logits", axes=("N", "frames", len(outputs))),
        name="test",
        metadata={"sample_rate": "16000"},
        producer_version="0",
        inline_bytes=inline_bytes,
    )
    return path


def run(path: Path, samples: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    return np.asarray(session.run(None, {"x": samples})[0])


def noise(utterances: int, samples: int) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal((utterances, samples), dtype=np.float32)


def logits(model: CtcModel, samples: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(samples)).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_what_the_network_gives(kind: str, tmp_path: Path) -> None:
    model = make_model(KINDS[kind])
    path = save(make_graph(model, PLAIN), tmp_path / "model.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    least = KINDS[kind].receptive_field_samples
    for utterances, samples in ((1, least), (3, least + 1), (2, 700), (1, 4000)):
        sound = noise(utterances, samples)
        expected = logits(model, sound).numpy()
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(run(path, sound), expected, rtol=1e-4, atol=1e-4)


def test_an_utterance_does_not_depend_on_the_others_of_its_batch(tmp_path: Path) -> None:
    path = save(make_graph(make_model(GROUP), PLAIN), tmp_path / "model.onnx")
    sound = noise(3, 900)
    alone = np.concatenate([run(path, row[None]) for row in sound])
    np.testing.assert_allclose(run(path, sound), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, GROUP.receptive_field_samples - 1])
@pytest.mark.parametrize("epsilon", [None, 1e-7])
def test_less_than_a_receptive_field_gives_no_frames(
    samples: int, epsilon: float | None, tmp_path: Path
) -> None:
    graph = make_graph(make_model(GROUP), PLAIN, normalize_epsilon=epsilon)
    found = run(save(graph, tmp_path / "model.onnx"), noise(2, samples))
    assert found.shape == (2, 0, VOCAB)


def test_the_graph_can_normalise_what_it_hears(tmp_path: Path) -> None:
    model = make_model(LAYER)
    path = save(make_graph(model, PLAIN, normalize_epsilon=1e-3), tmp_path / "model.onnx")
    sound = 0.05 * noise(2, 800) + np.array([[0.3], [-0.1]], np.float32)
    mean, variance = sound.mean(1, keepdims=True), sound.var(1, keepdims=True)
    expected = logits(model, (sound - mean) / np.sqrt(variance + 1e-3)).numpy()
    np.testing.assert_allclose(run(path, sound), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(logits(model, sound).numpy() - expected).max() > 0.1


def test_the_blank_comes_first_and_takes_in_what_is_never_written(tmp_path: Path) -> None:
    model = make_model(GROUP)
    outputs = choose_outputs(3, [1, 5], VOCAB)
    assert outputs == Outputs(blank_ids=(3, 1, 5), written_ids=(0, 2, 4, 6))
    sound = noise(1, 1500)
    with torch.no_grad():  # so that each of the three is the best of them somewhere
        model.head.bias -= logits(model, sound)[0].mean(dim=0)
    path = save(make_graph(model, outputs), tmp_path / "model.onnx", outputs=outputs)
    ours, found = logits(model, sound)[0], torch.from_numpy(run(path, sound))[0]
    torch.testing.assert_close(found[:, 1:], ours[:, [0, 2, 4, 6]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 0], ours[:, [3, 1, 5]].amax(dim=-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, outputs.pick(ours), rtol=1e-4, atol=1e-4)
    assert len(set(ours[:, [3, 1, 5]].argmax(dim=-1).tolist())) == 3


def test_every_weight_has_its_place(tmp_path: Path) -> None:
    model = make_model(replace(LAYER, adapter_dim=4, layers=1))
    sound = noise(1, 900)
    before = run(save(make_graph(model, PLAIN), tmp_path / "before.onnx"), sound)
    unused = {"encoder.mask_embedding"}
    # Attention does not change when a number is added to all scores of a query.
    unused |= {name for name, _ in model.named_parameters() if name.endswith("attention.key.bias")}
    for name, weight in model.named_parameters():
        kept = weight.detach().clone()
        with torch.no_grad():
            weight += torch.randn(weight.shape)
        after = run(save(make_graph(model, PLAIN), tmp_path / "after.onnx"), sound)
        with torch.no_grad():
            weight.copy_(kept)
        changed = np.abs(after - before).max()
        assert (changed > 1e-4) == (name not in unused), f"{name}: {changed}"


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bits_are_in_products_with_weights_alone(kind: str, tmp_path: Path) -> None:
    encoder = KINDS[kind]
    model = make_model(encoder)
    path = save(make_graph(model, PLAIN, int8=True), tmp_path / "model.int8.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(path)
    counts = Counter(node.op_type for node in proto.graph.node)
    linears = 1 + encoder.layers * (8 if encoder.adapter_dim else 6)
    assert counts["MatMulInteger"] == linears
    # Two of attention in each layer, and the head.
    assert counts["MatMul"] == 2 * encoder.layers + 1
    assert counts["Conv"] == len(encoder.conv_layers) + 1
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    small = {name for name, kind in kinds.items() if kind == onnx.TensorProto.UINT8}
    assert len(small) == linears + 1
    assert all("conv" not in name and "blocks" not in name for name in small)
    sound = noise(2, 900)
    ours, found = logits(model, sound).numpy(), run(path, sound)
    spread = (ours - ours.mean(-1, keepdims=True)).std()
    assert 0 < np.sqrt(((ours - found) ** 2).mean()) < 0.1 * spread


def test_columns_are_rounded_to_within_half_a_step() -> None:
    weight = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    weight *= torch.tensor([1e-6, 1e-3, 1.0, 10.0, 1e4, 0.0])
    quantized, scale = quantize_columns(weight)
    assert quantized.dtype == torch.uint8
    restored = (quantized.float() - 128) * scale
    assert ((restored - weight).abs() <= scale / 2 * (1 + 1e-4)).all()
    used = (quantized.int() - 128).abs().amax(dim=0)
    assert used.tolist() == [127, 127, 127, 127, 127, 0]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for int8 in (False, True):
        first, second = (
            save(make_graph(make_model(LAYER, seed=seed), PLAIN, int8=int8), tmp_path / name)
            for seed, name in ((1, "a.onnx"), (1, "b.onnx"))
        )
        assert first.read_bytes() == second.read_bytes()
    other = save(make_graph(make_model(LAYER, seed=2), PLAIN, int8=True), tmp_path / "c.onnx")
    assert other.read_bytes() != first.read_bytes()


def test_large_weights_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    graph = make_graph(make_model(GROUP), PLAIN)
    whole = save(graph, tmp_path / "whole.onnx")
    split = save(graph, tmp_path / "split.onnx", inline_bytes=graph.size_bytes - 1)
    assert not (tmp_path / "whole.onnx.data").exists()
    outside = sum(value.nbytes for value in graph.weights.values() if value.nbytes >= 1024)
    assert (tmp_path / "split.onnx.data").stat().st_size >= outside > 10_000
    assert split.stat().st_size < whole.stat().st_size - 0.9 * outside
    sound = noise(1, 900)
    np.testing.assert_array_equal(run(split, sound), run(whole, sound))
    onnx.checker.check_model(str(split), full_check=True)


def test_weights_of_other_types_are_written_as_float32(tmp_path: Path) -> None:
    model = make_model(GROUP)
    plain = save(make_graph(model, PLAIN), tmp_path / "plain.onnx")
    wide = save(make_graph(model.double(), PLAIN), tmp_path / "wide.onnx")
    sound = noise(1, 900)
    np.testing.assert_allclose(run(wide, sound), run(plain, sound), rtol=1e-5, atol=1e-5)


def test_metadata_travels_in_the_file(tmp_path: Path) -> None:
    proto = onnx.load(save(make_graph(make_model(GROUP), PLAIN), tmp_path / "model.onnx"))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"sample_rate": "16000"}
    assert proto.producer_name == "unheard"
    assert [opset.version for opset in proto.opset_import] == [17]
