"""Checkpoints that fairseq2's own networks made, and the numbers they computed.

The tiny models of tests/assets/fairseq2 were made and run by fairseq2's code. The layouts of
published networks are written down by hand (`fairseq2_layout`), which a test compares with the tiny
ones; the folders of its trainer are written here, after model_checkpoint/native.py.
"""

import json
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
    fairseq2_layout,
    run_stages,
    weights,
)
from torch import Tensor

import unheard
from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError
from unheard.interop import fairseq2, storage
from unheard.interop.bundle import ModelBundle
from unheard.models.config import CtcConfig, PretrainingConfig, QuantizerConfig
from unheard.models.pretraining import PretrainingModel

KIND = "fairseq2"
NAMES = ("base_ssl", "large_ssl", "base_ctc", "large_ctc")
PRECISIONS = [(torch.float64, FLOAT64), (torch.float32, FLOAT32)]


def load(path: Path, dtype: torch.dtype = torch.float64) -> ModelBundle:
    return storage.load(fairseq2.open_model(path), dtype=dtype)


def save_changed(folder: Path, name: str, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Put a model of the assets into a folder, with its tensors changed."""
    path = copy_asset(KIND, name, folder)
    changed = dict(weights(KIND, name))
    change(changed)
    save_file({key: tensor.contiguous() for key, tensor in changed.items()}, path)
    return path


def stages_of(bundle: ModelBundle, name: str, case: str) -> tuple[dict[str, Tensor], list[int]]:
    samples, lengths, real = batch(KIND, name, case)
    stages = run_stages(bundle.model, samples.to(bundle.dtype), lengths)
    stages["positioned"] = stages["features_projected"] + stages.pop("pos_conv")
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["batch", "utt1"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
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


def pretrain(bundle: ModelBundle, name: str) -> dict[str, Tensor]:
    samples, lengths, _ = batch(KIND, name, "batch")
    assert isinstance(bundle.model, PretrainingModel)
    with torch.no_grad():
        output = bundle.model(
            samples.to(bundle.dtype),
            lengths,
            time_mask=expected(KIND, name)["pretrain.mask"],
            padding="zeros",
        )
    return {
        "predictions": output.predictions,
        "targets": output.targets,
        "quantized": output.quantized.vectors,
        "code_perplexity": output.quantized.code_perplexity(),
        "prob_perplexity": output.quantized.soft_perplexity(),
    }


@pytest.mark.parametrize("name", ["base_ssl", "large_ssl"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_masking_quantiser_and_projections(
    name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    bundle = load(copy_asset(KIND, name, tmp_path), dtype)
    for stage, ours in pretrain(bundle, name).items():
        assert_close(stage, ours, expected(KIND, name)[f"pretrain.{stage}"], tolerance)


def test_the_codebooks_order_and_the_mask_embedding_show(tmp_path: Path) -> None:
    theirs = expected(KIND, "base_ssl")

    def turn(tensors: dict[str, Tensor]) -> None:
        tensors["quantizer.entries"] = tensors["quantizer.entries"].roll(1, dims=1)
        tensors["masker.temporal_mask_embed"] = tensors["masker.temporal_mask_embed"].flip(0)

    ours = pretrain(load(save_changed(tmp_path, "base_ssl", turn)), "base_ssl")
    for stage in ("predictions", "targets", "quantized"):
        assert largest_difference(stage, ours[stage], theirs[f"pretrain.{stage}"]) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_comes_and_goes_back_unchanged(name: str, tmp_path: Path) -> None:
    reading = fairseq2.open_model(copy_asset(KIND, name, tmp_path))
    ours = storage.load(reading).model.state_dict()
    theirs = weights(KIND, name)
    back = {
        reading.places[key].name: ours[key].reshape(reading.shapes.get(key, ours[key].shape))
        for key in ours
        if key not in reading.initialised
    }
    assert back.keys() | reading.ignored.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in back)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("encoder.layers.0.self_attn.q_proj.weight", "encoder.layers.0.self_attn.k_proj.bias"),
        ("encoder.layers.0.self_attn.v_proj.weight", "encoder.layers.1.self_attn.v_proj.weight"),
        ("encoder.layers.0.self_attn_layer_norm.bias", "encoder.layers.0.ffn_layer_norm.bias"),
        ("encoder_frontend.layer_norm.weight", "encoder.layers.1.ffn_layer_norm.weight"),
    ],
)
def test_a_swapped_pair_shows(one: str, other: str, tmp_path: Path) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        if tensors[one].shape == tensors[other].shape:
            tensors[one], tensors[other] = tensors[other], tensors[one]
        else:  # a weight for a bias: turn the weight instead
            tensors[one] = tensors[one].t()

    assert worst(load(save_changed(tmp_path, "base_ctc", swap)), "base_ctc") > 1e-3


def test_a_wrong_number_of_heads_shows(tmp_path: Path) -> None:
    assert worst(load(copy_asset(KIND, "base_ctc", tmp_path, heads=4)), "base_ctc") > 1e-3


def test_a_setting_that_contradicts_the_tensors_is_refused(tmp_path: Path) -> None:
    agreeing = copy_asset(KIND, "large_ctc", tmp_path, norm_first=True)
    assert fairseq2.open_model(agreeing).config.encoder.norm_first
    with pytest.raises(ConfigError, match="norm_first"):
        fairseq2.open_model(copy_asset(KIND, "large_ctc", tmp_path, norm_first=False))


def settings_for(path: Path, name: str) -> Path:
    heads = 2 if name.startswith("base") else 4
    path.with_name(f"{path.name}.json").write_text(json.dumps({"heads": heads}))
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nested", [True, False])
def test_files_of_torch(name: str, nested: bool, tmp_path: Path) -> None:
    state = dict(weights(KIND, name))
    path = settings_for(tmp_path / "omni.pt", name)
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}}
    torch.save({"model": state, "optimizer": optimizer} if nested else state, path)
    assert worst(load(path), name) <= FLOAT64


def write_shards(folder: Path, name: str, *, stages: int, shards: int) -> Path:
    """Write a folder as fairseq2's trainer does: rows over shards, layers over stages."""
    state = weights(KIND, name)
    parts: list[dict[str, Tensor]] = [{} for _ in range(stages * shards)]
    for place, (key, tensor) in enumerate(sorted(state.items())):
        stage = place % stages
        pieces = [tensor] if not tensor.dim() else list(tensor.chunk(shards))
        for shard, piece in enumerate(pieces):
            parts[stage * shards + shard][key] = piece.clone()
    for number, part in enumerate(parts):
        file = folder / "model" / f"pp_{number // shards:02d}" / "tp_00"
        file.mkdir(parents=True, exist_ok=True)
        torch.save(part, file / f"sdp_{number % shards:02d}.pt")
    heads = 2 if name.startswith("base") else 4
    (folder / "unheard.json").write_text(json.dumps({"heads": heads}))
    return folder


@pytest.mark.parametrize(("stages", "shards"), [(1, 1), (1, 3), (2, 2)])
def test_folders_of_the_trainer(stages: int, shards: int, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "step_100", "large_ssl", stages=stages, shards=shards)
    assert fairseq2.is_checkpoint_folder(folder)
    assert worst(load(folder), "large_ssl") <= FLOAT64


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "step_100", "large_ssl", stages=1, shards=2)
    shards = folder / "model" / "pp_00" / "tp_00"
    (shards / "sdp_01.pt").rename(shards / "sdp_02.pt")
    with pytest.raises(FormatError, match=r"expected sdp_00.pt, sdp_01.pt .* sdp_02.pt"):
        fairseq2.open_model(folder)
    (shards / "sdp_02.pt").unlink()
    with pytest.raises(CheckpointError, match="mis-shaped"):
        fairseq2.open_model(folder)


