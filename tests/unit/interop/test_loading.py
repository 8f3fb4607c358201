"""From a reading to a network: what is compared, read, converted, drawn and refused."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny_models import tiny_alphabet, tiny_ctc, tiny_pretraining
from torch import Tensor

import unheard
from unheard.errors import CheckpointError, ConfigError
from unheard.interop import native, storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.reading import Reading
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.stored import Place, StoredAdapter, StoredTensor


def reading_of(
    path: Path, tensors: Mapping[str, Tensor], bundle: ModelBundle | None = None
) -> Reading:
    """Store tensors under the names of the network and understand them."""
    bundle = bundle or tiny_ctc()
    storage.write_tensors(path, tensors)
    return Reading(
        format="test",
        architecture="test",
        config=bundle.config,
        alphabet=bundle.alphabet,
        input_spec=bundle.input_spec,
        store=SafetensorsStore([path]),
        places={name: Place(name=name) for name in bundle.model.state_dict()},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("mapped", [True, False, None])
@pytest.mark.parametrize(
    ("kinds", "asked", "expected"),
    [
        ((torch.float32,), None, torch.float32),
        ((torch.bfloat16,), None, torch.float32),
        ((torch.bfloat16,), torch.bfloat16, torch.bfloat16),
        ((torch.float32,), torch.bfloat16, torch.bfloat16),
        ((torch.float16, torch.bfloat16, torch.float32), None, torch.float32),
        ((torch.float32, torch.float64), None, torch.float64),
        ((torch.float16, torch.float32, torch.float64), torch.float32, torch.float32),
        ((torch.float64,), torch.float16, torch.float16),
    ],
)
def test_types_may_be_mixed_and_become_one(
    path: Path, kinds: tuple[torch.dtype, ...], asked, expected, mapped: bool | None
) -> None:
    weights = tiny_ctc().model.state_dict()
    stored = {
        name: weight.to(kinds[number % len(kinds)])
        for number, (name, weight) in enumerate(weights.items())
    }
    loaded = storage.load(reading_of(path, stored), dtype=asked, mapped=mapped)
    found = loaded.model.state_dict()
    assert found.keys() == weights.keys()
    for name, weight in found.items():
        assert weight.dtype == expected
        assert torch.equal(weight, stored[name].to(expected))
        assert weight.is_contiguous()
    assert len({weight.untyped_storage().data_ptr() for weight in found.values()}) == len(found)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_numbers_too_large_for_the_type_asked_for(path: Path) -> None:
    weights = {name: weight.clone() for name, weight in tiny_ctc().model.state_dict().items()}
    weights["head.bias"][0] = 1e30
    reading = reading_of(path, weights)
    storage.load(reading, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"not finite.*head\.bias"):
        storage.load(reading, dtype=torch.float16)


def test_every_list_of_what_does_not_fit(path: Path) -> None:
    weights = dict(tiny_ctc().model.state_dict())
    weights["extra"] = weights.pop("head.bias")
    weights["left over"] = torch.ones(1)
    weights["head.weight"] = weights["head.weight"].t()
    reading = replace(reading_of(path, weights), ignored={"left over": "for training only"})
    for check in (storage.compare, storage.load):
        with pytest.raises(CheckpointError) as caught:
            check(reading)
        assert caught.value.missing == ("head.bias",)
        assert caught.value.unexpected == ("extra",)
        assert caught.value.mismatched == ("head.weight: expected (8, 16), found (16, 8)",)


def test_weights_may_be_rows_of_larger_tensors(path: Path) -> None:
    weights = dict(tiny_ctc().model.state_dict())
    others = [torch.full_like(weights["head.weight"], number) for number in range(2)]
    stacked = {**weights, "heads": torch.stack([*others, weights["head.weight"]])}
    del stacked["head.weight"]
    reading = reading_of(path, stacked)

    def at(row: int) -> Reading:
        return replace(
            reading, places={**reading.places, "head.weight": Place(name="heads", row=row)}
        )

    found = storage.load(at(2)).model.state_dict()["head.weight"]
    assert torch.equal(found, weights["head.weight"])
    assert found.untyped_storage().nbytes() == found.nbytes
    for row in (3, -1):
        with pytest.raises(CheckpointError, match=rf"heads: expected \(8, 16\) in row {row}"):
            storage.compare(at(row))


def test_shapes_in_files_may_differ_when_the_reader_says_so(path: Path) -> None:
    bundle = tiny_pretraining()
    weights = dict(bundle.model.state_dict())
    theirs = weights["quantizer.codebook"].flatten(0, 1)[None]
    reading = reading_of(path, {**weights, "quantizer.codebook": theirs}, bundle)
    with pytest.raises(CheckpointError, match=r"quantizer\.codebook: expected"):
        storage.load(reading)
    reading = replace(reading, shapes={"quantizer.codebook": tuple(theirs.shape)})
    found = storage.load(reading).model.state_dict()["quantizer.codebook"]
    assert torch.equal(found, weights["quantizer.codebook"])


def test_what_no_file_has_is_drawn_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = dict(tiny_ctc().model.state_dict())
    absent = ("encoder.mask_embedding", "head.weight", "head.bias")
    for name in absent:
        del weights[name]
    reading = reading_of(path, weights)
    with pytest.raises(CheckpointError) as caught:
        storage.load(reading)
    assert caught.value.missing == absent
    reading = replace(reading, initialised=frozenset(absent))
    one, other = storage.load(reading), storage.load(reading, dtype=torch.float64)
    assert one.provenance["initialised"] == sorted(absent)
    assert "freshly initialised: encoder.mask_embedding, head.bias, head.weight" in caplog.text
    for name in absent:
        drawn = one.model.state_dict()[name]
        assert torch.equal(drawn, other.model.state_dict()[name].float())
        assert drawn.std() > 0
        assert drawn.abs().max() <= 1


def test_one_stored_tensor_may_be_two_weights(path: Path) -> None:
    weights = dict(tiny_ctc().model.state_dict())
    reading = reading_of(path, weights)
    key, value = (
        f"encoder.transformer.layers.0.attention.{part}.bias" for part in ("key", "value")
    )
    reading = replace(
        reading,
        places={**reading.places, value: Place(name=key)},
        ignored={value: "the same as the key's"},
    )
    found = storage.load(reading).model.state_dict()
    assert torch.equal(found[value], found[key])
    assert found[value].data_ptr() != found[key].data_ptr()


def test_a_model_of_many_languages_needs_one_to_be_named(path: Path) -> None:
    weights = dict(tiny_ctc().model.state_dict())
    reading = reading_of(path, {**weights, "deu": torch.ones(2)})
    with pytest.raises(CheckpointError, match="unexpected: deu"):
        storage.compare(reading)
    adapter = StoredAdapter(
        alphabet=tiny_alphabet(), places={"head.bias": Place(name="deu")}, store=reading.store
    )
    reading = replace(reading, adapters={"deu": adapter, "kmr": adapter})
    storage.compare(reading)
    with pytest.raises(ConfigError, match=r"2 languages.*deu, kmr"):
        storage.load(reading)
    assert storage.load(replace(reading, adapter="kmr")).adapter == "kmr"


class Broken:
    """A store whose files turn out to be damaged, and give nonsense until then."""

    def __init__(self, store: SafetensorsStore) -> None:
        self._store = store

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        return self._store.tensors

    def verify(self) -> None:
        raise CheckpointError("entry 7 is damaged")

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        return self._store.read(name, out=out).fill_(float("nan"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_damage_explains_more_than_its_consequences(path: Path, dtype: torch.dtype) -> None:
    reading = reading_of(path, tiny_ctc().model.state_dict())
    with pytest.raises(CheckpointError, match="entry 7 is damaged"):
        storage.load(replace(reading, store=Broken(SafetensorsStore([path]))), dtype=dtype)


_MEASURE = """
import sys, torch
from pathlib import Path
from unheard.interop import load

