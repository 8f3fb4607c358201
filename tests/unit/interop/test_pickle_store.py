"""Torch checkpoints of every kind, against what torch itself reads of them."""

import argparse
import collections
import json
import pathlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.hostile_checkpoints import (
    FOUR,
    mapping,
    number,
    saved,
    tensor,
    text,
    together,
    whole,
    write_legacy,
    write_zip,
)

from unheard.errors import CheckpointError, FormatError, ShapeError
from unheard.interop.pickle_store import PickledFile, Record, TensorHandle, open_pickle

ASSETS = Path(__file__).parents[2] / "assets"
FAIRSEQ = sorted((ASSETS / "fairseq").rglob("*.pt"))
STYLES = {"zip": True, "before 1.6": False}


def reopened(folder: Path, value: Any, **options: Any) -> PickledFile:
    return open_pickle(saved(folder / "x.pt", value, **options))


@pytest.mark.parametrize("path", FAIRSEQ, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files_of_fairseq_open_and_hold_the_same_weights(path: Path) -> None:
    opened = open_pickle(path)
    opened.store.verify()
    store = opened.tensors_at("model")
    assert store.tensors
    twin = path.with_name(path.stem.removesuffix("_old").removesuffix("_omegaconf"))
    weights = twin.with_suffix(".safetensors")
    if weights.exists():
        expected = load_file(weights)
        assert set(store.tensors) == set(expected)
        for name, weight in expected.items():
            assert torch.equal(store.read(name), weight)


def test_all_styles_of_fairseq_are_among_the_files() -> None:
    names = {path.stem for path in FAIRSEQ}
    assert {"wav2vec2_base", "wav2vec2_base_old", "wav2vec2_large_omegaconf"} <= names
    assert {"wav2vec2_large_ctc", "mms_stacked", "mms_table"} <= names


def test_settings_of_omegaconf_are_plain() -> None:
    opened = open_pickle(ASSETS / "fairseq" / "wav2vec2_large_omegaconf.pt")
    manifest = json.loads((ASSETS / "fairseq" / "manifest.json").read_text())
    settings = opened.objects["cfg"]["model"]
    assert type(settings) is dict
    expected = manifest["models"]["wav2vec2_large"]["encoder"]
    assert expected
    assert {key: settings[key] for key in expected} == expected
    assert json.loads(json.dumps(opened.objects["cfg"])) == opened.objects["cfg"]


def test_references_of_omegaconf_are_followed(tmp_path: Path) -> None:
    description = (ASSETS / "pickles" / "omegaconf_2_3.pkl").read_bytes()
    config = open_pickle(write_zip(tmp_path / "x.pt", description)).objects
    assert config == {
        "a": 1,
        "b": [1, 2.5, "x", None, 1],
        "c": {"d": 1, "e": "???", "f": None, "loop": "${c.pool}", "pool": "${c.loop}"},
        "g": "${c}",
        "h": "y-${a}",
        "home": "${oc.env:HOME}",
        "last": 2.5,
        "gone": "${no.such}",
        3: True,
    }


def test_settings_of_old_fairseq_are_records() -> None:
    (path,) = [path for path in FAIRSEQ if path.parent.name == "wav2vec2_base_ctc_old"]
    arguments = open_pickle(path).objects["args"]
    assert isinstance(arguments, Record)
    assert arguments.class_name == "argparse.Namespace"
    assert arguments.state["arch"] == "wav2vec_ctc"
    assert arguments.state["w2v_args"].state["arch"] == "wav2vec2"


def test_dictionary_of_fairseq_is_a_record() -> None:
    objects = open_pickle(ASSETS / "fairseq" / "wav2vec2_large_ctc.pt").objects
    dictionary = objects["task_state"]["target_dictionary"]
    assert dictionary.class_name == "fairseq.data.dictionary.Dictionary"
    state = dictionary.state
    assert state["symbols"][:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert state["indices"] == {symbol: n for n, symbol in enumerate(state["symbols"])}
    assert len(state["count"]) == len(state["symbols"])


@pytest.mark.parametrize("zipped", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_that_are_no_tensors(tmp_path: Path, protocol: int, zipped: bool) -> None:
    fortran = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    objects = reopened(
        tmp_path,
        {
            "text": "ɲò \U0001f600",
            "bytes": bytes(range(256)),
            "no bytes": b"",
            "long": -(2**600),
            "float": [0.1, float("inf"), -0.0],
            "nothing": None,
            "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
            "set": {1, 2},
            "frozen": frozenset("ab"),
            7: True,
            (1, "a"): False,
            "ordered": collections.OrderedDict(a=1),
            "default": collections.defaultdict(list, a=[1]),
            "counter": collections.Counter("aab"),
            "size": torch.Size([2, 3]),
            "dtype": torch.bfloat16,
            "device": torch.device("cuda", 1),
            "path": pathlib.PurePosixPath("/a/b"),
            "windows": pathlib.PureWindowsPath("c:/a"),
            "namespace": argparse.Namespace(a=argparse.Namespace(b=1)),
            "float64": np.float64(0.1),
            "int16": np.int16(-3),
            "bool": np.bool_(True),
            "array": fortran,
            "complex key": {0.5: 1},
        },
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    ).objects
    array = objects.pop("array")
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, fortran)
    assert not array.flags.writeable
    assert objects == {
        "text": "ɲò \U0001f600",
        "bytes": bytes(range(256)),
        "no bytes": b"",
        "long": -(2**600),
        "float": [0.1, float("inf"), -0.0],
        "nothing": None,
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "set": {1, 2},
        "frozen": {"a", "b"},
        7: True,
        (1, "a"): False,
        "ordered": {"a": 1},
        "default": {"a": [1]},
        "counter": {"a": 2, "b": 1},
        "size": (2, 3),
        "dtype": "torch.bfloat16",
        "device": "cuda:1",
        "path": "/a/b",
        "windows": "c:\\a",
        "namespace": Record("argparse.Namespace", {"a": Record("argparse.Namespace", {"b": 1})}),
        "float64": 0.1,
        "int16": -3,
        "bool": True,
        "complex key": {0.5: 1},
    }
    assert type(objects["int16"]) is int
    assert type(objects["float64"]) is float


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"odd is of a type of numpy that is not read"):
        reopened(tmp_path, {"odd": np.array(["a", "bc"])})


@pytest.mark.parametrize("zipped", STYLES.values(), ids=STYLES)
def test_views_of_one_storage(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(60.0).reshape(4, 15)
    value = {
        "base": base,
        "tied": base,
        "row": base[2],
        "column": base[:, 3],
        "steps": base[1:, ::4],
        "turned": base.t(),
        "scalar": base[3, 14],
        "none": base[4:],
        "square": base[:, :4].t(),
        "single": torch.tensor([5.0]).as_strided((1,), (7,)),
    }
    opened = reopened(tmp_path, value, _use_new_zipfile_serialization=zipped)
    for name, expected in value.items():
        read = opened.store.read(name)
        assert read.shape == expected.shape
        assert read.is_contiguous()
        assert torch.equal(read, expected)
    assert opened.objects["base"] is opened.objects["tied"]
    assert opened.objects["base"].storage == opened.objects["turned"].storage


def test_parameters_and_attributes_of_tensors(tmp_path: Path) -> None:
    marked = torch.arange(3.0)
    marked.note = "mine"  # type: ignore[attr-defined]
    weight = torch.nn.Parameter(torch.ones(2))
    marked_weight = torch.nn.Parameter(torch.zeros(2))
    marked_weight.note = "mine"  # type: ignore[attr-defined]
    module = torch.nn.BatchNorm1d(3)
    store = reopened(
        tmp_path,
        {"marked": marked, "weight": weight, "both": marked_weight, "norm": module.state_dict()},
    ).store
    assert store.read("marked").tolist() == [0, 1, 2]
    assert store.read("weight").tolist() == [1, 1]
    assert store.read("both").tolist() == [0, 0]
    assert store.read("norm.num_batches_tracked").tolist() == 0


def test_a_tensor_is_read_into_memory_that_is_given(tmp_path: Path) -> None:
    base = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    store = reopened(tmp_path, {"a": base, "b": base.t()}).store
    for name, expected in (("a", base), ("b", base.t())):
        memory = torch.full(expected.shape, torch.nan)
        assert store.read(name, out=memory) is memory
        assert torch.equal(memory, expected)
    single = torch.full((9,), torch.nan).as_strided((1, 1), (9, 7))
    one = reopened(tmp_path, {"one": torch.ones(1, 1)}).store.read("one", out=single)
    assert one.tolist() == [[1]]
    store = reopened(tmp_path, {"a": base, "b": base.t()}).store
    with pytest.raises(ShapeError, match=r"needs contiguous memory of shape \(6, 5\)"):
        store.read("a", out=torch.empty(5, 6))
    with pytest.raises(ShapeError, match=r"type torch\.float32, found .* torch\.float64"):
        store.read("a", out=torch.empty(6, 5, dtype=torch.float64))


def test_reading_gives_memory_of_its_own(tmp_path: Path) -> None:
    store = reopened(tmp_path, {"a": torch.zeros(3)}).store
    store.read("a").fill_(7)
    assert store.read("a").tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["FloatStorage", "HalfStorage", "DoubleStorage", "LongStorage"])
def test_high_bytes_first(tmp_path: Path, kind: str) -> None:
    width, code = {"F": (4, "f"), "H": (2, "e"), "D": (8, "d"), "L": (8, "q")}[kind[0]]
    path = write_zip(
        tmp_path / "x.pt",
        whole(mapping(w=tensor((2, 2), (1, 2), count=4, kind=kind))),
        {"0": struct.pack(f">4{code}", 1, 2, 3, 4)},
        byteorder=b"big",
    )
    read = open_pickle(path).store.read("w")
    assert read.element_size() == width
    assert read.tolist() == [[1, 3], [2, 4]]


def test_files_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pt", {"w": torch.arange(1000.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    opened = open_pickle(path)
    opened.store.verify()
    assert torch.equal(opened.store.read("w"), torch.arange(1000.0))


def test_a_part_of_an_old_storage(tmp_path: Path) -> None:
    view = together(text("v"), number(2), number(2))
    path = write_legacy(
        tmp_path / "x.pt",
        mapping(
            part=tensor((2,), (1,), count=4, view=view),
            end=tensor((1,), (1,), count=4, offset=1, view=view),
        ),
        {"0": (4, FOUR)},
    )
    store = open_pickle(path).store
    assert store.read("part").tolist() == [3, 4]
    assert store.read("end").tolist() == [4]


def test_a_view_stays_within_its_part_of_an_old_storage(tmp_path: Path) -> None:
    view = together(text("v"), number(0), number(2))
    path = write_legacy(
        tmp_path / "x.pt",
        mapping(w=tensor((3,), (1,), count=4, view=view)),
        {"0": (4, FOUR)},
    )
    with pytest.raises(CheckpointError, match="claims more than the file holds"):
        open_pickle(path)


def test_tensors_beyond_four_gigabytes(tmp_path: Path) -> None:
    """The numbers of a zip file that need 64 bits, in a file that is mostly a hole."""
    path = tmp_path / "x.pt"
    large = 5 << 30
    description = whole(
        mapping(
            large=tensor((4,), (1,), count=large, offset=large - 4, kind="ByteStorage"),
            small=tensor((4,), (1,), count=4, key="1"),
        )
    )
    directory = b""
    with path.open("wb") as file:
        for name, size, data in (
            (b"archive/data.pkl", len(description), description),
            (b"archive/data/0", large, b"abcd"),
            (b"archive/data/1", 16, FOUR),
        ):
            header = file.tell()
            file.write(
                struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, 0, 0, 0, len(name), 0)
            )
            file.write(name)
            file.seek(size - len(data), 1)
            file.write(data)
            wide = struct.pack("<HHQQQ", 1, 24, size, size, header)
            directory += struct.pack(
                "<IHHHHHHIIIHHHHHII",
                *(0x02014B50, 45, 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1),
                *(len(name), len(wide), 0, 0, 0, 0, 2**32 - 1),
            )
            directory += name + wide
        start = file.tell()
        file.write(directory)
        end = file.tell()
        counts = (3, 3, len(directory), start)
        file.write(struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, *counts))
        file.write(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
        file.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 3, 3, 2**32 - 1, 2**32 - 1, 0))
    store = open_pickle(path).store
    assert bytes(store.read("large").tolist()) == b"abcd"
    assert store.read("small").tolist() == [1, 2, 3, 4]


