"""Training state that survives: whole, hashed, and the last good one found again.

A checkpoint is a folder `step_00001234` of safetensors and JSON. It is written under another name,
flushed to the disk with a list of its files' hashes, and only then renamed; a reader never sees a
part of one. Loading verifies the hashes and falls back to the one before.

Processes that share a network in shards write one together, each its own parts; any number of
processes reads it back.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from unheard.errors import (
    CheckpointError,
    DiskFullError,
    NoCheckpointError,
    TrainingDivergedError,
    shorten,
)
from unheard.files import is_disk_full, sha256_file
from unheard.training.distributed import ALONE, Ranks
from unheard.training.stored import StoredTensors, own_part, shard_name

_MANIFEST = "manifest.json"
_FORMAT = "unheard-training-1"
_SHARD = r"{}-\d{{5}}-of-\d{{5}}\.safetensors"
_ROOM = 1.2
"""Free space that a checkpoint needs before it is begun, over its own size."""

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
        rewinds: each time that the run went back to an earlier step, as {"step": where it went,
            "from_step": whence, "code": what was wrong}; the learning rate is lower since.
        window: figures of the updates since the last row of metrics.jsonl.
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
    rewinds: list[dict[str, Any]] = field(default_factory=list)
    window: list[dict[str, Any]] = field(default_factory=list)
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
        DiskFullError: if there is less room than 1.2 times what it takes, or a write fails for
            want of room; nothing is left behind and older checkpoints stay.
        OSError: if it cannot be written for another reason; the same holds.
    """
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    _refuse_broken(_not_finite(weights), state)
    moments, plain = ({}, {}) if optimizer is None else _flatten_optimizer(optimizer)
    temporary = _start_writing(folder)
    with _whole_or_nothing(temporary, folder):
        _require_room(temporary, _size(weights) + _size(moments))
        _save_tensors(weights, temporary / "model.safetensors")
        if optimizer is not None:
            _save_tensors(moments, temporary / "optimizer.safetensors")
            (temporary / "optimizer.json").write_text(json.dumps(plain))
        (temporary / "state.json").write_text(json.dumps(vars(state), indent=1))
        _publish(temporary, folder, _finish(sorted(temporary.iterdir())))


def save_sharded_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    ranks: Ranks,
) -> None:
    """Write a checkpoint together, each process its own shards of weights and moments.

    The first process lists the hashes of all, when all are on the disk, and renames. The folder
    must be the same for all of them.

    Raises:
        TrainingDivergedError: in all processes, if a weight is not finite anywhere.
        OSError: in all, if there is no room or one cannot write; nothing is left behind.
    """
    weights = {
        name: part.detach()
        for name, tensor in model.state_dict().items()
        if (part := own_part(tensor, first=ranks.first)) is not None
    }
    told = ranks.tell_all(_not_finite(weights))
    _refuse_broken(sorted({name for names in told for name in names}), state)
    moments, plain = _flatten_optimizer(optimizer)
    parts = {
        name: part
        for name, tensor in moments.items()
        if (part := own_part(tensor, first=ranks.first)) is not None
    }
    size = sum(ranks.tell_all(_size(weights) + _size(parts)))
    # A process id is not unique among machines; the first one's names the folder for all.
    temporary = Path(ranks.ask_first(lambda: str(_start_writing(folder))))
    with _whole_or_nothing(temporary, folder, first=ranks.first):
        with ranks.same_fate(OSError):
            if ranks.first:
                _require_room(temporary, size)
        with ranks.same_fate(OSError):
            place = {"rank": ranks.rank, "world": ranks.world}
            paths = [temporary / shard_name(kind, **place) for kind in ("model", "optimizer")]
            _save_tensors(weights, paths[0])
            _save_tensors(parts, paths[1])
            if ranks.first:
                paths += [temporary / "optimizer.json", temporary / "state.json"]
                paths[2].write_text(json.dumps(plain))
                paths[3].write_text(json.dumps(vars(state), indent=1))
            own = _finish(paths)
        files = {name: row for rows in ranks.tell_all(own) for name, row in rows.items()}
        ranks.ask_first(lambda: _publish(temporary, folder, files))


def _not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]


def _refuse_broken(broken: list[str], state: TrainingState) -> None:
    if broken:
        raise TrainingDivergedError(
            f"Weights are not finite at step {state.step}: {shorten(broken)}. Nothing was saved; "
            "lower the learning rate and repeat the command to go on from the last checkpoint.",
            step=state.step,
        )


def _start_writing(folder: Path) -> Path:
    """Make the folder that a checkpoint is written into."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_replaced(folder)
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    return temporary


def _finish(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Wait until files are on the disk; returns what the manifest says of each."""
    for path in files:
        _flush(path)
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in files
    }


