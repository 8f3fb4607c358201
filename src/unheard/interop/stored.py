"""Tensors in files, named and described before any of them is read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unheard.text.alphabet import Alphabet

KINDS: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "U16": torch.uint16,
        "I16": torch.int16,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "U32": torch.uint32,
        "I32": torch.int32,
        "F32": torch.float32,
        "U64": torch.uint64,
        "I64": torch.int64,
        "F64": torch.float64,
        "C64": torch.complex64,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E8M0": torch.float8_e8m0fnu,
    }
)
"""Types of numbers, as safetensors spells them."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor is and what its file says of it."""

    file: Path
    shape: tuple[int, ...]
    kind: str
    """Type of its numbers, as safetensors spells it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a weight of ours is in a store: a whole tensor, or one row of a stacked one."""

    name: str
    row: int | None = None


class TensorStore(Protocol):
    """Files whose headers have been read and checked, and whose tensors have not."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its name in the files."""
        ...

    def verify(self) -> None:
        """Read every byte and compare it with the checksums that came with the files, if any.

        Runs in a thread beside `read`: neither may depend on the other or on its order.

        Raises:
            CheckpointError: naming the file that is damaged.
        """
        ...

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor into memory of its own, on the CPU; from several threads at once.

        Args:
            name: as in `tensors`.
            out: a contiguous tensor of the stored shape and type to fill instead of a new one.

        Raises:
            CheckpointError: if the file has changed or cannot be read.
        """
        ...


@runtime_checkable
class MappableStore(TensorStore, Protocol):
    """A store whose tensors can also be used where they are."""

    def map(self, name: str) -> Tensor | None:
        """Give one tensor as memory that the system reads from the file when it is first used.

        Writing to it changes the memory and never the file.

        Returns:
            The tensor; None if it would compute otherwise than one in memory of its own.

        Raises:
            CheckpointError: if the file has changed or cannot be read.
        """
        ...

    def not_finite(self, names: Collection[str]) -> list[str]:
        """Name those of some tensors that hold NaN or infinity, without memory for any of them.

        Raises:
            CheckpointError: if a file has changed or cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """One language of a model that has many: its alphabet, and where its weights are.

    Attributes:
        alphabet: symbols of its CTC head.
        places: name of a weight in our network (adapters and head) -> where it is.
        store: the files that hold them; may be the store of the model itself.
    """

    alphabet: Alphabet
    places: Mapping[str, Place]
    store: TensorStore
