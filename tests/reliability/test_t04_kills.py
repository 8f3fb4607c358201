"""T4: kill -9 at any moment costs what came after the last checkpoint, and nothing else.

benchmarks/kills.py does the same fifty times; its result is in benchmarks/results/kills.json.
"""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests import faults, reliable_runs
from tests.reliable_runs import Run

from unheard.files import read_jsonl
from unheard.training.checkpoint import verify_checkpoint

KILLS = 5
STEPS = 24

NAMED = {
    "before the first byte": "os.mkdir .step_0000000{}.tmp-PID",
    "in the middle of the weights": "half written model.safetensors",
    "between weights and moments": "write optimizer.safetensors",
    "between writing and flushing": "open model.safetensors",
    "between two flushes": "fsync",
    "before the list of hashes": "open manifest.json",
    "between flush and rename": "os.rename .step_0000000{}.tmp-PID",
    "between rename and the flush of the folder": "open {}",
    "while an old one is deleted": "os.remove optimizer.safetensors",
}


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a kill before each point of a save left behind."""
    root = tmp_path_factory.mktemp("kills")
    record = root / "record.json"
    process = reliable_runs.start(faults.kill_at_every_point, root / "runs", record)
    process.join(reliable_runs.FRESH_SECONDS)
    assert process.exitcode == 0
    return json.loads(record.read_text())


@pytest.mark.parametrize("replaces", [False, True], ids=["a new step", "a step saved again"])
def test_a_save_that_is_killed_before_any_of_its_points_loses_nothing(
    kills: list[dict[str, Any]], replaces: bool
) -> None:
    """The old checkpoint or the new one, whole; one thing to sweep up; no deleting by hand."""
    rows = [row for row in kills if row["replaces"] == replaces]
    old, new = ([2, 0], [2, 1]) if replaces else ([2, 0], [3, 0])
    loaded = [row["loaded"] for row in rows]
    # First the old one, and from a certain point on the new one.
    assert loaded == sorted(loaded)
    assert loaded[0] == old
    assert loaded[-1] == new
    for row in rows:
        unfinished = [name for name in row["litter"] if ".tmp-" in name]
        assert len(unfinished) <= 1
        assert row["litter_after_loading"] == []
        assert row["after_saving_again"] == [new, []]


def test_the_points_are_those_that_matter(kills: list[dict[str, Any]]) -> None:
    for replaces in (False, True):
        names = [row["point"] for row in kills if row["replaces"] == replaces]
        step = 2 if replaces else 3
        for what, name in NAMED.items():
            expected = name.format(step)
            if name == "open {}":
                found = [one for one in names if one.startswith(f"open {replaces}-")]
            else:
                found = [one for one in names if one == expected]
            assert found, f"no kill {what}"
        assert ("os.rename step_00000002" in names) == replaces


def test_a_training_that_is_killed_at_random_ends_as_one_that_was_not(
    data: Path, tmp_path: Path
) -> None:
    """Each start is the same command; what is lost is at most the update that was going on."""
    config = reliable_runs.settings(
        STEPS, checkpoint_every_seconds=0.0, log_every_steps=1, validate_every_steps=8
    )
    whole = Run(kind="units", data=data, folder=tmp_path / "whole", config=config)
    reliable_runs.do(whole)
    killed = Run(kind="units", data=data, folder=tmp_path / "killed", config=config)
    chance = random.Random(11)
    lost: list[int] = []
    for number in range(KILLS):
        after = STEPS * number // (KILLS + 1) + chance.randint(1, STEPS // (KILLS + 1))
        process = reliable_runs.start(reliable_runs.work, killed)
        deadline = time.monotonic() + reliable_runs.FRESH_SECONDS
        while reliable_runs.newest_step(killed.folder) < after and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        # What has its name is whole, at any moment.
        for path in (killed.folder / "checkpoints").glob("step_*"):
            verify_checkpoint(path, with_optimizer=True)
        done = [row["step"] for row in _whole_rows(killed.folder / "metrics.jsonl")]
        lost.append(max(done, default=0) - reliable_runs.newest_step(killed.folder))
        unfinished = [name for name in reliable_runs.leftovers(killed.folder) if ".tmp" in name]
        assert len(unfinished) <= 1
    assert max(lost) <= 1
    assert reliable_runs.sit(killed) == 0
    last = f"checkpoints/step_{STEPS:08d}"
    for name in (last, "best"):
        parts = sorted(path.name for path in (whole.folder / name).iterdir())
        assert parts == sorted(path.name for path in (killed.folder / name).iterdir())
    assert reliable_runs.digest(killed.folder / last) == reliable_runs.digest(whole.folder / last)
    for name in ("metrics.jsonl", "samples.jsonl"):
        found = reliable_runs.rows_without_times(killed.folder / name)
        assert found == reliable_runs.rows_without_times(whole.folder / name)
    assert reliable_runs.leftovers(killed.folder) == []
    assert len(read_jsonl(killed.folder / "metrics.jsonl")) == STEPS + STEPS // 8


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, without one that was being written."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
