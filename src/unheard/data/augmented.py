"""The utterances of a batch, each changed as its own seed says.

What is done to an utterance depends on the seed of the run, the pass over the data and the
utterance, never on which thread makes the batch or when. Babble takes the other utterances of the
batch, and which those are depends on the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unheard.audio.augment.chain import Augmenter
from unheard.audio.augment.speed import change_speed, samples_after, samples_before
from unheard.audio.signal import InputSpec
from unheard.data.store import Cut, SampleStore
from unheard.data.units import FrameRule


class Read(Protocol):
    """Reads stretches of utterances, as `SampleStore.read`."""

    def __call__(self, cuts: Sequence[Cut], *, spec: InputSpec) -> list[NDArray[np.float32]]:
        """Read stretches as an input spec wants them, in the order asked for."""
        ...


class AugmentedBatch:
    """Reads the utterances of one batch and changes them.

    Attributes:
        speeds: of each utterance; 1 where it stays, also where the speed drawn would not fit.
    """

    def __init__(
        self,
        store: SampleStore,
        augmenter: Augmenter,
        *,
        seeds: Sequence[int],
        fits: Callable[[int, float], bool],
    ) -> None:
        """Draw the speeds.

        Args:
            store: of the utterances.
            augmenter: changes them.
            seeds: one an utterance of the batch.
            fits: whether the utterance in a row of the batch can have a speed.
        """
        self._store = store
        self._augmenter = augmenter
        self._seeds = seeds
        drawn = [augmenter.speed(seed) for seed in seeds]
        self.speeds = [
            speed if speed == 1 or fits(row, speed) else 1.0 for row, speed in enumerate(drawn)
        ]

    def samples_read(self, row: int, count: int) -> int:
        """Count the samples of an utterance that `count` are made of."""
        speed = self.speeds[row]
        return count if speed == 1 else samples_before(count, speed)

    def read(self, cuts: Sequence[Cut], *, spec: InputSpec) -> list[NDArray[np.float32]]:
        """Read a stretch of each utterance of the batch, and change it.

        Args:
            cuts: in the order of the batch; `count` is of the result, and None the whole utterance,
                which is then as long as its speed makes it.
            spec: of the model; the level that it asks for stays.
        """
        wanted = [
            cut if cut.count is None else replace(cut, count=self.samples_read(row, cut.count))
            for row, cut in enumerate(cuts)
        ]
        played = [
            (samples if speed == 1 else change_speed(samples, speed))[: cut.count]
            for samples, speed, cut in zip(
                self._store.read(wanted, spec=spec), self.speeds, cuts, strict=True
            )
        ]
        return [
            self._augmenter(samples, seed=seed, others=played[:row] + played[row + 1 :])
            for row, (samples, seed) in enumerate(zip(played, self._seeds, strict=True))
        ]


def target_fits(target: Sequence[int], num_samples: int, speed: float, encoder: FrameRule) -> bool:
    """Whether CTC can still write a target when its recording is played at a speed.

    It takes a frame a label, and a blank between two equal neighbours.
    """
    needed = len(target) + sum(one == other for one, other in pairwise(target))
    return encoder.num_frames(samples_after(num_samples, speed)) >= max(1, needed)
