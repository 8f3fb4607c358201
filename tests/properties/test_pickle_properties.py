"""Random checkpoints against torch's own reader, and random damage against ours."""

import time
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.hostile_checkpoints import (
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    MARK,
    PERSID,
    REDUCE,
    TUPLE,
    mapping,
    named,
    number,
    saved,
    state,
    storage,
    tensor,
    text,
    whole,
    write_zip,
)
from torch import Tensor

from unheard.errors import UnheardError
from unheard.interop.pickle_store import PickledFile, TensorHandle, open_pickle

ASSETS = Path(__file__).parents[1] / "assets"

MOST_SECONDS = 5
"""Longest that reading a small file may take, on a busy machine."""

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip

in_a_folder = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Random checkpoints


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """A tensor of random bits, NaN and all."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


@st.composite
def views(draw: st.DrawFn, base: Tensor) -> Tensor:
    """The tensor, or a part of it in another order."""
    view = base
    for _ in range(draw(st.integers(0, 3))):
        if view.ndim == 0:
            break
        dim = draw(st.integers(0, view.ndim - 1))
        size = view.shape[dim]
        match draw(st.sampled_from(["slice", "turn", "pick", "more"])):
            case "slice":
                start = draw(st.integers(0, size))
                step = draw(st.integers(1, 3))
                view = view[(slice(None),) * dim + (slice(start, None, step),)]
            case "turn":
                view = view.transpose(dim, draw(st.integers(0, view.ndim - 1)))
            case "pick" if size:
                view = view.select(dim, draw(st.integers(0, size - 1)))
            case "more":
                view = view.unsqueeze(dim)
            case _:
                pass
    return view


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    """Tensors, several of which may share their numbers."""
    made: list[Tensor] = []
    for seed in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
        base = random_bits(shape, draw(st.sampled_from(DTYPES)), seed)
        made.extend(draw(st.lists(views(base), min_size=1, max_size=3)))
    return made


words = st.text("abcdefghij", min_size=1, max_size=4)
atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(words | st.integers(0, 9), inner, max_size=4)
            | st.dictionaries(words, inner, max_size=4).map(OrderedDict)
        ),
        max_leaves=12,
    )


values = tensors().flatmap(lambda made: nested(atoms | st.sampled_from(made)))


def same(found: Any, expected: Any, opened: PickledFile) -> bool:
    if isinstance(expected, Tensor):
        if not isinstance(found, TensorHandle):
            return False
        read = opened.store.read(found.name)
        return (
            read.shape == expected.shape
            and read.dtype == expected.dtype
            and torch.equal(bits(read), bits(expected))
        )
    if isinstance(expected, dict):
        return (
            type(found) is dict
            and list(found) == list(expected)
            and all(same(found[key], item, opened) for key, item in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            type(found) is type(expected)
            and len(found) == len(expected)
            and all(same(item, other, opened) for item, other in zip(found, expected, strict=True))
        )
    return type(found) is type(expected) and found == expected


def bits(value: Tensor) -> Tensor:
    return value.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)


@in_a_folder
@given(value=values, zipped=st.booleans(), protocol=st.integers(2, 5))
@example(value=[torch.zeros(3, 4).t(), torch.zeros(())], zipped=False, protocol=2)
def test_what_torch_reads(tmp_path: Path, value: Any, zipped: bool, protocol: int) -> None:
    path = saved(
        tmp_path / "x.pt",
        value,
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    opened = open_pickle(path)
    opened.store.verify()
    assert same(opened.objects, value, opened)
    if not zipped and b"UntypedStorage" in path.read_bytes():
        return  # torch cannot read what it wrote here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch of its own classes of storages
        # torch's guarded reader knows no pickle of protocol 3 and beyond.
        expected = torch.load(path, weights_only=protocol == 2)
    assert same(opened.objects, expected, opened)


def test_the_comparison_tells_files_apart(tmp_path: Path) -> None:
    opened = open_pickle(saved(tmp_path / "x.pt", {"a": torch.zeros(2), "b": [1]}))
    assert same(opened.objects, {"a": torch.zeros(2), "b": [1]}, opened)
    assert not same(opened.objects, {"a": torch.tensor([0, -0.0]), "b": [1]}, opened)
    assert not same(opened.objects, {"a": torch.zeros(2, 1), "b": [1]}, opened)
    assert not same(opened.objects, {"a": torch.zeros(2), "b": [True]}, opened)


# Random damage


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with a few of them changed, left out, doubled or moved."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(result) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        match draw(st.sampled_from(["change", "fill", "cut", "double", "copy", "end"])):
            case "change":
                result[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "fill":
                result[place : place + length] = draw(st.sampled_from([b"\0", b"\xff"])) * length
            case "cut":
                del result[place : place + length]
            case "double":
                result[place:place] = result[place : place + length]
            case "copy":
                other = draw(st.integers(0, max(0, len(result) - 1)))
                result[place : place + length] = result[other : other + length]
            case "end":
                del result[max(1, len(result) - length) :]
    return bytes(result)


def read_everything(path: Path) -> None:
    """Read a file to its last number; nothing but errors of our own may come of it."""
    start = time.process_time()
    try:
        store = open_pickle(path).store
        store.verify()
        for name in store.tensors:
            store.read(name)
    except UnheardError as error:
        refusal = str(error)
    else:
        refusal = str(path)
    assert str(path) in refusal
    assert time.process_time() - start < MOST_SECONDS


def sound(folder: Path) -> dict[str, bytes]:
    """Whole files of all styles, small enough that damage is likely to matter."""
    small = {"a": torch.arange(6.0).view(2, 3).t(), "b": [torch.tensor(1), {"c": (1, "x")}]}
    saved(folder / "zip.pt", small)
    saved(folder / "old.pt", small, _use_new_zipfile_serialization=False)
    return {
        "zip": (folder / "zip.pt").read_bytes(),
        "old": (folder / "old.pt").read_bytes(),
        "dictionary": (ASSETS / "fairseq" / "vq_wav2vec_gumbel.pt").read_bytes(),
    }


@pytest.mark.parametrize("style", ["zip", "old", "dictionary"])
@in_a_folder
@given(data=st.data())
def test_damaged_files(tmp_path: Path, style: str, data: st.DataObject) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(data.draw(damaged(sound(tmp_path)[style])))
    read_everything(path)


DESCRIPTIONS = {
    "tensors": whole(
        mapping(
            a=tensor((2, 3), (1, 2), count=8, offset=1),
            b=tensor((4,), (2,), count=8, kind="LongStorage", key="1"),
            c=mapping(d=number(10**30), e=text("x") + b"q\x01", f=b"h\x01"),
        )
    ),
    "omegaconf": (ASSETS / "pickles" / "omegaconf_2_3.pkl").read_bytes(),
}


@pytest.mark.parametrize("style", DESCRIPTIONS)
@in_a_folder
@given(data=st.data())
def test_damaged_pickles_with_the_right_checksum(
    tmp_path: Path, style: str, data: st.DataObject
) -> None:
    description = data.draw(damaged(DESCRIPTIONS[style]))
    storages = {"0": bytes(range(32)), "1": bytes(range(64))}
    read_everything(write_zip(tmp_path / "damaged.pt", description, storages))


STEPS = [
    EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, MARK, TUPLE, REDUCE, PERSID,
    *(bytes([code]) for code in b"NbsuaeRQ01\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"),
    b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"K\x00", b"K\x02", b"J\xff\xff\xff\xff",
    text("a"), text("data"), number(2**62), number(-1), b"G" + bytes(8), b"C\x02ab",
    storage(8), tensor((2, 3), (3, 1), count=8), tensor((9,), (9,), count=8),
    *(
        named(module, name)
        for module, name in (
            ("argparse", "Namespace"),
            ("builtins", "set"),
            ("collections", "Counter"),
            ("collections", "OrderedDict"),
            ("collections", "defaultdict"),
            ("fairseq.data.dictionary", "Dictionary"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy.core.numeric", "_frombuffer"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("omegaconf.listconfig", "ListConfig"),
            ("omegaconf.nodes", "AnyNode"),
            ("operator", "getitem"),
            ("pathlib", "Path"),
            ("torch", "FloatStorage"),
            ("torch", "Size"),
            ("torch", "Tensor"),
            ("torch", "device"),
            ("torch", "float32"),
            ("torch._tensor", "_rebuild_from_type_v2"),
            ("torch._utils", "_rebuild_parameter"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_tensor_v3"),
            ("torch._utils", "_rebuild_sparse_tensor"),
            ("_codecs", "encode"),
            ("typing", "Dict"),
        )
    ),
]  # fmt: skip


@settings(in_a_folder, max_examples=600)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=40))
def test_random_programs(tmp_path: Path, steps: list[bytes]) -> None:
    path = write_zip(tmp_path / "x.pt", whole(b"".join(steps)), {"0": bytes(32)})
    read_everything(path)


def test_damage_is_noticed_where_there_are_checksums(tmp_path: Path) -> None:
    """A bit of every third byte of a file of torch, one after the other."""
    path = saved(tmp_path / "x.pt", {"w": state()["model"]["layer.0"][:2, :3].clone()})
    data = path.read_bytes()
    expected = open_pickle(path).store.read("w")
    outcomes = set()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            store = open_pickle(path).store
            store.verify()
            assert list(store.tensors) == ["w"]
            assert torch.equal(store.read("w"), expected)
            outcomes.add("same")  # a bit of the padding, or of a date
        except UnheardError:
            outcomes.add("refused")
    assert outcomes == {"same", "refused"}
