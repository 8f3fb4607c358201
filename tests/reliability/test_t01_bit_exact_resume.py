"""T1: 40 updates, or 20, a new process and 20 more: the same to the last bit.

Weights, both moments of Adam, the place in the data and in the schedule, and every loss. For every
objective, with and without worker processes, in float32 and bfloat16, stopped at the end of
an epoch, within one, and between the micro-batches of an update that takes them from two epochs.
"""

import json
import shutil
import signal
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from tests import reliable_runs
from tests.reliable_runs import Kind, Precision, Run

from unheard.data.batching import Position
from unheard.data.shard_store import ShardStore
from unheard.errors import Interrupted
from unheard.files import sha256_file

STEPS = 40
Point = Literal["epoch end", "mid-epoch", "mid-accumulation"]
KINDS, PRECISIONS, POINTS = get_args(Kind), get_args(Precision), get_args(Point)
WORKERS = (0, 2)
LAST = f"checkpoints/step_{STEPS:08d}"


def config_of(kind: Kind, precision: Precision, seed: int = 0) -> Any:
    # An odd number of batches to an epoch: every other epoch ends in the middle of an update.
    more: dict[str, Any] = {"precision": precision, "seed": seed}
    if kind == "ctc":
        # The head learns alone until after the stop.
        more |= {"head_only": 0.6, "batch_seconds": 4.0}
    return reliable_runs.settings(STEPS, **more)


