"""Files of tensors: what their headers may say, and what happens when they change."""

import json
import os
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from unheard.errors import CheckpointError
from unheard.interop import storage
from unheard.interop.finite import is_finite
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.stored import KINDS

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PEER_LACKS = ("F8_E8M0",)
"""Types that the oldest safetensors supported here does not write."""


def some(shape: tuple[int, ...], dtype: torch.dtype, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * 20
    return numbers.to(dtype) if dtype.is_floating_point else numbers.abs().to(dtype)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same to the last bit."""
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_every_type_comes_as_the_peer_wrote_it(path: Path) -> None:
    tensors = {kind: some((3, 5), dtype) for kind, dtype in KINDS.items() if kind not in PEER_LACKS}
    tensors |= {"number": torch.tensor(2.5), "nothing": torch.empty(0, 4)}
    safetensors.torch.save_file(tensors, path)
    store = SafetensorsStore([path])
    assert store.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert KINDS[store.tensors[name].kind] == tensor.dtype
        assert store.tensors[name].shape == tuple(tensor.shape)
        assert store.tensors[name].file == path
        assert same(store.read(name), tensor)


def test_the_peer_reads_what_is_written_here(path: Path) -> None:
    shared = some((8, 6), torch.float32)
    tensors = {kind: some((3, 5), dtype) for kind, dtype in KINDS.items() if kind not in PEER_LACKS}
    tensors |= {
        "number": torch.tensor(2.5),
        "nothing": torch.empty(0, 4),
        "shared": shared,
        "shared again": shared,
        "rows": shared[2:4],
        "turned": shared.t(),
    }
    storage.write_tensors(path, tensors)
    theirs = safetensors.torch.load_file(path)
    assert theirs.keys() == tensors.keys()
    assert all(same(theirs[name], tensors[name]) for name in tensors)
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_is_written_can_be_used_where_it_is(path: Path) -> None:
    sizes = (7, 16, 32, 1, 48, 5, 64)
    tensors = {str(size): some((size, 3), torch.float32) for size in sizes}
    storage.write_tensors(path, tensors)
    store = SafetensorsStore([path])
    for name, tensor in tensors.items():
        there = store.map(name)
        if tensor.numel() * 4 % 64 == 0:
            assert there is not None
            assert there.data_ptr() % 64 == 0
            assert same(there, tensor)
    # Tensors of odd sizes come last, each where its own numbers may begin.
    with safetensors.safe_open(path, framework="pt") as file:
        assert list(file.offset_keys())[:3] == ["16", "32", "48"]


def test_memory_that_is_given_is_filled(path: Path) -> None:
    tensor = some((4, 3), torch.float16)
    storage.write_tensors(path, {"a": tensor})
    store = SafetensorsStore([path])
    out = torch.zeros(4, 3, dtype=torch.float16)
    assert store.read("a", out=out) is out
    assert same(out, tensor)
    for wrong in (
        torch.zeros(3, 4, dtype=torch.float16),
        torch.zeros(12, dtype=torch.float16),
        torch.zeros(4, 3),
        torch.zeros(3, 4, dtype=torch.float16).t(),
    ):
        with pytest.raises(CheckpointError, match="a cannot be read into the tensor given"):
            store.read("a", out=wrong)
        assert not wrong.any()


def test_shards_are_one_store_in_the_order_of_their_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    tensors = {
        f"{number}.{name}": some((5,), torch.float32, seed=number)
        for number in range(3)
        for name in "ba"
    }
    for number, path in enumerate(paths):
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(str(number))}
        storage.write_tensors(path, own)
    store = SafetensorsStore(paths)
    assert list(store.tensors) == ["0.b", "0.a", "1.b", "1.a", "2.b", "2.a"]
    assert all(same(store.read(name), tensor) for name, tensor in tensors.items())
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=r"1\.safetensors") as caught:
        SafetensorsStore(paths)
    assert caught.value.missing == ("1.safetensors",)
    with pytest.raises(CheckpointError, match=r"1\.safetensors cannot be read"):
        store.read("1.a")
    assert same(store.read("2.a"), tensors["2.a"])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"1234")


def overwrite(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data[::-1])
    os.utime(path, ns=(1, 1))


def replace_file(path: Path) -> None:
    data = path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(data)
    other.replace(path)


@pytest.mark.parametrize("change", [cut, lengthen, overwrite, replace_file, Path.unlink])
@pytest.mark.parametrize("use", ["read", "map", "not_finite", "verify"])
def test_a_file_that_changed_after_its_header_was_read(path: Path, change, use: str) -> None:
    storage.write_tensors(path, {"a": some((64,), torch.float32)})
    store = SafetensorsStore([path], hashes={path: "0" * 64})
    change(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors (has changed|cannot be read)"):
        {
            "read": lambda: store.read("a"),
            "map": lambda: store.map("a"),
            "not_finite": lambda: store.not_finite(["a"]),
            "verify": store.verify,
        }[use]()


def test_a_mapped_tensor_is_a_copy_to_those_who_write(path: Path) -> None:
    tensor = some((32, 16), torch.float32)
    storage.write_tensors(path, {"a": tensor})
    before = path.read_bytes()
    store = SafetensorsStore([path])
    there = store.map("a")
    assert there is not None
    there.add_(1)
    assert torch.equal(there, tensor + 1)
    assert path.read_bytes() == before
    del store
    path.unlink()
    assert torch.equal(there, tensor + 1)


def test_a_tensor_at_an_odd_place_is_not_mapped(path: Path) -> None:
    header = {
        "half": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "single": {"dtype": "F32", "shape": [16], "data_offsets": [6, 70]},
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [70, 71]},
        "odd half": {"dtype": "F16", "shape": [2], "data_offsets": [71, 75]},
        "none": {"dtype": "F16", "shape": [0], "data_offsets": [75, 75]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64) + b" " * 8  # as the peer aligns: to 8 bytes
    numbers = bytes(range(75))
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    store = SafetensorsStore([path])
    assert store.map("half") is not None
    assert [store.map(name) for name in ("single", "odd half", "none")] == [None, None, None]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert store.read(name).view(torch.uint8).tolist() == list(numbers[begin:end])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_found_wherever_it_is(
    path: Path, dtype: torch.dtype, value: float
) -> None:
    largest = torch.finfo(dtype)
    size = 600_000  # more than one block of any type
    good = some((size,), dtype)
    good[:4] = torch.tensor([largest.max, largest.min, largest.smallest_normal, 0.0], dtype=dtype)
    assert is_finite(good)
    broken: list[str] = []
    tensors = {"good": good}
    for place in (0, 1, 131_071, 131_072, 524_288, size - 1):
        bad = good.clone()
        bad[place] = value
        assert not is_finite(bad), place
        tensors[str(place)] = bad
        broken.append(str(place))
    storage.write_tensors(path, tensors)
    store = SafetensorsStore([path])
    assert sorted(store.not_finite(tensors)) == sorted(broken)
    assert store.not_finite(["good"]) == []


def test_finiteness_of_odd_tensors() -> None:
    grid = torch.ones(6, 4)
    grid[0, 0] = float("nan")
    assert not is_finite(grid.t())
    assert is_finite(grid[1:].t())
    assert is_finite(grid[1:, ::2])
    assert is_finite(torch.empty(0))
    assert not is_finite(torch.tensor(float("inf")))
    assert not is_finite(torch.nn.Parameter(grid))
    assert is_finite(torch.ones(3, dtype=torch.int64))
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(torch.float8_e5m2))
    for number in (1e-45, -0.0, 3.4e38, -3.4e38):
        assert is_finite(torch.tensor([number]))


def test_a_damaged_header_is_refused_or_still_makes_sense(path: Path) -> None:
    tensors = {"a.b": some((4, 3), torch.float32), "c": some((5,), torch.bfloat16)}
    storage.write_tensors(path, tensors)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    draw = random.Random(0)
    refused = 0
    for place in range(header):
        for _ in range(4):
            changed = bytearray(data)
            changed[place] = draw.randrange(256)
            path.write_bytes(changed)
            try:
                store = SafetensorsStore([path])
            except CheckpointError as error:
                refused += 1 if "model.safetensors" in str(error) else 10**6
                continue
            read = sum(store.read(name).nbytes for name in store.tensors)
            assert read == len(data) - header
    assert 2 * header < refused < 10**6  # and each time the file was named


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "extra": 1},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": [1] * 17 + [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": {"0": 2}, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": "08"},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [0, 8]},
        [0, 8],
        None,
    ],
)
def test_entries_that_are_not_of_the_format(path: Path, entry: object) -> None:
    text = json.dumps({"a": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a sound"):
        SafetensorsStore([path])


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(CheckpointError, match="is missing"):
            SafetensorsStore([tmp_path / f"{name}.safetensors"])