def test_shards_of_tensor_parallel_training_are_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "step_100", "large_ssl", stages=1, shards=1)
    (folder / "model" / "pp_00" / "tp_01").mkdir()
    with pytest.raises(FormatError, match="tensor parallel"):
        fairseq2.open_model(folder)


def test_a_folder_of_safetensors_files(tmp_path: Path) -> None:
    items = sorted(weights(KIND, "base_ctc").items())
    for number, part in enumerate((items[::2], items[1::2]), start=1):
        save_file(dict(part), tmp_path / f"model-{number}-of-2.safetensors")
    (tmp_path / "unheard.json").write_text('{"heads": 2}')
    assert fairseq2.is_checkpoint_folder(tmp_path)
    assert worst(load(tmp_path), "base_ctc") <= FLOAT64


def test_folders_of_others_are_not_its_own(tmp_path: Path) -> None:
    assert not fairseq2.is_checkpoint_folder(tmp_path / "none")
    assert not fairseq2.is_checkpoint_folder(tmp_path)
    save_file(weights(KIND, "base_ctc"), tmp_path / "model.safetensors")
    assert fairseq2.is_checkpoint_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not fairseq2.is_checkpoint_folder(tmp_path)


def test_the_one_way_in_knows_it(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "step_100", "large_ssl", stages=2, shards=2)
    file = tmp_path / "base_ctc.pt"
    torch.save({"model": weights(KIND, "base_ctc")}, file)
    settings_for(file, "base_ctc")
    for source, name in ((folder, "large_ssl"), (file, "base_ctc")):
        assert worst(unheard.load_model(source, dtype=torch.float64), name) <= FLOAT64


