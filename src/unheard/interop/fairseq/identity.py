"""A store with an identity matrix in it, for a projection that a file leaves out.

fairseq has no projection (`post_extract_proj`) where the convolutions have as many channels as the
Transformer; networks here always have one. The identity with a bias of zero computes the same to
the last digit: each sum has one term that is not zero, and that term is multiplied by one.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from unheard.interop.stored import KINDS, StoredTensor, TensorStore

WEIGHT, BIAS = "identity.weight", "identity.bias"
"""Names under which the two tensors are in the store."""


class IdentityStore:
    """A store, and the two tensors of an identity that no file has."""

    def __init__(self, store: TensorStore, *, dim: int, kind: str, file: Path) -> None:
        """Wrap a store.

        Args:
            store: the files.
            dim: size of the identity.
            kind: type of its numbers, as safetensors spells it.
            file: what to name as its file.
        """
        self._store = store
        self._dim = dim
        self._dtype = KINDS[kind]
        self._tensors = {
            **store.tensors,
            WEIGHT: StoredTensor(file=file, shape=(dim, dim), kind=kind),
            BIAS: StoredTensor(file=file, shape=(dim,), kind=kind),
        }

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its name."""
        return MappingProxyType(self._tensors)

    def verify(self) -> None:
        """Verify the files."""
        self._store.verify()

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor; see `TensorStore.read`."""
        if name not in (WEIGHT, BIAS):
            return self._store.read(name, out=out)
        made = torch.eye(self._dim) if name == WEIGHT else torch.zeros(self._dim)
        made = made.to(self._dtype)
        return made if out is None else out.copy_(made)
