"""T9: a worker that dies or hangs is an error that names it and the file, and costs no update."""

import re
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests import reliable_runs
from tests.reliable_runs import Run

from unheard.data.batching import Position
from unheard.errors import WorkerError
from unheard.training.checkpoint import verify_checkpoint

STEPS = 6
BATCH = 6
"""Micro-batch, from 0, with the recording that ends its worker: the first of the fourth update."""
LAST = f"checkpoints/step_{STEPS:08d}"

FAULTY = """
import ctypes, os, signal, time
from pathlib import Path
from unheard.data import sample_codec

read = sample_codec.read_stretch


def faulty(request):
    marker = Path(os.environ["FAULT_MARKER"])
    if request.id == os.environ["FAULT_ID"] and not marker.exists():
        if os.environ["FAULT_ONCE"] == "1":
            marker.touch()
        fault = os.environ["FAULT"]
        if fault == "exit":
            os._exit(1)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "crash":
            ctypes.string_at(0)
        while True:
            time.sleep(1)
    return read(request)


sample_codec.read_stretch = faulty
"""
"""Python imports a module of the name `sitecustomize` when it starts."""

FAULTS = {
    "exit": r"crashed \(exit code 1\)",
    "kill": r"crashed \(signal 9\)",
    "crash": r"crashed \(signal 11\)",
    "hang": r"it hung for more than 2 s",
}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    config = reliable_runs.settings(STEPS, validate_every_steps=STEPS)
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = Run(kind="contrastive", data=data, folder=folder, config=config, patience_seconds=2.0)
    return run, reliable_runs.do(run)


def spoil(
    run: Run, fault: str, *, once: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Let workers that start from now on end at one recording; returns its id."""
    with closing(reliable_runs.open_data(run.data)) as store:
        source = reliable_runs.make_source(run.kind, store, run.config)
        name = source.load(source.plan.ahead(Position(), BATCH)).ids[1]
    (folder / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(folder)
    for variable, value in {
        "FAULT": fault,
        "FAULT_ID": name,
        "FAULT_ONCE": f"{int(once)}",
        "FAULT_MARKER": str(folder / "marker"),
    }.items():
        monkeypatch.setenv(variable, value)
    return name


@pytest.mark.parametrize("fault", FAULTS)
def test_the_error_comes_soon_names_both_and_what_was_learnt_is_saved(
    whole: tuple[Run, list[str]], tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, expected = whole
    run = replace(calm, folder=tmp_path / "run", workers=1)
    with monkeypatch.context() as patched:
        name = spoil(run, fault, once=False, folder=tmp_path, monkeypatch=patched)
        began = time.monotonic()
        with pytest.raises(SystemExit) as caught:
            reliable_runs.work(run)
        assert time.monotonic() - began < 30
    assert caught.value.code == WorkerError.exit_code != 0
    complaint = reliable_runs.complaint_of(run).read_text()
    for pattern in (FAULTS[fault], r"^Worker 0 \(process \d+\)", r"part-\d\.tar", f"'{name}'"):
        assert re.search(pattern, complaint), complaint
    state = verify_checkpoint(reliable_runs.newest(run.folder), with_optimizer=True)
    assert state.step == BATCH // 2
    # The recording has been mended or left out: the run goes on as if nothing had been.
    losses = reliable_runs.do(replace(run, workers=0))
    assert losses == expected[BATCH:]
    assert reliable_runs.digest(run.folder / LAST) == reliable_runs.digest(calm.folder / LAST)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_worker_may_be_replaced_and_no_sample_is_lost_or_repeated(
    whole: tuple[Run, list[str]], tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, expected = whole
    run = replace(calm, folder=tmp_path / "run", workers=1, retries=1)
    spoil(run, fault, once=True, folder=tmp_path, monkeypatch=monkeypatch)
    assert reliable_runs.do(run) == expected
    assert (tmp_path / "marker").exists()
    assert reliable_runs.digest(run.folder / LAST) == reliable_runs.digest(calm.folder / LAST)


def test_nothing_is_saved_twice_when_nothing_was_learnt(
    whole: tuple[Run, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is lost at the first batch after a checkpoint."""
    calm, _ = whole
    run = replace(calm, folder=tmp_path / "run", workers=1)
    run = replace(run, config=replace(run.config, checkpoint_every_seconds=0.0))
    spoil(run, "exit", once=False, folder=tmp_path, monkeypatch=monkeypatch)
    for _ in range(2):
        with pytest.raises(WorkerError):
            reliable_runs.do(run)
        assert reliable_runs.newest_step(run.folder) == BATCH // 2
