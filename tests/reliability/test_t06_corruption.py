"""T6: any damage to a checkpoint is found before it is used, and the one before is used instead."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from tests import reliable_runs
from tests.reliable_runs import PARTS, Run

from unheard import cli
from unheard.errors import Interrupted, NoCheckpointError
from unheard.training.checkpoint import verify_checkpoint

FILES = (*PARTS, "manifest.json")
STEPS = 4
LAST = f"checkpoints/step_{STEPS:08d}"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    """Put the file of the step before in this one's place."""
    steps = sorted(path.parent.parent.glob("step_*"))
    shutil.copy(steps[-2] / path.name, path)


MUTATIONS: dict[str, Callable[[Path], None]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "byte flipped": flip,
    "deleted": Path.unlink,
    "swapped": swap,
}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing happened to."""
    config = reliable_runs.settings(
        STEPS, batch_seconds=1.5, accumulation=1, validate_every_steps=STEPS
    )
    config = replace(config, checkpoint_every_seconds=0.0)
    run = Run(kind="ctc", data=data, folder=tmp_path_factory.mktemp("whole") / "run", config=config)
    reliable_runs.do(run)
    return run


@pytest.fixture(scope="module")
def stopped(whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run, stopped after its third update, with checkpoints of the second and third."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    run = replace(whole, folder=folder, stop_in=(2, 0, 15))
    with pytest.raises(Interrupted):
        reliable_runs.do(run)
    names = [path.name for path in sorted((folder / "checkpoints").iterdir())]
    assert names == ["step_00000002", "step_00000003"]
    return replace(run, stop_in=None)


@pytest.mark.parametrize(("name", "mutation"), list(product(FILES, MUTATIONS)))
def test_each_is_found_and_the_run_ends_as_if_nothing_had_been(
    whole: Run,
    stopped: Run,
    tmp_path: Path,
    name: str,
    mutation: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped.folder, folder)
    newest = folder / "checkpoints" / "step_00000003"
    MUTATIONS[mutation](newest / name)
    with caplog.at_level(logging.WARNING):
        losses = reliable_runs.do(replace(stopped, folder=folder))
    (told,) = [one.message for one in caplog.records if "checkpoint_corrupt" in one.message]
    assert str(newest) in told
    # A wrong list of hashes shows at the first file that is not on it.
    assert name in told or mutation == "swapped"
    # It went on from the second update, and ended in the same weights.
    assert len(losses) == STEPS - 2
    assert reliable_runs.digest(folder / LAST) == reliable_runs.digest(whole.folder / LAST)
    names = [path.name for path in sorted((folder / "checkpoints").iterdir())]
    assert names == ["step_00000003", "step_00000004"]
    for path in (folder / "checkpoints").iterdir():
        verify_checkpoint(path, with_optimizer=True)


def test_without_damage_the_newest_is_used(
    stopped: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The negative control."""
    shutil.copytree(stopped.folder, tmp_path / "run")
    losses = reliable_runs.do(replace(stopped, folder=tmp_path / "run"))
    assert len(losses) == STEPS - 3
    assert "checkpoint_corrupt" not in caplog.text


def test_when_none_is_left_the_run_ends_with_its_own_exit_code(
    stopped: Run, tmp_path: Path
) -> None:
    """And starts nothing anew over what could perhaps be rescued."""
    folder = tmp_path / "run"
    shutil.copytree(stopped.folder, folder)
    for path in (folder / "checkpoints").glob("step_*"):
        flip(path / "model.safetensors")
    before = sorted(str(path) for path in folder.rglob("*"))
    run = replace(stopped, folder=folder)
    with pytest.raises(NoCheckpointError, match="Delete the folder"):
        reliable_runs.do(run)
    assert sorted(str(path) for path in folder.rglob("*")) == before
    assert reliable_runs.sit(run) == NoCheckpointError.exit_code == 6


def test_the_exit_codes_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise NoCheckpointError("none is whole")

    monkeypatch.setitem(cli.VERBS, "fail", cli.Verb(summary="", run=fail))
    assert cli.main(["fail"]) == 6
