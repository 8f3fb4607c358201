"""Two processes train as one does with twice the micro-batches, and die or stop together."""

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import rank_runs
from tests.rank_runs import STEPS, Kind, Run

from unheard.data.batching import Position
from unheard.errors import ConfigError
from unheard.files import read_jsonl
from unheard.training.checkpoint import verify_checkpoint
from unheard.training.config import Execution, Parallel
from unheard.training.distributed import Ranks
from unheard.training.loop import train
from unheard.training.schedule import Budget

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS: list[Kind] = ["contrastive", "units", "ctc"]
WAYS: list[Parallel] = ["ddp", "fsdp"]
BOUND = 1e-6


@pytest.fixture(scope="module")
def one_thread():
    """Sum in the same order as the processes that a test starts, which have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rank_runs.decode(tmp_path_factory.mktemp("tones"))


def execution(way: Parallel) -> Execution:
    return Execution(parallel=way)


@pytest.fixture(scope="module")
def together(
    data: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Path, list[dict[str, Any]]]:
    """All runs that need no signal, in one start of two processes, and each alone beside them."""
    folder = tmp_path_factory.mktemp("together")
    runs = []
    for kind in KINDS:
        alone = Run(kind=kind, data=data, folder=folder / kind, config=rank_runs.settings())
        rank_runs.do(alone)
        runs += [
            replace(alone, folder=folder / f"{kind}-{way}", execution=execution(way))
            for way in WAYS
        ]
    spoilt = replace(alone, folder=folder / "spoilt", flaw="nan")
    rank_runs.do(spoilt)
    runs += [
        replace(spoilt, folder=folder / f"spoilt-{way}", execution=execution(way)) for way in WAYS
    ]
    runs.append(replace(alone, folder=folder / "means", flaw="means"))
    recomputed = Execution(parallel="fsdp", recompute=True)
    runs.append(replace(alone, folder=folder / "recomputed", execution=recomputed))
    short = rank_runs.settings(budget=Budget(max_steps=2))
    runs.append(
        replace(
            alone, folder=folder / "disk", config=short, flaw="disk", execution=execution("fsdp")
        )
    )
    timed = rank_runs.settings(budget=Budget(max_minutes=0.02))
    runs.append(replace(alone, folder=folder / "timed", config=timed))
    return folder, rank_runs.sit(runs, folder / "found", meet=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_does(
    together: tuple[Path, list[dict[str, Any]]], kind: Kind, way: Parallel
) -> None:
    folder, found = together
    alone, both = folder / kind, folder / f"{kind}-{way}"
    expected = rank_runs.losses(alone)
    assert len(expected) == STEPS
    assert rank_runs.losses(both) == pytest.approx(expected, rel=BOUND)
    assert expected[-1] < expected[0]
    difference = rank_runs.furthest_weight(
        rank_runs.final_weights(alone), rank_runs.final_weights(both)
    )
    assert difference <= BOUND
    # In each process, the network that was handed over ends with the weights of the last step.
    assert found[0][both.name] == found[1][both.name]
    shards = list((both / "checkpoints" / f"step_{STEPS:08d}").glob("model-*-of-00002.safetensors"))
    assert len(shards) == (2 if way == "fsdp" else 0)
    rows, alone_rows = (read_jsonl(place / "metrics.jsonl") for place in (both, alone))
    for row, expected_row in zip(rows, alone_rows, strict=True):
        assert row.keys() == expected_row.keys()
        for name in row.keys() - {"elapsed_seconds", "audio_seconds_per_second", "kind"}:
            assert row[name] == pytest.approx(expected_row[name], rel=1e-4, abs=1e-6), name


def test_the_two_processes_have_batches_of_other_lengths(data: Path) -> None:
    """So that a mean of means shows, as it does in the test below."""
    source = rank_runs.make_source("ctc", data, rank_runs.settings())
    first = Position()
    counts = {len(source.plan.batch(source.plan.ahead(first, number))) for number in range(4)}
    assert len(counts) > 1


def test_a_mean_of_means_is_something_else(together: tuple[Path, list[dict[str, Any]]]) -> None:
    """The negative control of the test above it."""
    folder, _ = together
    difference = rank_runs.furthest_weight(
        rank_runs.final_weights(folder / "ctc"), rank_runs.final_weights(folder / "means")
    )
    assert difference > 100 * BOUND


def test_layers_computed_again_change_nothing(
    together: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, _ = together
    kept, again = folder / "ctc-fsdp", folder / "recomputed"
    assert rank_runs.losses(kept) == rank_runs.losses(again)
    assert (
        rank_runs.furthest_weight(rank_runs.final_weights(kept), rank_runs.final_weights(again))
        == 0
    )


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_in_one_process_stops_the_step_in_all(
    together: tuple[Path, list[dict[str, Any]]], way: Parallel
) -> None:
    folder, found = together
    alone, both = folder / "spoilt", folder / f"spoilt-{way}"
    (expected,), (row,) = (read_jsonl(place / "bad_batches.jsonl") for place in (alone, both))
    assert expected["step"] == row["step"] == 4
    assert row["ids"] == expected["ids"]
    assert len(row["ids_by_rank"]) == 2
    assert all(row["ids_by_rank"])
    difference = rank_runs.furthest_weight(
        rank_runs.final_weights(alone), rank_runs.final_weights(both)
    )
    assert difference <= BOUND
    assert found[0][both.name] == found[1][both.name]
    unspoilt = rank_runs.final_weights(folder / "ctc")
    assert rank_runs.furthest_weight(unspoilt, rank_runs.final_weights(both)) > 100 * BOUND


def test_a_time_budget_ends_at_one_step_for_all(
    together: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, found = together
    assert found[0]["timed"] == found[1]["timed"]
    assert found[0]["timed"]["step"] >= 2
    state = json.loads(
        next((folder / "timed" / "checkpoints").glob("step_*/state.json")).read_text()
    )
    assert state["elapsed_seconds"] >= 1.2


def test_a_disk_that_fails_one_process_fails_all_and_leaves_nothing(
    together: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, found = together
    assert "disk on fire" in found[1]["disk"]["failed"]
    assert found[0]["disk"]["failed"] == f"Process 1: {found[1]['disk']['failed']}"
    assert list((folder / "disk" / "checkpoints").iterdir()) == []


def test_processes_agree(together: tuple[Path, list[dict[str, Any]]]) -> None:
    one, other = (found["meeting"] for found in together[1])
    assert one["told"] == other["told"]
    assert other["told"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ŋŋŋ"}]
    assert one["any"] == other["any"] == [False, True, True]
    assert one["first"] == other["first"] == 0.1
    assert one["sum"] == other["sum"] == [2.0, 1.0]
    assert one["asked"] == other["asked"] == {"by": 0}
    assert (one["then"], other["then"]) == ("made", "read")
    assert one["first_failed"] == ["FileNotFoundError", "disk on fire"]
    assert other["first_failed"] == ["OSError", "Process 0: disk on fire"]
    assert one["second_failed"] == ["OSError", "Process 1: disk on fire"]
    assert one["asked_failed"][0] == "ZeroDivisionError"
    assert other["asked_failed"][0] == "RankError"


def test_a_run_goes_on_whole_or_in_shards(
    data: Path, together: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Shards of two processes, then one process alone, then shards again.

    Beside it, shards all the way, whose newest checkpoint is damaged in between: not one bit may
    differ from a run that nothing happened to.
    """
    folder, _ = together
    mixed = Run(
        kind="ctc",
        data=data,
        folder=tmp_path / "mixed",
        execution=execution("fsdp"),
        config=rank_runs.settings(),
    )
    # Signals to one process stop both, at the same step.
    to_second = replace(mixed, stop=(1, 6, signal.SIGTERM))
    saved = rank_runs.settings(checkpoint_every_seconds=0.0)
    shards = replace(to_second, folder=tmp_path / "shards", config=saved, stop=(0, 8, 2))
    for found in rank_runs.sit([to_second, shards], tmp_path / "first"):
        assert "step 7;" in found["mixed"]["stopped"]
        assert "step 9;" in found["shards"]["stopped"]
    with pytest.raises(KeyboardInterrupt, match="step 13"):
        sit_alone(replace(mixed, stop=(0, 12, signal.SIGINT)))
    newest = tmp_path / "shards" / "checkpoints" / "step_00000009"
    assert verify_checkpoint(newest, with_optimizer=True).step == 9
    flip(newest / "optimizer-00002-of-00002.safetensors")
    copied = replace(mixed, folder=tmp_path / "copies", execution=execution("ddp"))
    rank_runs.sit([mixed, replace(shards, stop=None), copied], tmp_path / "second")
    reference = rank_runs.final_weights(folder / "ctc")
    found = rank_runs.final_weights(tmp_path / "mixed")
    assert rank_runs.furthest_weight(reference, found) <= BOUND
    assert rank_runs.losses(tmp_path / "mixed") == pytest.approx(
        rank_runs.losses(folder / "ctc"), rel=BOUND
    )
    whole = rank_runs.final_weights(folder / "ctc-fsdp")
    assert all(
        torch.equal(value, whole[name])
        for name, value in rank_runs.final_weights(tmp_path / "shards").items()
    )
    assert rank_runs.losses(tmp_path / "shards") == rank_runs.losses(folder / "ctc-fsdp")
    names = [path.name for path in (tmp_path / "shards" / "checkpoints").iterdir()]
    assert sorted(names) == ["step_00000019", "step_00000020"]


