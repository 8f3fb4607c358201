"""Which utterances go into which batch: length buckets, the same on every machine.

The plan of an epoch depends on the lengths, the seed and the epoch only, so a run resumes at any
batch by its number, whatever loads the data.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from unheard.errors import ConfigError
from unheard.tensors import derive_seed

Fit = Literal["crop", "pad"]
"""How a batch gets one length: cropped to its shortest utterance, or padded to its longest."""

_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Position:
    """The next batch of a run: batch number `batch` of epoch `epoch`."""

    epoch: int = 0
    batch: int = 0


class EpochPlan(Sequence[NDArray[np.int64]]):
    """The batches of one epoch, in the order they are taken; ten million utterances fit.

    Item `number` is the array of utterance numbers of that batch. What is kept is one number an
    utterance and two a batch, not an array object a batch.
    """

    def __init__(
        self, order: NDArray[np.int64], cuts: NDArray[np.int64], shuffled: NDArray[np.int64]
    ) -> None:
        """Keep the parts of a plan.

        Args:
            order: (utterances,) utterance numbers by length.
            cuts: (batches + 1,) where each batch begins in `order`, and the end.
            shuffled: (batches,) which of them comes first, second, ...
        """
        self._order = order
        self._cuts = cuts
        self._shuffled = shuffled

    def __len__(self) -> int:
        """Count the batches."""
        return self._shuffled.shape[0]

    @overload
    def __getitem__(self, number: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, number: slice) -> "EpochPlan": ...

    def __getitem__(self, number: int | slice) -> "NDArray[np.int64] | EpochPlan":
        """Utterance numbers of a batch, or a part of the plan."""
        if isinstance(number, slice):
            return EpochPlan(self._order, self._cuts, self._shuffled[number])
        batch = self._shuffled[number]
        return self._order[self._cuts[batch] : self._cuts[batch + 1]]

    def of(self, numbers: NDArray[np.int64]) -> "EpochPlan":
        """Return the same batches of other utterances: `numbers[i]` where this plan has i."""
        return EpochPlan(numbers[self._order], self._cuts, self._shuffled)


def plan_epoch(
    num_samples: NDArray[np.int64],
    *,
    batch_samples: int,
    fit: Fit,
    max_samples: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Sort by length with random ties, cut into batches of about one size, shuffle the batches.

    Args:
        num_samples: (utterances,) lengths.
        batch_samples: wanted size of a batch, counting what it holds after cropping or padding.
        fit: "crop" for pre-training, "pad" for labelled utterances.
        max_samples: lengths above this count as this (longer ones are cropped in pre-training).
        seed: of the run.
        epoch: number of the pass over the data.

    Returns:
        Utterance numbers of each batch; every utterance is in exactly one batch.

    Raises:
        ConfigError: if there is nothing to batch or a size is not positive.

    Source: fairseq data/audio/raw_audio_dataset.py `ordered_indices` and data/data_utils.py
        `batch_by_size` @ 3d262bb (sort by length, pack by samples).
    """
    if num_samples.shape[0] == 0:
        raise ConfigError("There is nothing to train on: expected utterances, got none.")
    if batch_samples < 1 or max_samples < 1:
        raise ConfigError(
            f"batch_samples and max_samples must be at least 1, got {batch_samples}, {max_samples}."
        )
    generator = np.random.default_rng(derive_seed(seed, "epoch", epoch))
    lengths = np.minimum(num_samples, max_samples)
    # Blurring lengths by a few per cent mixes the neighbours anew in each epoch.
    blurred = lengths * generator.uniform(0.95, 1.05, size=lengths.shape)
    order = np.argsort(blurred, kind="stable")
    del blurred
    cut = _cut_cropped if fit == "crop" else _cut_padded
    starts = cut(_slowly(lengths[order]), batch_samples)
    shuffled = np.arange(len(starts))
    generator.shuffle(shuffled)
    cuts = np.asarray([*starts, lengths.shape[0]], dtype=np.int64)
    return EpochPlan(order, cuts, shuffled)


def _cut_cropped(lengths: Iterable[int], batch_samples: int) -> list[int]:
    """Where batches begin whose utterances are all cropped to their shortest."""
    starts = [0]
    start, shortest = 0, sys.maxsize
    for after, length in enumerate(lengths, start=1):
        if length < shortest:
            shortest = length
        if shortest * (after - start) > batch_samples and after - start > 1:
            start, shortest = after - 1, length
            starts.append(start)
    return starts


def _cut_padded(lengths: Iterable[int], batch_samples: int) -> list[int]:
    """Where batches begin whose utterances are all padded to their longest."""
    starts = [0]
    start, longest = 0, 0
    for after, length in enumerate(lengths, start=1):
        if length > longest:
            longest = length
        if longest * (after - start) > batch_samples and after - start > 1:
            start, longest = after - 1, length
            starts.append(start)
    return starts


def _slowly(values: NDArray[np.int64]) -> Iterator[int]:
    """Give numbers as Python's own, which plain loops run fastest on, without a list of all."""
    return chain.from_iterable(
        values[first : first + _AT_ONCE].tolist() for first in range(0, len(values), _AT_ONCE)
    )


class BatchPlan:
    """The endless list of batches of a run, addressed by position, from any thread."""

    _EPOCHS_KEPT = 2
    """Loading ahead reaches into the next epoch while this one is still asked for."""

    def __init__(
        self,
        num_samples: NDArray[np.int64],
        *,
        batch_samples: int,
        fit: Fit,
        max_samples: int,
        seed: int,
    ) -> None:
        self._num_samples = num_samples
        self._batch_samples = batch_samples
        self._fit: Fit = fit
        self._max_samples = max_samples
        self._seed = seed
        self._plans: OrderedDict[int, EpochPlan] = OrderedDict()
        self._lock = threading.Lock()

    def batch(self, position: Position) -> NDArray[np.int64]:
        """Utterance numbers of the batch at a position."""
        return self._plan(position.epoch)[position.batch]

    def batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return len(self._plan(epoch))

    def within(self, position: Position) -> Position:
        """Return a position of this plan: the start of the next epoch if `position` is beyond.

        A stored position is beyond the plan when recordings have gone since it was stored.
        """
        if position.batch < len(self._plan(position.epoch)):
            return position
        return Position(epoch=position.epoch + 1, batch=0)

    def after(self, position: Position) -> Position:
        """Position of the batch that follows."""
        return self.ahead(position, 1)

    def ahead(self, position: Position, count: int) -> Position:
        """Position `count` batches further on, over the ends of epochs."""
        epoch, batch = position.epoch, position.batch + count
        while batch >= (size := len(self._plan(epoch))):
            epoch, batch = epoch + 1, batch - size
        return Position(epoch=epoch, batch=batch)

    def _plan(self, epoch: int) -> EpochPlan:
        with self._lock:
            if epoch not in self._plans:
                while len(self._plans) >= self._EPOCHS_KEPT:
                    self._plans.popitem(last=False)
                self._plans[epoch] = self._make(epoch)
            return self._plans[epoch]

    def _make(self, epoch: int) -> EpochPlan:
        return plan_epoch(
            self._num_samples,
            batch_samples=self._batch_samples,
            fit=self._fit,
            max_samples=self._max_samples,
            seed=self._seed,
            epoch=epoch,
        )
