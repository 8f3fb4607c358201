"""Six classes of transformers, five kinds: read, computed, written back, loaded there again."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.closeness import FLOAT32, FLOAT64, assert_close
from tests.parity.hf_classes import (
    CLASSES,
    KINDS,
    load_theirs,
    make_theirs,
    our_stages,
    their_stages,
    watch,
)
from tests.parity.hf_models import SMALL, make_samples

from unheard.errors import CheckpointError
from unheard.interop import load
from unheard.interop.huggingface import writer

PRETRAINING = "Wav2Vec2ForPreTraining"
MIXING = (
    "Wav2Vec2ForSequenceClassification",
    "Wav2Vec2ForAudioFrameClassification",
    "Wav2Vec2ForXVector",
)
FINAL = {
    "Wav2Vec2Model": [("last_hidden_state", "frames")],
    "Wav2Vec2ForCTC": [("logits", "logits")],
    "Wav2Vec2ForSequenceClassification": [("logits", "logits")],
    "Wav2Vec2ForAudioFrameClassification": [("logits", "logits")],
    "Wav2Vec2ForXVector": [("logits", "directions"), ("embeddings", "embeddings")],
    PRETRAINING: [],
}
LENGTH = 9000

CTC_OPTIONS = ("vocab_size", "final_dropout")
SHAPES = (*KINDS["mms"], *SMALL)
OPTIONS = {
    name: [
        option
        for option in SHAPES
        if "code" not in option and "quantizer" not in option and option not in CTC_OPTIONS
    ]
    for name in CLASSES
}
OPTIONS[PRETRAINING] += [option for option in SMALL if "code" in option]
OPTIONS["Wav2Vec2ForCTC"] += [*CTC_OPTIONS, "mask_time_prob", "mask_feature_prob"]
OPTIONS["Wav2Vec2ForSequenceClassification"] += ["classifier_proj_size", "id2label", "label2id"]
OPTIONS["Wav2Vec2ForAudioFrameClassification"] += ["id2label", "label2id"]
OPTIONS["Wav2Vec2ForXVector"] += [
    *("tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim", "id2label", "label2id")
]
"""Options that a class computes or trains with; they survive."""


MASKED_ALONE = ("final", "project_context", "project_targets")
"""Stages of pre-training that ours computes for masked frames alone, besides the last layer."""


def masks(bundle: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mask alike on both sides where the objective needs it."""
    if bundle.provenance["architecture"] != PRETRAINING:
        return {}, {"padding": "zeros"}
    mask = torch.zeros(2, bundle.encoder_config.num_frames(LENGTH), dtype=torch.bool)
    mask[:, 5:20] = True
    return {"mask_time_indices": mask}, {"padding": "zeros", "time_mask": mask}


def compare(theirs: Any, bundle: Any, tolerance: float) -> None:
    """Compare every stage, the end included, on the same sound."""
    name = type(theirs).__name__
    samples = make_samples((LENGTH, LENGTH), seed=3)[0].to(bundle.dtype)
    for_theirs, for_ours = masks(bundle)
    expected, end = watch(their_stages(theirs, samples, **for_theirs))
    found, our_end = watch(our_stages(bundle.model, samples, **for_ours))
    assert expected.keys() == found.keys()
    assert len(expected) >= 13
    for stage, tensor in expected.items():
        if stage.startswith("conv"):
            tensor = tensor.transpose(1, 2)  # (batch, channels, frames) -> ours
        mask = for_theirs.get("mask_time_indices")
        if mask is not None and found[stage].numel() < tensor.numel():
            last = bundle.encoder_config.layers - 1
            assert stage in (*MASKED_ALONE, f"layer {last}", f"adapter {last}")
            tensor = tensor[mask]
        assert_close(stage, found[stage].reshape(tensor.shape), tensor, tolerance)
    for their, our in FINAL[name]:
        assert_close(our, getattr(our_end, our), getattr(end, their), tolerance)


def plain(model: Any, option: str) -> Any:
    value = getattr(model.config, option)
    return list(value) if isinstance(value, tuple) else value


def read(tmp_path: Path, name: str, kind: str, **extra: Any) -> tuple[Any, Any]:
    theirs = make_theirs(name, kind, **extra)
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, load.load_model(tmp_path / "theirs")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSES)
def test_every_stage_is_equal_and_every_tensor_survives(
    tmp_path: Path, name: str, kind: str
) -> None:
    theirs, bundle = read(tmp_path, name, kind)
    assert bundle.dtype == torch.float64
    compare(theirs, bundle, FLOAT64)

    writer.save(bundle, tmp_path / "ours")
    again = load_theirs(name, tmp_path / "ours")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(after[key], tensor), key
    compare(again, bundle, FLOAT64)
    for option in OPTIONS[name]:
        assert plain(again, option) == plain(theirs, option), option

    single = replace(bundle, model=copy.deepcopy(bundle.model).float())
    compare(copy.deepcopy(theirs).float(), single, FLOAT32)