def sit_alone(run: Run) -> None:
    found = rank_runs.do(run)
    if "stopped" in found:
        raise KeyboardInterrupt(found["stopped"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("way", WAYS)
def test_t11_a_process_dies_the_other_ends_and_both_go_on(
    data: Path, together: tuple[Path, list[dict[str, Any]]], tmp_path: Path, way: Parallel
) -> None:
    folder, _ = together
    victim, step = random.Random(way).randrange(2), random.Random(way).randrange(3, STEPS - 2)
    run = Run(
        kind="ctc",
        data=data,
        folder=tmp_path / "run",
        execution=execution(way),
        config=rank_runs.settings(checkpoint_every_seconds=0.0),
        stop=(victim, step, signal.SIGKILL),
    )
    processes = rank_runs.start([run], tmp_path / "killed")
    processes[victim].join(120)
    assert processes[victim].exitcode == -signal.SIGKILL
    died = time.monotonic()
    other = processes[1 - victim]
    other.join(60)
    assert other.exitcode not in (None, 0)
    assert time.monotonic() - died < 60
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert verify_checkpoint(newest, with_optimizer=True).step == step
    rank_runs.sit([replace(run, stop=None)], tmp_path / "again")
    expected = rank_runs.final_weights(folder / f"ctc-{way}")
    found = rank_runs.final_weights(tmp_path / "run")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert rank_runs.losses(tmp_path / "run") == rank_runs.losses(folder / f"ctc-{way}")


def test_micro_batches_that_cannot_be_shared_evenly_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rank_runs.settings(accumulation=3)
    # Alone with its words: nobody is met before the settings are looked at.
    monkeypatch.setattr(Ranks, "ask_first", lambda _, work: work())
    with pytest.raises(
        ConfigError, match=r"2 processes cannot share.*got accumulation 3.*--accumulation 4"
    ):
        train(
            rank_runs.make_model("ctc"),
            rank_runs.OBJECTIVES["ctc"],
            rank_runs.make_source("ctc", data, config),
            config,
            folder=tmp_path,
            name="ctc",
            validate=lambda: pytest.fail("validated"),
            quiet=True,
            ranks=Ranks(world=2),
        )
