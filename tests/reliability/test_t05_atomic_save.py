"""T5: whoever looks, however often, never sees a part of a checkpoint under its name."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from tests import faults, reliable_runs

from unheard.errors import CheckpointError
from unheard.training import checkpoint
from unheard.training.checkpoint import verify_checkpoint

SAVES = 60


def save_again_and_again(folder: Path) -> None:
    torch.set_num_threads(1)
    for step in range(1, SAVES + 1):
        faults.save(folder, step)
        if step % 5 == 0:
            faults.save(folder, step, mark=1)


def save_in_place(folder: Path) -> None:
    """The negative control: as if a checkpoint were written where it is read."""
    checkpoint._start_writing = lambda path: path.mkdir(parents=True, exist_ok=True) or path
    checkpoint._publish = lambda temporary, path, files: (path / "manifest.json").write_text(
        json.dumps({"format": "unheard-training-1", "files": files})
    )
    save_again_and_again(folder)


def watch(folder: Path, target: object) -> tuple[int, set[int], list[str]]:
    """Look every millisecond while a process saves; returns looks, steps seen, parts seen."""
    process = reliable_runs.start(target, folder)  # pyright: ignore[reportArgumentType]
    looks, seen, parts = 0, set(), []
    while process.is_alive():
        for path in sorted(folder.glob("step_*"), reverse=True):
            looks += 1
            try:
                before = path.stat().st_ino
                seen.add(verify_checkpoint(path, with_optimizer=True).step)
            except FileNotFoundError:
                # It was retired between two looks; a part of it is under its name no more.
                parts += [path.name] if path.exists() and path.stat().st_ino == before else []
            except CheckpointError as error:
                if _is_still(path, before):
                    parts.append(str(error))
        time.sleep(0.001)
    process.join()
    assert process.exitcode == 0
    return looks, seen, parts


def _is_still(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def test_a_reader_never_sees_an_incomplete_step(tmp_path: Path) -> None:
    looks, seen, parts = watch(tmp_path, save_again_and_again)
    assert parts == []
    assert looks > SAVES
    # It was there while they came and went.
    assert len(seen) > SAVES // 4
    assert max(seen) >= SAVES - 1


def test_the_reader_would_see_one(tmp_path: Path) -> None:
    _, _, parts = watch(tmp_path, save_in_place)
    assert parts


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, then the folder, then the list of hashes are flushed; then comes the rename."""
    told: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def flushed(descriptor: int) -> None:
        told.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.split(".tmp-")[0])
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        told.append(f"rename to {Path(target).name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    faults.save(tmp_path / "checkpoints", 7)
    name = told.index("rename to step_00000007")
    assert set(told[:name]) == {
        "model.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "state.json",
        "manifest.json",
        ".step_00000007",
    }
    assert told[name - 2 : name] == ["manifest.json", ".step_00000007"]
    assert told[name + 1 :] == ["checkpoints"]