def test_parts_of_a_file(tmp_path: Path) -> None:
    opened = reopened(
        tmp_path,
        {
            "model": {"a.weight": torch.zeros(1), "b": {"weight": torch.zeros(2)}, "step": 4},
            "list": [torch.zeros(3), (torch.zeros(4), "x")],
            "args": argparse.Namespace(inner=torch.zeros(5)),
            3: torch.zeros(6),
        },
    )
    assert set(opened.store.tensors) == {
        "model.a.weight", "model.b.weight", "list.0", "list.1.0", "args.inner", "3",
    }  # fmt: skip
    assert set(opened.tensors_at("model").tensors) == {"a.weight", "b.weight"}
    assert set(opened.tensors_at("list", 1).tensors) == {"0"}
    assert set(opened.tensors_at("args").tensors) == {"inner"}
    assert set(opened.tensors_at("args", "inner").tensors) == {""}
    assert opened.store.tensors["list.0"].shape == (3,)
    assert opened.store.tensors["list.0"].kind == "F32"
    handle = opened.objects["model"]["b"]["weight"]
    assert isinstance(handle, TensorHandle)
    assert handle.name == "model.b.weight"
    with pytest.raises(CheckpointError, match=r"has no part model\.c; found: a\.weight, b, step"):
        opened.tensors_at("model", "c")
    with pytest.raises(CheckpointError, match=r"has no tensor c\. missing: c"):
        opened.tensors_at("model").read("c")


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    opened = reopened(
        tmp_path, {"m": {"a.b": torch.zeros(1), "a": {"b": torch.zeros(1)}}, "n": torch.zeros(1)}
    )
    with pytest.raises(CheckpointError, match=r"has two tensors called a\.b"):
        opened.tensors_at("m")
    assert set(opened.tensors_at("n").tensors) == {""}


def test_a_file_that_changes(tmp_path: Path) -> None:
    opened = reopened(tmp_path, {"w": torch.zeros(9)})
    saved(tmp_path / "y.pt", {"w": torch.ones(9)}).replace(opened.path)
    for act in (opened.store.verify, lambda: opened.store.read("w")):
        with pytest.raises(CheckpointError, match="has changed since its description was read"):
            act()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_pickle(tmp_path / "x.pt")
