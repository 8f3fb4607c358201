import itertools
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_alphabet, tiny_ctc, tiny_encoder, tiny_pretraining

import unheard
from unheard.audio.signal import InputSpec
from unheard.errors import CheckpointError, ConfigError
from unheard.interop import storage
from unheard.interop.adapters import (
    choose_language,
    close_languages,
    is_of_language,
    new_adapter,
    with_adapter,
)
from unheard.interop.bundle import ModelBundle
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.stored import Place, StoredAdapter
from unheard.models.config import CtcConfig
from unheard.models.ctc import CtcModel
from unheard.text.alphabet import Alphabet

ENCODER = replace(tiny_encoder("layer"), adapter_dim=3)
LETTERS = {"sna": "abc", "kmr": "êîxwq", "azj-script_latin": "ə"}


def alphabet_of(letters: str) -> Alphabet:
    return Alphabet(tokens=("<pad>", "|", *letters), blank="<pad>", word_boundary="|")


def drawn(shape: Any, *, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def many(tmp_path: Path) -> ModelBundle:
    """A model of three languages in three files, loaded with the first."""
    torch.manual_seed(0)
    adapters: dict[str, StoredAdapter] = {}
    for number, (language, letters) in enumerate(LETTERS.items()):
        model = CtcModel(CtcConfig(encoder=ENCODER, vocab=2 + len(letters)))
        weights = {
            f"stored.{name}": drawn(weight.shape, seed=100 * number + place)
            for place, (name, weight) in enumerate(model.state_dict().items())
            if is_of_language(name)
        }
        path = tmp_path / f"{language}.safetensors"
        storage.write_tensors(path, weights)
        adapters[language] = StoredAdapter(
            alphabet=alphabet_of(letters),
            places={name.removeprefix("stored."): Place(name=name) for name in weights},
            store=SafetensorsStore([path]),
        )
    base = ModelBundle(
        model=CtcModel(CtcConfig(encoder=ENCODER, vocab=2, head_dropout=0.25)).eval(),
        alphabet=alphabet_of(""),
        input_spec=InputSpec(),
        provenance={"licence": "CC0-1.0"},
        adapters=MappingProxyType(adapters),
        adapter=None,
    )
    return with_adapter(base, "sna")


def logits(bundle: ModelBundle) -> torch.Tensor:
    with torch.no_grad():
        return bundle.model(drawn((1, 900), seed=1).to(bundle.dtype)).logits


def memory(bundle: ModelBundle) -> dict[str, int]:
    return {name: weight.data_ptr() for name, weight in bundle.model.state_dict().items()}


def test_a_switch_shares_all_but_the_language(many: ModelBundle) -> None:
    before = {name: weight.clone() for name, weight in many.model.state_dict().items()}
    other = with_adapter(many, "kmr")
    assert other.adapter == "kmr"
    assert other.alphabet == alphabet_of(LETTERS["kmr"])
    assert other.config == CtcConfig(encoder=ENCODER, vocab=7, head_dropout=0.25)
    assert other.provenance == many.provenance
    mine, theirs = memory(many), memory(other)
    own = {name for name in mine if is_of_language(name)}
    assert len(own) == 2 * 6 + 2
    assert all((mine[name] == theirs[name]) == (name not in own) for name in mine)
    assert many.adapter == "sna"
    for name, weight in many.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_languages_switched_back_and_forth_are_those_of_a_fresh_load(many: ModelBundle) -> None:
    fresh = {language: logits(with_adapter(many, language)) for language in LETTERS}
    assert all(a.shape != b.shape for a, b in itertools.combinations(fresh.values(), 2))
    bundle = many
    for language in ("kmr", "sna", "kmr", "azj-script_latin", "sna", "sna"):
        bundle = with_adapter(bundle, language)
        assert torch.equal(logits(bundle), fresh[language]), language


def test_the_adapter_matters(many: ModelBundle) -> None:
    changed = with_adapter(many, "kmr")
    with torch.no_grad():
        changed.model.encoder.transformer.layers[1].adapter.up.bias[3] += 2
    assert not torch.allclose(logits(changed), logits(with_adapter(many, "kmr")), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_switch_keeps_the_type(many: ModelBundle, dtype: torch.dtype) -> None:
    many.model.to(dtype)
    other = with_adapter(many, "kmr")
    assert {weight.dtype for weight in other.model.state_dict().values()} == {dtype}


def test_no_language_stands_in_for_another(many: ModelBundle) -> None:
    with pytest.raises(ConfigError, match="expected the name of one"):
        with_adapter(many, None)
    with pytest.raises(ConfigError, match=r"no adapter for the language 'kmz'.*closest are kmr"):
        with_adapter(many, "kmz")
    with pytest.raises(ConfigError, match=r"closest are azj-script_latin\."):
        with_adapter(many, "azj")
    with pytest.raises(ConfigError, match="none is close"):
        with_adapter(many, "Qqqqq")
    with pytest.raises(ConfigError, match="got one without"):
        with_adapter(tiny_ctc("layer"), "kmr")


def test_close_names() -> None:
    known = ["azj-script_cyrillic", "azj-script_latin", "aze", "eng", "deu"]
    assert close_languages("AZJ", known)[:2] == ["azj-script_cyrillic", "azj-script_latin"]
    assert close_languages("zzz", known) == []
    assert choose_language("eng", known, source="x") == "eng"


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched", "not a number"])
def test_an_adapter_that_does_not_fit_is_refused(many: ModelBundle, change: str) -> None:
    name = "encoder.transformer.layers.1.adapter.up.bias"
    adapter = many.adapters["kmr"]
    places = dict(adapter.places)
    if change == "missing":
        del places[name]
    elif change == "unexpected":
        places["encoder.transformer.layers.2.adapter.up.bias"] = places[name]
    elif change == "mismatched":
        places[name] = Place(name="stored.encoder.transformer.layers.1.adapter.down.bias")
    store: Any = adapter.store
    if change == "not a number":
        path = store.tensors[places[name].name].file
        weights = {stored: store.read(stored) for stored in store.tensors}
        weights[places[name].name][3] = float("nan")
        storage.write_tensors(path, weights)
        store = SafetensorsStore([path])
    broken = replace(adapter, places=places, store=store)
    bundle = replace(many, adapters={**many.adapters, "kmr": broken})
    with pytest.raises(CheckpointError) as caught:
        with_adapter(bundle, "kmr")
    if change == "not a number":
        assert "not finite" in str(caught.value)
    else:
        assert len(getattr(caught.value, change)) == 1


def test_a_language_in_a_row_of_stacked_tensors(many: ModelBundle, tmp_path: Path) -> None:
    adapter = many.adapters["kmr"]
    stacked = {
        place.name: torch.stack([torch.zeros_like(weight), weight])
        for place in adapter.places.values()
        for weight in [adapter.store.read(place.name)]
    }
    path = tmp_path / "stacked.safetensors"
    storage.write_tensors(path, stacked)
    rows = {name: Place(name=place.name, row=1) for name, place in adapter.places.items()}
    bundle = replace(
        many,
        adapters={"kmr": replace(adapter, places=rows, store=SafetensorsStore([path]))},
    )
    assert torch.equal(logits(with_adapter(bundle, "kmr")), logits(with_adapter(many, "kmr")))
    beyond = {name: replace(place, row=2) for name, place in rows.items()}
    bundle = replace(bundle, adapters={"kmr": replace(bundle.adapters["kmr"], places=beyond)})
    with pytest.raises(CheckpointError, match="does not fit"):
        with_adapter(bundle, "kmr")


def new(bundle: ModelBundle, language: str, *, seed: int = 0, **options: Any) -> ModelBundle:
    generator = torch.Generator().manual_seed(seed)
    return new_adapter(bundle, language, tiny_alphabet(), generator=generator, **options)


def test_a_new_language_begins_as_the_network_without_one(many: ModelBundle) -> None:
    made = new(many, "nde")
    again, other = new(many, "nde"), new(many, "nde", seed=1)
    assert torch.equal(logits(made), logits(again))
    assert not torch.equal(logits(made), logits(other))
    plain = CtcModel(CtcConfig(encoder=replace(ENCODER, adapter_dim=0), vocab=8)).eval()
    plain.load_state_dict(
        {n: w for n, w in made.model.state_dict().items() if ".adapter." not in n}
    )
    with torch.no_grad():
        assert torch.equal(logits(made), plain(drawn((1, 900), seed=1)).logits)
    heads = made.model.state_dict()["head.weight"]
    assert float(heads.std()) == pytest.approx(0.02, rel=0.3)
    assert set(made.adapters) == {*LETTERS, "nde"}
    assert set(many.adapters) == set(LETTERS)


def test_what_a_new_language_learnt_outlives_a_switch(many: ModelBundle) -> None:
    made = new(many, "nde")
    made.model.double()
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            if is_of_language(name):
                weight.normal_(generator=torch.Generator().manual_seed(7))
    learnt = logits(made)
    back = with_adapter(with_adapter(made, "kmr"), "nde")
    assert back.dtype == torch.float64
    assert torch.equal(logits(back), learnt)


@pytest.mark.parametrize("make", [tiny_ctc, tiny_pretraining])
def test_a_network_without_adapters_can_be_given_one(make: Any) -> None:
    bundle = make("layer")
    made = new(bundle, "nde")
    assert made.encoder_config.adapter_dim == 16
    assert new(bundle, "nde", adapter_dim=5).encoder_config.adapter_dim == 5
    assert made.adapter == "nde"
    assert list(made.adapters) == ["nde"]
    assert memory(made)["encoder.projection.weight"] == memory(bundle)["encoder.projection.weight"]
    two = new(made, "sna")
    assert torch.equal(logits(with_adapter(two, "nde")), logits(made))


def test_odd_new_languages_are_refused(many: ModelBundle) -> None:
    with pytest.raises(ConfigError, match="already"):
        new(many, "kmr")
    with pytest.raises(ConfigError, match="norm_first"):
        new(tiny_ctc("group"), "kmr")
    with pytest.raises(ConfigError, match="adapters, 3, got 16"):
        new(many, "nde", adapter_dim=16)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        new(tiny_ctc("layer"), "nde", adapter_dim=0)
    for name in ("", "../eng", "a/b", "-a", "a" * 65, "e ng", "eng\n", "é"):
        with pytest.raises(ConfigError, match="cannot name a language"):
            new(many, name)


def test_load_model_switches_a_loaded_model(many: ModelBundle) -> None:
    switched = unheard.load_model(many, adapter="kmr")
    assert switched.adapter == "kmr"
    assert torch.equal(logits(switched), logits(with_adapter(many, "kmr")))
    assert unheard.load_model(many) is many
    assert many.adapter == "sna"
    with pytest.raises(ConfigError, match="no adapter for the language 'eng'"):
        unheard.load_model(many, adapter="eng")
