"""Which utterances go into which batch: length buckets, the same on every machine.

The plan of an epoch depends on the lengths, the seed and the epoch only, so a run resumes at any
batch by its number, whatever loads the data.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unheard.errors import ConfigError
from unheard.tensors import derive_seed

Fit = Literal["crop", "pad"]
"""How a batch gets one length: cropped to its shortest utterance, or padded to its longest."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """The next batch of a run: batch number `batch` of epoch `epoch`."""

    epoch: int = 0
    batch: int = 0


def plan_epoch(
    num_samples: NDArray[np.int64],
    *,
    batch_samples: int,
    fit: Fit,
    max_samples: int,
    seed: int,
    epoch: int,
) -> list[NDArray[np.int64]]:
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
    batches: list[NDArray[np.int64]] = []
    current: list[int] = []
    shortest, longest = max_samples, 0
    for number in order:
        length = int(lengths[number])
        shortest, longest = min(shortest, length), max(longest, length)
        size = (shortest if fit == "crop" else longest) * (len(current) + 1)
        if current and size > batch_samples:
            batches.append(np.asarray(current, dtype=np.int64))
            current = []
            shortest = longest = length
        current.append(int(number))
    batches.append(np.asarray(current, dtype=np.int64))
    generator.shuffle(batches)
    return batches


class BatchPlan:
    """The endless list of batches of a run, addressed by position."""

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
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def batch(self, position: Position) -> NDArray[np.int64]:
        """Utterance numbers of the batch at a position."""
        return self._plan(position.epoch)[position.batch]

    def within(self, position: Position) -> Position:
        """Return a position of this plan: the start of the next epoch if `position` is beyond.

        A stored position is beyond the plan when recordings have gone since it was stored.
        """
        if position.batch < len(self._plan(position.epoch)):
            return position
        return Position(epoch=position.epoch + 1, batch=0)

    def after(self, position: Position) -> Position:
        """Position of the batch that follows."""
        if position.batch + 1 < len(self._plan(position.epoch)):
            return Position(epoch=position.epoch, batch=position.batch + 1)
        return Position(epoch=position.epoch + 1, batch=0)

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        if epoch != self._epoch:
            self._batches = plan_epoch(
                self._num_samples,
                batch_samples=self._batch_samples,
                fit=self._fit,
                max_samples=self._max_samples,
                seed=self._seed,
                epoch=epoch,
            )
            self._epoch = epoch
        return self._batches
