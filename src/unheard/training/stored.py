"""Tensors of a training checkpoint, in one file or in shards, read by rows.

Shards are those of FSDP2: process r has a stretch of every tensor's first axis, stretches follow
each other in the order of processes, and some may be empty. A reader asks for rows and need not
know how they were stored, so a run goes on with any number of processes, sharded or whole; no
more is read than what is asked for.
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unheard.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard_name(name: str, *, rank: int, world: int) -> str:
    """File name of a process's part: model-00002-of-00008.safetensors, counted from one."""
    return f"{name}-{rank + 1:05d}-of-{world:05d}.safetensors"


def own_part(tensor: Tensor, *, first: bool) -> Tensor | None:
    """What this process stores of a tensor: its rows, or all of one that is not sharded."""
    if _is_sharded(tensor):
        return tensor.to_local()
    return tensor if first else None


class StoredTensors:
    """All tensors of one kind in a checkpoint: "model" or "optimizer"."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Read the headers.

        Raises:
            CheckpointError: if there are no such files, or one cannot be read.
        """
        whole = folder / f"{kind}.safetensors"
        paths = [whole] if whole.exists() else sorted(folder.glob(f"{kind}-*-of-*.safetensors"))
        if not paths:
            raise CheckpointError(f"{folder} has no {kind}.safetensors and no shards of it.")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._stretches: dict[str, list[tuple[Path, int]]] = {}
        try:
            for path in paths:
                self._add(path)
        except SafetensorError as error:
            raise CheckpointError(f"{folder} has shards that cannot be read: {error}.") from error

    def _add(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                shape = tuple(file.get_slice(name).get_shape())
                rows = shape[0] if shape else 1
                known = self.shapes.get(name)
                self._stretches.setdefault(name, []).append((path, rows))
                if known is None:
                    self.shapes[name] = shape
                elif known[1:] == shape[1:] and shape:
                    self.shapes[name] = (known[0] + rows, *shape[1:])
                else:
                    raise CheckpointError(
                        f"{path}: the rows of {name} are of shape {shape[1:]}, expected "
                        f"{known[1:]} as in the shards before."
                    )

    def whole(self, name: str) -> Tensor:
        """Read a tensor."""
        shape = self.shapes[name]
        if not shape:
            with safe_open(self._stretches[name][0][0], framework="pt") as file:
                return file.get_tensor(name)
        return self.rows(name, 0, shape[0])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows `start` to `stop` of a tensor."""
        parts: list[Tensor] = []
        first = 0
        for path, count in self._stretches[name]:
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                with safe_open(path, framework="pt") as file:
                    parts.append(file.get_slice(name)[low:high])
            first += count
        if not parts:
            with safe_open(self._stretches[name][0][0], framework="pt") as file:
                return file.get_tensor(name)[:0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def like(self, name: str, target: Tensor) -> Tensor:
        """Read what belongs in a tensor's place: all of it, or a shard as that of `target`."""
        if not _is_sharded(target):
            return self.whole(name)
        from torch.distributed.tensor import DTensor

        local = target.to_local()
        start = _first_row(target)
        part = self.rows(name, start, start + local.shape[0])
        return DTensor.from_local(
            part.to(local.device, local.dtype),
            target.device_mesh,
            target.placements,
            run_check=False,
            shape=target.shape,
            stride=target.stride(),
        )


def _is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether it is a DTensor, without the second that importing that class takes."""
    return hasattr(tensor, "placements")


def _first_row(sharded: "DTensor") -> int:
    """Where this process's rows begin: the first axis is cut as `torch.chunk` cuts it."""
    mesh = sharded.device_mesh
    each = -(-sharded.shape[0] // mesh.size())
    return min(each * mesh.get_local_rank(), sharded.shape[0])