def test_tensors_that_are_missing_left_over_or_mis_shaped_are_named(tmp_path: Path) -> None:
    bias = "encoder.layers.0.ffn.output_proj.bias"

    with pytest.raises(CheckpointError) as missing:
        fairseq2.open_model(save_changed(tmp_path, "base_ctc", lambda t: t.pop(bias)))
    assert missing.value.missing == (bias,)

    with pytest.raises(CheckpointError) as unexpected:
        fairseq2.open_model(
            save_changed(tmp_path, "base_ctc", lambda t: t.update(extra=torch.zeros(2)))
        )
    assert unexpected.value.unexpected == ("extra",)

    with pytest.raises(CheckpointError) as mismatched:
        fairseq2.open_model(
            save_changed(tmp_path, "base_ctc", lambda t: t.update({bias: torch.zeros(3)}))
        )
    assert mismatched.value.mismatched == (f"{bias}: expected (16,), found (3,)",)

    with pytest.raises(CheckpointError) as headless:
        fairseq2.open_model(
            save_changed(tmp_path, "base_ssl", lambda t: t.pop("final_proj.weight"))
        )
    assert headless.value.missing == ("final_proj.weight",)


OMNI: dict[str, tuple[int, int, int, int]] = {
    "300m": (1024, 24, 4096, 768),
    "1b": (1280, 48, 5120, 1024),
    "3b": (2048, 60, 8192, 1024),
    "7b": (2048, 128, 8192, 1024),
}
"""Width, layers, inner width, and width of the projections, as omnilingual_asr configures them."""


def parameters(config: Any) -> int:
    return sum(weight.numel() for weight in storage.build(config, source="test").parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_by_hand_is_that_of_fairseq2(name: str) -> None:
    large = name.startswith("large")
    kernel, groups = (9, 2) if large else (16, 4)
    heads: dict[str, Any] = {"outputs": 11, "masker": not large}
    if name.endswith("ssl"):
        heads = {"projection_dim": 12, "quantized_dim": 20, "entries": 10}
    layout = fairseq2_layout(
        16, 2, 24, large=large, channels=8, kernel=kernel, groups=groups, **heads
    )
    assert layout == {key: tuple(tensor.shape) for key, tensor in weights(KIND, name).items()}


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("300m", 317_390_592),
        ("1b", 965_514_752),
        ("3b", 3_064_124_672),
        ("7b", 6_488_487_168),
    ],
)
def test_pretrained_omnilingual_networks(size: str, count: int) -> None:
    dim, layers, ffn_dim, projected = OMNI[size]
    layout = fairseq2_layout(
        dim, layers, ffn_dim, large=True, projection_dim=projected, quantized_dim=projected
    )
    reading = fairseq2.understand(NamesOnly(layout), path=Path("omniASR.pt"))
    assert isinstance(reading.config, PretrainingConfig)
    assert reading.config.quantizer == QuantizerConfig(groups=2, entries=320, dim=projected)
    assert reading.config.projection_dim == projected
    assert (reading.config.encoder.heads, reading.config.encoder.norm_first) == (16, True)
    assert reading.input_spec.normalize
    assert reading.provenance["inferred"]["heads"] == 16
    assert reading.ignored == {
        "quantizer.num_updates": "counts updates, for the temperature of training only"
    }
    assert parameters(reading.config) == count


@pytest.mark.parametrize(
    ("size", "outputs", "count"),
    [
        ("300m", 9812, 325_494_996),
        ("1b", 9812, 975_065_300),
        ("3b", 9812, 3_080_423_636),
        ("7b", 9812, 6_504_786_132),
        ("300m", 10288, None),
    ],
)
def test_omnilingual_recognisers(size: str, outputs: int, count: int | None) -> None:
    """The counts are those that omniASR publishes, without our mask embedding."""
    dim, layers, ffn_dim, _ = OMNI[size]
    layout = fairseq2_layout(dim, layers, ffn_dim, large=True, outputs=outputs)
    reading = fairseq2.understand(NamesOnly(layout), path=Path("omniASR-CTC.pt"))
    assert isinstance(reading.config, CtcConfig)
    assert reading.config.vocab == outputs
    assert reading.initialised == {"encoder.mask_embedding"}
    assert reading.alphabet is None
    assert "SentencePiece" in reading.provenance["labels"]
    if count is not None:
        assert parameters(reading.config) - dim == count