def _publish(temporary: Path, folder: Path, files: Mapping[str, dict[str, Any]]) -> None:
    """Add the manifest and give the folder its name, in place of what has it."""
    manifest = {"format": _FORMAT, "files": files}
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    _flush(temporary / _MANIFEST)
    _flush(temporary)
    replaced = _set_aside(folder)
    if folder.exists():
        folder.rename(replaced)
    temporary.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _whole_or_nothing(temporary: Path, folder: Path, *, first: bool = True) -> Iterator[None]:
    """Take back what a failed save has begun; that is the first process's work."""
    try:
        yield
    except BaseException as error:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
            if not folder.exists() and _set_aside(folder).exists():
                _set_aside(folder).rename(folder)
        if isinstance(error, DiskFullError) or not isinstance(error, OSError):
            raise
        if is_disk_full(error):
            raise DiskFullError(_no_room(folder.parent, f"{error}.")) from error
        raise


def _require_room(temporary: Path, size: int) -> None:
    """Find out before the first byte whether there is room for so many.

    Limits that the file system does not tell, such as quotas, show themselves when it is written.
    """
    free = shutil.disk_usage(temporary).free
    if free < _ROOM * size:
        raise DiskFullError(
            _no_room(
                temporary.parent,
                f"it takes {_megabytes(size)} MB, and {_megabytes(_ROOM * size)} MB free "
                f"to be safe; {_megabytes(free)} MB are.",
            )
        )


def _no_room(place: Path, detail: str) -> str:
    return (
        f"There is no room for a checkpoint in {place}: {detail} Earlier checkpoints are as they "
        "were; make room and repeat the command."
    )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.3g}" if count < 1e8 else f"{count / 1e6:.0f}"


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _set_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old-{os.getpid()}")


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
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """Restore model and optimiser from a verified checkpoint, however it was stored.

    Args:
        folder: of the checkpoint.
        model: whole or in shards; a process reads no more than it keeps.
        optimizer: that of the model; None restores weights alone.
        ranks: all processes restore, or none does.

    Raises:
        CheckpointError: if a file is missing, changed or does not fit; nothing is restored then.
    """
    with ranks.same_fate(CheckpointError):
        state = verify_checkpoint(folder, with_optimizer=optimizer is not None, ranks=ranks)
        weights = StoredTensors(folder, "model")
        _check_fit(folder, weights.shapes, model)
    restored = None
    if optimizer is not None:
        plain = json.loads((folder / "optimizer.json").read_text())
        restored = _unflatten_optimizer(StoredTensors(folder, "optimizer"), plain, optimizer)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(weights.like(name, tensor))
    if optimizer is not None and restored is not None:
        optimizer.load_state_dict(restored)
    return state


def verify_checkpoint(
    folder: Path, *, with_optimizer: bool = False, ranks: Ranks = ALONE
) -> TrainingState:
    """Compare every file with the manifest's sizes and hashes.

    Args:
        folder: of the checkpoint.
        with_optimizer: whether the optimiser's state must be there too.
        ranks: processes that share the files among them; each finds what is wrong in its own.

    Returns:
        The state that was saved with the weights.

    Raises:
        CheckpointError: naming the first file that is missing or was changed.
    """
    files = _read_manifest(folder)
    needed = ["state.json", *_tensor_files(files, "model")]
    if with_optimizer:
        needed += [*_tensor_files(files, "optimizer"), "optimizer.json"]
    for name in needed:
        if name not in files:
            raise CheckpointError(f"{folder / _MANIFEST} does not list {name}.")
    shared = list(files)[ranks.rank :: ranks.world]
    for name in {*shared, "state.json"}:
        size, digest = files[name]
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        if path.stat().st_size != size or sha256_file(path) != digest:
            raise CheckpointError(f"{path} was changed after it was saved.")
    return TrainingState(**json.loads((folder / "state.json").read_text()))


