"""Checkpoints that fairseq wrote, read here: its own numbers, and its own tensors back again.

The files of tests/assets/fairseq are from fairseq 0.12.2 (those with language adapters from its
source of 2025); see the README there.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.closeness import FLOAT32, FLOAT64, assert_close
from tests.parity.fairseq_models import (
    ASSETS,
    MAX_UPDATES,
    compare_stages,
    expected,
    facts,
    make_model,
)

import unheard
from unheard.errors import CheckpointError, ConfigError, FormatError
from unheard.interop.adapters import with_adapter
from unheard.interop.fairseq import reader, writer
from unheard.interop.pickle_store import open_pickle
from unheard.models.config import CtcConfig, PretrainingConfig

FILES = {
    "wav2vec2_base.pt": "wav2vec2_base",
    "wav2vec2_base_old.pt": "wav2vec2_base",
    "wav2vec2_large_omegaconf.pt": "wav2vec2_large",
    "wav2vec2_base_ctc_old/checkpoint.pt": "wav2vec2_base_ctc",
    "wav2vec2_large_ctc.pt": "wav2vec2_large_ctc",
}
"""File -> the model whose numbers it must give."""

STYLES = {"old": "args", "new": "cfg"}

LANGUAGES = {
    "mms_stacked.pt": ("eng", "swh", "azj-script_latin"),
    "mms_table.pt": ("swh", "azj-script_latin"),
}


def stored_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of the network in a checkpoint, by fairseq's names."""
    store = open_pickle(file).tensors_at("model")
    return {name: store.read(name) for name in store.tensors}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", FLOAT64), ("float32", FLOAT32)])
def test_every_stage_as_fairseq_computes_it(file: str, dtype: str, tolerance: float) -> None:
    bundle = unheard.load_model(ASSETS / file, dtype=getattr(torch, dtype))
    name = FILES[file]
    for case in ("batch", "utt1"):
        assert compare_stages(bundle.model, name, case, tolerance=tolerance) >= 8


@pytest.mark.parametrize("file", FILES)
def test_settings_and_alphabet(file: str) -> None:
    bundle = unheard.load_model(ASSETS / file)
    name = FILES[file]
    reference = make_model(name).config
    assert bundle.config.encoder == reference.encoder
    assert bundle.input_spec.normalize == facts(name)["normalize"]
    assert bundle.input_spec.normalize_epsilon == 1e-5
    assert bundle.provenance["format"] == "fairseq"
    if isinstance(bundle.config, PretrainingConfig):
        assert isinstance(reference, PretrainingConfig)
        theirs, ours = reference.quantizer, bundle.config.quantizer
        assert (ours.groups, ours.entries, ours.dim) == (theirs.groups, theirs.entries, theirs.dim)
        quantizer: Any = bundle.model.quantizer
        temperature = quantizer.temperature(facts(name)["num_updates"] / MAX_UPDATES)
        stated = float(expected(name)["pretrain_train.temp"])
        assert temperature == pytest.approx(stated, rel=1e-12)
        assert bundle.config.distractors == 10
        assert (bundle.config.diversity_weight, bundle.config.feature_penalty_weight) == (0.1, 10.0)
        assert bundle.config.masking.time_probability == 0.65
        assert bundle.alphabet is None
    else:
        assert bundle.alphabet is not None
        tokens = ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A", "O", "'", "N")
        assert bundle.alphabet.tokens == tokens
        assert (bundle.alphabet.blank_id, bundle.alphabet.case) == (0, "upper")
        assert bundle.alphabet.encode("Tone a") == [6, 8, 10, 5, 4, 7]
        assert isinstance(bundle.config, CtcConfig)
        masking = bundle.config.masking
        assert (masking.time_probability, masking.channel_probability) == (0.65, 0.25)
        assert (masking.time_span_frames, masking.channel_span) == (10, 8)


@pytest.mark.parametrize("file", FILES)
def test_round_trip_gives_the_same_tensors_back(file: str, tmp_path: Path) -> None:
    bundle = unheard.load_model(ASSETS / file)
    folder = writer.save(bundle, tmp_path / "model")
    before, after = stored_tensors(ASSETS / file), stored_tensors(folder / "checkpoint.pt")
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor), name
    # Plain data and tensors alone: torch reads it without being told to trust it.
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["args"] is None
    again = unheard.load_model(folder / "checkpoint.pt")
    assert again.config.encoder == bundle.config.encoder
    assert again.alphabet == bundle.alphabet
    assert again.input_spec == bundle.input_spec
    if isinstance(bundle.config, PretrainingConfig):
        assert isinstance(again.config, PretrainingConfig)
        ours, theirs = again.config.quantizer, bundle.config.quantizer
        assert ours.temperature_floor_at == pytest.approx(theirs.temperature_floor_at, rel=1e-9)


