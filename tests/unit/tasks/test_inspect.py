"""What `inspect` says, and that it reads no weights to say it."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.tiny_models import (
    LETTERS,
    tiny_alphabet,
    tiny_ctc,
    tiny_encoder,
    tiny_masked_units,
    tiny_pretraining,
)
from torch import Tensor

import unheard
from unheard import cli
from unheard.audio.signal import InputSpec
from unheard.errors import CheckpointError, FormatError, LanguageError, UnheardError
from unheard.interop.inspection import describe, part_of
from unheard.interop.inspection_table import printable, show_bytes, show_token
from unheard.interop.reading import Reading
from unheard.interop.stored import Place, StoredTensor
from unheard.models.config import CtcConfig, EncoderOnlyConfig


@pytest.fixture
def native(tmp_path: Path) -> Path:
    unheard.save_model(tiny_ctc(), tmp_path / "native")
    return tmp_path / "native"


@pytest.fixture
def huggingface(tmp_path: Path) -> Path:
    unheard.save_model(tiny_ctc("layer"), tmp_path / "hf", format="huggingface")
    return tmp_path / "hf"


class Headers:
    """A store of which nobody may read a tensor (a `TensorStore`)."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self.tensors = tensors

    def verify(self) -> None:
        raise AssertionError("inspect has read all bytes")

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        raise AssertionError(f"inspect has read {name}")


def make_reading(file: Path, **changes: Any) -> Reading:
    """A reading of a tiny model whose numbers nobody has."""
    file.write_bytes(b"\0" * 1234)
    config = CtcConfig(encoder=tiny_encoder(), vocab=len(LETTERS))
    names = tiny_ctc().model.state_dict()
    tensors = {
        f"there.{name}": StoredTensor(file=file, shape=tuple(weight.shape), kind="F32")
        for name, weight in names.items()
    }
    reading = Reading(
        format="fairseq",
        architecture="wav2vec_ctc",
        config=config,
        alphabet=tiny_alphabet(),
        input_spec=InputSpec(),
        store=Headers(tensors),
        places={name: Place(name=f"there.{name}") for name in names},
    )
    return replace(reading, **changes)


def test_our_own_folder(native: Path) -> None:
    bundle = tiny_ctc()
    found = unheard.inspect(native)
    assert found.source == str(native)
    assert (found.format, found.network) == ("unheard", "ctc")
    assert found.parameters == sum(p.numel() for p in bundle.model.parameters())
    assert sum(found.parts.values()) == found.parameters
    assert found.parts["head"] == bundle.model.head.weight.numel() + len(LETTERS)
    assert found.size_bytes == (native / "model.safetensors").stat().st_size
    assert found.dtypes == {"float32": found.parameters}
    assert found.config == bundle.config
    assert (found.frame_stride_samples, found.receptive_field_samples) == (20, 50)
    assert found.input_spec == bundle.input_spec
    assert found.alphabet == bundle.alphabet
    assert found.licence == "CC0-1.0"
    assert found.provenance["recipe"] == "tests"
    assert (found.labels, found.adapters, found.adapter) == ((), (), None)
    assert (found.initialised, found.ignored, found.tensors) == ((), {}, None)


@pytest.mark.parametrize("make", [tiny_pretraining, tiny_masked_units])
def test_models_without_an_alphabet(make: Any, tmp_path: Path) -> None:
    bundle = make("layer")
    unheard.save_model(bundle, tmp_path / "model")
    found = unheard.inspect(tmp_path / "model")
    assert found.alphabet is None
    assert found.parameters == sum(p.numel() for p in bundle.model.parameters())
    assert "alphabet" not in found.table()


