"""What batches are made from: utterances by number, decoded before or when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unheard.audio.signal import InputSpec


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A stretch of one utterance.

    Attributes:
        number: of the utterance in its store.
        start: first sample [samples at 16 kHz].
        count: how many; None is to the end.
    """

    number: int
    start: int = 0
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A recording that could not be decoded, for the dead-letter file."""

    id: str
    audio: str
    reason: str
    detail: str


class SampleStore(Protocol):
    """Utterances by number; `PcmStore` has them decoded, `ShardStore` decodes them on the way."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the utterances, in order."""
        ...

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """(utterances,) lengths [samples at 16 kHz]."""
        ...

    @property
    def unreadable(self) -> Sequence[Unreadable]:
        """Recordings that were left out."""
        ...

    @property
    def folder(self) -> Path:
        """Where what is derived from the samples may be kept."""
        ...

    @property
    def sha256(self) -> str:
        """Differs between stores that hold other samples."""
        ...

    @property
    def loads_at_once(self) -> int:
        """How many batches are best made at the same time."""
        ...

    def __len__(self) -> int:
        """Count the utterances."""
        ...

    def names(self, column: str) -> Sequence[str]:
        """Language or corpus of every utterance, "" where not known."""
        ...

    def audio(self, index: int) -> str:
        """Say which recording, or shard, an utterance lies in."""
        ...

    def only(self, numbers: Sequence[int]) -> "SampleStore":
        """Return a view of some utterances, in the given order, numbered anew."""
        ...

    def samples(
        self, index: int, *, start: int = 0, count: int | None = None
    ) -> NDArray[np.float32]:
        """Read samples of one utterance as decoded, (count,) float32."""
        ...

    def normalized(
        self, index: int, *, epsilon: float, start: int = 0, count: int | None = None
    ) -> NDArray[np.float32]:
        """Read samples shifted and scaled by the whole utterance's mean and variance."""
        ...

    def read(self, cuts: Sequence[Cut], *, spec: InputSpec) -> list[NDArray[np.float32]]:
        """Read stretches of utterances as an input spec wants them, in the order asked for."""
        ...

    def close(self) -> None:
        """End what decodes; nothing can be read any more."""
        ...