@pytest.mark.parametrize("file", ["wav2vec2_base.pt", "wav2vec2_large_ctc.pt"])
def test_swapped_tensors_are_noticed(file: str) -> None:
    bundle = unheard.load_model(ASSETS / file, dtype=torch.float64)
    attention: Any = bundle.model.encoder.transformer.layers[0].attention
    attention.query, attention.key = attention.key, attention.query
    # Scores q k and k q are each other's transpose: nothing else of the network differs.
    with pytest.raises(AssertionError, match=r"layer\.0|final"):
        compare_stages(bundle.model, FILES[file], "utt1", tolerance=FLOAT32)


def test_a_changed_option_is_noticed(tmp_path: Path) -> None:
    file = edited(tmp_path, "wav2vec2_large_ctc.pt", "layer_norm_first", False)
    bundle = unheard.load_model(file, dtype=torch.float64)
    with pytest.raises(AssertionError, match="encoder_input"):
        compare_stages(bundle.model, "wav2vec2_large_ctc", "utt1", tolerance=FLOAT32)


def rewritten(folder: Path, source: str) -> dict[str, Any]:
    """What we write of one of fairseq's models, as plain data to change."""
    saved = writer.save(unheard.load_model(ASSETS / source), folder / "plain")
    return torch.load(saved / "checkpoint.pt", weights_only=True)


def edited(folder: Path, source: str, option: str, value: object) -> Path:
    """Write one of fairseq's models with another value of an option of its encoder."""
    checkpoint = rewritten(folder, source)
    model = checkpoint["cfg"]["model"]
    model = model["w2v_args"]["model"] if "w2v_args" in model else model
    model[option] = value
    file = folder / "edited.pt"
    torch.save(checkpoint, file)
    return file


def test_leftover_missing_and_misshaped_tensors_are_refused(tmp_path: Path) -> None:
    checkpoint = rewritten(tmp_path, "wav2vec2_base.pt")
    weights = checkpoint["model"]
    weights["encoder.layers.7.fc1.bias"] = torch.zeros(3)
    weights["layer_norm.bias"] = torch.zeros(5)
    del weights["project_q.bias"]
    torch.save(checkpoint, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError) as caught:
        unheard.load_model(tmp_path / "odd.pt")
    assert caught.value.missing == ("model.project_q.bias",)
    assert caught.value.unexpected == ("model.encoder.layers.7.fc1.bias",)
    assert "model.layer_norm.bias" in caught.value.mismatched[0]
    assert "(24,)" in caught.value.mismatched[0]
    assert "(5,)" in caught.value.mismatched[0]


def test_state_of_training_is_left_out(tmp_path: Path) -> None:
    checkpoint = rewritten(tmp_path, "wav2vec2_base.pt")
    checkpoint["last_optimizer_state"] = {"state": {0: {"exp_avg": torch.ones(4)}}}
    torch.save(checkpoint, tmp_path / "trained.pt")
    reading = reader.open_model(tmp_path / "trained.pt")
    assert reading.ignored == {
        "last_optimizer_state.state.0.exp_avg": "state of training, not of the network"
    }
    unheard.load_model(tmp_path / "trained.pt")


@pytest.mark.parametrize(
    ("file", "kind"),
    [("wav2vec_old.pt", "wav2vec of 2019"), ("vq_wav2vec_gumbel.pt", "vq-wav2vec of 2019")],
)
def test_networks_of_2019_are_recognised_and_refused(file: str, kind: str) -> None:
    with pytest.raises(FormatError, match=kind):
        unheard.load_model(ASSETS / file)


@pytest.mark.parametrize(("file", "language"), [(f, x) for f, xs in LANGUAGES.items() for x in xs])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", FLOAT64), ("float32", FLOAT32)])
def test_every_language_as_fairseq_computes_it(
    file: str, language: str, dtype: str, tolerance: float
) -> None:
    bundle = unheard.load_model(ASSETS / file, adapter=language, dtype=getattr(torch, dtype))
    assert bundle.adapter == language
    assert tuple(bundle.adapters) == LANGUAGES[file]
    assert compare_language(bundle.model, file, language, tolerance) == 8
    # The others are reached from this one, and give the same as if they had been loaded.
    for other in bundle.adapters:
        switched = with_adapter(bundle, other)
        assert compare_language(switched.model, file, other, tolerance) == 8


