"""Batches of samples, with or without labels, from decoded recordings."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.data.batching import BatchPlan, Position
from unheard.data.pcm import PcmStore
from unheard.data.units import FrameRule, UnitStore
from unheard.tensors import derive_seed


@dataclass(frozen=True, kw_only=True)
class AudioBatch:
    """Unlabelled utterances, all cropped to one length.

    Attributes:
        samples: (batch, samples) float32.
        ids: which utterances, in order.
        units: (batch, frames) int64, the unit of each frame; None where none are needed.
    """

    samples: Tensor
    ids: tuple[str, ...]
    units: Tensor | None = None

    @property
    def audio_seconds(self) -> float:
        """Sound in the batch [seconds]."""
        return self.samples.numel() / SAMPLE_RATE

    def to(self, device: torch.device) -> "AudioBatch":
        """Copy to a device."""
        units = None if self.units is None else self.units.to(device, non_blocking=True)
        samples = self.samples.to(device, non_blocking=True)
        return AudioBatch(samples=samples, ids=self.ids, units=units)


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Labelled utterances, padded to the longest.

    Attributes:
        samples: (batch, samples) float32, zero padded.
        lengths: (batch,) int64 [samples].
        targets: (batch, tokens) int64, padded with zeros.
        target_lengths: (batch,) int64.
        ids: which utterances, in order.
    """

    samples: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: tuple[str, ...]

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
        )


Batch = TypeVar("Batch", AudioBatch, LabelledBatch)
Made = TypeVar("Made", AudioBatch, LabelledBatch, covariant=True)


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
    """

    def __init__(
        self,
        store: PcmStore,
        *,
        input_spec: InputSpec,
        batch_seconds: float,
        min_seconds: float,
        max_seconds: float,
        seed: int,
        only: NDArray[np.int64] | None = None,
        units: UnitStore | None = None,
        encoder: FrameRule | None = None,
    ) -> None:
        self._store = store
        self._units = units
        self._encoder = encoder
        self._spec = input_spec
        self._seed = seed
        self._max_samples = int(max_seconds * SAMPLE_RATE)
        numbers = np.arange(len(store)) if only is None else only
        long_enough = store.num_samples[numbers] >= int(min_seconds * SAMPLE_RATE)
        self._usable = numbers[long_enough]
        self.plan = BatchPlan(
            store.num_samples[self._usable],
            batch_samples=int(batch_seconds * SAMPLE_RATE),
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

    def load(self, position: Position) -> AudioBatch:
        """Crop and stack the utterances of the batch at a position."""
        numbers = self._usable[self.plan.batch(position)]
        shortest = int(min(self._store.num_samples[numbers].min(), self._max_samples))
        starts = [self._start(int(number), shortest, position.epoch) for number in numbers]
        return crop_batch(
            self._store,
            numbers,
            starts,
            shortest,
            input_spec=self._spec,
            units=self._units,
            encoder=self._encoder,
        )

    def _start(self, number: int, shortest: int, epoch: int) -> int:
        """Draw where the crop of an utterance starts [samples]."""
        spare = int(self._store.num_samples[number]) - shortest
        draw = derive_seed(self._seed, "crop", epoch, number)
        if self._units is None or self._encoder is None:
            return draw % (spare + 1)
        stride = self._encoder.stride_samples
        return stride * (draw % (spare // stride + 1))


def crop_batch(
    store: PcmStore,
    numbers: NDArray[np.int64],
    starts: Sequence[int],
    count: int,
    *,
    input_spec: InputSpec,
    units: UnitStore | None = None,
    encoder: FrameRule | None = None,
) -> AudioBatch:
    """Cut `count` samples from `starts` on of each utterance, and the units of their frames.

    With units, `starts` are multiples of the encoder's stride.
    """
    rows = [
        read_samples(store, int(number), input_spec, start, count)
        for number, start in zip(numbers, starts, strict=True)
    ]
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
        ids=tuple(store.ids[number] for number in numbers),
        units=labels,
    )


class LabelledSource:
    """Whole utterances with their targets for CTC."""

    def __init__(
        self,
        store: PcmStore,
        targets: Sequence[Sequence[int]],
        *,
        input_spec: InputSpec,
        batch_seconds: float,
        seed: int,
    ) -> None:
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

    def load(self, position: Position) -> LabelledBatch:
        """Pad and stack the utterances of the batch at a position."""
        return labelled_batch(
            self._store, self._targets, self.plan.batch(position), input_spec=self._spec
        )


def labelled_batch(
    store: PcmStore,
    targets: Sequence[Sequence[int]],
    numbers: Sequence[int] | NDArray[np.int64],
    *,
    input_spec: InputSpec,
) -> LabelledBatch:
    """Pad and stack the utterances with these numbers."""
    lengths = store.num_samples[np.asarray(numbers)]
    samples = np.zeros((len(numbers), int(lengths.max())), dtype=np.float32)
    width = max(1, *(len(targets[number]) for number in numbers)) if len(numbers) else 1
    padded = torch.zeros(len(numbers), width, dtype=torch.int64)
    target_lengths = torch.zeros(len(numbers), dtype=torch.int64)
    for row, number in enumerate(numbers):
        samples[row, : lengths[row]] = read_samples(store, int(number), input_spec, 0, None)
        target = targets[number]
        padded[row, : len(target)] = torch.as_tensor(target, dtype=torch.int64)
        target_lengths[row] = len(target)
    return LabelledBatch(
        samples=torch.from_numpy(samples),
        lengths=torch.from_numpy(lengths.astype(np.int64)),
        targets=padded,
        target_lengths=target_lengths,
        ids=tuple(store.ids[number] for number in numbers),
    )


def read_samples(
    store: PcmStore, number: int, spec: InputSpec, start: int, count: int | None
) -> NDArray[np.float32]:
    """Read samples of one utterance as the input spec wants them."""
    if spec.normalize:
        return store.normalized(number, epsilon=spec.normalize_epsilon, start=start, count=count)
    return store.samples(number, start=start, count=count)


class Prefetch(Generic[Batch]):
    """Batches from a position on, made in a thread a little ahead of their use.

    The thread holds no state that matters: what it makes depends on the position alone. An
    exception in it is raised where the batch is asked for.
    """

    _AHEAD = 4

    def __init__(self, source: Source[Batch], position: Position) -> None:
        self._source = source
        self._queue: Queue[tuple[Position, Batch] | BaseException] = Queue(self._AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(position,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Position, Batch]]:
        """Give (position after this batch, batch) for ever."""
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self._thread.join(timeout=10)

    def _work(self, position: Position) -> None:
        try:
            while not self._stop.is_set():
                batch = self._source.load(position)
                position = self._source.plan.after(position)
                self._put((position, batch))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._put(error)

    def _put(self, item: "tuple[Position, Batch] | BaseException") -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except Full:
                continue
            return
