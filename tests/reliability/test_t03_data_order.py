"""T3: the order of the data is exact after a stop anywhere, whatever the number of workers.

That shards give the same batches for any number of workers and processes, and that nothing before
a position is read, is in tests/integration/test_shard_loading.py. Here: what training hears.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import reliable_runs, shard_folders
from tests.reliable_runs import Run
from tests.shard_folders import tone
from torch import nn

from unheard.audio.encode import encode
from unheard.audio.signal import InputSpec
from unheard.data.batching import Position
from unheard.data.dataset import AudioBatch, Prefetch, UnlabelledSource
from unheard.data.shard_store import ShardStore, open_shards
from unheard.objectives.base import LossTerms
from unheard.training.config import TrainingConfig
from unheard.training.loop import Validation, train
from unheard.training.schedule import Budget

ITEMS = 1000


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand recordings of 50 to 80 ms in three shards."""
    folder = tmp_path_factory.mktemp("thousand")
    sounds = [encode(tone(number, 800 + 16 * number), "flac") for number in range(30)]
    bounds = (0, 300, 700, ITEMS)
    for part, (first, last) in enumerate(itertools.pairwise(bounds)):
        samples = {f"{n:04d}": {"flac": sounds[n * 7 % 30]} for n in range(first, last)}
        shard_folders.foreign_tar(folder / "shards" / f"part-{part}.tar", samples)
    with closing(open_shards(folder / "shards", folder / "work", workers=0)) as store:
        assert len(store) == ITEMS
    return folder


def source_of(store: ShardStore) -> UnlabelledSource:
    return UnlabelledSource(
        store,
        input_spec=InputSpec(),
        batch_seconds=0.5,
        min_seconds=0.0,
        max_seconds=0.05,
        seed=3,
    )


def opened(folder: Path, workers: int = 0) -> ShardStore:
    return open_shards(folder / "shards", folder / "work", workers=workers)


def steps_of_one_epoch(source: UnlabelledSource) -> int:
    position, count = Position(), 0
    while position.epoch == 0:
        position, count = source.plan.after(position), count + 1
    return count


class Ear(nn.Module):
    """A network of one weight, which remembers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class Stopped(Exception):
    """The end of a sitting."""


def listen(store: ShardStore, folder: Path, *, steps: int, stop_in: int | None) -> list[str]:
    """Train for a while; returns what was heard, batch by batch, to the sample."""
    heard: list[str] = []

    def objective(model: Any, batch: AudioBatch, *, progress: float, **_: Any) -> LossTerms:
        if round(progress * steps) == stop_in:
            raise Stopped
        sound = batch.samples.double()
        heard.append(f"{batch.ids} {float((sound * torch.arange(sound.shape[1])).sum()).hex()}")
        total = model.weight.sum() * 1e-3
        return LossTerms(total=total, count=torch.tensor(1.0), parts={}, means={})

    config = TrainingConfig(
        budget=Budget(max_steps=steps),
        precision="float32",
        log_every_steps=10**6,
        validate_every_steps=steps,
        # The last save before the exception is the one that counts.
        checkpoint_every_seconds=1e9 if stop_in is None else 0.0,
    )
    try:
        train(
            Ear(),
            objective,
            source_of(store),
            config,
            folder=folder,
            name="listen",
            validate=lambda: Validation(metric=0.0, values={}),
            quiet=True,
        )
    except Stopped:
        return heard
    return heard


def test_a_run_that_was_stopped_hears_each_recording_once_in_the_same_order(
    thousand: Path, tmp_path: Path
) -> None:
    """With no worker, then one, then three: an epoch of a thousand, and the start of the next."""
    with closing(opened(thousand)) as store:
        steps = steps_of_one_epoch(source_of(store))
        assert steps == 100
        total = steps + 5
        whole = listen(store, tmp_path / "whole", steps=total, stop_in=None)
    heard: list[str] = []
    for workers, stop_in in ((0, 4), (1, 7), (3, None)):
        with closing(opened(thousand, workers)) as store:
            heard += listen(store, tmp_path / "parts", steps=total, stop_in=stop_in)
    assert heard == whole
    names = Counter(name for row in whole[:steps] for name in row.split("'")[1::2])
    assert names == Counter(f"{number:04d}" for number in range(ITEMS))


def test_from_25_places_the_rest_is_the_rest(thousand: Path) -> None:
    with closing(opened(thousand)) as store:
        source = source_of(store)
        order = list(itertools.islice(positions_and_ids(source), 130))
        assert len({ids for _, ids in order[:100]}) == 100
        places = np.random.default_rng(5).choice(np.arange(1, 125), size=25, replace=False)
        for place in places.tolist():
            # A new source, as in a new process.
            batches = Prefetch(source_of(store), order[place - 1][0])
            rest = [(after, batch.ids) for after, batch in itertools.islice(batches, 5)]
            batches.close()
            assert rest == order[place : place + 5]


def positions_and_ids(source: UnlabelledSource) -> Iterator[tuple[Position, tuple[str, ...]]]:
    position = Position()
    while True:
        ids = source.load(position).ids
        position = source.plan.after(position)
        yield position, ids


def calls_to_restore(store: ShardStore, position: Position) -> int:
    """How many functions are called to make the first batch from a position on."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    source = source_of(store)
    sys.setprofile(counted)
    try:
        batch = source.load(source.plan.within(position))
    finally:
        sys.setprofile(None)
    assert len(batch.ids) == 10
    return count


def test_going_on_costs_the_same_late_in_an_epoch_as_early(thousand: Path) -> None:
    """Counted and not timed: at item 900 at most 1.2 times the work of item 10."""
    with closing(opened(thousand)) as store:
        calls_to_restore(store, Position())
        early = calls_to_restore(store, Position(batch=1))
        late = calls_to_restore(store, Position(batch=90))
        assert early > 1000
        assert late <= 1.2 * early
        # The negative control: a loader that replays what came before.
        replayed = sum(calls_to_restore(store, Position(batch=batch)) for batch in range(10))
        assert replayed > 1.2 * early


def test_workers_change_neither_what_is_learnt_nor_the_order(data: Path, tmp_path: Path) -> None:
    config = reliable_runs.settings(6, validate_every_steps=6)
    run = Run(kind="contrastive", data=data, folder=tmp_path / "0", config=config)
    expected = reliable_runs.do(run)
    for workers in (1, 3):
        other = replace(run, workers=workers, folder=tmp_path / str(workers))
        assert reliable_runs.do(other) == expected
        assert reliable_runs.digest(reliable_runs.newest(other.folder)) == reliable_runs.digest(
            reliable_runs.newest(run.folder)
        )


def test_two_processes_and_one_hear_the_same_in_an_epoch(thousand: Path) -> None:
    """The first forty batches by two, the rest by one."""
    with closing(opened(thousand)) as store:
        source = source_of(store)
        whole = [ids for _, ids in itertools.islice(positions_and_ids(source), 100)]
        heard: list[tuple[str, ...]] = []
        after = Position()
        for rank in (0, 1):
            batches = Prefetch(source_of(store), Position(), rank=rank, world=2)
            taken = list(itertools.islice(batches, 20))
            batches.close()
            heard += [batch.ids for _, batch in taken]
            after = taken[-1][0]
        assert after == Position(batch=40)
        batches = Prefetch(source_of(store), after)
        heard += [batch.ids for _, batch in itertools.islice(batches, 60)]
        batches.close()
    assert Counter(itertools.chain(*heard)) == Counter(itertools.chain(*whole))
    assert Counter(itertools.chain(*heard)) == Counter(f"{number:04d}" for number in range(ITEMS))
