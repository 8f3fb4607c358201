"""Processes that are killed at a named point of a save, and what they leave.

A child process counts what it does to files - opens, writes, flushes, renames, deletions - and ends
itself with SIGKILL before the one that it was told, so that every moment between two of them can
be tried. Nothing is cleared up, as when the power goes.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unheard.errors import CheckpointError
from unheard.training import checkpoint
from unheard.training.checkpoint import CheckpointFolder, TrainingState, verify_checkpoint
from unheard.training.config import TrainingConfig
from unheard.training.optim import make_optimizer
from unheard.training.schedule import Budget

_WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child process ended.

    Attributes:
        killed: whether it was at the point; else it did all its work.
        points: names of the points that it came past, or that it was killed before.
    """

    killed: bool
    points: tuple[str, ...]


def in_child(work: Callable[[], None], *, folder: Path, die_before: int | None) -> Ended:
    """Work in a forked process, which is killed before a point.

    Args:
        work: what to do.
        folder: what happens to files elsewhere does not count.
        die_before: number of the point, from 0; None never.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _watch(folder, die_before, writer)
            work()
        except BaseException:  # noqa: BLE001 - nothing may go on in the copy of the process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        points = tuple(stream.read().splitlines())
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"a child ended with {code} after {points}")
    return Ended(killed=code != 0, points=points)


def _watch(folder: Path, die_before: int | None, writer: int) -> None:
    """Tell of every point in this process from now on, and die before one."""
    count = 0
    own = os.getpid()

    def come_to(name: str) -> bool:
        """Whether this is the point to die before."""
        nonlocal count
        os.write(writer, f"{name.replace(str(own), 'PID')}\n".encode())
        count += 1
        return count - 1 == die_before

    def point(name: str) -> None:
        if come_to(name):
            os.kill(own, signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _WATCHED or os.getpid() != own:
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], (str, Path)) else ""
        # Within a folder that is being deleted, names are relative to it.
        inner = event in ("os.remove", "os.rmdir") and path and not Path(path).is_absolute()
        if inner or str(folder) in path:
            point(f"{event} {Path(path).name}")

    save_file, fsync = checkpoint.save_file, os.fsync

    def torn_save(tensors: Any, path: Path) -> None:
        point(f"write {path.name}")
        save_file(tensors, path)
        if come_to(f"half written {path.name}"):
            os.truncate(path, path.stat().st_size // 2)
            os.kill(own, signal.SIGKILL)

    def watched_fsync(descriptor: int) -> None:
        point("fsync")
        fsync(descriptor)

    checkpoint.save_file = torn_save
    os.fsync = watched_fsync
    sys.addaudithook(audit)


def network(step: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and its optimiser whose bits belong to a step."""
    torch.manual_seed(step)
    model = nn.Linear(3, 4)
    optimizer = make_optimizer(model, TrainingConfig(budget=Budget(max_steps=1)))
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, *, mark: int = 0, after_loading: bool = False) -> None:
    """Save the checkpoint of a step, keeping two.

    Args:
        folder: of the checkpoints.
        step: whose weights, which belong to it and to the mark.
        mark: tells savings of one step apart.
        after_loading: load the newest one first, as a run does that goes on.
    """
    checkpoints = CheckpointFolder(folder, keep=2)
    if after_loading:
        model, optimizer = network(999_999)
        checkpoints.load_newest(model=model, optimizer=optimizer)
    model, optimizer = network(1000 * mark + step)
    state = TrainingState(step=step, extra={"mark": mark})
    checkpoints.save(model=model, optimizer=optimizer, state=state)


def load(folder: Path) -> tuple[int, int] | None:
    """Load the newest checkpoint that is whole.

    Returns:
        Its step and mark, after a comparison of all bits; None if there is none.
    """
    model, optimizer = network(999_999)
    state = CheckpointFolder(folder, keep=2).load_newest(model=model, optimizer=optimizer)
    if state is None:
        return None
    mark = state.extra["mark"]
    expected, moments = network(1000 * mark + state.step)
    if _bits(model, optimizer) != _bits(expected, moments):
        raise AssertionError(f"step {state.step} is not what was saved")
    return state.step, mark


