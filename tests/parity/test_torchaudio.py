"""State dicts that torchaudio 2.11's own code made, and the numbers it computed from them.

The tiny models of tests/assets/torchaudio were made and run by torchaudio. The layouts of published
networks are written down by hand (`torchaudio_layout`), which a test compares with the tiny ones.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.closeness import FLOAT32, FLOAT64, assert_close, largest_difference
from tests.parity.state_dict_models import (
    FRAMES,
    NamesOnly,
    batch,
    copy_asset,
    expected,
    run_stages,
    torchaudio_layout,
    weights,
)
from torch import Tensor

import unheard
from unheard.audio.signal import normalize
from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError
from unheard.interop import storage, torchaudio
from unheard.interop.bundle import ModelBundle
from unheard.interop.torchaudio_bundles import BUNDLES
from unheard.models.config import CtcConfig, EncoderOnlyConfig

KIND = "torchaudio"
CASES = [
    ("base", "batch"),
    ("base", "utt1"),
    ("base_asr", "batch"),
    ("base_asr", "utt1"),
    ("large", "batch"),
    ("large", "utt1"),
    ("large_aligner", "utt0"),
    ("large_aligner", "utt1"),
]

pytestmark = pytest.mark.filterwarnings("error")


def load(path: Path, dtype: torch.dtype = torch.float64) -> ModelBundle:
    return storage.load(torchaudio.open_model(path), dtype=dtype)


def save_changed(
    folder: Path, name: str, change: Callable[[dict[str, Tensor]], Any], **settings: Any
) -> Path:
    """Put a model of the assets into a folder, with its tensors changed."""
    path = copy_asset(KIND, name, folder, **settings)
    changed = dict(weights(KIND, name))
    change(changed)
    save_file({key: tensor.contiguous() for key, tensor in changed.items()}, path)
    return path


def stages_of(bundle: ModelBundle, name: str, case: str) -> tuple[dict[str, Tensor], list[int]]:
    samples, lengths, real = batch(KIND, name, case)
    if bundle.input_spec.normalize and name == "large_aligner":
        samples = torch.nn.functional.layer_norm(samples, samples.shape, eps=1e-5)
    stages = run_stages(bundle.model, samples.to(bundle.dtype), lengths)
    if "logits" in stages:
        stages["output"] = stages.pop("logits")
    if name == "large_aligner":
        scores = torch.log_softmax(stages["output"], dim=-1)
        star = torch.zeros_like(scores[..., :1])
        stages["output"] = torch.cat([scores, star], dim=-1)
    return stages, real


def worst(bundle: ModelBundle, name: str, case: str = "utt1") -> float:
    """Largest difference of any stage."""
    stages, real = stages_of(bundle, name, case)
    theirs = expected(KIND, name)
    return max(
        largest_difference(
            stage,
            ours[row, [f for f in FRAMES if f < frames]],
            theirs[f"{case}.{stage}"][row, : sum(f < frames for f in FRAMES)],
        )
        for stage, ours in stages.items()
        for row, frames in enumerate(real)
    )


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)]
)
def test_every_stage(
    name: str, case: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    bundle = load(copy_asset(KIND, name, tmp_path), dtype)
    stages, real = stages_of(bundle, name, case)
    theirs = expected(KIND, name)
    assert {f"{case}.{stage}" for stage in stages} == {k for k in theirs if k.startswith(case)}
    for stage, ours in stages.items():
        for row, frames in enumerate(real):
            kept = [frame for frame in FRAMES if frame < frames]
            reference = theirs[f"{case}.{stage}"][row, : len(kept)]
            assert_close(f"{case} {stage} row {row}", ours[row, kept], reference, tolerance)


@pytest.mark.parametrize("name", ["base", "base_asr", "large", "large_aligner"])
def test_every_tensor_comes_and_goes_back_unchanged(name: str, tmp_path: Path) -> None:
    reading = torchaudio.open_model(copy_asset(KIND, name, tmp_path))
    ours = storage.load(reading).model.state_dict()
    back = {reading.places[key].name: ours[key] for key in ours if key not in reading.initialised}
    theirs = weights(KIND, name)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


def test_the_wrapper_normalises_a_recording_as_we_do(tmp_path: Path) -> None:
    spec = torchaudio.open_model(copy_asset(KIND, "large_aligner", tmp_path)).input_spec
    samples = expected(KIND, "large_aligner")["audio.1"]
    theirs = torch.nn.functional.layer_norm(samples, samples.shape)
    ours = torch.from_numpy(normalize(samples.numpy(), epsilon=spec.normalize_epsilon))
    assert spec.normalize
    assert_close("normalised", ours, theirs, FLOAT32)


def test_the_older_spelling_of_the_weight_norm(tmp_path: Path) -> None:
    def respell(tensors: dict[str, Tensor]) -> None:
        stem = "encoder.transformer.pos_conv_embed.conv."
        for older, newer in (("weight_g", "original0"), ("weight_v", "original1")):
            tensors[stem + older] = tensors.pop(f"{stem}parametrizations.weight.{newer}")

    assert worst(load(save_changed(tmp_path, "base", respell)), "base") <= FLOAT64


@pytest.mark.parametrize("prefix", ["model.", "module."])
def test_names_may_have_a_wrapper_before_them(prefix: str, tmp_path: Path) -> None:
    def wrap(tensors: dict[str, Tensor]) -> None:
        for key in list(tensors):
            tensors[prefix + key] = tensors.pop(key)

    assert worst(load(save_changed(tmp_path, "base_asr", wrap)), "base_asr") <= FLOAT64


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "wav2vec2.pth"
    torch.save(OrderedDict(weights(KIND, "base_asr")), path, _use_new_zipfile_serialization=zipped)
    (tmp_path / "wav2vec2.pth.json").write_text('{"heads": 2}')
    assert worst(load(path), "base_asr") <= FLOAT64
    assert worst(unheard.load_model(path, dtype=torch.float64), "base_asr") <= FLOAT64


LAYER = "encoder.transformer.layers.0."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LAYER + "attention.q_proj.weight", LAYER + "attention.v_proj.weight"),
        (LAYER + "layer_norm.weight", LAYER + "final_layer_norm.weight"),
        ("encoder.transformer.layer_norm.bias", LAYER + "layer_norm.bias"),
        (LAYER + "attention.k_proj.weight", LAYER + "attention.out_proj.weight"),
    ],
)
def test_a_swapped_pair_shows(one: str, other: str, tmp_path: Path) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]

    assert worst(load(save_changed(tmp_path, "base", swap)), "base") > 1e-3


@pytest.mark.parametrize("settings", [{"heads": 4}, {"norm_first": True}])
def test_a_wrong_setting_shows(settings: dict[str, Any], tmp_path: Path) -> None:
    assert worst(load(copy_asset(KIND, "base", tmp_path, **settings)), "base") > 1e-3


def test_strides_beside_the_file_are_used(tmp_path: Path) -> None:
    strides = [5, 2, 2, 2, 2, 2, 1]
    reading = torchaudio.open_model(copy_asset(KIND, "base", tmp_path, conv_strides=strides))
    assert [layer.stride for layer in reading.config.encoder.conv_layers] == strides
    assert "conv_strides" not in reading.provenance["inferred"]


def test_tensors_that_are_missing_left_over_or_mis_shaped_are_named(tmp_path: Path) -> None:
    bias = LAYER + "feed_forward.output_dense.bias"

    with pytest.raises(CheckpointError) as missing:
        torchaudio.open_model(save_changed(tmp_path, "base", lambda t: t.pop(bias)))
    assert missing.value.missing == (bias,)

    with pytest.raises(CheckpointError) as unexpected:
        torchaudio.open_model(
            save_changed(tmp_path, "base", lambda t: t.update(extra=torch.zeros(2)))
        )
    assert unexpected.value.unexpected == ("extra",)

    with pytest.raises(CheckpointError) as mismatched:
        torchaudio.open_model(
            save_changed(tmp_path, "base", lambda t: t.update({bias: torch.zeros(3)}))
        )
    assert mismatched.value.mismatched == (f"{bias}: expected (16,), found (3,)",)


def test_both_spellings_at_once_are_too_many(tmp_path: Path) -> None:
    gain = "encoder.transformer.pos_conv_embed.conv.weight_g"
    with pytest.raises(CheckpointError, match="unexpected"):
        torchaudio.open_model(
            save_changed(tmp_path, "base", lambda t: t.update({gain: torch.ones(1, 1, 16)}))
        )


def test_a_missing_layer_is_missing_and_a_numbered_stranger_left_over(tmp_path: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if key.startswith(LAYER)]:
            if not key.endswith("intermediate_dense.weight"):
                tensors.pop(key)

    with pytest.raises(CheckpointError) as missing:
        torchaudio.open_model(save_changed(tmp_path, "base", drop))
    assert len(missing.value.missing) == 15

    far = "encoder.transformer.layers.987654321.layer_norm.bias"
    with pytest.raises(CheckpointError) as stranger:
        torchaudio.open_model(
            save_changed(tmp_path, "base", lambda t: t.update({far: torch.zeros(16)}))
        )
    assert stranger.value.unexpected == (far,)


def test_networks_that_look_alike_are_named() -> None:
    shapes = torchaudio_layout(768, 1, 3072, layer_norm=False, conv_bias=False)
    bias = "encoder.transformer.layers.0.attention.rel_attn_embed.weight"
    with pytest.raises(FormatError, match="WavLM"):
        torchaudio.understand(NamesOnly({**shapes, bias: (320, 12)}), path=Path("wavlm.pth"))
    folded = {**shapes, "encoder.transformer.pos_conv_embed.conv.weight": (768, 48, 128)}
    with pytest.raises(FormatError, match="weight norm was removed"):
        torchaudio.understand(NamesOnly(folded), path=Path("scripted.pth"))


def test_an_unknown_width_needs_to_be_told(tmp_path: Path) -> None:
    path = copy_asset(KIND, "base", tmp_path)
    (tmp_path / f"{path.name}.json").unlink()
    with pytest.raises(ConfigError, match=r"heads.*width 16.*base\.safetensors\.json"):
        torchaudio.open_model(path)
    (tmp_path / "unheard.json").write_text('{"heads": 2}')
    assert worst(load(path), "base") <= FLOAT64


def test_there_are_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapters"):
        torchaudio.open_model(copy_asset(KIND, "base", tmp_path), adapter="eng")


def test_labels_beside_the_file(tmp_path: Path) -> None:
    named = torchaudio.open_model(copy_asset(KIND, "base_asr", tmp_path, labels="HUBERT_ASR_LARGE"))
    assert named.alphabet is not None
    assert named.alphabet.tokens[:5] == ("-", "|", "E", "T", "A")
    assert (named.alphabet.blank, named.alphabet.word_boundary) == ("-", "|")
    assert named.alphabet.decode(named.alphabet.encode("the cat")) == "THE CAT"

    listed = [*"abcdefghijklmnopqrstuvwxyz", "~", "|", "é"]
    path = copy_asset(KIND, "base_asr", tmp_path, labels=listed, blank="~", normalize=True)
    reading = torchaudio.open_model(path)
    assert reading.alphabet is not None
    assert reading.alphabet.blank_id == 26
    assert reading.alphabet.case == "lower"
    assert reading.input_spec.normalize

    silent = torchaudio.open_model(copy_asset(KIND, "base_asr", tmp_path))
    assert silent.alphabet is None
    assert "29 outputs are not known" in silent.provenance["labels"]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ("MMS_FA", AlphabetError, "it has 29 outputs, the bundle 28 or 31"),
        ("WAV2VEC2_BASE", AlphabetError, "the bundle none"),
        ("WAV2VEC3", ConfigError, "no bundle 'WAV2VEC3'"),
        (["a", "b"], AlphabetError, "a list of 29.*found 2"),
        (["a"] * 29, AlphabetError, "base_asr.safetensors.json"),
        ([1] * 29, ConfigError, "labels"),
    ],
)
def test_labels_that_do_not_fit(
    labels: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = copy_asset(KIND, "base_asr", tmp_path, labels=labels)
    with pytest.raises(error, match=message):
        torchaudio.open_model(path)


LV60K = {"layer_norm": True, "conv_bias": True}
HUBERT = {"layer_norm": True, "conv_bias": False}
GROUP = {"layer_norm": False, "conv_bias": False}


@pytest.mark.parametrize("name", ["base", "base_asr", "large", "large_aligner"])
def test_the_layout_by_hand_is_that_of_torchaudio(name: str) -> None:
    options = {"base": GROUP, "large": HUBERT, "large_aligner": LV60K}.get(name, GROUP)
    outputs = {"base_asr": 29, "large_aligner": 28}.get(name)
    kernel, groups = (16, 4) if name.startswith("base") else (9, 2)
    layout = torchaudio_layout(
        16, 2, 24, **options, outputs=outputs, channels=8, kernel=kernel, groups=groups
    )
    prefix = "model." if name == "large_aligner" else ""
    real = {key: tuple(tensor.shape) for key, tensor in weights(KIND, name).items()}
    assert {prefix + key: shape for key, shape in layout.items()} == real


SIZES: dict[str, tuple[int, int, int, dict[str, bool], int]] = {
    "base": (768, 12, 3072, GROUP, 12),
    "large": (1024, 24, 4096, GROUP, 16),
    "large_lv60k": (1024, 24, 4096, LV60K, 16),
    "hubert_large": (1024, 24, 4096, HUBERT, 16),
    "hubert_xlarge": (1280, 48, 5120, HUBERT, 16),
    "xlsr_1b": (1280, 48, 5120, LV60K, 16),
    "xlsr_2b": (1920, 48, 7680, LV60K, 16),
}


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("base", 94_371_712),
        ("large", 315_428_992),
        ("large_lv60k", 315_438_720),
        ("xlsr_1b", 962_497_408),
        ("xlsr_2b", 2_159_259_648),
    ],
)
def test_published_sizes_without_head(size: str, parameters: int) -> None:
    dim, layers, ffn_dim, options, heads = SIZES[size]
    store = NamesOnly(torchaudio_layout(dim, layers, ffn_dim, **options))
    reading = torchaudio.understand(store, path=Path("model.pth"))
    encoder = reading.config.encoder
    assert isinstance(reading.config, EncoderOnlyConfig)
    assert (encoder.heads, encoder.norm_first) == (heads, options["layer_norm"])
    assert reading.input_spec.normalize is options["layer_norm"]
    assert reading.provenance["inferred"] == {
        "conv_strides": [5, 2, 2, 2, 2, 2, 2],
        "heads": heads,
        "norm_first": options["layer_norm"],
        "normalize": options["layer_norm"],
    }
    network = storage.build(reading.config, source="test")
    assert sum(weight.numel() for weight in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("size", "outputs", "name", "labels"),
    [
        ("base", 29, "mine.pth", "-|ETAON"),
        ("large_lv60k", 29, "mine.pth", "-|ETAON"),
        ("hubert_xlarge", 29, "mine.pth", "-|ETAON"),
        ("large_lv60k", 28, "mine.pth", "-aienout"),
        ("base", 28, "mine.pth", "-|etoians"),
        ("base", 43, "mine.pth", "-|esnitra"),
        ("base", 46, "mine.pth", "-<pad></s><unk>|esnitra"),
        ("large", 32, "mine.pth", "-<pad></s><unk>|ETAON"),
        ("base", 32, "mine.pth", None),
        ("base", 32, "wav2vec2_fairseq_base_ls960_asr_ls960.pth", "-<pad></s><unk>|ETAON"),
        ("base", 32, "wav2vec2_voxpopuli_base_10k_asr_en.pt", "-<pad></s><unk>|etoians"),
        ("base", 32, "wav2vec2_voxpopuli_base_10k_asr_de.pt", "-|enirst"),
        ("xlsr_1b", 29, "mine.pth", None),
        ("base", 77, "mine.pth", None),
    ],
)
def test_labels_of_bundles(size: str, outputs: int, name: str, labels: str | None) -> None:
    dim, layers, ffn_dim, options, _ = SIZES[size]
    store = NamesOnly(torchaudio_layout(dim, layers, ffn_dim, **options, outputs=outputs))
    reading = torchaudio.understand(store, path=Path(name))
    assert isinstance(reading.config, CtcConfig)
    assert reading.config.vocab == outputs
    if labels is None:
        assert reading.alphabet is None
        assert "not known" in reading.provenance["labels"]
        return
    assert reading.alphabet is not None
    assert len(reading.alphabet) == outputs
    assert "".join(reading.alphabet.tokens).startswith(labels)
    assert ("bundle" in reading.provenance) is (name != "mine.pth")
    assert reading.alphabet.decode([4, *range(1, 4)]).count("<") == 0


def test_published_files_know_their_licence() -> None:
    dim, layers, ffn_dim, options, _ = SIZES["base"]
    shapes = torchaudio_layout(dim, layers, ffn_dim, **options, outputs=35)
    path = Path("wav2vec2_voxpopuli_base_10k_asr_es.pt")
    facts = torchaudio.understand(NamesOnly(shapes), path=path).provenance
    assert (facts["bundle"], facts["license"]) == ("VOXPOPULI_ASR_BASE_10K_ES", "CC BY-NC 4.0")


def test_outputs_of_the_published_files() -> None:
    """Sizes of heads: in torchaudio's networks, and with the rows that it removes."""
    sizes = {name: bundle.outputs for name, bundle in BUNDLES.items() if bundle.labels}
    assert len(BUNDLES) == 27
    assert sizes["WAV2VEC2_ASR_BASE_960H"] == sizes["HUBERT_ASR_XLARGE"] == (29, 32)
    assert sizes["VOXPOPULI_ASR_BASE_10K_DE"] == (32, 36)
    assert sizes["VOXPOPULI_ASR_BASE_10K_EN"] == (28, 32)
    assert sizes["VOXPOPULI_ASR_BASE_10K_ES"] == (35, 39)
    assert sizes["VOXPOPULI_ASR_BASE_10K_FR"] == (43, 46)
    assert sizes["VOXPOPULI_ASR_BASE_10K_IT"] == (37, 40)
    assert sizes["MMS_FA"] == (28, 31)


def test_it_knows_its_own_names() -> None:
    assert torchaudio.recognises(weights(KIND, "base"))
    assert torchaudio.recognises(weights(KIND, "large_aligner"))
    assert not torchaudio.recognises(weights("fairseq2", "base_ctc"))
    assert not torchaudio.recognises(weights("fairseq", "wav2vec2_base"))
    assert not torchaudio.recognises(["wav2vec2.encoder.layers.0.layer_norm.bias"])
    with pytest.raises(FormatError, match="does not hold a network of torchaudio's"):
        torchaudio.understand(NamesOnly({"a": (2,)}), path=Path("a.pth"))