def high_water():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

dtype, mapped = getattr(torch, sys.argv[2]), {"None": None, "True": True}[sys.argv[3]]
load.load_model(sys.argv[1] + "/small", dtype=dtype, mapped=mapped)
before = high_water()
model = load.load_model(sys.argv[1] + "/large", dtype=dtype, mapped=mapped).model
after = high_water()
print((after - before) / sum(weight.nbytes for weight in model.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
@pytest.mark.timeout(300)
def test_memory_is_little_more_than_the_weights(tmp_path: Path) -> None:
    native.save_model(tiny_ctc(), tmp_path / "small")
    config = tiny_ctc().config
    wide = replace(config, encoder=replace(config.encoder, dim=768, ffn_dim=3072, layers=10))
    model = storage.build(wide, source="the test")
    model.load_state_dict(
        {
            name: torch.full(weight.shape, 0.25, dtype=torch.float16)
            for name, weight in model.state_dict().items()
        },
        assign=True,
    )
    native.save_model(replace(tiny_ctc(), model=model), tmp_path / "large")

    def measure(dtype: str, mapped: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(tmp_path), dtype, mapped],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ
            | {"PYTHONPATH": str(Path(unheard.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )
        return float(done.stdout)

    assert 0.9 < measure("float16", "None") < 1.15  # 142 MB in memory of their own
    assert 0.9 < measure("float32", "None") < 1.15  # converted one by one
    assert measure("float16", "True") < 0.15  # left in the file
