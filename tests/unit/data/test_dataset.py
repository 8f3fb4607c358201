import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import recordings, small_corpora

from unheard.audio.signal import InputSpec
from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import (
    AudioBatch,
    LabelledSource,
    Prefetch,
    UnlabelledSource,
    labelled_batch,
)
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.errors import AudioError, ConfigError

RATE = 16_000
PLAIN = InputSpec(normalize=False)
NORMALISED = InputSpec(normalize=True)


def make_store(folder: Path, lengths: Sequence[int]) -> PcmStore:
    """Recordings that rise from -1 to 1, so that a crop tells where it was cut."""
    utterances = []
    for number, length in enumerate(lengths):
        samples = np.linspace(-0.9, 0.9, length)
        data = recordings.wav(recordings.pcm16(samples[None]), rate=RATE)
        small_corpora.text(folder / f"{number}.wav", data)
        utterances.append(
            Utterance(id=f"u{number}", audio=f"{number}.wav", num_samples=length, sample_rate=RATE)
        )
    return open_store(utterances, folder / "store", root=folder)


def unlabelled(store: PcmStore, spec: InputSpec = PLAIN, **more: float) -> UnlabelledSource:
    settings = {"batch_seconds": 0.5, "min_seconds": 0.05, "max_seconds": 0.15, **more}
    return UnlabelledSource(store, input_spec=spec, seed=3, **settings)  # pyright: ignore


def epoch(source: UnlabelledSource, number: int) -> list[AudioBatch]:
    position = Position(epoch=number)
    batches = []
    while position.epoch == number:
        batches.append(source.load(position))
        position = source.plan.after(position)
    return batches


LENGTHS = (500, 1000, 1500, 2000, 2500, 3000, 3500, 4000)


def test_crops_are_of_one_length_and_from_their_own_utterances(tmp_path: Path) -> None:
    store = make_store(tmp_path, LENGTHS)
    source = unlabelled(store)
    # 500 samples are less than 0.05 s.
    assert source.utterances == 7
    assert source.seconds == pytest.approx(sum(LENGTHS[1:]) / RATE)
    batches = epoch(source, 0)
    names = [name for batch in batches for name in batch.ids]
    assert sorted(names) == [f"u{number}" for number in range(1, 8)]
    for batch in batches:
        assert batch.samples.dtype == torch.float32
        assert batch.audio_seconds == pytest.approx(batch.samples.numel() / RATE)
        numbers = [int(name[1:]) for name in batch.ids]
        assert batch.samples.shape == (
            len(numbers),
            min(*(LENGTHS[number] for number in numbers), 2400),
        )
        for row, number in zip(batch.samples.numpy(), numbers, strict=True):
            whole = store.samples(number)
            start = int(np.argmin(np.abs(whole - row[0])))
            np.testing.assert_array_equal(row, whole[start : start + len(row)])


def test_a_crop_moves_from_epoch_to_epoch_and_stays_for_a_position(tmp_path: Path) -> None:
    source = unlabelled(make_store(tmp_path, [8000]))
    starts = [float(epoch(source, number)[0].samples[0, 0]) for number in range(20)]
    assert len(set(starts)) > 15
    assert min(starts) < -0.6
    assert max(starts) > 0.1
    again = unlabelled(make_store(tmp_path, [8000]))
    assert [float(epoch(again, number)[0].samples[0, 0]) for number in range(20)] == starts


def test_normalising_comes_before_cropping(tmp_path: Path) -> None:
    store = make_store(tmp_path, [8000])
    row = epoch(unlabelled(store, NORMALISED), 0)[0].samples[0].numpy()
    whole = store.normalized(0, epsilon=NORMALISED.normalize_epsilon)
    start = int(np.argmin(np.abs(whole - row[0])))
    np.testing.assert_array_equal(row, whole[start : start + len(row)])
    # The negative control: a crop normalised by itself would have unit variance.
    assert row.std() < 0.5


