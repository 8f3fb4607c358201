"""Safetensors files: headers read and checked first, tensors read straight into their memory.

Layout: 8 bytes with the length of the header, a JSON header that gives type, shape and place of
each tensor, then the numbers, without holes. The header is read here rather than by the safetensors
package because that maps every tensor into memory, and a mapped tensor changes, or ends the
process, when somebody writes into its file. Here a tensor is copied unless it is asked for mapped.
Source: github.com/huggingface/safetensors, README, "Format".
"""

import hashlib
import math
import mmap
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from unheard.errors import CheckpointError
from unheard.interop import storage
from unheard.interop.finite import is_finite
from unheard.interop.stored import KINDS, StoredTensor

MAX_HEADER_BYTES = 4 << 20
"""Largest header that is read: room for 20,000 tensors, twenty times what the largest speech
models have [bytes]."""

MAX_DIMENSIONS = 16

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Where the numbers of a tensor begin and end in their file [bytes]."""

    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """What tells whether a file is still the one whose header was read."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: FileIO) -> "_Identity":
        """Read it from an open file."""
        facts = os.fstat(file.fileno())
        return cls(
            device=facts.st_dev,
            inode=facts.st_ino,
            size=facts.st_size,
            modified_ns=facts.st_mtime_ns,
        )


