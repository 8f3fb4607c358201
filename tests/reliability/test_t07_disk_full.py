"""T7: a full disk is one clear error with its own exit code; the last checkpoint stays."""

import errno
import resource
import shutil
import subprocess
from collections import namedtuple
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests import faults, reliable_runs
from tests.reliable_runs import Run

from unheard import cli
from unheard.errors import DiskFullError
from unheard.files import append_jsonl
from unheard.training import checkpoint
from unheard.training.checkpoint import CheckpointFolder, TrainingState, verify_checkpoint

STEPS = 4
SAVES = (1, 2, 3, 4)
LIMITS = {"model.safetensors": 20_000, "optimizer.safetensors": 200_000}
"""File sizes [bytes] at which the weights do not fit, or the weights do and the moments do not."""


def run_until_full(run: Run, at_save: int, limit: int) -> None:
    """Train in this process, in which from the start of a save on no file grows over a limit."""
    start_writing = checkpoint._start_writing
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    count = 0

    def limited(folder: Path) -> Path:
        nonlocal count
        if "step_" in folder.name:
            count += 1
            if count == at_save:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        return start_writing(folder)

    checkpoint._start_writing = limited
    try:
        reliable_runs.work(run)
    except SystemExit as exit_:
        run.folder.with_name(f"{run.folder.name}.code").write_text(f"{exit_.code}")
    finally:
        checkpoint._start_writing = start_writing
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def run_until_full_each_time(runs: list[tuple[Run, int, int]]) -> None:
    for run, at_save, limit in runs:
        run_until_full(run, at_save, limit)


def folder_of(root: Path, at_save: int, name: str) -> Path:
    return root / f"{at_save}-{name.split('.')[0]}"


@pytest.fixture(scope="module")
def full(whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the disk was full at every save, all in one process that lives on."""
    root = tmp_path_factory.mktemp("full")
    runs = [
        (replace(whole, folder=folder_of(root, at_save, name)), at_save, limit)
        for at_save, (name, limit) in product(SAVES, LIMITS.items())
    ]
    process = reliable_runs.start(run_until_full_each_time, runs)
    process.join(reliable_runs.FRESH_SECONDS)
    assert process.exitcode == 0
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = reliable_runs.settings(
        STEPS, batch_seconds=1.5, accumulation=1, validate_every_steps=STEPS
    )
    config = replace(config, checkpoint_every_seconds=0.0)
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = Run(kind="contrastive", data=data, folder=folder, config=config)
    reliable_runs.do(run)
    sizes = {name: (reliable_runs.newest(folder) / name).stat().st_size for name in LIMITS}
    assert LIMITS["model.safetensors"] < sizes["model.safetensors"]
    assert sizes["model.safetensors"] < LIMITS["optimizer.safetensors"]
    assert LIMITS["optimizer.safetensors"] < sizes["optimizer.safetensors"]
    return run


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("at_save", SAVES)
def test_at_any_save_the_one_before_stays_and_the_run_goes_on_later(
    whole: Run, full: Path, at_save: int, name: str
) -> None:
    run = replace(whole, folder=folder_of(full, at_save, name))
    assert run.folder.with_name(f"{run.folder.name}.code").read_text() == "5"
    complaint = reliable_runs.complaint_of(run).read_text()
    assert "There is no room for a checkpoint" in complaint
    assert f"{name} takes 0." in complaint
    assert "MB free" in complaint
    assert "repeat the command" in complaint
    assert complaint.count("There is no room") == 1
    assert reliable_runs.newest_step(run.folder) == at_save - 1
    for path in (run.folder / "checkpoints").iterdir():
        assert path.name.startswith("step_")
        verify_checkpoint(path, with_optimizer=True)
    assert reliable_runs.leftovers(run.folder) == []
    losses = reliable_runs.do(run)
    assert len(losses) == STEPS - (at_save - 1)
    last = f"checkpoints/step_{STEPS:08d}"
    assert reliable_runs.digest(run.folder / last) == reliable_runs.digest(whole.folder / last)


@pytest.mark.parametrize("name", ["optimizer.json", "state.json", "manifest.json"])
def test_a_small_file_that_does_not_fit_is_the_same_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.save(tmp_path, 1)
    write_text = Path.write_text

    def full(path: Path, text: str, *more: Any) -> int:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, text, *more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(DiskFullError, match="There is no room for a checkpoint"):
            faults.save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert faults.load(tmp_path) == (1, 0)


Usage = namedtuple("Usage", ["total", "used", "free"])


def test_room_is_looked_for_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.2 times what is to be written must be free; the error names both."""
    faults.save(tmp_path, 1)
    model, optimizer = faults.network(2)
    tensors = [*model.state_dict().values()]
    for values in optimizer.state_dict()["state"].values():
        tensors += values.values()
    size = sum(tensor.nbytes for tensor in tensors)
    written: list[Path] = []
    save_file = checkpoint.save_file
    monkeypatch.setattr(
        checkpoint, "save_file", lambda each, path: (written.append(path), save_file(each, path))
    )
    for free, fits in ((round(1.2 * size) - 1, False), (round(1.2 * size) + 1, True)):
        written.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free))
        if fits:
            faults.save(tmp_path, 2)
            assert len(written) == 2
            continue
        with pytest.raises(DiskFullError) as caught:
            faults.save(tmp_path, 2)
        assert written == []
        message = str(caught.value)
        assert f"it takes {size / 1e6:.3g} MB" in message
        assert f"{1.2 * size / 1e6:.3g} MB free to be safe" in message
        assert f"{free / 1e6:.3g} MB are" in message
        assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert faults.load(tmp_path) == (2, 0)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of one megabyte, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_on_a_disk_that_others_have_filled(small_disk: Path) -> None:
    """The real thing: no room for the next checkpoint, then room again."""
    faults.save(small_disk / "checkpoints", 1)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(2**21))
    with pytest.raises(DiskFullError, match=r"0 MB are|it takes"):
        faults.save(small_disk / "checkpoints", 2)
    with pytest.raises(DiskFullError, match=r"log\.jsonl"):
        append_jsonl(small_disk / "log.jsonl", {"step": 2, "text": "x" * 5000})
    assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["step_00000001"]
    assert faults.load(small_disk / "checkpoints") == (1, 0)
    filler.unlink()
    faults.save(small_disk / "checkpoints", 2)
    assert faults.load(small_disk / "checkpoints") == (2, 0)


def test_another_trouble_with_the_disk_is_not_taken_for_a_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = faults.network(1)
    monkeypatch.setattr(checkpoint, "_flush", lambda _: (_ for _ in ()).throw(OSError(5, "I/O")))
    with pytest.raises(OSError, match="I/O") as caught:
        CheckpointFolder(tmp_path).save(model=model, optimizer=optimizer, state=TrainingState())
    assert not isinstance(caught.value, DiskFullError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFullError("no room"), 5),
        (OSError(errno.ENOSPC, "No space left on device"), 5),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 5),
        (OSError(errno.EIO, "Input/output error"), 1),
    ],
)
def test_the_exit_codes_are_those_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: int
) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setitem(cli.VERBS, "fail", cli.Verb(summary="", run=fail))
    assert cli.main(["fail"]) == code