def compare_language(model: Any, file: str, language: str, tolerance: float) -> int:
    """Compare the stages of a language with fairseq's; returns how many rows were compared."""
    theirs = load_file(ASSETS / f"{file.removesuffix('.pt')}.expected.safetensors")
    dtype = next(model.parameters()).dtype
    samples, lengths = theirs["samples"].to(dtype), theirs["lengths"]
    with torch.no_grad():
        output = model.encoder(samples, lengths, padding="zeros", keep_layers=True)
        stages = {f"layer.{number}": layer for number, layer in enumerate(output.layers[1:])}
        stages |= {"final": output.frames, "logits": model.head(output.frames)}
    compared = 0
    for stage, ours in stages.items():
        for row, length in enumerate(lengths.tolist()):
            frames = model.config.encoder.num_frames(length)
            reference = theirs[f"{language}.{stage}"][row, :frames]
            assert_close(f"{language} {stage}", ours[row, :frames], reference, tolerance)
            compared += 1
    return compared


def test_another_language_is_noticed() -> None:
    bundle = unheard.load_model(ASSETS / "mms_stacked.pt", adapter="swh", dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"layer\.0"):
        compare_language(bundle.model, "mms_stacked.pt", "eng", FLOAT32)


def test_languages_have_their_own_alphabets() -> None:
    alphabets = reader.open_model(ASSETS / "mms_table.pt", adapter="swh").adapters
    assert alphabets["swh"].alphabet.tokens[4:] == ("|", "A", "I", "U", "N", "M")
    assert alphabets["azj-script_latin"].alphabet.tokens[4:] == ("|", "ə", "a", "ı", "i")


@pytest.mark.parametrize("file", LANGUAGES)
@pytest.mark.parametrize("language", ["deu", "azj", None])
def test_no_language_stands_in_for_another(file: str, language: str | None) -> None:
    with pytest.raises(ConfigError, match="azj-script_latin"):
        unheard.load_model(ASSETS / file, adapter=language)


def test_a_language_of_a_model_without_any_is_an_error() -> None:
    with pytest.raises(ConfigError, match="without"):
        unheard.load_model(ASSETS / "wav2vec2_large_ctc.pt", adapter="eng")


def test_languages_come_back_the_same(tmp_path: Path) -> None:
    bundle = unheard.load_model(ASSETS / "mms_table.pt", adapter="swh")
    folder = writer.save(bundle, tmp_path / "model")
    assert (folder / "dict" / "swh.txt").read_text() == "| 1\nA 1\nI 1\nU 1\nN 1\nM 1\n"
    before = open_pickle(ASSETS / "mms_table.pt").tensors_at("adapter")
    after = open_pickle(folder / "checkpoint.pt").tensors_at("adapter")
    assert set(before.tensors) == set(after.tensors)
    for name in before.tensors:
        assert torch.equal(before.read(name), after.read(name)), name
    own = open_pickle(folder / "checkpoint.pt").tensors_at("model")
    common = stored_tensors(ASSETS / "mms_table.pt")
    assert set(own.tensors) == set(common)
    for name, tensor in common.items():
        if re.search(r"\.proj\.|adapter_layer", name):
            tensor = before.read(f"swh.model.{name}")
        assert torch.equal(own.read(name), tensor), name
    for language in bundle.adapters:
        again = unheard.load_model(folder / "checkpoint.pt", adapter=language)
        assert again.alphabet == bundle.adapters[language].alphabet
        assert compare_language(again.model, "mms_table.pt", language, FLOAT32) == 8


def test_a_language_that_does_not_fit_is_named(tmp_path: Path) -> None:
    bundle = unheard.load_model(ASSETS / "mms_table.pt", adapter="swh")
    folder = writer.save(bundle, tmp_path / "model")
    file = folder / "checkpoint.pt"
    checkpoint = torch.load(file, weights_only=True)
    weights = checkpoint["adapter"]["azj-script_latin"]["model"]
    prefix = "w2v_encoder.w2v_model.encoder.layers.1"
    del weights[f"{prefix}.adapter_layer.W_a"]
    weights[f"{prefix}.fc1.bias"] = torch.zeros(24)
    weights[f"{prefix}.adapter_layer.ln_b"] = torch.zeros(2, 16)
    torch.save(checkpoint, file)
    with pytest.raises(CheckpointError, match="azj-script_latin") as caught:
        unheard.load_model(file, adapter="swh")
    assert caught.value.missing == (f"{prefix}.adapter_layer.W_a",)
    assert caught.value.unexpected == (f"{prefix}.fc1.bias",)
    assert "(2, 16)" in caught.value.mismatched[0]


def test_a_dictionary_beside_the_file_decides_without_a_pickled_one(tmp_path: Path) -> None:
    source = ASSETS / "wav2vec2_base_ctc_old"
    shutil.copy(source / "checkpoint.pt", tmp_path / "alone.pt")
    bundle = unheard.load_model(tmp_path / "alone.pt")
    assert isinstance(bundle.config, CtcConfig)
    assert bundle.alphabet is None
    (tmp_path / "dict.ltr.txt").write_text("a 1\nb 1\n")
    with pytest.raises(unheard.UnheardError, match="expected 11 tokens"):
        unheard.load_model(tmp_path / "alone.pt")