def _tensor_files(files: Mapping[str, object], kind: str) -> list[str]:
    """Name the files that must be there of a kind of tensors: one, or every shard."""
    worlds = {int(name[-17:-12]) for name in files if re.fullmatch(_SHARD.format(kind), name)}
    if not worlds:
        return [f"{kind}.safetensors"]
    world = max(worlds)
    return [shard_name(kind, rank=rank, world=world) for rank in range(world)]


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
    """The checkpoints of one run, oldest first, of which the last few are kept.

    Where several processes train, all of them call `save` and `load_newest`.

    Attributes:
        folder: where they are.
        keep: how many.
        clean_step: the newest one up to this step is kept too; None where that is no question.
    """

    def __init__(self, folder: Path, *, keep: int = 2, ranks: Ranks = ALONE) -> None:
        self.folder = folder
        self.keep = keep
        self.ranks = ranks
        self.clean_step: int | None = None
        self._passed_over: frozenset[str] = frozenset()

    def steps(self) -> list[Path]:
        """List the checkpoints, oldest first."""
        return sorted(self.folder.glob("step_*"))

    def save(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        sharded: bool = False,
    ) -> Path:
        """Save a checkpoint of this step, then drop the oldest beyond `keep`.

        Later steps go too, and those that `load_newest` passed over: a run that fell back to a
        checkpoint has left them behind, and a damaged one must not count as kept.

        Args:
            model: whose weights.
            optimizer: whose moments.
            state: everything else.
            sharded: whether each process has shards to write; the first writes all otherwise.
        """
        path = self.folder / f"step_{state.step:08d}"
        parts = {"model": model, "optimizer": optimizer, "state": state}
        self._by_first(self._sweep)
        if sharded:
            save_sharded_checkpoint(path, **parts, ranks=self.ranks)
        else:
            self._by_first(lambda: save_checkpoint(path, **parts))
        self._by_first(lambda: self._retire(path))
        return path

    def _by_first(self, work: Callable[[], None]) -> None:
        """Let the first process work on the disk while the others wait."""
        with self.ranks.same_fate(OSError):
            if self.ranks.first:
                work()

    def _retire(self, path: Path) -> None:
        """Drop what the checkpoint at `path` makes superfluous."""
        listed = self.steps()
        passed_over = [one for one in listed if one.name in self._passed_over and one != path]
        steps = [one for one in listed if one not in passed_over]
        saved = steps.index(path)
        clean = [one for one in steps[: saved + 1] if self._is_clean(one)][-1:]
        superfluous = [*steps[: max(0, saved + 1 - self.keep)], *steps[saved + 1 :]]
        for old in [*passed_over, *(one for one in superfluous if one not in clean)]:
            # Under another name first: a half-deleted folder must not look like a checkpoint.
            gone = old.with_name(f".{old.name}.gone-{os.getpid()}")
            try:
                old.rename(gone)
            except OSError as error:
                log.warning("%s cannot be removed (%s); it is tried again later.", old, error)
                continue
            shutil.rmtree(gone, ignore_errors=True)
        self._passed_over = frozenset()

    def _is_clean(self, path: Path) -> bool:
        """Whether a checkpoint is from before anything looked ill."""
        return self.clean_step is not None and _step_of(path.name) <= self.clean_step

    def load_newest(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        up_to: int | None = None,
    ) -> TrainingState | None:
        """Restore the newest checkpoint that verifies; None when there is none at all.

        Args:
            model: whose weights.
            optimizer: whose moments.
            up_to: leave out those of later steps.

        Raises:
            NoCheckpointError: if there are checkpoints and none is whole.
        """
        self._by_first(self._sweep)
        problems: list[str] = []
        listed = self.ranks.ask_first(lambda: [path.name for path in self.steps()])
        names = [name for name in listed if up_to is None or _step_of(name) <= up_to]
        for name in reversed(names):
            try:
                state = load_checkpoint(
                    self.folder / name, model=model, optimizer=optimizer, ranks=self.ranks
                )
            except CheckpointError as error:
                log.warning("checkpoint_corrupt: %s Trying the one before.", error)
                problems.append(str(error))
                continue
            self._passed_over = frozenset(listed[listed.index(name) + 1 :])
            return state
        if problems:
            raise NoCheckpointError(
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


def _step_of(name: str) -> int:
    """Read the step from the name of a checkpoint's folder."""
    return int(name.removeprefix("step_"))


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors; a full disk is an OSError, as for any other file."""
    try:
        save_file(_for_saving(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None or not is_disk_full(OSError(int(number[1]), "")):
            raise OSError(f"Cannot write {path}: {error}") from error
        free = shutil.disk_usage(path.parent).free
        raise DiskFullError(
            _no_room(
                path.parent.parent,
                f"{path.name} takes {_megabytes(_size(tensors))} MB, the disk has "
                f"{_megabytes(free)} MB free ({error}).",
            )
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


def _unflatten_optimizer(
    tensors: StoredTensors, plain: dict[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Read an optimiser's state, each moment laid out as the parameter it belongs to."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, shape in tensors.shapes.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        is_moment = shape == tuple(parameter.shape)
        value = tensors.like(key, parameter) if is_moment else tensors.whole(key)
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def _check_fit(folder: Path, found: Mapping[str, tuple[int, ...]], model: nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
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