def test_only_some_utterances(tmp_path: Path) -> None:
    store = make_store(tmp_path, LENGTHS)
    source = UnlabelledSource(
        store,
        input_spec=PLAIN,
        batch_seconds=1.0,
        min_seconds=0.05,
        max_seconds=1.0,
        seed=0,
        only=np.array([0, 3, 6]),
    )
    names = [name for batch in epoch(source, 0) for name in batch.ids]
    assert sorted(names) == ["u3", "u6"]


def test_nothing_long_enough_is_an_error(tmp_path: Path) -> None:
    source = unlabelled(make_store(tmp_path, [100]))
    with pytest.raises(ConfigError, match="nothing to train on"):
        source.load(Position())


def test_labelled_utterances_are_padded_to_the_longest(tmp_path: Path) -> None:
    store = make_store(tmp_path, (300, 500, 400))
    targets = [[1, 2, 3], [4], [5, 6]]
    batch = labelled_batch(store, targets, [2, 0], input_spec=PLAIN)
    assert batch.ids == ("u2", "u0")
    assert batch.lengths.tolist() == [400, 300]
    assert batch.samples.shape == (2, 400)
    np.testing.assert_array_equal(batch.samples[0].numpy(), store.samples(2))
    np.testing.assert_array_equal(batch.samples[1, :300].numpy(), store.samples(0))
    assert batch.samples[1, 300:].abs().max() == 0
    assert batch.targets.tolist() == [[5, 6, 0], [1, 2, 3]]
    assert batch.target_lengths.tolist() == [2, 3]
    assert batch.audio_seconds == pytest.approx(700 / RATE)


@pytest.mark.parametrize("targets", [[[7]], [[]]], ids=["one symbol", "no symbol"])
def test_a_batch_of_one(tmp_path: Path, targets: list[list[int]]) -> None:
    store = make_store(tmp_path, (300,))
    batch = labelled_batch(store, targets, [0], input_spec=NORMALISED)
    assert batch.targets.shape == (1, 1)
    assert batch.target_lengths.tolist() == [len(targets[0])]
    assert float(batch.samples.std()) == pytest.approx(1, abs=1e-2)


def test_labelled_batches_hold_every_utterance_with_its_own_target(tmp_path: Path) -> None:
    store = make_store(tmp_path, LENGTHS)
    source = LabelledSource(
        store,
        [[number] for number in range(len(LENGTHS))],
        input_spec=PLAIN,
        batch_seconds=0.4,
        seed=0,
    )
    position, seen = Position(), []
    while position.epoch == 0:
        batch = source.load(position)
        assert batch.samples.numel() <= 0.4 * RATE or len(batch.ids) == 1
        for name, target, length in zip(batch.ids, batch.targets, batch.lengths, strict=True):
            assert target.tolist() == [int(name[1:])]
            assert int(length) == LENGTHS[int(name[1:])]
            seen.append(name)
        position = source.plan.after(position)
    assert sorted(seen) == sorted(store.ids)


def test_a_batch_keeps_everything_on_its_way_to_a_device(tmp_path: Path) -> None:
    store = make_store(tmp_path, (300, 500))
    labelled = labelled_batch(store, [[1], [2]], [0, 1], input_spec=PLAIN)
    moved = labelled.to(torch.device("cpu"))
    for name in ("samples", "lengths", "targets", "target_lengths"):
        assert torch.equal(getattr(moved, name), getattr(labelled, name))
    assert moved.ids == labelled.ids
    batch = epoch(unlabelled(store, min_seconds=0.01), 0)[0]
    assert torch.equal(batch.to(torch.device("cpu")).samples, batch.samples)


class Numbered:
    """A source whose batches are their own position."""

    def __init__(self, *, broken_at: int | None = None, seconds: float = 0.0) -> None:
        lengths = np.full(3, 10, dtype=np.int64)
        self.plan = BatchPlan(lengths, batch_samples=10, fit="crop", max_samples=10, seed=0)
        self.loaded: list[Position] = []
        self.broken_at = broken_at
        self.seconds = seconds

    def load(self, position: Position) -> AudioBatch:
        time.sleep(self.seconds)
        if len(self.loaded) == self.broken_at:
            raise AudioError("the disk has gone", reason="vanished")
        self.loaded.append(position)
        samples = torch.tensor([[float(position.epoch), float(position.batch)]])
        return AudioBatch(samples=samples, ids=())


