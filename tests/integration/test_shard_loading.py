"""Training data from shards: the order of batches, and what happens when a worker is lost."""

import hashlib
import itertools
import os
import signal
import sys
import time
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
from tests import shard_folders
from tests.shard_folders import tone

from unheard.audio.encode import encode
from unheard.audio.signal import InputSpec
from unheard.data.batching import Position
from unheard.data.dataset import AudioBatch, Prefetch, UnlabelledSource
from unheard.data.sample_codec import Encoding, Measurement, Stretch
from unheard.data.shard_store import ShardStore, open_shards
from unheard.data.workers import WorkerPool
from unheard.errors import WorkerError
from unheard.files import read_jsonl
from unheard.tasks import shard as shard_task

ITEMS = 1000


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand short samples in a few shards, as others would have made them."""
    folder = tmp_path_factory.mktemp("thousand")
    # A few sounds, many times under other names, since encoding takes its time.
    data = [encode(tone(number, 800 + 16 * number), "flac") for number in range(25)]
    for part in range(4):
        samples = {
            f"{number:04d}": {"flac": data[number * 7 % 25]}
            for number in range(part * ITEMS // 4, (part + 1) * ITEMS // 4)
        }
        shard_folders.foreign_tar(folder / "shards" / f"part-{part}.tar", samples)
    with open_shards(folder / "shards", folder / "work", workers=0) as store:
        assert len(store) == ITEMS
    return folder


def open_store(folder: Path, workers: int) -> ShardStore:
    return open_shards(folder / "shards", folder / "work", workers=workers)


def source_of(store: ShardStore) -> UnlabelledSource:
    return UnlabelledSource(
        store,
        input_spec=InputSpec(),
        batch_seconds=0.6,
        min_seconds=0.0,
        max_seconds=0.05,
        seed=11,
    )


def digest(batch: AudioBatch) -> str:
    return hashlib.sha256(batch.samples.numpy().tobytes() + repr(batch.ids).encode()).hexdigest()


def take(
    source: UnlabelledSource, position: Position, count: int, **share: int
) -> list[tuple[AudioBatch, Position]]:
    batches = Prefetch(source, position, **share)
    found = [(batch, after) for after, batch in itertools.islice(batches, count)]
    batches.close()
    return found


def test_the_order_does_not_depend_on_the_number_of_workers(shards: Path) -> None:
    found = []
    for workers in (0, 1, 3):
        with open_store(shards, workers) as store:
            taken = take(source_of(store), Position(epoch=1, batch=5), 30)
            found.append([(digest(batch), after) for batch, after in taken])
    assert found[0] == found[1] == found[2]
    assert len({name for name, _ in found[0]}) == 30


def test_a_run_goes_on_exactly_from_any_batch_and_reads_nothing_before_it(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restoring costs the same at the end of an epoch as at its start: no batch is replayed."""
    read: list[str] = []
    submit = WorkerPool.submit

    def watched(pool: WorkerPool, request: Stretch | Encoding | Measurement) -> object:
        assert isinstance(request, Stretch)
        read.append(request.id)
        return submit(pool, request)

    with open_store(shards, 0) as store:
        source = source_of(store)
        whole: list[tuple[str, Position]] = []
        position = Position()
        while position.epoch == 0:
            batch = source.load(position)
            position = source.plan.after(position)
            whole.append((digest(batch), position))
        total = len(whole)
        assert total > 60
        names = Counter(name for batch in _batches(source) for name in batch)
        assert names == Counter(store.ids)
        monkeypatch.setattr(WorkerPool, "submit", watched)
        generator = np.random.default_rng(2)
        for start in sorted(generator.choice(total - 3, size=25, replace=False).tolist()):
            again = source_of(store)
            read.clear()
            batch = again.load(Position(batch=start))
            assert read == list(batch.ids)
            taken = take(again, Position(batch=start), 3)
            assert [(digest(one), after) for one, after in taken] == whole[start : start + 3]


def _batches(source: UnlabelledSource) -> list[tuple[str, ...]]:
    found = []
    position = Position()
    while position.epoch == 0:
        found.append(source.load(position).ids)
        position = source.plan.after(position)
    return found


def test_an_epoch_holds_the_same_whatever_the_number_of_processes(shards: Path) -> None:
    """Also when it changes on the way: two processes, then three, then one."""
    with open_store(shards, 0) as store:
        source = source_of(store)
        expected = _batches(source)
        got: list[tuple[str, ...]] = []
        position = Position()
        for world, steps in ((2, 9), (3, 8), (1, len(expected) - 42)):
            shares = [
                take(source, position, steps, rank=rank, world=world) for rank in range(world)
            ]
            ends = {share[-1][1] for share in shares}
            assert len(ends) == 1
            position = ends.pop()
            for together in zip(*shares, strict=True):
                got.extend(batch.ids for batch, _ in together)
    assert got == expected
    assert Counter(itertools.chain(*got)) == Counter(store.ids)
    assert position == Position(epoch=1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGSTOP"])
def test_a_worker_that_is_lost_ends_the_loading_with_its_name_and_the_file(
    shards: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the second worker may still be starting, which it has longer for.
    monkeypatch.setattr("unheard.data.workers._START_SECONDS", 25.0)
    with open_shards(shards / "shards", shards / "work", workers=2, patience_seconds=1.0) as store:
        batches = Prefetch(source_of(store), Position())
        stream = iter(batches)
        next(stream)
        number = getattr(signal, name)
        for process in store.processes:
            os.kill(process, number)
        began = time.monotonic()
        with pytest.raises(WorkerError, match=r"Worker \d \(process \d+\) .*part-\d\.tar"):
            deque(stream, maxlen=0)
        assert time.monotonic() - began < 30
        batches.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_lost_workers_can_be_replaced_without_losing_or_repeating_a_sample(shards: Path) -> None:
    with open_store(shards, 0) as store:
        expected = [digest(batch) for batch, _ in take(source_of(store), Position(), 40)]
    with open_shards(
        shards / "shards", shards / "work", workers=2, patience_seconds=2.0, retries=2
    ) as store:
        batches = Prefetch(source_of(store), Position())
        found = []
        for number, (_, batch) in enumerate(itertools.islice(batches, 40)):
            found.append(digest(batch))
            if number in (5, 20):
                os.kill(store.processes[0], signal.SIGKILL)
            if number == 12:
                os.kill(store.processes[-1], signal.SIGSTOP)
        batches.close()
    assert found == expected


def test_a_recording_that_ends_its_worker_is_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that takes longer than any may, since its worker is stopped."""
    source = shard_folders.write_recordings(tmp_path / "recordings", [5000, 6000, 7000])
    monkeypatch.setattr(shard_task, "PATIENCE_SECONDS", 1.0)
    submit = WorkerPool.submit

    def stopped(pool: WorkerPool, request: Stretch | Encoding | Measurement) -> object:
        if "u001" in request.label:
            submit(pool, request).result()
            os.kill(pool.processes[0], signal.SIGSTOP)
        return submit(pool, request)

    monkeypatch.setattr(WorkerPool, "submit", stopped)
    result = shard_task.shard(source, out=tmp_path / "s", workers=1, quiet=True)
    assert (result.samples, result.failed) == (2, 1)
    (row,) = read_jsonl(tmp_path / "s" / "unreadable.jsonl")
    assert (Path(row["audio"]).name, row["reason"]) == ("u001.wav", "worker_hung")
