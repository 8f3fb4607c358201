import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unheard.errors import CheckpointError, FormatError
from unheard.interop import storage
from unheard.interop.safetensors_store import SafetensorsStore


def with_header(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def described(*entries: tuple[str, str, list[int], list[int]]) -> bytes:
    return json.dumps(
        {
            name: {"dtype": kind, "shape": shape, "data_offsets": offsets}
            for name, kind, shape, offsets in entries
        }
    ).encode()


ONE = described(("a", "F32", [2], [0, 8]))

HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a web page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "header of 2**63": with_header(ONE, bytes(8), length=2**63),
    "header of 100 MB and one": with_header(ONE, bytes(8), length=100_000_001),
    "header beyond the file": with_header(ONE, bytes(8), length=10_000),
    "header is not JSON": with_header(b"{'a': 1}", bytes(8)),
    "header is a list": with_header(b"[]", bytes(8)),
    "header nested deeply": with_header(b'{"a":' * 50_000, bytes(8)),
    "a hole": with_header(
        described(("a", "F32", [1], [0, 4]), ("b", "F32", [1], [8, 12])), bytes(12)
    ),
    "an overlap": with_header(
        described(("a", "F32", [2], [0, 8]), ("b", "F32", [2], [4, 12])), bytes(12)
    ),
    "offsets overflow": with_header(described(("a", "F32", [2], [0, 2**64 - 1])), bytes(8)),
    "offsets backwards": with_header(described(("a", "F32", [2], [8, 0])), bytes(8)),
    "shape overflows": with_header(described(("a", "F32", [2**40, 2**40], [0, 8])), bytes(8)),
    "shape does not fit": with_header(described(("a", "F32", [3], [0, 8])), bytes(8)),
    "data too short": with_header(ONE, bytes(7)),
    "data too long": with_header(ONE, bytes(9)),
    "a name twice": with_header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "unknown type": with_header(described(("a", "F33", [2], [0, 8])), bytes(8)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(10)
def test_files_that_are_not_sound_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a sound"):
        SafetensorsStore([path])


def test_a_sound_file_is_listed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3), "b": torch.ones(())}, tmp_path / "x.safetensors")
    stored = SafetensorsStore([tmp_path / "x.safetensors"]).tensors
    assert {name: (tensor.shape, tensor.kind) for name, tensor in stored.items()} == {
        "a": ((2, 3), "F32"),
        "b": ((), "F32"),
    }


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="stored twice"):
        SafetensorsStore([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("[" * 100_000), "too deeply|not a JSON"),
        (lambda path: path.write_text('{"a":' * 100_000), "too deeply|not a JSON"),
        (lambda path: path.write_text("{"), "not a JSON file"),
        (lambda path: path.write_bytes(b"\xff\xfe{}"), "not a JSON file"),
        (lambda path: path.write_text("[1]"), "expected a JSON object, found list"),
        (lambda path: path.write_text('{"a": 1, "b": 2, "a": 3}'), "'a' comes twice"),
        (too_large, "too large"),
    ],
)
@pytest.mark.timeout(10)
def test_settings_files_that_are_not_sound(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(FormatError, match=message):
        storage.read_json_object(tmp_path / "config.json")