def threads() -> int:
    return threading.active_count()


def test_batches_come_in_order_with_the_position_after_each() -> None:
    before = threads()
    batches = Prefetch(Numbered(), Position(epoch=1, batch=1))
    stream = iter(batches)
    found = [next(stream) for _ in range(5)]
    assert [batch.samples.tolist()[0] for _, batch in found] == [
        [1, 1],
        [1, 2],
        [2, 0],
        [2, 1],
        [2, 2],
    ]
    assert [(after.epoch, after.batch) for after, _ in found] == [
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
        (3, 0),
    ]
    batches.close()
    assert threads() == before


def test_only_a_few_batches_are_made_ahead() -> None:
    source = Numbered()
    batches = Prefetch(source, Position())
    next(iter(batches))
    deadline = time.monotonic() + 5
    while len(source.loaded) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # One taken, four in the queue, one waiting for a place.
    assert len(source.loaded) == 6
    batches.close()
    assert len(source.loaded) == 6


def test_an_error_comes_where_the_batch_would_have_come() -> None:
    before = threads()
    batches = Prefetch(Numbered(broken_at=2), Position())
    stream = iter(batches)
    next(stream)
    next(stream)
    with pytest.raises(AudioError, match="the disk has gone"):
        next(stream)
    batches.close()
    assert threads() == before


@pytest.mark.parametrize("taken", [0, 1, 6])
def test_closing_ends_the_thread_at_any_time(taken: int) -> None:
    before = threads()
    batches = Prefetch(Numbered(seconds=0.02), Position())
    stream = iter(batches)
    for _ in range(taken):
        next(stream)
    batches.close()
    batches.close()
    assert threads() == before


class Together(Numbered):
    """A source that is asked for several batches at once and makes later ones sooner."""

    loads_at_once = 3

    def load(self, position: Position) -> AudioBatch:
        time.sleep(0.02 * (2 - position.batch))
        return super().load(position)


def numbers_of(source: Numbered, count: int, **more: int) -> list[tuple[list[float], Position]]:
    batches = Prefetch(source, Position(epoch=0, batch=1), **more)
    stream = iter(batches)
    found = [(batch.samples.tolist()[0], after) for after, batch in islice(stream, count)]
    batches.close()
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_batches_made_at_the_same_time_come_in_the_same_order(world: int) -> None:
    before = threads()
    for rank in range(world):
        shares = {"rank": rank, "world": world}
        assert numbers_of(Together(), 9, **shares) == numbers_of(Numbered(), 9, **shares)
    assert threads() == before


def test_an_error_of_one_of_several_loads_comes_in_its_place() -> None:
    before = threads()
    batches = Prefetch(Together(broken_at=4), Position())
    stream = iter(batches)
    next(stream)
    with pytest.raises(AudioError, match="the disk has gone"):
        list(islice(stream, 8))
    batches.close()
    assert threads() == before


def test_ranks_share_the_batches_and_count_the_same_positions() -> None:
    alone = numbers_of(Numbered(), 12)
    for world in (2, 3, 4):
        shares = [
            numbers_of(Numbered(), 12 // world, rank=rank, world=world) for rank in range(world)
        ]
        for group, together in enumerate(zip(*shares, strict=True)):
            own = alone[group * world : (group + 1) * world]
            assert [batch for batch, _ in together] == [batch for batch, _ in own]
            assert {after for _, after in together} == {own[-1][1]}


def test_there_is_no_rank_beyond_the_world() -> None:
    with pytest.raises(ConfigError, match=r"rank must be within 0 \.\. 1, got 2"):
        Prefetch(Numbered(), Position(), rank=2, world=2)
