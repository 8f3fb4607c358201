"""Several stores seen as one: files of different tensors, and files of parts of the same ones."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from unheard.errors import CheckpointError
from unheard.interop.stored import StoredTensor, TensorStore


class JoinedStore:
    """Tensors whose rows are spread over files (a `TensorStore`).

    Args:
        stages: for each group of files with tensors of its own, the files that share them: a
            tensor is its parts in these, one after the other along the first axis. Not every file
            needs to have a part. Numbers (tensors without axes) are taken from the first file.

    Raises:
        CheckpointError: if two stages hold one name, or parts do not fit together.
    """

    def __init__(self, stages: Sequence[Sequence[TensorStore]]) -> None:
        self._parts: dict[str, list[TensorStore]] = {}
        tensors: dict[str, StoredTensor] = {}
        self._stores = [store for stage in stages for store in stage]
        for stage in stages:
            parts: dict[str, list[TensorStore]] = {}
            for store in stage:
                for name in store.tensors:
                    parts.setdefault(name, []).append(store)
            for name, stores in parts.items():
                found = [store.tensors[name] for store in stores]
                if name in tensors:
                    raise CheckpointError(
                        f"The tensor {name} is stored twice: in {tensors[name].file} and "
                        f"{found[0].file}."
                    )
                if not found[0].shape:
                    found, stores = found[:1], stores[:1]
                tensors[name] = _join(name, found)
                self._parts[name] = stores
        self._tensors = MappingProxyType(tensors)

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its name, whole; `file` is that of its first part."""
        return self._tensors

    def verify(self) -> None:
        """Verify every file.

        Raises:
            CheckpointError: naming the file that is damaged.
        """
        for store in self._stores:
            store.verify()

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read the parts of one tensor into one.

        Raises:
            CheckpointError: if a file has changed or cannot be read.
        """
        stores = self._parts[name]
        first = stores[0]
        if len(stores) == 1:
            return first.read(name, out=out)
        if out is None:
            return torch.cat([store.read(name) for store in stores])
        begin = 0
        for store in stores:
            end = begin + store.tensors[name].shape[0]
            store.read(name, out=out[begin:end])
            begin = end
        return out


def _join(name: str, parts: Sequence[StoredTensor]) -> StoredTensor:
    """Describe the whole of which these are the parts."""
    first = parts[0]
    for part in parts[1:]:
        if part.shape[1:] != first.shape[1:] or len(part.shape) != len(first.shape):
            raise CheckpointError(
                f"The parts of {name} do not fit together: {first.shape} in {first.file}, "
                f"{part.shape} in {part.file}.",
                mismatched=[f"{name}: expected (.., {first.shape[1:]}), found {part.shape}"],
            )
        if part.kind != first.kind:
            raise CheckpointError(
                f"The parts of {name} are of different types: {first.kind} in {first.file}, "
                f"{part.kind} in {part.file}."
            )
    if len(parts) == 1:
        return first
    rows = sum(part.shape[0] for part in parts)
    return StoredTensor(file=first.file, shape=(rows, *first.shape[1:]), kind=first.kind)
