"""T13: whatever was saved, killed, damaged and deleted, the newest good checkpoint is there."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests import faults, reliable_runs
from tests.reliable_runs import Run

from unheard.errors import ConfigError
from unheard.files import locked
from unheard.training.checkpoint import CheckpointFolder, verify_checkpoint

SEEDS, LENGTH = 8, 30


def test_random_sequences_never_lose_the_newest_good_checkpoint(tmp_path: Path) -> None:
    """After each of them, loading gives the bits of the newest that was saved and not damaged."""
    record = tmp_path / "record.json"
    process = reliable_runs.start(
        faults.save_kill_and_damage_at_random, tmp_path / "runs", record, SEEDS, LENGTH
    )
    process.join(reliable_runs.FRESH_SECONDS)
    assert process.exitcode == 0
    told = [doing for row in json.loads(record.read_text()).values() for doing in row]
    assert sum("kill before" in doing for doing in told) > SEEDS * 3
    assert sum(doing == "damage" for doing in told) > SEEDS
    assert sum(doing == "save" for doing in told) > SEEDS * 4


def test_a_damaged_checkpoint_between_good_ones_does_not_count_as_kept(tmp_path: Path) -> None:
    """Regression: a run fell back from step 6 to 4 and went on to 7; step 4 was deleted for 6."""
    faults.save(tmp_path, 4)
    faults.save(tmp_path, 6)
    (tmp_path / "step_00000006" / "model.safetensors").write_bytes(b"")
    faults.save(tmp_path, 7, mark=1, after_loading=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004", "step_00000007"]
    for path in tmp_path.iterdir():
        verify_checkpoint(path, with_optimizer=True)


def test_a_step_that_was_passed_over_and_is_saved_again_counts(tmp_path: Path) -> None:
    """A run falls back from step 6 to 4, and comes to 6 and 8."""
    faults.save(tmp_path, 4)
    faults.save(tmp_path, 6)
    (tmp_path / "step_00000006" / "model.safetensors").write_bytes(b"")
    checkpoints = CheckpointFolder(tmp_path, keep=2)
    model, optimizer = faults.network(0)
    state = checkpoints.load_newest(model=model, optimizer=optimizer)
    assert state is not None
    for step in (6, 8):
        model, optimizer = faults.network(step)
        checkpoints.save(model=model, optimizer=optimizer, state=replace(state, step=step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000006", "step_00000008"]


def test_a_checkpoint_that_cannot_be_deleted_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        faults.save(tmp_path, step)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if ".gone-" in str(target):
            raise PermissionError(1, "Operation not permitted")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        faults.save(tmp_path, 3)
    assert "step_00000001 cannot be removed" in caplog.text
    assert faults.load(tmp_path) == (3, 0)
    faults.save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000004"]


def test_a_deletion_that_stops_half_way_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        faults.save(tmp_path, step)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        faults.save(tmp_path, 3)
    assert [path.name for path in tmp_path.glob("step_*") if "1" in path.name] == []
    assert faults.load(tmp_path) == (3, 0)
    assert faults.litter(tmp_path) == []


def test_a_second_trainer_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    """By a message that names the process and the machine of the first; the first goes on."""
    config = reliable_runs.settings(2, validate_every_steps=2)
    run = Run(kind="ctc", data=data, folder=tmp_path / "run", config=config)
    with locked(run.folder / "lock"):
        assert reliable_runs.sit(run) == ConfigError.exit_code == 1
        complaint = reliable_runs.complaint_of(run).read_text()
        assert f"in use by process {os.getpid()} on {os.uname().nodename}" in complaint
        assert sorted(path.name for path in run.folder.iterdir()) == ["lock"]
        with pytest.raises(ConfigError, match="in use"):
            reliable_runs.do(run)
    reliable_runs.do(run)
    again = replace(run, folder=tmp_path / "again")
    reliable_runs.do(again)
    assert reliable_runs.digest(reliable_runs.newest(run.folder)) == reliable_runs.digest(
        reliable_runs.newest(again.folder)
    )


def test_the_lock_of_a_trainer_that_was_killed_is_taken_over(data: Path, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(json.dumps({"process": 1, "host": "gone"}))
    config = reliable_runs.settings(1, validate_every_steps=1)
    reliable_runs.do(Run(kind="ctc", data=data, folder=tmp_path, config=config))
    assert reliable_runs.newest_step(tmp_path) == 1
    assert not (tmp_path / "lock").exists()