@pytest.mark.parametrize("name", MIXING)
def test_labels_are_kept(tmp_path: Path, name: str) -> None:
    theirs, bundle = read(tmp_path, name, "base")
    assert bundle.labels == ("acholi", "lug", "sw", "x'y")
    writer.save(bundle, tmp_path / "ours")
    again = load_theirs(name, tmp_path / "ours")
    assert again.config.id2label == theirs.config.id2label
    assert again.config.label2id == theirs.config.label2id


@pytest.mark.parametrize("name", MIXING)
def test_classes_without_names(tmp_path: Path, name: str) -> None:
    theirs, bundle = read(tmp_path, name, "base", id2label=None, label2id=None, num_labels=2)
    assert bundle.labels == ("LABEL_0", "LABEL_1")
    compare(theirs, bundle, FLOAT64)


@pytest.mark.parametrize("ends_normed", [None, False, True])
@pytest.mark.parametrize("kind", ["base", "large-lv60"])
@pytest.mark.parametrize("name", MIXING)
def test_mixtures_of_layers(tmp_path: Path, name: str, kind: str, ends_normed: bool | None) -> None:
    extra: dict[str, Any] = {"use_weighted_layer_sum": True}
    if ends_normed is not None:
        extra["tie_last_hidden_states"] = ends_normed
    theirs, bundle = read(tmp_path, name, kind, **extra)
    assert bundle.config.weighted_layers
    compare(theirs, bundle, FLOAT64)
    writer.save(bundle, tmp_path / "ours")
    compare(load_theirs(name, tmp_path / "ours"), bundle, FLOAT64)
    # The other way of mixing is noticed where it differs.
    wrong = copy.deepcopy(theirs)
    wrong.config.tie_last_hidden_states = not bundle.config.mixture_ends_normed
    if kind == "large-lv60":
        with pytest.raises(AssertionError, match=r"project|classify"):
            compare(wrong, bundle, FLOAT64)


@pytest.mark.parametrize("masks_nothing", [False, True])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != PRETRAINING])
def test_a_model_without_mask_embedding(tmp_path: Path, name: str, masks_nothing: bool) -> None:
    """Left out again where transformers would not have it; drawn where it would ask for it."""
    theirs, bundle = read(tmp_path, name, "base", mask_time_prob=0.0 if masks_nothing else 0.05)
    key = "masked_spec_embed" if name == "Wav2Vec2Model" else "wav2vec2.masked_spec_embed"
    assert (key in theirs.state_dict()) != masks_nothing
    assert bundle.provenance.get("initialised", []) == (
        ["encoder.mask_embedding"] if masks_nothing else []
    )
    writer.save(bundle, tmp_path / "ours")
    again = load_theirs(name, tmp_path / "ours")
    assert again.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("name", CLASSES)
def test_pickled_weights_are_the_same(tmp_path: Path, name: str) -> None:
    _, bundle = read(tmp_path, name, "large-lv60")
    shutil.copytree(tmp_path / "theirs", tmp_path / "pickled")
    weights = load_file(tmp_path / "pickled" / "model.safetensors")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pickled" / "pytorch_model.bin")
    loaded = load.load_model(tmp_path / "pickled").model.state_dict()
    for key, tensor in bundle.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def test_weights_in_parts_as_transformers_writes_them(tmp_path: Path) -> None:
    theirs = make_theirs("Wav2Vec2ForCTC", "large")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    compare(theirs, load.load_model(tmp_path / "theirs"), FLOAT64)


def swap_two_tensors(bundle: Any) -> None:
    layer = bundle.model.encoder.transformer.layers[1]
    with torch.no_grad():
        layer.attention.query.weight, layer.attention.key.weight = (
            layer.attention.key.weight,
            layer.attention.query.weight,
        )


def change_an_epsilon(bundle: Any) -> None:
    bundle.model.encoder.transformer.layers[0].ffn_norm.eps = 1e-4


def swap_adapters(bundle: Any) -> None:
    layers = bundle.model.encoder.transformer.layers
    layers[0].adapter, layers[1].adapter = layers[1].adapter, layers[0].adapter


@pytest.mark.parametrize("break_it", [swap_two_tensors, change_an_epsilon, swap_adapters])
def test_a_wrong_network_is_noticed(tmp_path: Path, break_it: Any) -> None:
    theirs, bundle = read(tmp_path, "Wav2Vec2ForCTC", "mms")
    compare(theirs, bundle, FLOAT64)
    break_it(bundle)
    with pytest.raises(AssertionError, match=r"layer|adapter"):
        compare(theirs, bundle, FLOAT64)


def test_a_swapped_name_is_noticed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs, _ = read(tmp_path, "Wav2Vec2ForXVector", "base")
    path = tmp_path / "theirs" / "model.safetensors"
    weights = load_file(path)
    prefix = "wav2vec2.encoder.layers."
    one, other = f"{prefix}0.layer_norm.bias", f"{prefix}0.final_layer_norm.bias"
    weights[one], weights[other] = weights[other], weights[one]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(AssertionError, match="layer 0"):
        compare(theirs, load.load_model(tmp_path / "theirs"), FLOAT64)
    weights["classifier.weight"] = weights["classifier.weight"][:, :-1].clone()
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier\.weight: expected \(9, 9\), found"):
        load.load_model(tmp_path / "theirs")
