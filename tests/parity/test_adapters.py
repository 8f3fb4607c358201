"""Languages stored here and loaded by transformers, and the other way round."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.closeness import FLOAT64, assert_close, largest_difference
from tests.parity.hf_models import KINDS, SMALL, make_samples, redraw
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError
from unheard.interop import load, storage
from unheard.interop.adapter_folder import list_adapters, save_adapter
from unheard.interop.adapters import is_of_language, new_adapter, with_adapter
from unheard.interop.bundle import ModelBundle
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.text.alphabet import Alphabet

SETTINGS = SMALL | KINDS["large-lv60"] | {"adapter_attn_dim": 6, "layer_norm_eps": 1e-3}
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
ENGLISH, KURDISH = (*SPECIAL, *"abcdef"), (*SPECIAL, *"êîûşçxwq")
LENGTHS = (9000, 9000)


def numbered(tokens: tuple[str, ...]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def alphabet_of(tokens: tuple[str, ...]) -> Alphabet:
    return Alphabet(
        tokens=tokens,
        blank="<pad>",
        word_boundary="|",
        unknown="<unk>",
        special=("</s>", "<s>"),
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """A folder that transformers wrote, with English in the network's own file, and ours of it."""

    folder: Path
    theirs: Any
    ours: ModelBundle


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = tmp_path / "model"
    torch.manual_seed(3)
    theirs = Wav2Vec2ForCTC(Wav2Vec2Config(**(SETTINGS | {"vocab_size": len(ENGLISH)})))
    redraw(theirs, seed=3)
    theirs.save_pretrained(folder)
    write_tokenizer(folder, {"eng": numbered(ENGLISH)}, target_lang="eng")
    ours = load.load_model(folder)
    assert ours.adapter == "eng"
    return Model(folder=folder, theirs=theirs.double().eval(), ours=ours)


def write_tokenizer(folder: Path, vocabularies: Any, **options: Any) -> None:
    source = folder / "source.json"
    source.write_text(json.dumps(vocabularies))
    Wav2Vec2CTCTokenizer(str(source), **options).save_pretrained(folder)
    source.unlink()


def kurdish(model: Model, *, seed: int = 5) -> ModelBundle:
    """Another language of the network, no weight of it trivial."""
    generator = torch.Generator().manual_seed(seed)
    bundle = new_adapter(model.ours, "kmr", alphabet_of(KURDISH), generator=generator)
    with torch.no_grad():
        for name, weight in sorted(bundle.model.named_parameters()):
            if is_of_language(name):
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    return bundle


def load_theirs(folder: Path, language: str | None = None) -> Any:
    options = {} if language is None else {"target_lang": language, "ignore_mismatched_sizes": True}
    return Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True, **options).double().eval()


def logits(model: Any) -> Tensor:
    samples, _, _ = make_samples(LENGTHS, seed=1)
    with torch.no_grad():
        return model(samples).logits


def ours_of(bundle: ModelBundle) -> Tensor:
    return logits(bundle.model.double())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_transformers_loads_a_language_stored_here(model: Model) -> None:
    bundle = kurdish(model)
    path = save_adapter(bundle, model.folder)
    assert path == model.folder / "adapter.kmr.safetensors"
    expected = ours_of(bundle)
    at_start = load_theirs(model.folder, "kmr")
    assert_close("from_pretrained", expected, logits(at_start), FLOAT64)
    later = load_theirs(model.folder)
    assert_close("English", ours_of(model.ours), logits(later), FLOAT64)
    later.load_adapter("kmr")
    assert_close("load_adapter", expected, logits(later), FLOAT64)
    english = logits(model.theirs)[:, :, :11]
    assert largest_difference("another language", expected[:, :, :11], english) > 1e-3


def test_its_tokenizer_writes_both_languages(model: Model) -> None:
    save_adapter(kurdish(model), model.folder)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(model.folder)
    assert tokenizer.encode("bad") == [6, 5, 8]
    tokenizer.set_target_lang("kmr")
    alphabet = alphabet_of(KURDISH)
    assert tokenizer.encode("şîq wê") == alphabet.encode("şîq wê")
    ids = [8, 0, 6, 6, 4, 11, 5]
    assert tokenizer.decode(ids) == alphabet.decode(alphabet.collapse(ids))