def test_an_encoder_alone(tmp_path: Path) -> None:
    def behead(tensors: dict[str, Tensor]) -> None:
        for key in ("final_proj.weight", "final_proj.bias"):
            tensors.pop(key)

    reading = fairseq2.open_model(save_changed(tmp_path, "base_ctc", behead))
    assert reading.architecture == "Wav2Vec2Model without heads"
    bundle = storage.load(reading, dtype=torch.float64)
    assert {"logits"} == expected_stages("base_ctc") - set(stages_of(bundle, "base_ctc", "utt1")[0])
    assert worst(bundle, "base_ctc") <= FLOAT64


def expected_stages(name: str) -> set[str]:
    return {k.removeprefix("utt1.") for k in expected(KIND, name) if k.startswith("utt1.")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama_decoder.layers.0.ffn.gate_proj.weight", "an omniASR LLM"),
        ("encoder_frontend.pos_encoder.layers.0.conv.weight", "pos_encoder_depth"),
        ("encoder.layers.0.conv.pointwise_conv1.weight", "Conformer"),
        ("encoder.layers.0.self_attn.sdpa.r_proj.weight", "relative positions"),
        ("decoder.layers.0.ffn.inner_proj.weight", "a decoder"),
    ],
)
def test_networks_that_look_alike_are_named(name: str, message: str) -> None:
    layout = fairseq2_layout(1024, 1, 4096, large=True, outputs=9812)
    with pytest.raises(FormatError, match=message):
        fairseq2.understand(NamesOnly({**layout, name: (3,)}), path=Path("other.pt"))


@pytest.mark.parametrize("norm", ["encoder_frontend.layer_norm", "encoder.layer_norm"])
def test_other_orders_of_norms_are_refused(norm: str) -> None:
    layout = fairseq2_layout(1024, 1, 4096, large=True, outputs=9812)
    both = {**layout, f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
    neither = {key: shape for key, shape in layout.items() if not key.startswith(norm)}
    wrong = both if norm == "encoder_frontend.layer_norm" else neither
    with pytest.raises(FormatError, match="norm_order"):
        fairseq2.understand(NamesOnly(wrong), path=Path("other.pt"))


def test_a_quantiser_that_does_not_fit_together_is_refused() -> None:
    layout = fairseq2_layout(1024, 1, 4096, large=True, projection_dim=768, quantized_dim=768)
    layout["quantizer.entries"] = (1, 640, 500)
    with pytest.raises(FormatError, match="640 entries of 500"):
        fairseq2.understand(NamesOnly(layout), path=Path("other.pt"))


def test_labels_beside_the_file(tmp_path: Path) -> None:
    labels = ["<s>", "<pad>", "</s>", "<unk>", " ", "a", "b", "c", "d", "e", "f"]
    reading = fairseq2.open_model(copy_asset(KIND, "large_ctc", tmp_path, labels=labels))
    assert reading.alphabet is not None
    assert (reading.alphabet.blank, reading.alphabet.word_boundary) == ("<s>", " ")
    assert reading.alphabet.decode([7, 4, 5, 3]) == "c a"

    with pytest.raises(AlphabetError, match=r"a list of 11, .* found 10"):
        fairseq2.open_model(copy_asset(KIND, "large_ctc", tmp_path, labels=labels[1:]))
    with pytest.raises(ConfigError, match="must be a list"):
        fairseq2.open_model(copy_asset(KIND, "large_ctc", tmp_path, labels="MMS_FA"))


def test_it_knows_its_own_names() -> None:
    assert all(fairseq2.recognises(weights(KIND, name)) for name in NAMES)
    assert not fairseq2.recognises(weights("torchaudio", "base"))
    assert not fairseq2.recognises(weights("fairseq", "wav2vec2_base_ctc"))
    with pytest.raises(FormatError, match="does not hold a speech network of fairseq2's"):
        fairseq2.understand(NamesOnly({"a": (2,)}), path=Path("a.pt"))
    with pytest.raises(ConfigError, match="no adapters"):
        fairseq2.understand(NamesOnly({}), path=Path("a.pt"), adapter="eng")
