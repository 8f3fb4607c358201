"""Folders with an adapter for each language, as transformers and its tokenizer make them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.closeness import FLOAT64, assert_close
from tests.parity.hf_classes import KINDS, load_theirs, make_theirs, no_warnings
from tests.parity.hf_models import make_samples, redraw
from torch import nn
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from unheard.errors import AlphabetError, CheckpointError, ConfigError, UnheardError
from unheard.interop import load
from unheard.interop.huggingface import writer
from unheard.interop.huggingface.reader import open_model

LETTERS = {"eng": "abe'", "lug": "abŋny", "azj-script_latin": "əışç"}


def vocabulary(letters: str) -> dict[str, int]:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    return {token: number for number, token in enumerate(tokens)}


def languages_of_theirs(folder: Path) -> dict[str, Any]:
    """Make a folder as MMS has it: three languages, English in the model's own weights."""
    vocabularies = {name: vocabulary(letters) for name, letters in LETTERS.items()}
    (folder / "vocab.json").parent.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabularies))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang="eng")
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    models: dict[str, Any] = {}
    for seed, (name, tokens) in enumerate(vocabularies.items()):
        model = make_theirs("Wav2Vec2ForCTC", "mms", vocab_size=len(tokens))
        if models:  # one body for all
            model.wav2vec2.load_state_dict(models["eng"].wav2vec2.state_dict())
        for module in (*(layer.adapter_layer for layer in layers(model)), model.lm_head):
            redraw(module, seed=seed)
        own = {key: tensor.contiguous() for key, tensor in model._get_adapters().items()}
        save_file(own, folder / f"adapter.{name}.safetensors", metadata={"format": "pt"})
        if name == "eng":
            model.save_pretrained(folder)
        models[name] = model
    return models


def layers(model: Any) -> nn.ModuleList:
    return model.wav2vec2.encoder.layers


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, Any]:
    return languages_of_theirs(tmp_path / "mms")


def compare(model: Any, bundle: Any, tolerance: float = FLOAT64) -> None:
    samples = make_samples((6000,), seed=1)[0]
    with torch.no_grad():
        expected = model(samples).logits
        assert_close("logits", bundle.model(samples).logits, expected, tolerance)


@pytest.mark.parametrize("language", LETTERS)
def test_every_language_is_read_as_there(
    tmp_path: Path, theirs: dict[str, Any], language: str
) -> None:
    bundle = load.load_model(tmp_path / "mms", adapter=language)
    assert bundle.adapter == language
    assert list(bundle.adapters) == sorted(LETTERS)
    assert bundle.alphabet is not None
    assert bundle.alphabet.tokens == tuple(vocabulary(LETTERS[language]))
    compare(theirs[language], bundle)
    with no_warnings():
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "mms", target_lang=language)
    assert tokenizer.target_lang == language
    text = " ".join((LETTERS[language], LETTERS[language][::-1]))
    assert bundle.alphabet.encode(text) == tokenizer(text).input_ids
    others = [name for name in LETTERS if name != language]
    for other in others:
        with pytest.raises(AssertionError):
            compare(theirs[other], bundle)