def test_ours_reads_a_language_that_transformers_made(model: Model) -> None:
    torch.manual_seed(9)
    trained = load_theirs(model.folder).float()
    trained.lm_head = torch.nn.Linear(32, len(KURDISH))
    for weight in trained._get_adapters().values():
        torch.nn.init.normal_(weight, std=0.3)
    # As in transformers' own guide to training an adapter.
    weights = {name: weight.detach() for name, weight in trained._get_adapters().items()}
    storage.write_tensors(model.folder / "adapter.kmr.safetensors", weights)
    write_vocabularies(model.folder, {"eng": numbered(ENGLISH), "kmr": numbered(KURDISH)})
    fresh = load.load_model(model.folder, adapter="kmr")
    assert fresh.alphabet is not None
    assert fresh.alphabet.tokens == KURDISH
    switched = with_adapter(load.load_model(model.folder, adapter="eng"), "kmr")
    assert_close("fresh", ours_of(fresh), logits(trained.double()), FLOAT64)
    assert torch.equal(ours_of(switched), ours_of(fresh))
    again = SafetensorsStore([save_adapter(switched, model.folder)])
    assert again.tensors.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(again.read(name).to(weight.dtype), weight), name


def test_languages_switched_back_and_forth_are_those_of_fresh_loads(model: Model) -> None:
    save_adapter(kurdish(model), model.folder)
    save_adapter(replaced(kurdish(model, seed=6), "zza"), model.folder)
    languages = ("eng", "kmr", "zza")
    own = {name: ours_of(load.load_model(model.folder, adapter=name)) for name in languages}
    fresh = {name: logits(load_theirs(model.folder, name)) for name in ("kmr", "zza")}
    fresh["eng"] = logits(model.theirs)
    bundle, switching = load.load_model(model.folder, adapter="eng"), load_theirs(model.folder)
    bundle.model.double()
    for language in ("kmr", "zza", "kmr", "kmr", "eng", "zza"):
        bundle = with_adapter(bundle, language)
        assert torch.equal(ours_of(bundle), own[language]), language
        assert_close(language, own[language], fresh[language], FLOAT64)
        if language != "eng":  # which transformers has no file of
            switching.load_adapter(language)
            assert torch.equal(logits(switching), fresh[language])


def test_no_language_is_english_in_silence(model: Model) -> None:
    save_adapter(kurdish(model), model.folder)
    with pytest.raises(ConfigError, match="expected the name of one"):
        load.load_model(model.folder)
    with pytest.raises(ConfigError, match="closest are kmr"):
        load.load_model(model.folder, adapter="kmz")
    with pytest.raises(ConfigError, match="closest are kmr"):
        with_adapter(load.load_model(model.folder, adapter="eng"), "kmz")


def write_vocabularies(folder: Path, vocabularies: Any) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocabularies))


def replaced(bundle: ModelBundle, language: str | None) -> ModelBundle:
    """The same weights under another name."""
    return replace(bundle, adapter=language)


def test_a_language_is_added_and_nothing_else_changes(model: Model) -> None:
    before = files(model.folder)
    assert list_adapters(model.folder) == {"eng": model.folder / "model.safetensors"}
    save_adapter(kurdish(model), model.folder)
    after = files(model.folder)
    assert set(after) == {*before, "adapter.kmr.safetensors"}
    assert {name for name in before if before[name] != after[name]} == {"vocab.json"}
    vocabularies = json.loads(after["vocab.json"])
    assert vocabularies == {"eng": numbered(ENGLISH), "kmr": numbered(KURDISH)}
    assert list_adapters(model.folder) == {
        "eng": model.folder / "model.safetensors",
        "kmr": model.folder / "adapter.kmr.safetensors",
    }
    save_adapter(kurdish(model, seed=8), model.folder)
    again = files(model.folder)
    assert {name for name in after if after[name] != again[name]} == {"adapter.kmr.safetensors"}


def test_a_folder_with_one_language_keeps_it_under_its_name(model: Model) -> None:
    (model.folder / "vocab.json").unlink()
    write_tokenizer(model.folder, numbered(ENGLISH))
    before = files(model.folder)
    assert list_adapters(model.folder) == {}
    bundle = kurdish(model)
    with pytest.raises(ConfigError, match="expected base_language"):
        save_adapter(bundle, model.folder)
    assert files(model.folder) == before
    save_adapter(bundle, model.folder, base_language="eng")
    assert list(list_adapters(model.folder)) == ["eng", "kmr"]
    kept = json.loads(before["tokenizer_config.json"])
    assert json.loads((model.folder / "tokenizer_config.json").read_text()) == {
        **kept,
        "target_lang": "eng",
    }
    assert Wav2Vec2CTCTokenizer.from_pretrained(model.folder).encode("bad") == [6, 5, 8]
    assert_close("English", ours_of(model.ours), logits(load_theirs(model.folder)), FLOAT64)
    assert_close("Kurdish", ours_of(bundle), logits(load_theirs(model.folder, "kmr")), FLOAT64)


def test_a_folder_without_a_vocabulary_gets_one(model: Model) -> None:
    for path in (model.folder / "vocab.json", model.folder / "tokenizer_config.json"):
        path.unlink()
    save_adapter(kurdish(model), model.folder)
    assert list(list_adapters(model.folder)) == ["kmr"]
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(model.folder)
    assert tokenizer.encode("wê") == alphabet_of(KURDISH).encode("wê")


