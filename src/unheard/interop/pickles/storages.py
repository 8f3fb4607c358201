"""Where the numbers of tensors are in a file, and how they get into memory."""

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unheard.errors import CheckpointError, FormatError, ShapeError
from unheard.interop.pickles.tables import KIND_BYTES
from unheard.interop.pickles.values import TensorHandle
from unheard.interop.stored import KINDS

LARGEST_BYTES = 1 << 62
"""Beyond this the sizes of a tensor overflow, even one without a number in it [bytes]."""

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the file that one storage is in."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Storages:
    """The storages of one file.

    Attributes:
        file: the file.
        identity: which file it was when it was checked.
        spans: key of a storage -> its bytes.
        big_endian: whether numbers have their high byte first.
    """

    file: Path
    identity: Identity
    spans: Mapping[str, Span]
    big_endian: bool

    def open(self) -> FileIO:
        """Open the file again.

        Raises:
            CheckpointError: if it is not the one that was checked.
        """
        source = open_regular(self.file)
        if identify(source) != self.identity:
            source.close()
            raise CheckpointError(
                f"{self.file} has changed since its description was read. Open it again."
            )
        return source

    def read(self, handle: TensorHandle, *, out: Tensor | None) -> Tensor:
        """Read one tensor, contiguous, into memory of its own.

        Args:
            handle: a tensor whose view has been checked against its storage.
            out: a contiguous tensor of its shape and type to fill.

        Raises:
            ShapeError: if `out` is not that.
            CheckpointError: if the file has changed or cannot be read.
        """
        dtype = KINDS[handle.kind]
        if out is None:
            out = torch.empty(handle.shape, dtype=dtype)
        elif out.shape != handle.shape or out.dtype != dtype or not out.is_contiguous():
            raise ShapeError(
                f"The tensor {handle.name} of {self.file} needs contiguous memory of shape "
                f"{handle.shape} and type {dtype}, found {tuple(out.shape)} and {out.dtype}."
            )
        if out.numel() == 0:
            return out
        size = KIND_BYTES[handle.kind]
        first = self.spans[handle.storage.key].offset + handle.storage.first_byte
        first += handle.offset * size
        with self.open() as source:
            if is_contiguous(handle):
                self._fill(source, first, out)
                return out
            reach = 1 + furthest(handle)
            flat = torch.empty(reach, dtype=dtype)
            self._fill(source, first, flat)
        steps = [
            stride if length > 1 else 1
            for length, stride in zip(handle.shape, handle.strides, strict=True)
        ]
        out.copy_(flat.as_strided(handle.shape, steps))
        return out

    def _fill(self, source: FileIO, first: int, out: Tensor) -> None:
        """Fill a contiguous tensor with the bytes from `first` on."""
        data = out.detach().as_strided((out.numel(),), (1,)).view(torch.uint8).numpy()
        left = memoryview(cast("Any", data))
        source.seek(first)
        while left:
            read = source.readinto(left)
            if not read:
                raise CheckpointError(
                    f"{self.file} became shorter while it was read. Open it again."
                )
            left = left[read:]
        if self.big_endian != (sys.byteorder == "big") and out.element_size() > 1:
            width = out.element_size()
            data.view(f"u{width}").byteswap(inplace=True)


def open_regular(file: Path) -> FileIO:
    """Open a regular file, without waiting for what is none.

    Raises:
        FormatError: if it is a folder, a pipe, a device or the like.
        OSError: if it cannot be opened.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise FormatError(f"{file} is not a file: expected a checkpoint.")
    return cast("FileIO", file.open("rb", buffering=0))


def identify(source: FileIO) -> Identity:
    """Return what tells an open file from another one, or from itself after a change."""
    facts = os.fstat(source.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def furthest(handle: TensorHandle) -> int:
    """Return the last number that a tensor looks at, counted from its first; it has some."""
    return sum(
        (length - 1) * stride for length, stride in zip(handle.shape, handle.strides, strict=True)
    )


def is_contiguous(handle: TensorHandle) -> bool:
    """Whether the numbers of a tensor lie in the file in the order of its shape."""
    expected = 1
    for length, stride in zip(reversed(handle.shape), reversed(handle.strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def check_view(handle: TensorHandle, *, name: str, file: Path) -> None:
    """Check that a tensor looks at numbers that its storage has.

    Raises:
        CheckpointError: naming the tensor, before any memory is taken for it.
    """
    shape, strides, storage = handle.shape, handle.strides, handle.storage
    size = KIND_BYTES[handle.kind]
    whole = prod(max(1, length) for length in shape)
    if (
        len(shape) != len(strides)
        or min((*shape, *strides, handle.offset), default=0) < 0
        or (0 in shape and whole * size > LARGEST_BYTES)
    ):
        raise CheckpointError(
            f"{file}: the tensor {name} makes no sense: shape {shape}, strides {strides}, first "
            f"number {handle.offset}. The file is damaged or made to harm."
        )
    count = prod(shape)
    reach = handle.offset + 1 + furthest(handle) if count else 0
    if max(count, reach) * size > storage.size_bytes:
        raise CheckpointError(
            f"{file}: the tensor {name} claims more than the file holds: shape {shape} with "
            f"strides {strides} from number {handle.offset} on needs "
            f"{max(count, reach) * size} bytes, and its storage {storage.key} has "
            f"{storage.size_bytes}. The file is damaged or made to harm."
        )
    if (storage.first_byte % size) or storage.first_byte < 0:
        raise CheckpointError(f"{file}: the tensor {name} begins in the middle of a number.")