def stops(run: Run, store: ShardStore) -> dict[Point, tuple[int, int, int]]:
    """Find (update, micro-batch, signal) nearest to the middle for each kind of stop."""
    plan = reliable_runs.make_source(run.kind, store, run.config).plan
    updates = sorted(range(8, STEPS - 8), key=lambda step: abs(step - STEPS // 2 + 1))
    starts = {step: plan.ahead(Position(), 2 * step) for step in range(STEPS + 1)}

    def first(fits: Any) -> int:
        return next(step for step in updates if fits(step))

    def ends_epoch(step: int) -> bool:
        return starts[step + 1].batch == 0

    def crosses(step: int) -> bool:
        return plan.ahead(starts[step], 1).batch == 0

    return {
        "epoch end": (first(ends_epoch), 1, signal.SIGTERM),
        "mid-epoch": (first(lambda step: starts[step + 1].batch > 1), 0, signal.SIGINT),
        "mid-accumulation": (first(crosses), 0, signal.SIGUSR1),
    }


def folder_of(root: Path, run: Run, point: str) -> Path:
    return root / f"{run.kind}-{run.config.precision}-{run.workers}-{point.replace(' ', '-')}"


def runs(data: Path) -> list[Run]:
    return [
        Run(kind=kind, data=data, folder=data, config=config_of(kind, precision), workers=workers)
        for workers, kind, precision in product(WORKERS, KINDS, PRECISIONS)
    ]


def first_halves(data: Path, root: Path) -> None:
    """In one process: the uninterrupted runs, and runs that are stopped three times."""
    reliable_runs.prepare_process()
    losses: dict[str, Any] = {}
    for workers in WORKERS:
        with closing(reliable_runs.open_data(data, workers=workers)) as store:
            for run in (run for run in runs(data) if run.workers == workers):
                if workers == 0:
                    whole = replace(run, folder=folder_of(root, run, "whole"))
                    losses[whole.folder.name] = reliable_runs.do_with(whole, store)
                going = replace(run, folder=folder_of(root, run, "going"))
                in_order = sorted(stops(run, store).items(), key=lambda item: item[1])
                for point, stop in in_order:
                    with pytest.raises(Interrupted):
                        reliable_runs.do_with(replace(going, stop_in=stop), store)
                    shutil.copytree(going.folder, folder_of(root, run, point))
    (root / "whole.json").write_text(json.dumps(losses))


def second_halves(data: Path, root: Path) -> None:
    """In another process: each of the stopped runs goes on to its end."""
    reliable_runs.prepare_process()
    losses: dict[str, Any] = {}
    for workers in WORKERS:
        with closing(reliable_runs.open_data(data, workers=workers)) as store:
            for run in (run for run in runs(data) if run.workers == workers):
                for point in POINTS:
                    folder = folder_of(root, run, point)
                    losses[folder.name] = reliable_runs.do_with(replace(run, folder=folder), store)
    (root / "parts.json").write_text(json.dumps(losses))


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all runs have been done, in two processes after each other."""
    root = tmp_path_factory.mktemp("resume")
    for part in (first_halves, second_halves):
        process = reliable_runs.start(part, data, root)
        process.join(reliable_runs.FRESH_SECONDS)
        assert process.exitcode == 0, part.__name__
    return root


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_differs(
    done: Path, data: Path, kind: Kind, precision: Precision, workers: int, point: Point
) -> None:
    run = Run(kind=kind, data=data, folder=done, config=config_of(kind, precision), workers=workers)
    whole = folder_of(done, replace(run, workers=0), "whole")
    parts = folder_of(done, run, point)
    assert reliable_runs.digest(parts / LAST) == reliable_runs.digest(whole / LAST)
    assert reliable_runs.differing_bytes(parts / LAST, whole / LAST) == 0
    expected = json.loads((done / "whole.json").read_text())[whole.name]
    found = json.loads((done / "parts.json").read_text())[parts.name]
    assert len(expected) == 2 * STEPS
    # About half of the updates were done by the second process.
    assert STEPS // 3 < len(found) // 2 < 2 * STEPS // 3
    assert found == expected[-len(found) :]
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = reliable_runs.rows_without_times(parts / name)
        assert rows[-1] == reliable_runs.rows_without_times(whole / name)[-1]


def test_the_stops_are_where_they_should_be(done: Path, data: Path) -> None:
    for run in runs(data):
        states = {}
        with closing(reliable_runs.open_data(data)) as store:
            for point, (step, _, _) in stops(run, store).items():
                position = reliable_runs.position_after(run, store, step + 1)
                states[point] = (step + 1, position.epoch, position.batch)
                before = reliable_runs.position_after(run, store, step)
                assert (position.epoch > before.epoch) == (point != "mid-epoch")
        assert states["epoch end"][2] == 0
        assert states["mid-epoch"][2] > 1
        assert states["mid-accumulation"][2] == 1
        for point in POINTS:
            rows = reliable_runs.rows_without_times(folder_of(done, run, point) / "metrics.jsonl")
            assert [row["step"] for row in rows if row["kind"] == "train"][-1] == STEPS


@pytest.mark.parametrize("damage", ["position", "moments", "step"])
def test_a_small_loss_of_state_would_be_seen(
    done: Path, data: Path, tmp_path: Path, damage: str
) -> None:
    """The negative control: a checkpoint that verifies but is not quite what was saved."""
    run = Run(kind="units", data=data, folder=tmp_path, config=config_of("units", "float32"))
    with closing(reliable_runs.open_data(data)) as store:
        stop = stops(run, store)["mid-epoch"]
    with pytest.raises(Interrupted):
        reliable_runs.do(replace(run, stop_in=stop))
    newest = reliable_runs.newest(tmp_path)
    state = json.loads((newest / "state.json").read_text())
    if damage == "position":
        state["batch"] += 1
    elif damage == "step":
        state["step"] += 1
    else:
        moments = bytearray((newest / "optimizer.safetensors").read_bytes())
        moments[-2] ^= 1
        (newest / "optimizer.safetensors").write_bytes(moments)
    (newest / "state.json").write_text(json.dumps(state))
    manifest = json.loads((newest / "manifest.json").read_text())
    for name, row in manifest["files"].items():
        row["sha256"] = sha256_file(newest / name)
        row["bytes"] = (newest / name).stat().st_size
    (newest / "manifest.json").write_text(json.dumps(manifest))
    reliable_runs.do(run)
    whole = folder_of(done, run, "whole")
    assert reliable_runs.differing_bytes(tmp_path / LAST, whole / LAST) > 1000
