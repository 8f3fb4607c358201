"""Training state that survives: whole, hashed, and the last good one found again.

A checkpoint is a folder `step_00001234` of safetensors and JSON. It is written under another name,
flushed to the disk with a list of its files' hashes, and only then renamed; a reader never sees a
part of one. Loading verifies the hashes and falls back to the one before.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unheard.errors import CheckpointError, TrainingDivergedError, shorten
from unheard.files import sha256_file

_MANIFEST = "manifest.json"
_FORMAT = "unheard-training-1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Everything that a run needs besides weights and optimiser moments.

    All randomness is derived from the seed and the step, so no generator state is kept.

    Attributes:
        step: updates done.
        progress: 0 to 1.
        elapsed_seconds: time spent in training, over all sittings.
        audio_seconds: sound heard so far.
        epoch: pass over the data that the next batch belongs to.
        batch: number of the next batch in it.
        best_metric: best validation figure so far, or None.
        best_step: when it was reached.
        extra: plain data of the task.
    """

    step: int = 0
    progress: float = 0.0
    elapsed_seconds: float = 0.0
    audio_seconds: float = 0.0
    epoch: int = 0
    batch: int = 0
    best_metric: float | None = None
    best_step: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: TrainingState,
) -> None:
    """Write a checkpoint atomically at `folder`, replacing what stood there.

    Raises:
        TrainingDivergedError: if a weight is not finite; nothing is written then.
        OSError: if the disk is full; nothing is left behind and older checkpoints stay.
    """
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise TrainingDivergedError(
            f"Weights are not finite at step {state.step}: {shorten(broken)}. Nothing was saved; "
            "lower the learning rate and repeat the command to go on from the last checkpoint.",
            step=state.step,
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_replaced(folder)
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    replaced = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    temporary.mkdir()
    try:
        _save_tensors(weights, temporary / "model.safetensors")
        if optimizer is not None:
            tensors, plain = _flatten_optimizer(optimizer)
            _save_tensors(tensors, temporary / "optimizer.safetensors")
            (temporary / "optimizer.json").write_text(json.dumps(plain))
        (temporary / "state.json").write_text(json.dumps(vars(state), indent=1))
        files = sorted(temporary.iterdir())
        for path in files:
            _flush(path)
        manifest = {
            "format": _FORMAT,
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for path in files
            },
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        _flush(temporary / _MANIFEST)
        _flush(temporary)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        _flush(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists() and replaced.exists():
            replaced.rename(folder)
        raise


def restore_replaced(folder: Path) -> None:
    """Undo what a process that was killed while it saved at `folder` left behind.

    Its half-written copy goes. The checkpoint that it was about to replace comes back if nothing
    had taken its place yet.
    """
    for stale in folder.parent.glob(f".{folder.name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    for replaced in folder.parent.glob(f".{folder.name}.old-*"):
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(folder)


def load_checkpoint(
    folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> TrainingState:
    """Restore model and optimiser from a verified checkpoint.

    Raises:
        CheckpointError: if a file is missing, changed or does not fit; nothing is restored then.
    """
    state = verify_checkpoint(folder, with_optimizer=optimizer is not None)
    weights = load_file(folder / "model.safetensors")
    _check_fit(folder, weights, model)
    if optimizer is not None:
        tensors = load_file(folder / "optimizer.safetensors")
        plain = json.loads((folder / "optimizer.json").read_text())
        restored = _unflatten_optimizer(tensors, plain)
        model.load_state_dict(weights)
        optimizer.load_state_dict(restored)
    else:
        model.load_state_dict(weights)
    return state


def verify_checkpoint(folder: Path, *, with_optimizer: bool = False) -> TrainingState:
    """Compare every file with the manifest's sizes and hashes.

    Args:
        folder: of the checkpoint.
        with_optimizer: whether the optimiser's state must be there too.

    Returns:
        The state that was saved with the weights.

    Raises:
        CheckpointError: naming the first file that is missing or was changed.
    """
    files = _read_manifest(folder)
    needed = ["model.safetensors", "state.json"]
    if with_optimizer:
        needed += ["optimizer.safetensors", "optimizer.json"]
    for name in needed:
        if name not in files:
            raise CheckpointError(f"{folder / _MANIFEST} does not list {name}.")
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        if path.stat().st_size != size or sha256_file(path) != digest:
            raise CheckpointError(f"{path} was changed after it was saved.")
    return TrainingState(**json.loads((folder / "state.json").read_text()))


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Read size and hash of each file."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        found = manifest["format"]
        files = {name: (row["bytes"], row["sha256"]) for name, row in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} has no readable {_MANIFEST} ({error!r}).") from error
    if found != _FORMAT:
        raise CheckpointError(
            f"{folder} is of format {found!r}, expected {_FORMAT!r}. "
            "It was written by another version of unheard, or damaged."
        )
    return files


class CheckpointFolder:
    """The checkpoints of one run, oldest first, of which the last few are kept."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[Path]:
        """List the checkpoints, oldest first."""
        return sorted(self.folder.glob("step_*"))

    def save(
        self, *, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
    ) -> Path:
        """Save a checkpoint of this step, then drop the oldest beyond `keep`.

        Later steps go too: a run that fell back to a checkpoint has left them behind, and a
        damaged one among them must not count as kept.
        """
        path = self.folder / f"step_{state.step:08d}"
        self._sweep()
        save_checkpoint(path, model=model, optimizer=optimizer, state=state)
        steps = self.steps()
        saved = steps.index(path)
        for old in [*steps[: max(0, saved + 1 - self.keep)], *steps[saved + 1 :]]:
            # Under another name first: a half-deleted folder must not look like a checkpoint.
            gone = old.with_name(f".{old.name}.gone-{os.getpid()}")
            old.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        return path

    def load_newest(
        self, *, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> TrainingState | None:
        """Restore the newest checkpoint that verifies; None when there is none at all.

        Raises:
            CheckpointError: if there are checkpoints and none is whole.
        """
        self._sweep()
        problems: list[str] = []
        for path in reversed(self.steps()):
            try:
                state = load_checkpoint(path, model=model, optimizer=optimizer)
            except CheckpointError as error:
                log.warning("checkpoint_corrupt: %s Trying the one before.", error)
                problems.append(str(error))
                continue
            return state
        if problems:
            raise CheckpointError(
                f"No checkpoint in {self.folder} is whole: {' '.join(problems)} "
                "Delete the folder to start this stage again."
            )
        return None

    def _sweep(self) -> None:
        """Tidy up after processes that were killed while they saved or deleted."""
        for gone in self.folder.glob(".step_*.gone-*"):
            shutil.rmtree(gone, ignore_errors=True)
        for stale in [*self.folder.glob(".step_*.tmp-*"), *self.folder.glob(".step_*.old-*")]:
            restore_replaced(self.folder / stale.name[1:].split(".")[0])


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors; a full disk is an OSError, as for any other file."""
    try:
        save_file(_for_saving(tensors), path)
    except SafetensorError as error:
        free = shutil.disk_usage(path.parent).free
        needed = sum(tensor.nbytes for tensor in tensors.values())
        raise OSError(
            f"Cannot write {path}: {error}. It takes {needed / 1e6:.0f} MB and the disk has "
            f"{free / 1e6:.0f} MB free. Earlier checkpoints are as they were; make room and "
            "repeat the command."
        ) from error


def _for_saving(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make tensors contiguous CPU copies that share no memory, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _flatten_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors by name and plain data."""
    full = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for parameter, values in full["state"].items():
        for name, value in values.items():
            tensors[f"{parameter}.{name}"] = torch.as_tensor(value)
    return tensors, {"param_groups": full["param_groups"]}


def _unflatten_optimizer(tensors: Mapping[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def _check_fit(folder: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    mismatched = [
        f"{name}: expected {expected[name]}, found {found[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{folder} was saved by another model than this one.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