def test_a_folder_of_transformers_and_its_map(huggingface: Path) -> None:
    found = unheard.inspect(huggingface, map=True)
    assert (found.format, found.architecture) == ("transformers", "Wav2Vec2ForCTC")
    names = tiny_ctc("layer").model.state_dict()
    assert found.tensors is not None
    assert [one.name for one in found.tensors] == list(names)
    assert [one.shape for one in found.tensors] == [tuple(value.shape) for value in names.values()]
    by_name = {one.name: one for one in found.tensors}
    assert by_name["head.weight"].source == "lm_head.weight"
    query = by_name["encoder.transformer.layers.1.attention.query.weight"]
    assert query.source == "wav2vec2.encoder.layers.1.attention.q_proj.weight"
    assert (query.dtype, query.file, query.row) == ("float32", "model.safetensors", None)


def test_the_type_of_the_numbers_is_what_the_file_says(native: Path) -> None:
    bundle = tiny_ctc()
    bundle.model.bfloat16()
    unheard.save_model(bundle, native)
    found = unheard.inspect(native, map=True)
    assert found.dtypes == {"bfloat16": found.parameters}
    assert {one.dtype for one in found.tensors or ()} == {"bfloat16"}


def test_no_weight_is_read(tmp_path: Path) -> None:
    reading = make_reading(tmp_path / "weights")
    found = describe(reading, source="model.pt", with_map=True)
    assert found.size_bytes == 1234
    assert found.parameters == sum(p.numel() for p in tiny_ctc().model.parameters())
    with pytest.raises(AssertionError, match="has read"):
        reading.store.read("there.head.bias")


@pytest.fixture
def watched() -> Iterator[list[tuple[str, str]]]:
    """Files opened while a test watches; the hook cannot be taken away, only silenced."""
    seen: list[tuple[str, str]] = []
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in ("open", "import", "exec", "compile", "subprocess.Popen"):
            seen.append((event, str(arguments[0])))

    sys.addaudithook(hook)
    yield seen
    active = False


def test_the_numbers_on_the_disk_do_not_matter(
    huggingface: Path, watched: list[tuple[str, str]]
) -> None:
    expected = unheard.inspect(huggingface, map=True)
    weights = huggingface / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start:] = b"\xff" * (len(data) - start)  # not a number, each of them
    weights.write_bytes(data)
    watched.clear()
    assert unheard.inspect(huggingface, map=True) == expected
    opened = [name for event, name in watched if event == "open" and not name.endswith(".py")]
    assert str(weights) in opened, "the hook sees what is opened"
    assert [name for name in opened if not name.startswith(str(huggingface))] == []
    assert not [entry for entry in watched if entry[0] in ("exec", "compile", "subprocess.Popen")]
    with pytest.raises(CheckpointError, match="finite"):
        unheard.load_model(huggingface)


