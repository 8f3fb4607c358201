"""Batches of samples, with or without labels, from a store of utterances."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio.augment.chain import Augmenter
from unheard.audio.augment.config import AugmentConfig
from unheard.audio.augment.speed import samples_before
from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.data.augmented import AugmentedBatch, Read, target_fits
from unheard.data.batching import BatchPlan, Position
from unheard.data.sampling import SampledPlan, Sampling, SamplingConfig, weigh
from unheard.data.store import Cut, SampleStore
from unheard.data.texts import TextBatch
from unheard.data.units import FrameRule, UnitStore
from unheard.errors import ConfigError
from unheard.tensors import derive_seed


@dataclass(frozen=True, kw_only=True)
class AudioBatch:
    """Unlabelled utterances, all cropped to one length.

    Attributes:
        samples: (batch, samples) float32.
        ids: which utterances, in order.
        audio: the recording, or the shard, that each lies in; () where that is not known.
        units: (batch, frames) int64, the unit of each frame; None where none are needed.
    """

    samples: Tensor
    ids: tuple[str, ...]
    audio: tuple[str, ...] = ()
    units: Tensor | None = None

    @property
    def audio_seconds(self) -> float:
        """Sound in the batch [seconds]."""
        return self.samples.numel() / SAMPLE_RATE

    def to(self, device: torch.device) -> "AudioBatch":
        """Copy to a device."""
        units = None if self.units is None else self.units.to(device, non_blocking=True)
        samples = self.samples.to(device, non_blocking=True)
        return AudioBatch(samples=samples, ids=self.ids, audio=self.audio, units=units)


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Labelled utterances, padded to the longest.

    Attributes:
        samples: (batch, samples) float32, zero padded.
        lengths: (batch,) int64 [samples].
        targets: (batch, tokens) int64, padded with zeros.
        target_lengths: (batch,) int64.
        ids: which utterances, in order.
        audio: the recording, or the shard, that each lies in; () where that is not known.
    """

    samples: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: tuple[str, ...]
    audio: tuple[str, ...] = ()

    @property
    def audio_seconds(self) -> float:
        """Sound in the batch without padding [seconds]."""
        return float(self.lengths.sum()) / SAMPLE_RATE

    def to(self, device: torch.device) -> "LabelledBatch":
        """Copy to a device."""
        return LabelledBatch(
            samples=self.samples.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            target_lengths=self.target_lengths.to(device, non_blocking=True),
            ids=self.ids,
            audio=self.audio,
        )


Batch = TypeVar("Batch", AudioBatch, LabelledBatch, TextBatch)
Made = TypeVar("Made", AudioBatch, LabelledBatch, TextBatch, covariant=True)


class Source(Protocol[Made]):
    """Makes the batch at a position; the same one whenever it is asked."""

    plan: BatchPlan

    def load(self, position: Position) -> Made:
        """Make the batch at a position."""
        ...