def test_special_tokens_take_the_names_that_the_folder_has(model: Model) -> None:
    alphabet = Alphabet.from_texts(["şîq wê"], normalizer="basic-1")
    generator = torch.Generator().manual_seed(0)
    bundle = new_adapter(model.ours, "kmr", alphabet, generator=generator)
    save_adapter(bundle, model.folder)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(model.folder)
    tokenizer.set_target_lang("kmr")
    numbers = alphabet.encode("şîq wê")
    assert tokenizer.encode("şîq wê") == numbers
    assert tokenizer.decode([*numbers, alphabet.blank_id]) == "şîq wê"
    assert tokenizer.pad_token_id == alphabet.blank_id
    assert_close("logits", ours_of(bundle), logits(load_theirs(model.folder, "kmr")), FLOAT64)
    clash = Alphabet(tokens=("<blank>", "<pad>", "a"), blank="<blank>")
    bundle = new_adapter(model.ours, "zza", clash, generator=generator)
    with pytest.raises(AlphabetError, match="found '<pad>'"):
        save_adapter(bundle, model.folder)


def test_the_language_of_the_network_itself_keeps_its_vocabulary(model: Model) -> None:
    retrained = replaced(model.ours, "eng")
    save_adapter(retrained, model.folder)
    assert list_adapters(model.folder) == {"eng": model.folder / "adapter.eng.safetensors"}
    before = files(model.folder)
    with pytest.raises(ConfigError, match="language of the network's own file"):
        save_adapter(replaced(kurdish(model), "eng"), model.folder)
    assert files(model.folder) == before


def test_an_adapter_of_another_network_is_refused(model: Model) -> None:
    before = files(model.folder)
    bundle = kurdish(model)
    with torch.no_grad():
        bundle.model.encoder.transformer.layers[2].inner.bias[3] += 0.5
    with pytest.raises(CheckpointError, match="not the one that the adapter is for") as caught:
        save_adapter(bundle, model.folder)
    assert caught.value.mismatched[0].startswith(
        "wav2vec2.encoder.layers.2.feed_forward.intermediate_dense.bias: differs by 0.5"
    )
    settings = json.loads(before["config.json"])
    (model.folder / "config.json").write_text(json.dumps(settings | {"adapter_attn_dim": 16}))
    with pytest.raises(CheckpointError, match="adapter_attn_dim: expected 6, found 16"):
        save_adapter(kurdish(model), model.folder)
    assert {path.name for path in model.folder.iterdir()} == set(before)


def test_what_is_no_model_folder_is_refused(model: Model, tmp_path: Path) -> None:
    bundle = kurdish(model)
    with pytest.raises(FormatError, match=r"expected a config\.json"):
        save_adapter(bundle, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(FormatError, match=r"expected a config\.json"):
        list_adapters(tmp_path)
    other = shutil.copytree(model.folder, tmp_path / "other")
    (other / "config.json").write_text('{"format": "unheard-model"}')
    with pytest.raises(FormatError, match="model_type"):
        save_adapter(bundle, other)
    with pytest.raises(ConfigError, match="no adapter to store"):
        save_adapter(replaced(model.ours, None), model.folder)


def test_names_that_lead_out_of_the_folder_find_nothing(model: Model) -> None:
    path = save_adapter(kurdish(model), model.folder)
    outside = model.folder.parent / "kmr.safetensors"
    path.rename(outside)
    write_vocabularies(model.folder, {"eng": numbered(ENGLISH), "/../../kmr": numbered(KURDISH)})
    assert list(list_adapters(model.folder)) == ["eng"]
    with pytest.raises(ConfigError, match="cannot name a language"):
        save_adapter(replaced(kurdish(model), "/../../kmr"), model.folder)


@pytest.mark.parametrize("change", ["foreign", "headless", "vocabulary"])
def test_a_file_that_is_not_the_adapter_is_refused(model: Model, change: str) -> None:
    path = save_adapter(kurdish(model), model.folder)
    store = SafetensorsStore([path])
    weights = {name: store.read(name) for name in store.tensors}
    if change == "foreign":
        weights["wav2vec2.encoder.layers.0.final_layer_norm.weight"] = torch.ones(32)
    elif change == "headless":
        del weights["lm_head.weight"]
    else:
        weights["lm_head.weight"] = torch.zeros(7, 32)
    storage.write_tensors(path, weights)
    with pytest.raises((CheckpointError, AlphabetError), match=r"lm_head|unexpected|tokens"):
        load.load_model(model.folder, adapter="kmr")
    with pytest.raises((CheckpointError, AlphabetError), match=r"lm_head|unexpected|tokens"):
        with_adapter(load.load_model(model.folder, adapter="eng"), "kmr")
