import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unheard.errors import CheckpointError, TrainingDivergedError
from unheard.training import checkpoint
from unheard.training.checkpoint import (
    CheckpointFolder,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from unheard.training.config import TrainingConfig
from unheard.training.optim import make_optimizer
from unheard.training.schedule import Budget

FILES = ["model.safetensors", "optimizer.safetensors", "optimizer.json", "state.json"]
STATE = TrainingState(
    step=3,
    progress=0.3,
    elapsed_seconds=1 / 3,
    audio_seconds=12.5,
    epoch=1,
    batch=2,
    best_metric=0.1 + 0.2,
    best_step=2,
    extra={"validation": {"cer": 0.25}},
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def trained(seed: int = 0, *, steps: int = 2) -> tuple[nn.Module, torch.optim.AdamW]:
    """A network with moments in its optimiser."""
    model = network(seed)
    config = TrainingConfig(budget=Budget(max_steps=9), learning_rate=1e-4 * (1 + seed))
    optimizer = make_optimizer(model, config)
    for step in range(steps):
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def bits(model: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
    """Everything that a checkpoint holds, by name."""
    found = dict(model.state_dict())
    for number, values in optimizer.state_dict()["state"].items():
        found |= {f"{number}.{name}": value for name, value in values.items()}
    return {name: value.clone() for name, value in found.items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def save_steps(folder: Path, steps: range | list[int], *, keep: int = 2) -> CheckpointFolder:
    """Save checkpoints whose networks differ."""
    checkpoints = CheckpointFolder(folder, keep=keep)
    for step in steps:
        model, optimizer = trained(step)
        checkpoints.save(model=model, optimizer=optimizer, state=replace(STATE, step=step))
    return checkpoints


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


MUTATIONS: dict[str, Callable[[Path], None]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": flip,
    "deleted": Path.unlink,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "swapped": lambda path: shutil.copy(path.parent.with_name("step_00000001") / path.name, path),
}


def test_everything_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    before = bits(model, optimizer)
    save_checkpoint(tmp_path / "c", model=model, optimizer=optimizer, state=STATE)
    other, other_optimizer = trained(1, steps=0)
    assert not same(before, bits(other, other_optimizer))
    assert load_checkpoint(tmp_path / "c", model=other, optimizer=other_optimizer) == STATE
    assert same(before, bits(other, other_optimizer))
    groups = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in other_optimizer.state_dict()["param_groups"]
    ]
    assert groups == optimizer.state_dict()["param_groups"]


def test_steps_after_loading_are_the_steps_that_would_have_come(tmp_path: Path) -> None:
    whole_model, whole_optimizer = trained(steps=2)
    save_checkpoint(tmp_path / "c", model=whole_model, optimizer=whole_optimizer, state=STATE)
    model, optimizer = trained(5, steps=0)
    load_checkpoint(tmp_path / "c", model=model, optimizer=optimizer)
    for one, its_optimizer in ((whole_model, whole_optimizer), (model, optimizer)):
        one(torch.ones(2, 3)).sum().backward()
        its_optimizer.step()
    assert same(bits(whole_model, whole_optimizer), bits(model, optimizer))


def test_an_optimiser_that_has_not_stepped_yet_can_be_saved(tmp_path: Path) -> None:
    model, optimizer = trained(steps=0)
    save_checkpoint(tmp_path / "c", model=model, optimizer=optimizer, state=TrainingState())
    found = load_checkpoint(tmp_path / "c", model=model, optimizer=optimizer)
    assert found == TrainingState()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, poison: float) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "c", model=model, optimizer=optimizer, state=STATE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    with torch.no_grad():
        model[0].weight[0, 0] = poison
    with pytest.raises(TrainingDivergedError, match=r"step 3: 0\.weight") as caught:
        save_checkpoint(tmp_path / "c", model=model, optimizer=optimizer, state=STATE)
    assert caught.value.step == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_damage_is_found_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, mutation: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = save_steps(tmp_path, [1, 2])
    newest = tmp_path / "step_00000002"
    MUTATIONS[mutation](newest / name)
    model, optimizer = trained(7)
    with caplog.at_level(logging.WARNING):
        state = checkpoints.load_newest(model=model, optimizer=optimizer)
    assert state is not None
    assert state.step == 1
    assert same(bits(model, optimizer), bits(*trained(1)))
    assert "checkpoint_corrupt" in caplog.text
    assert "step_00000002" in caplog.text


@settings(max_examples=60)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bit-flips"
    if not folder.exists():
        model, optimizer = trained()
        save_checkpoint(folder, model=model, optimizer=optimizer, state=STATE)
    path = folder / data.draw(st.sampled_from([*FILES, "manifest.json"]))
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= 1 << data.draw(st.integers(0, 7))
    if path.name == "manifest.json" and _means_the_same(good, bytes(bad)):
        return
    path.write_bytes(bad)
    try:
        with pytest.raises(CheckpointError):
            verify_checkpoint(folder, with_optimizer=True)
    finally:
        path.write_bytes(good)


def _means_the_same(good: bytes, bad: bytes) -> bool:
    """White space of one kind may become white space of another."""
    try:
        return json.loads(good) == json.loads(bad)
    except ValueError:
        return False


def test_a_manifest_that_lists_too_little_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "c", model=model, optimizer=None, state=STATE)
    assert verify_checkpoint(tmp_path / "c") == STATE
    with pytest.raises(CheckpointError, match=r"does not list optimizer\.safetensors"):
        load_checkpoint(tmp_path / "c", model=model, optimizer=optimizer)


def test_when_no_checkpoint_is_whole_the_run_does_not_start_over_in_silence(
    tmp_path: Path,
) -> None:
    checkpoints = save_steps(tmp_path, [1, 2])
    for path in checkpoints.steps():
        flip(path / "model.safetensors")
    model, optimizer = trained(7)
    before = bits(model, optimizer)
    with pytest.raises(CheckpointError, match="Delete the folder") as caught:
        checkpoints.load_newest(model=model, optimizer=optimizer)
    assert "step_00000001" in str(caught.value)
    assert "step_00000002" in str(caught.value)
    assert same(before, bits(model, optimizer))


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert CheckpointFolder(tmp_path).load_newest(model=model, optimizer=optimizer) is None


def test_another_network_is_refused_with_names(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "c", model=model, optimizer=optimizer, state=STATE)
    other = nn.Sequential(nn.Linear(3, 5), nn.Identity(), nn.Linear(4, 2), nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match="another model") as caught:
        load_checkpoint(tmp_path / "c", model=other, optimizer=None)
    assert caught.value.missing == ("3.bias", "3.weight")
    assert caught.value.unexpected == ("1.bias", "1.weight")
    assert caught.value.mismatched[0] == "0.bias: expected (5,), found (4,)"


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    checkpoints = save_steps(tmp_path, range(1, 6), keep=3)
    assert [path.name[-1] for path in checkpoints.steps()] == ["3", "4", "5"]


def test_damaged_checkpoints_of_later_steps_do_not_push_out_good_ones(tmp_path: Path) -> None:
    """Regression: after falling back, the damaged newest counted among the kept."""
    checkpoints = save_steps(tmp_path, [100, 120])
    flip(tmp_path / "step_00000120" / "model.safetensors")
    model, optimizer = trained(7)
    state = checkpoints.load_newest(model=model, optimizer=optimizer)
    assert state is not None
    assert state.step == 100
    checkpoints.save(model=model, optimizer=optimizer, state=replace(state, step=110))
    assert [path.name for path in checkpoints.steps()] == ["step_00000100", "step_00000110"]


def test_a_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    checkpoints = save_steps(tmp_path, [1, 2])
    model, optimizer = trained(9)
    checkpoints.save(model=model, optimizer=optimizer, state=replace(STATE, step=2))
    other, other_optimizer = trained(0, steps=0)
    checkpoints.load_newest(model=other, optimizer=other_optimizer)
    assert same(bits(model, optimizer), bits(other, other_optimizer))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    checkpoints = save_steps(tmp_path, [1])
    for name in (".step_00000002.tmp-77", ".step_00000001.old-78", ".step_00000000.gone-79"):
        shutil.copytree(tmp_path / "step_00000001", tmp_path / name)
    model, optimizer = trained()
    checkpoints.load_newest(model=model, optimizer=optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_process_killed_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """Regression: the checkpoint that was being replaced stayed under its other name."""
    save_steps(tmp_path, [1])
    (tmp_path / "step_00000001").rename(tmp_path / ".step_00000001.old-4242")
    shutil.copytree(tmp_path / ".step_00000001.old-4242", tmp_path / ".step_00000001.tmp-4242")
    model, optimizer = trained(7)
    state = CheckpointFolder(tmp_path).load_newest(model=model, optimizer=optimizer)
    assert state is not None
    assert state.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_half_deleted_checkpoint_does_not_look_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a process killed while it deleted the oldest left a part under its name."""
    save_steps(tmp_path, [1, 2])
    model, optimizer = trained(3)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    CheckpointFolder(tmp_path).save(model=model, optimizer=optimizer, state=replace(STATE, step=3))
    assert [path.name[-1] for path in CheckpointFolder(tmp_path).steps()] == ["2", "3"]


@pytest.mark.parametrize("fault", ["save_file", "sha256_file", "_flush"])
def test_a_failed_save_leaves_the_old_checkpoint_and_no_rest(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "c", model=model, optimizer=optimizer, state=STATE)
    original = getattr(checkpoint, fault)
    for calls_that_work in range(4):
        calls = iter(range(100))

        def fail(*arguments: object, calls=calls, last=calls_that_work) -> object:
            if next(calls) == last:
                raise OSError("No space left on device")
            return original(*arguments)

        monkeypatch.setattr(checkpoint, fault, fail)
        changed, changed_optimizer = trained(5)
        try:
            save_checkpoint(tmp_path / "c", model=changed, optimizer=changed_optimizer, state=STATE)
        except OSError:
            expected = model
        else:
            expected = changed
        monkeypatch.setattr(checkpoint, fault, original)
        found = network(8)
        load_checkpoint(tmp_path / "c", model=found, optimizer=None)
        assert all(map(torch.equal, found.state_dict().values(), expected.state_dict().values()))
        assert [path.name for path in tmp_path.iterdir()] == ["c"]
        model = expected


def test_a_reader_never_sees_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every system call of a save that replaces, what stands there verifies or is absent."""
    folder = tmp_path / "c"
    seen: list[int] = []

    def look() -> None:
        if folder.exists():
            seen.append(verify_checkpoint(folder).step)

    for name in ("_flush", "save_file"):
        original = getattr(checkpoint, name)

        def watched(*arguments: object, original=original) -> None:
            look()
            original(*arguments)
            look()

        monkeypatch.setattr(checkpoint, name, watched)
    for step in (1, 2):
        model, optimizer = trained(step)
        save_checkpoint(folder, model=model, optimizer=optimizer, state=replace(STATE, step=step))
    look()
    assert sorted(set(seen)) == [1, 2]
    assert seen == sorted(seen)


DISK_FULL = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from torch import nn
from unheard.training.checkpoint import CheckpointFolder, TrainingState, verify_checkpoint
from unheard.training.config import TrainingConfig
from unheard.training.optim import make_optimizer
from unheard.training.schedule import Budget
folder = Path(sys.argv[1])
model = nn.Linear(300, 300)
optimizer = make_optimizer(model, TrainingConfig(budget=Budget(max_steps=1)))
model(model.weight).sum().backward()
optimizer.step()
checkpoints = CheckpointFolder(folder)
checkpoints.save(model=model, optimizer=optimizer, state=TrainingState(step=1))
for limit in (0, 1000, 200_000, 500_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoints.save(model=model, optimizer=optimizer, state=TrainingState(step=2))
    except OSError as error:
        print(error)
    else:
        print("saved")
    print(verify_checkpoint(folder / "step_00000001", with_optimizer=True).step)
    print(*sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes")
def test_a_full_disk_is_one_clear_error_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    """Files may grow to so many bytes: none, the start of one, the weights but no moments."""
    shown = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == 12
    for number in range(4):
        message, step, names = lines[3 * number : 3 * number + 3]
        assert "MB free" in message
        assert "model.safetensors" in message or "optimizer.safetensors" in message
        assert step == "1"
        assert names == "step_00000001"