def _bits(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    found = sha256()
    for value in model.state_dict().values():
        found.update(value.numpy().tobytes())
    for values in optimizer.state_dict()["state"].values():
        for _, value in sorted(values.items()):
            found.update(value.numpy().tobytes())
    return found.hexdigest()


def litter(folder: Path) -> list[str]:
    """What should not stay."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def _be_quick() -> None:
    """Do not wait for the disk: what a killed process has written is there all the same."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None


def kill_at_every_point(root: Path, record: Path) -> None:
    """Kill a save before each of its points; write down what each left, as JSON.

    Twice: for a new step, which pushes out the oldest, and for one that is saved again.
    """
    _be_quick()
    found = []
    for replaces in (False, True):
        step, mark = (2, 1) if replaces else (3, 0)
        number = 0
        while True:
            folder = root / f"{replaces}-{number}"
            for before in (1, 2):
                save(folder, before)

            def work(folder: Path = folder, step: int = step, mark: int = mark) -> None:
                save(folder, step, mark=mark)

            ended = in_child(work, folder=folder, die_before=number)
            if not ended.killed:
                break
            row: dict[str, Any] = {"replaces": replaces, "point": ended.points[-1]}
            row["litter"] = litter(folder)
            row["named"] = [verify_checkpoint(path).step for path in folder.glob("step_*")]
            row["loaded"] = load(folder)
            row["litter_after_loading"] = litter(folder)
            save(folder, step, mark=mark)
            row["after_saving_again"] = [load(folder), litter(folder)]
            found.append(row)
            shutil.rmtree(folder)
            number += 1
    record.write_text(json.dumps(found))


def save_kill_and_damage_at_random(root: Path, record: Path, seeds: int, length: int) -> None:
    """Do random sequences of saves, kills within saves, damage and restarts; write down each."""
    _be_quick()
    told = {}
    for seed in range(seeds):
        folder = root / str(seed)
        folder.mkdir(parents=True)
        told[seed] = _live(folder, random.Random(seed), length)
    record.write_text(json.dumps(told))


def _live(folder: Path, chance: random.Random, length: int) -> list[str]:
    """One sequence; raises AssertionError as soon as the newest good checkpoint is not there."""
    told = []
    good: dict[int, int] = {}
    step = mark = 0
    for _ in range(length):
        doing = chance.choices(("save", "kill", "damage", "restart"), (3, 3, 1, 2))[0]
        if doing == "damage" and len(good) < 2:
            continue
        told.append(doing)
        if doing == "save":
            step += chance.randint(1, 3)
            save(folder, step, mark=mark, after_loading=True)
            good = {**{old: kept for old, kept in good.items() if old < step}, step: mark}
        elif doing == "kill":
            before, step = step, step + chance.randint(0 if good else 1, 3)
            ended = in_child(
                lambda step=step, mark=mark: save(folder, step, mark=mark + 1, after_loading=True),
                folder=folder,
                die_before=chance.randint(0, 60),
            )
            told[-1] += f" before {ended.points[-1]}" if ended.killed else " too late"
            found = load(folder)
            if found == (step, mark + 1):
                mark += 1
                good = {old: kept for old, kept in good.items() if old < step} | {step: mark}
            elif found is not None or good:
                newest = max(good)
                if found != (newest, good[newest]):
                    raise AssertionError(f"{told}: {found} instead of {good}")
                step = newest
            else:
                step = before
        elif doing == "damage":
            newest = max(good)
            damage(folder / f"step_{newest:08d}", chance)
            del good[newest]
            step = max(good)
            # A run that goes on writes other weights under the same numbers.
            mark += 1
        good = {old: good[old] for old in sorted(good)[-2:]}
        found = load(folder)
        expected = (max(good), good[max(good)]) if good else None
        if found != expected:
            raise AssertionError(f"{told}: {found} instead of {expected}")
        if litter(folder):
            raise AssertionError(f"{told}: {litter(folder)} was left")
    return told


def damage(path: Path, chance: random.Random) -> str:
    """Spoil one file of a checkpoint."""
    name = chance.choice(sorted(file.name for file in path.iterdir()))
    data = bytearray((path / name).read_bytes())
    data[chance.randrange(len(data))] ^= 0x10
    (path / name).write_bytes(data)
    with contextlib.suppress(CheckpointError):
        verify_checkpoint(path, with_optimizer=True)
        raise AssertionError(f"a flipped bit of {name} was not seen")
    return name