def test_no_language_stands_in_for_another(tmp_path: Path, theirs: dict[str, Any]) -> None:
    folder = tmp_path / "mms"
    with pytest.raises(ConfigError, match=r"adapter.*azj-script_latin, eng, lug"):
        load.load_model(folder)
    for wrong in ("azj", "ENG", "en", "", "../eng"):
        with pytest.raises(ConfigError, match="no adapter for the language"):
            load.load_model(folder, adapter=wrong)
    (folder / "adapter.lug.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"adapter\.lug\.safetensors"):
        load.load_model(folder, adapter="lug")
    assert list(load.load_model(folder, adapter="eng").adapters) == ["azj-script_latin", "eng"]


def test_own_weights_are_of_the_language_that_the_tokenizer_names(
    tmp_path: Path, theirs: dict[str, Any]
) -> None:
    folder = tmp_path / "mms"
    (folder / "adapter.eng.safetensors").unlink()
    bundle = load.load_model(folder, adapter="eng")
    assert bundle.adapters["eng"].store.tensors.keys() > {"lm_head.weight"}
    compare(theirs["eng"], bundle)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_lang": None}))
    with pytest.raises(ConfigError, match="target_lang"):
        load.load_model(folder, adapter="eng")
    compare(theirs["lug"], load.load_model(folder, adapter="lug"))


def test_a_single_language_need_not_be_named(tmp_path: Path, theirs: dict[str, Any]) -> None:
    folder = tmp_path / "mms"
    for name in ("lug", "azj-script_latin"):
        (folder / f"adapter.{name}.safetensors").unlink()
    (folder / "vocab.json").write_text(json.dumps({"eng": vocabulary(LETTERS["eng"])}))
    bundle = load.load_model(folder)
    assert bundle.adapter == "eng"
    compare(theirs["eng"], bundle)


def test_a_language_without_a_vocabulary(tmp_path: Path, theirs: dict[str, Any]) -> None:
    folder = tmp_path / "mms"
    table = {name: vocabulary(LETTERS[name]) for name in ("eng", "azj-script_latin")}
    (folder / "vocab.json").write_text(json.dumps(table))
    with pytest.raises(AlphabetError, match=r"no vocabulary for 'lug'.*azj-script_latin, eng"):
        load.load_model(folder, adapter="lug")
    bundle = load.load_model(folder, adapter="eng")
    assert list(bundle.adapters) == sorted(table)
    (folder / "vocab.json").write_text(json.dumps(table["eng"]))
    with pytest.raises(AlphabetError, match="one without the name of a language"):
        load.load_model(folder, adapter="eng")


def test_pickled_adapters(tmp_path: Path, theirs: dict[str, Any]) -> None:
    folder = tmp_path / "mms"
    (folder / "adapter.lug.safetensors").unlink()
    torch.save(theirs["lug"]._get_adapters(), folder / "adapter.lug.bin")
    compare(theirs["lug"], load.load_model(folder, adapter="lug"))


def lose_one(weights: dict[str, Any]) -> None:
    del weights["lm_head.bias"]


def add_one(weights: dict[str, Any]) -> None:
    weights["wav2vec2.encoder.layer_norm.bias"] = torch.zeros(32)


def cut_one(weights: dict[str, Any]) -> None:
    name = "wav2vec2.encoder.layers.0.adapter_layer.norm.bias"
    weights[name] = weights[name][:-1].clone()


def shorten_head(weights: dict[str, Any]) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()
    weights["lm_head.bias"] = weights["lm_head.bias"][:-1].clone()


def spoil(weights: dict[str, Any]) -> None:
    weights["lm_head.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lose_one, r"adapter\.lug.*missing: lm_head\.bias"),
        (add_one, r"adapter\.lug.*unexpected: wav2vec2\.encoder\.layer_norm\.bias"),
        (cut_one, r"adapter_layer\.norm\.bias: expected \(32,\), found \(31,\)"),
        (shorten_head, "vocab.json, language lug does not fit.*expected 9 tokens.*found 10"),
        (spoil, "not finite"),
    ],
)
def test_damaged_languages_are_refused_and_the_others_work(
    tmp_path: Path, theirs: dict[str, Any], break_it: Callable[[Any], None], message: str
) -> None:
    folder = tmp_path / "mms"
    weights = {key: tensor.clone() for key, tensor in theirs["lug"]._get_adapters().items()}
    break_it(weights)
    save_file(weights, folder / "adapter.lug.safetensors")
    with pytest.raises(UnheardError, match=message):
        load.load_model(folder, adapter="lug")
    compare(theirs["eng"], load.load_model(folder, adapter="eng"))


@pytest.mark.parametrize("base", LETTERS)
def test_what_we_write_has_every_language_there(
    tmp_path: Path, theirs: dict[str, Any], base: str
) -> None:
    bundle = load.load_model(tmp_path / "mms", adapter=base)
    writer.save(bundle, tmp_path / "ours")
    compare(load_theirs("Wav2Vec2ForCTC", tmp_path / "ours"), bundle)
    for language, before in theirs.items():
        again = load_theirs("Wav2Vec2ForCTC", tmp_path / "ours")
        again.load_adapter(language)
        state = again.state_dict()
        for key, tensor in before.state_dict().items():
            assert torch.equal(state[key], tensor), key
        compare(before, load.load_model(tmp_path / "ours", adapter=language))
        with no_warnings():
            tokenizer = Wav2Vec2Processor.from_pretrained(
                tmp_path / "ours", target_lang=language
            ).tokenizer
        assert dict(tokenizer.encoder) == vocabulary(LETTERS[language])
        assert tokenizer.pad_token_id == 0
    with no_warnings():
        assert Wav2Vec2Processor.from_pretrained(tmp_path / "ours").tokenizer.target_lang == base


def test_adapters_in_a_network_with_the_norm_last_are_ignored_as_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = make_theirs("Wav2Vec2ForCTC", "base", adapter_attn_dim=6)
    model.save_pretrained(folder)
    bundle = load.load_model(folder)
    assert bundle.encoder_config.adapter_dim == 0
    compare(model, bundle)


def test_one_flat_vocabulary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model with adapter layers and one language, saved without a name for it."""
    model = make_theirs("Wav2Vec2ForCTC", "mms", vocab_size=9)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocab.json").write_text(json.dumps(vocabulary("abcd")))
    with caplog.at_level(logging.WARNING):
        bundle = load.load_model(tmp_path / "model")
    assert caplog.text == ""
    assert (bundle.adapter, dict(bundle.adapters)) == (None, {})
    assert bundle.encoder_config.adapter_dim == KINDS["mms"]["adapter_attn_dim"]
    compare(model, bundle)
    with pytest.raises(ConfigError, match="Leave the language out"):
        load.load_model(tmp_path / "model", adapter="lug")
    writer.save(bundle, tmp_path / "ours")
    compare(load_theirs("Wav2Vec2ForCTC", tmp_path / "ours"), bundle)


def test_names_in_a_vocabulary_never_become_paths(tmp_path: Path) -> None:
    """A language called like a path is a language without a file."""
    languages_of_theirs(tmp_path / "mms")
    evil = "../../secret"
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    table = {evil: vocabulary("ab"), "eng": vocabulary(LETTERS["eng"])}
    (tmp_path / "mms" / "vocab.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="no weights"):
        load.load_model(tmp_path / "mms", adapter=evil)
    (tmp_path / "mms" / "adapter.eng.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"adapter\.eng"):
        open_model(tmp_path / "mms", adapter="eng")
