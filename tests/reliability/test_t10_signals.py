"""T10: told to stop at any moment, a run saves and ends with the exit code of that signal."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import reliable_runs
from tests.reliable_runs import Run

from unheard.errors import Interrupted
from unheard.files import read_jsonl
from unheard.training.checkpoint import verify_checkpoint

STEPS = 30
LAST = f"checkpoints/step_{STEPS:08d}"
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 75}
NAMES = [number.name for number in CODES]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = reliable_runs.settings(STEPS, log_every_steps=1, validate_every_steps=6)
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = Run(kind="contrastive", data=data, folder=folder, config=config)
    reliable_runs.do(run)
    return run


def steps_logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b'"kind": "train"') if path.exists() else 0


def wait_for(folder: Path, steps: int, process: Any) -> None:
    deadline = time.monotonic() + reliable_runs.FRESH_SECONDS
    while steps_logged(folder) < steps:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_stopped_three_times_at_random_it_ends_as_if_it_had_not_been(
    whole: Run, tmp_path: Path
) -> None:
    """By each signal once: saved at the update that was going on, within half a minute."""
    run = replace(whole, folder=tmp_path / "run")
    chance = random.Random(3)
    before = 0
    for number, code in CODES.items():
        process = reliable_runs.start(reliable_runs.work, run)
        wait_for(run.folder, before + chance.randint(1, 5), process)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(process.pid or 0, number)
        began = time.monotonic()
        process.join(reliable_runs.FRESH_SECONDS)
        assert time.monotonic() - began < 30
        assert process.exitcode == code
        state = verify_checkpoint(reliable_runs.newest(run.folder), with_optimizer=True)
        # Nothing that was done is lost.
        assert state.step == steps_logged(run.folder)
        assert before < state.step < STEPS
        before = state.step
    reliable_runs.do(run)
    assert reliable_runs.digest(run.folder / LAST) == reliable_runs.digest(whole.folder / LAST)
    rows = reliable_runs.rows_without_times(run.folder / "metrics.jsonl")
    assert rows == reliable_runs.rows_without_times(whole.folder / "metrics.jsonl")


def work_slowly(run: Run) -> None:
    """Stay in the third update for a minute."""
    objective = reliable_runs.OBJECTIVES[run.kind]

    def slow(model: Any, batch: Any, **more: Any) -> Any:
        if more["progress"] > 1.5 / STEPS:
            (run.folder / "slow").touch()
            time.sleep(60)
        return objective(model, batch, **more)

    reliable_runs.OBJECTIVES[run.kind] = slow
    reliable_runs.work(run)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_signal_ends_it_at_once(whole: Run, tmp_path: Path, name: str) -> None:
    """As that signal ends any program: Ctrl-C by an exception, the others right where it is."""
    run = replace(whole, folder=tmp_path / "run")
    process = reliable_runs.start(work_slowly, run)
    deadline = time.monotonic() + reliable_runs.FRESH_SECONDS
    while not (run.folder / "slow").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    number = signal.Signals[name]
    os.kill(process.pid or 0, number)
    process.join(1.0)
    assert process.is_alive(), "the first signal lets the update end"
    os.kill(process.pid or 0, number)
    began = time.monotonic()
    process.join(20)
    assert time.monotonic() - began < 15
    assert process.exitcode == (130 if name == "SIGINT" else -number)
    # Nothing was saved yet, and nothing is in the way of the next start.
    reliable_runs.do(run)
    assert reliable_runs.digest(run.folder / LAST) == reliable_runs.digest(whole.folder / LAST)


@pytest.mark.parametrize("number", CODES)
def test_handlers_are_as_they_were_afterwards(
    whole: Run, tmp_path: Path, number: signal.Signals
) -> None:
    before = {each: signal.getsignal(each) for each in CODES}
    run = replace(whole, folder=tmp_path / "run", stop_in=(1, 1, number))
    with pytest.raises(Interrupted, match="Stopped at step 2") as caught:
        reliable_runs.do(run)
    assert caught.value.signal == number
    assert caught.value.exit_code == CODES[number]
    assert {each: signal.getsignal(each) for each in CODES} == before
    assert [row["step"] for row in read_jsonl(run.folder / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_is_to_be_ignored_stays_ignored(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As under `nohup`, or in the background of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        config = reliable_runs.settings(2, validate_every_steps=2)
        run = Run(kind="ctc", data=data, folder=tmp_path, config=config, stop_in=(0, 0, number))
        reliable_runs.do(run)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert reliable_runs.newest_step(tmp_path) == 2