class SafetensorsStore:
    """Safetensors files that together hold a model (a `TensorStore`).

    Args:
        files: the files; their headers are read and checked at once.
        hashes: SHA-256 of files as hexadecimal digits, for `verify`; may name other files that
            belong to the model.
        hashes_file: where these are kept, for messages.

    Raises:
        CheckpointError: if a file is missing or not a sound safetensors file, or two hold one
            name.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        hashes: Mapping[Path, str] | None = None,
        hashes_file: Path | None = None,
    ) -> None:
        self._hashes_file = hashes_file
        self._hashes = dict(hashes or {})
        self._mapped: dict[Path, mmap.mmap] = {}
        self._identities: dict[Path, _Identity] = {}
        self._parts: dict[str, _Part] = {}
        tensors: dict[str, StoredTensor] = {}
        for path in files:
            for name, (tensor, part) in self._read_header(path).items():
                if name in tensors:
                    raise CheckpointError(
                        f"The tensor {name} is stored twice: in {tensors[name].file} and {path}."
                    )
                tensors[name], self._parts[name] = tensor, part
        self._tensors = MappingProxyType(tensors)

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its name in the files, in their order."""
        return self._tensors

    def verify(self) -> None:
        """Compare every file that has a checksum with it.

        Raises:
            CheckpointError: naming the file that is damaged or gone.
        """
        for path, expected in self._hashes.items():
            with self._opened(path) as file:
                digest = hashlib.sha256()
                block = bytearray(_BLOCK_BYTES)
                view = memoryview(block)
                while count := file.readinto(block):
                    digest.update(view[:count])
            check_hash(path, expected=expected, found=digest.hexdigest(), kept_in=self._hashes_file)

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor into memory of its own; safe from several threads.

        Raises:
            CheckpointError: if the file has changed since its header was read, or is cut.
        """
        stored, part = self._tensors[name], self._parts[name]
        kind = KINDS[stored.kind]
        if out is None:
            out = torch.empty(stored.shape, dtype=kind)
        elif out.dtype != kind or tuple(out.shape) != stored.shape or not out.is_contiguous():
            raise CheckpointError(
                f"{name} cannot be read into the tensor given: expected a contiguous one of shape "
                f"{stored.shape} and {kind}, got shape {tuple(out.shape)} and {out.dtype}."
            )
        with self._opened(stored.file) as file:
            file.seek(part.begin)
            _fill(out, file, stored.file)
        return out

    def map(self, name: str) -> Tensor | None:
        """Give one tensor where it is in its file; see `MappableStore.map`.

        Kernels sum in another order where memory begins at an odd place, so that the last digit
        differs; not with half precision, whose kernels copy weights before they use them.
        """
        stored, part = self._tensors[name], self._parts[name]
        kind = KINDS[stored.kind]
        step = kind.itemsize if kind in (torch.float16, torch.bfloat16) else storage.ALIGNMENT_BYTES
        if part.begin % step or part.begin == part.end:
            return None
        if stored.file not in self._mapped:
            with self._opened(stored.file) as file:
                self._mapped[stored.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        count = math.prod(stored.shape)
        flat = torch.frombuffer(
            self._mapped[stored.file], dtype=kind, count=count, offset=part.begin
        )
        return flat.view(stored.shape)

    def not_finite(self, names: Collection[str]) -> list[str]:
        """Name tensors with NaN or infinity in them; see `MappableStore.not_finite`."""
        block = torch.empty(_BLOCK_BYTES, dtype=torch.uint8)
        return [name for name in self._tensors if name in names and self._is_broken(name, block)]

    def _is_broken(self, name: str, block: Tensor) -> bool:
        """Whether a tensor has NaN or infinity in it, with a block of memory to read it into.

        The file is opened for each tensor, so that the system begins to read ahead anew: on a long
        way it takes ever larger pieces of memory for it, which a virtual machine has to ask for.
        Loading a file that is not in the page cache takes a third of the time so.
        """
        stored, part = self._tensors[name], self._parts[name]
        with self._opened(stored.file) as file:
            file.seek(part.begin)
            for begin in range(part.begin, part.end, _BLOCK_BYTES):
                size = min(_BLOCK_BYTES, part.end - begin)
                piece = block[:size].view(KINDS[stored.kind])
                _fill(piece, file, stored.file)
                if not is_finite(piece):
                    return True
        return False

    def _opened(self, path: Path) -> FileIO:
        """Open a file, which must be the one whose header was read, if one was."""
        try:
            file = FileIO(path)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror}. Fetch or copy it again.",
                missing=[path.name],
            ) from error
        expected = self._identities.get(path)
        if expected is not None and _Identity.of(file) != expected:
            file.close()
            raise CheckpointError(
                f"{path} has changed while it was read. Load it again when it is no longer being "
                "written."
            )
        return file

    def _read_header(self, path: Path) -> dict[str, tuple[StoredTensor, _Part]]:
        """Read and check the header of one file."""
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing. Fetch or copy it again.", missing=[path.name]
            )
        with self._opened(path) as file:
            identity = _Identity.of(file)
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER_BYTES, identity.size - 8):
                raise _unsound(
                    path,
                    f"its header claims {length} bytes, expected at most {MAX_HEADER_BYTES}; the "
                    f"file has {identity.size}",
                )
            header = file.read(length)
        self._identities[path] = identity
        try:
            entries = storage.parse_json(header)
        except ValueError as error:
            raise _unsound(path, f"its header is not JSON ({error})") from None
        if not isinstance(entries, dict):
            raise _unsound(path, "its header is not a JSON object")
        entries.pop("__metadata__", None)
        described = {
            name: _read_entry(path, name, entry, start=8 + length)
            for name, entry in entries.items()
        }
        ordered = dict(sorted(described.items(), key=lambda item: item[1][1].begin))
        end = 8 + length
        for name, (_, part) in ordered.items():
            if part.begin != end:
                raise _unsound(
                    path, f"{name} begins at byte {part.begin}, expected {end}: a hole or overlap"
                )
            end = part.end
        if end != identity.size:
            raise _unsound(path, f"expected {end} bytes, found {identity.size}")
        return ordered


def _fill(tensor: Tensor, file: FileIO, path: Path) -> None:
    """Fill a contiguous tensor with the bytes that come next in a file."""
    view = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise CheckpointError(
                f"{path} was cut while it was read: expected {len(view) - done} bytes more. Fetch "
                "or copy it again."
            )
        done += count


def check_hash(path: Path, *, expected: object, found: str, kept_in: Path | None) -> None:
    """Compare SHA-256 digests, telling a damaged file from a damaged digest.

    Digests of two files agree in about 4 of their 64 digits. Where most agree, the list is damaged
    and not the file.

    Raises:
        CheckpointError: if they differ.
    """
    if found == expected:
        return
    if not isinstance(expected, str) or _agreeing_digits(expected, found) >= 32:
        raise CheckpointError(
            f"The SHA-256 of {path.name} in {kept_in or 'the list of hashes'} is damaged: expected "
            f"{found}, found {expected!r}. Copy it again from where it came from."
        )
    raise CheckpointError(
        f"{path} is damaged: expected SHA-256 {expected}, found {found}. Copy it again from where "
        "it came from."
    )


def _read_entry(path: Path, name: str, entry: Any, *, start: int) -> tuple[StoredTensor, _Part]:
    """Read what a header says of one tensor, and whether it agrees with itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _unsound(path, f"{name} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise _unsound(path, f"{name} is of type {kind!r}, expected one of {', '.join(KINDS)}")
    if not (_is_sizes(shape, most=MAX_DIMENSIONS) and _is_sizes(offsets, most=2)) or (
        len(offsets) != 2
    ):
        raise _unsound(path, f"{name} has no valid shape and data_offsets")
    begin, end = offsets
    size = math.prod(shape) * KINDS[kind].itemsize
    if end - begin != size:
        raise _unsound(path, f"{name} has shape {shape}, {size} bytes, in {end - begin} bytes")
    return (
        StoredTensor(file=path, shape=tuple(shape), kind=kind),
        _Part(begin=start + begin, end=start + end),
    )


def _is_sizes(value: Any, *, most: int) -> bool:
    """Whether a value is a list of at most `most` whole numbers from 0 to 2**63."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


def _agreeing_digits(one: str, other: str) -> int:
    """Count places at which two texts agree."""
    return sum(a == b for a, b in zip(one, other, strict=False))


def _unsound(path: Path, what: str) -> CheckpointError:
    """Refuse a file."""
    return CheckpointError(
        f"{path} is not a sound safetensors file: {what}. Fetch or copy it again."
    )