class UnlabelledSource:
    """Crops for pre-training.

    Every utterance of a batch is cropped, at a random place, to the batch's shortest. With units,
    the place is that of a frame.

    Attributes:
        plan: which utterances are in which batch.
        sampling: how often each language is heard; None for as often as there is sound of it.
    """

    def __init__(
        self,
        store: SampleStore,
        *,
        input_spec: InputSpec,
        batch_seconds: float,
        min_seconds: float,
        max_seconds: float,
        seed: int,
        only: NDArray[np.int64] | None = None,
        units: UnitStore | None = None,
        encoder: FrameRule | None = None,
        sampling: SamplingConfig | None = None,
        augment: AugmentConfig | None = None,
    ) -> None:
        if augment is not None and augment.speed is not None and units is not None:
            raise ConfigError(
                "Another speed moves sounds to other frames than their units: expected no speed "
                "among the augmentations when units are predicted. Leave it out."
            )
        self._augmenter = Augmenter(augment) if augment else None
        self._store = store
        self._units = units
        self._encoder = encoder
        self._spec = input_spec
        self._seed = seed
        self._max_samples = int(max_seconds * SAMPLE_RATE)
        numbers = np.arange(len(store)) if only is None else only
        long_enough = store.num_samples[numbers] >= int(min_seconds * SAMPLE_RATE)
        self._usable = numbers[long_enough]
        lengths = store.num_samples[self._usable]
        batch_samples = int(batch_seconds * SAMPLE_RATE)
        self.sampling: Sampling | None = None
        if sampling is None:
            self.plan = BatchPlan(
                lengths,
                batch_samples=batch_samples,
                fit="crop",
                max_samples=self._max_samples,
                seed=seed,
            )
            return
        languages, corpora = store.names("language"), store.names("corpus")
        self.sampling = weigh(
            sampling,
            num_samples=np.minimum(lengths, self._max_samples),
            languages=[languages[int(number)] for number in self._usable],
            corpora=[corpora[int(number)] for number in self._usable],
            sample_rate=SAMPLE_RATE,
        )
        self.plan = SampledPlan(
            lengths,
            self.sampling,
            batch_samples=batch_samples,
            fit="crop",
            max_samples=self._max_samples,
            seed=seed,
        )

    @property
    def utterances(self) -> int:
        """How many utterances are long enough."""
        return int(self._usable.shape[0])

    @property
    def seconds(self) -> float:
        """Length of the usable utterances together [seconds]."""
        return float(self._store.num_samples[self._usable].sum()) / SAMPLE_RATE

    @property
    def loads_at_once(self) -> int:
        """How many batches are best made at the same time."""
        return self._store.loads_at_once

    def load(self, position: Position) -> AudioBatch:
        """Crop and stack the utterances of the batch at a position."""
        numbers = self._usable[self.plan.batch(position)]
        shortest = int(min(self._store.num_samples[numbers].min(), self._max_samples))
        changed = self._changed(numbers, shortest, position)
        starts = [
            self._start(
                int(number),
                shortest if changed is None else changed.samples_read(row, shortest),
                position,
                row,
            )
            for row, number in enumerate(numbers)
        ]
        return crop_batch(
            self._store,
            numbers,
            starts,
            shortest,
            input_spec=self._spec,
            units=self._units,
            encoder=self._encoder,
            read=None if changed is None else changed.read,
        )

    def _changed(
        self, numbers: NDArray[np.int64], shortest: int, position: Position
    ) -> AugmentedBatch | None:
        """Make what reads the utterances of a batch and changes them; None for as they are."""
        if self._augmenter is None:
            return None
        lengths = self._store.num_samples[numbers]
        return AugmentedBatch(
            self._store,
            self._augmenter,
            seeds=[
                self._draw("augment", int(number), position, row)
                for row, number in enumerate(numbers)
            ],
            fits=lambda row, speed: samples_before(shortest, speed) <= lengths[row],
        )

    def _draw(self, purpose: str, number: int, position: Position, row: int) -> int:
        """Draw a seed for an utterance in this pass over the data."""
        if self.sampling is None:
            return derive_seed(self._seed, purpose, position.epoch, number)
        # An epoch may hold an utterance several times, which shall not be heard alike.
        return derive_seed(self._seed, purpose, position.epoch, position.batch, row)

    def _start(self, number: int, count: int, position: Position, row: int) -> int:
        """Draw where the crop of an utterance starts [samples]."""
        spare = int(self._store.num_samples[number]) - count
        draw = self._draw("crop", number, position, row)
        if self._units is None or self._encoder is None:
            return draw % (spare + 1)
        stride = self._encoder.stride_samples
        return stride * (draw % (spare // stride + 1))


def crop_batch(
    store: SampleStore,
    numbers: NDArray[np.int64],
    starts: Sequence[int],
    count: int,
    *,
    input_spec: InputSpec,
    units: UnitStore | None = None,
    encoder: FrameRule | None = None,
    read: Read | None = None,
) -> AudioBatch:
    """Cut `count` samples from `starts` on of each utterance, and the units of their frames.

    With units, `starts` are multiples of the encoder's stride. `read` reads instead of the store.
    """
    cuts = [
        Cut(number=int(number), start=start, count=count)
        for number, start in zip(numbers, starts, strict=True)
    ]
    rows = (read or store.read)(cuts, spec=input_spec)
    labels = None
    if units is not None and encoder is not None:
        frames = encoder.num_frames(count)
        labels = torch.from_numpy(
            np.stack(
                [
                    units.of(int(number), start=start // encoder.stride_samples, count=frames)
                    for number, start in zip(numbers, starts, strict=True)
                ]
            )
        )
    return AudioBatch(
        samples=torch.from_numpy(np.stack(rows)),
        ids=tuple(store.ids[int(number)] for number in numbers),
        audio=tuple(store.audio(int(number)) for number in numbers),
        units=labels,
    )


class LabelledSource:
    """Whole utterances with their targets for CTC."""

    def __init__(
        self,
        store: SampleStore,
        targets: Sequence[Sequence[int]],
        *,
        input_spec: InputSpec,
        batch_seconds: float,
        seed: int,
        encoder: FrameRule | None = None,
        augment: AugmentConfig | None = None,
    ) -> None:
        if augment is not None and augment.speed is not None and encoder is None:
            raise ConfigError(
                "Another speed may leave too few frames for a text: expected the encoder with an "
                "augmentation of speed, got none."
            )
        self._augmenter = Augmenter(augment) if augment else None
        self._encoder = encoder
        self._seed = seed
        self._store = store
        self._targets = targets
        self._spec = input_spec
        longest = int(store.num_samples.max()) if len(store) else 1
        self.plan = BatchPlan(
            store.num_samples,
            batch_samples=int(batch_seconds * SAMPLE_RATE),
            fit="pad",
            max_samples=longest,
            seed=seed,
        )

    @property
    def loads_at_once(self) -> int:
        """How many batches are best made at the same time."""
        return self._store.loads_at_once

    def load(self, position: Position) -> LabelledBatch:
        """Pad and stack the utterances of the batch at a position."""
        numbers = self.plan.batch(position)
        changed = self._changed(numbers, position)
        return labelled_batch(
            self._store,
            self._targets,
            numbers,
            input_spec=self._spec,
            read=None if changed is None else changed.read,
        )

    def _changed(self, numbers: NDArray[np.int64], position: Position) -> AugmentedBatch | None:
        """Make what reads the utterances of a batch and changes them; None for as they are."""
        if self._augmenter is None:
            return None
        encoder = self._encoder
        return AugmentedBatch(
            self._store,
            self._augmenter,
            seeds=[
                derive_seed(self._seed, "augment", position.epoch, int(number))
                for number in numbers
            ],
            fits=lambda row, speed: (
                encoder is not None
                and target_fits(
                    self._targets[numbers[row]],
                    int(self._store.num_samples[numbers[row]]),
                    speed,
                    encoder,
                )
            ),
        )


def labelled_batch(
    store: SampleStore,
    targets: Sequence[Sequence[int]],
    numbers: Sequence[int] | NDArray[np.int64],
    *,
    input_spec: InputSpec,
    read: Read | None = None,
) -> LabelledBatch:
    """Pad and stack the utterances with these numbers; `read` reads instead of the store."""
    whole = (read or store.read)([Cut(number=int(number)) for number in numbers], spec=input_spec)
    lengths = np.asarray([len(row) for row in whole], dtype=np.int64)
    samples = np.zeros((len(numbers), int(lengths.max())), dtype=np.float32)
    width = max(1, *(len(targets[number]) for number in numbers)) if len(numbers) else 1
    padded = torch.zeros(len(numbers), width, dtype=torch.int64)
    target_lengths = torch.zeros(len(numbers), dtype=torch.int64)
    for row, number in enumerate(numbers):
        samples[row, : lengths[row]] = whole[row]
        target = targets[number]
        padded[row, : len(target)] = torch.as_tensor(target, dtype=torch.int64)
        target_lengths[row] = len(target)
    return LabelledBatch(
        samples=torch.from_numpy(samples),
        lengths=torch.from_numpy(lengths),
        targets=padded,
        target_lengths=target_lengths,
        ids=tuple(store.ids[int(number)] for number in numbers),
        audio=tuple(store.audio(int(number)) for number in numbers),
    )


class Prefetch(Generic[Batch]):
    """Batches from a position on, made in threads a little ahead of their use.

    The threads hold no state that matters: what they make depends on the position alone. An
    exception in them is raised where the batch is asked for.

    Of `world` processes that train together, each makes only the batches that are its own: of
    every `world` in a row, the one at its rank. All of them count the same positions, so a run
    goes on with any other number of processes, and an epoch holds the same batches.
    """

    _AHEAD = 4

    def __init__(
        self, source: Source[Batch], position: Position, *, rank: int = 0, world: int = 1
    ) -> None:
        """Start loading.

        Args:
            source: makes the batches. One whose `loads_at_once` is above 1 is asked for so many
                at the same time.
            position: of the first batch.
            rank: number of this process.
            world: how many there are.

        Raises:
            ConfigError: if there is no such rank.
        """
        if not 0 <= rank < world:
            raise ConfigError(f"rank must be within 0 .. {world - 1}, got {rank}.")
        self._source = source
        self._rank = rank
        self._world = world
        self._queue: Queue[tuple[Position, Batch] | BaseException] = Queue(self._AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(position,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Position, Batch]]:
        """Give (position after this batch and those of the other ranks, batch) for ever."""
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self._thread.join(timeout=10)

    def _work(self, position: Position) -> None:
        loads = getattr(self._source, "loads_at_once", 1)
        try:
            if loads > 1:
                self._load_together(position, loads)
            else:
                self._load_in_turn(position)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._put(error)

    def _load_in_turn(self, position: Position) -> None:
        while not self._stop.is_set():
            own, position = self._own_and_next(position)
            self._put((position, self._source.load(own)))

    def _load_together(self, position: Position, loads: int) -> None:
        waiting: deque[tuple[Position, Future[Batch]]] = deque()
        with ThreadPoolExecutor(loads) as pool:
            try:
                while not self._stop.is_set():
                    while len(waiting) < loads:
                        own, position = self._own_and_next(position)
                        waiting.append((position, pool.submit(self._source.load, own)))
                    after, batch = waiting.popleft()
                    self._put((after, batch.result()))
            finally:
                for _, batch in waiting:
                    batch.cancel()

    def _own_and_next(self, position: Position) -> tuple[Position, Position]:
        """Where this rank's batch lies, and where the next ones of all ranks begin."""
        plan = self._source.plan
        own = plan.ahead(position, self._rank)
        return own, plan.ahead(own, self._world - self._rank)

    def _put(self, item: "tuple[Position, Batch] | BaseException") -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except Full:
                continue
            return