def test_json_says_everything(native: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(native), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    found = unheard.inspect(native)
    assert shown == json.loads(json.dumps(found.to_dict()))
    assert set(shown) == {
        "source", "format", "architecture", "network", "parameters", "parts", "size_bytes",
        "files", "dtypes", "config", "frame_stride_samples", "receptive_field_samples",
        "input_spec", "alphabet", "labels", "adapters", "adapter", "licence", "provenance",
        "initialised", "ignored",
    }  # fmt: skip
    assert shown["parameters"] == found.parameters
    assert shown["alphabet"]["tokens"] == list(LETTERS)
    assert shown["input_spec"]["padding"] == "masked"
    assert cli.main(["inspect", str(native), "--json", "--map"]) == 0
    rows = json.loads(capsys.readouterr().out)["tensors"]
    assert rows[-1] == {
        "name": "head.bias",
        "shape": [len(LETTERS)],
        "source": "head.bias",
        "row": None,
        "stored_shape": [len(LETTERS)],
        "dtype": "float32",
        "file": "model.safetensors",
    }


def test_the_table_says_what_people_ask(native: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(native)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for expected in (
        "format                    unheard, ctc",
        "network                   recogniser (CTC)",
        "licence                   CC0-1.0",
        "6,080 parameters in float32",
        "2 layers of 16, 4 heads, feed-forward 24, norms after each part",
        "every 1.25 ms (20 samples), each sees 3.125 ms (50 samples)",
        "16,000 Hz, as it comes, not normalised",
        "masked: a result does not depend on what it was batched with",
        "8 symbols, lower case; blank <pad>, word boundary |, unknown <unk>",
        "<pad>  <s>  </s>  <unk>  |  a  b  ñ",
    ):
        assert expected in shown.out
    assert "\033" not in shown.out
    assert all(line == line.rstrip() for line in shown.out.splitlines())


def test_the_map_has_one_tensor_a_line(
    huggingface: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(huggingface), "--map"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("encoder.projection.weight ")]
    assert row.split() == [
        "encoder.projection.weight",
        "wav2vec2.feature_projection.projection.weight",
        *"16 x 8".split(),
        "float32",
    ]


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    reading = make_reading(tmp_path / "weights")
    stored = dict(reading.store.tensors)
    stored["there.head.weight"] = replace(stored["there.head.weight"], shape=(3, 8, 16))
    stored["optimiser.step"] = StoredTensor(file=tmp_path / "weights", shape=(), kind="I64")
    del stored["there.encoder.mask_embedding"]
    names = {name: place for name, place in reading.places.items() if "mask" not in name}
    names["head.weight"] = Place(name="there.head.weight", row=2)
    found = describe(
        replace(
            reading,
            store=Headers(stored),
            places=names,
            initialised=frozenset({"encoder.mask_embedding"}),
            ignored={"optimiser.step": "state of an optimiser"},
        ),
        source="model.pt",
        with_map=True,
    )
    shown = found.table()
    assert "encoder.mask_embedding; drawn afresh when loaded" in shown
    assert "optimiser.step: state of an optimiser" in shown
    assert "there.head.weight[2]" in shown
    assert "(none: drawn afresh)" in shown
    (head,) = [one for one in found.tensors or () if one.name == "head.weight"]
    assert (head.row, head.shape, head.stored_shape) == (2, (8, 16), (3, 8, 16))
    assert found.dtypes == {"float32": found.parameters - 16}


def test_labels_and_languages_are_listed(tmp_path: Path) -> None:
    reading = make_reading(tmp_path / "weights")
    found = describe(replace(reading, labels=("angry", "calm")), source="m")
    assert "2: angry, calm" in found.table()


def test_names_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    reading = make_reading(tmp_path / "weights")
    stored = dict(reading.store.tensors)
    stored["there.head.bias"] = replace(stored["there.head.bias"], shape=(9,))
    stored["there.stray"] = StoredTensor(file=tmp_path / "weights", shape=(1,), kind="F32")
    with pytest.raises(CheckpointError) as caught:
        describe(replace(reading, store=Headers(stored)), source="m")
    assert caught.value.mismatched == ("there.head.bias: expected (8,), found (9,)",)
    assert caught.value.unexpected == ("there.stray",)


def test_a_terminal_is_not_steered_by_a_file(tmp_path: Path) -> None:
    reading = make_reading(tmp_path / "weights")
    alphabet = replace(
        tiny_alphabet(),
        tokens=(*LETTERS[:-2], "\N{COMBINING ACUTE ACCENT}", "\N{RIGHT-TO-LEFT OVERRIDE}"),
    )
    found = describe(
        replace(
            reading,
            alphabet=alphabet,
            architecture="\033[2J[bold]nice[/bold]",
            provenance={"note": "\033]0;owned\a", "licence": "\u202eTIM"},
        ),
        source="m",
    )
    shown = found.table()
    assert "\033" not in shown
    assert "\a" not in shown
    assert "\u202e" not in shown
    assert "<U+001B>[2J[bold]nice[/bold]" in shown
    assert "<U+202E>TIM" in shown
    assert "\N{DOTTED CIRCLE}\N{COMBINING ACUTE ACCENT}" in shown
    assert found.to_dict()["provenance"]["note"] == "\033]0;owned\a", "JSON escapes by itself"


@pytest.mark.parametrize(
    ("token", "shown"),
    [("a", "a"), (" ", "<U+0020>"), ("\u200d", "<U+200D>"), ("ä", "ä"), ("ाक", "◌ाक")],
)
def test_tokens_are_shown(token: str, shown: str) -> None:
    assert show_token(token) == shown


def test_sizes_are_shown() -> None:
    assert [show_bytes(n) for n in (999, 1000, 377_600_000, 1_930_000_000)] == [
        "999 B", "1.0 kB", "377.6 MB", "1.93 GB",
    ]  # fmt: skip
    assert printable("a\nb") == "a<U+000A>b"


def test_every_weight_belongs_to_a_part() -> None:
    for bundle in (tiny_ctc(), tiny_pretraining(), tiny_masked_units()):
        for name, _ in bundle.model.named_parameters():
            assert (part_of(name) == "head") == name.startswith("head.")
    assert part_of("encoder.transformer.layers.3.adapter.up.bias") == "language adapter"
    assert part_of("quantizer_of_another.weight") == "head"


def test_encoders_without_a_head(tmp_path: Path) -> None:
    reading = make_reading(tmp_path / "weights")
    stored = {n: t for n, t in reading.store.tensors.items() if ".head." not in n}
    places = {n: p for n, p in reading.places.items() if not n.startswith("head.")}
    found = describe(
        replace(
            reading,
            config=EncoderOnlyConfig(encoder=tiny_encoder()),
            alphabet=None,
            store=Headers(stored),
            places=places,
        ),
        source="m",
    )
    assert "head" not in found.parts
    assert "encoder without a head" in found.table()


ASSETS = Path(__file__).parents[2] / "assets"


@pytest.mark.parametrize("name", ["mms_stacked.pt", "mms_table.pt"])
def test_languages_are_listed_without_naming_one(name: str) -> None:
    found = unheard.inspect(ASSETS / "fairseq" / name)
    assert {"azj-script_latin", "swh"} <= set(found.adapters)
    assert found.adapter == min(found.adapters)
    assert found.parts["language adapter"] > 0
    shown = found.table()
    assert f"{len(found.adapters)}: {', '.join(found.adapters)}" in shown
    assert "described for             azj-script_latin" in shown
    other = unheard.inspect(ASSETS / "fairseq" / name, adapter="swh")
    assert other.adapter == "swh"
    # Stacked adapters share one alphabet and one output layer.
    assert (other.alphabet == found.alphabet) == (name == "mms_stacked.pt")
    with pytest.raises(LanguageError, match="swh") as caught:
        unheard.inspect(ASSETS / "fairseq" / name, adapter="swa")
    assert set(caught.value.languages) == set(found.adapters)


@pytest.mark.parametrize("name", ["wav2vec_old.pt", "vq_wav2vec_gumbel.pt"])
def test_older_networks_are_named(name: str) -> None:
    with pytest.raises(FormatError, match="of 2019"):
        unheard.inspect(ASSETS / "fairseq" / name)


def empty_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def foreign_safetensors(folder: Path) -> Path:
    folder.mkdir()
    safetensors.torch.save_file({"unet.weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def text_file(folder: Path) -> Path:
    folder.write_text("hello")
    return folder


def other_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "whisper", "architectures": ["Whisper"]}')
    return folder


def cut_weights(folder: Path) -> Path:
    unheard.save_model(tiny_ctc(), folder.parent / "whole", format="huggingface")
    shutil.copytree(folder.parent / "whole", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return folder


@pytest.mark.parametrize(
    "make", [empty_folder, foreign_safetensors, text_file, other_model, cut_weights]
)
def test_what_is_no_model_is_said_in_one_line(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(tmp_path / "thing")
    with pytest.raises(UnheardError):
        unheard.inspect(source)
    assert cli.main(["inspect", str(source)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert "thing" in shown.err


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((UnheardError, FormatError), match="nowhere"):
        unheard.inspect(tmp_path / "nowhere")
