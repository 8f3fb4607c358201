"""Tensors in files, named and described before any of them is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from unheard.text.alphabet import Alphabet


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

        Raises:
            CheckpointError: naming the file that is damaged.
        """
        ...

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor into memory of its own, on the CPU.

        Args:
            name: as in `tensors`.
            out: a contiguous tensor of the stored shape and type to fill instead of a new one.

        Raises:
            CheckpointError: if the file has changed or cannot be read.
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
