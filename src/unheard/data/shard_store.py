"""The utterances of a folder of shards, decoded when a batch asks for them."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.data.index import ShardIndex, Strings
from unheard.data.places import is_url, open_place
from unheard.data.sample_codec import Stretch
from unheard.data.shards import Progress, open_index
from unheard.data.store import Cut, Unreadable
from unheard.data.workers import PATIENCE_SECONDS, WorkerPool, default_workers

LOADS_AT_ONCE = 4
"""Batches that are made at the same time, so that workers need not wait for the slowest sample."""


class ShardStore:
    """Utterances by number, as `PcmStore` has them, from shards.

    Attributes:
        index: what is known of each.
        folder: where what is derived from the samples may be kept.
        num_samples: (utterances,) int64 [samples at 16 kHz].
        sha256: says which shards these are.
        unreadable: none; what could not be read is no part of the shards.
    """

    def __init__(self, url: str, index: ShardIndex, pool: WorkerPool, *, folder: Path) -> None:
        """Put together what `open_shards` has opened.

        Args:
            url: path or address of the folder of shards.
            index: of these shards.
            pool: decodes.
            folder: where what is derived from the samples may be kept.
        """
        self.index = index
        self.folder = folder
        self.num_samples: NDArray[np.int64] = index.columns["num_samples"].astype(np.int64)
        self.sha256 = index.fingerprint
        self.unreadable: list[Unreadable] = []
        self._url = url
        self._pool = pool
        self._rows: NDArray[np.int64] | None = None

    @property
    def ids(self) -> Strings:
        """Names of the utterances, in order."""
        return self._chosen(self.index.ids)

    @property
    def texts(self) -> Strings:
        """Transcripts, "" where not known."""
        return self._chosen(self.index.texts)

    @property
    def loads_at_once(self) -> int:
        """How many batches are best made at the same time."""
        return LOADS_AT_ONCE if self._pool.workers else 1

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers that run."""
        return self._pool.processes

    @property
    def seconds(self) -> float:
        """Length of all utterances together [seconds]."""
        return float(self.num_samples.sum()) / SAMPLE_RATE

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self.num_samples)

    def names(self, column: str) -> list[str]:
        """Language, corpus, speaker or shard of every utterance, "" where not known."""
        known = list(self.index.names[column])
        codes = self.index.columns[column]
        return [known[code] for code in (codes if self._rows is None else codes[self._rows])]

    def only(self, numbers: Sequence[int] | NDArray[np.int64]) -> "ShardStore":
        """Return a view of some utterances, in the given order, numbered anew."""
        rows = np.asarray(numbers, dtype=np.int64)
        chosen = copy.copy(self)
        chosen.num_samples = self.num_samples[rows]
        chosen._rows = rows if self._rows is None else self._rows[rows]
        return chosen

    def audio(self, index: int) -> str:
        """Say which shard an utterance lies in."""
        row = index if self._rows is None else int(self._rows[index])
        return f"{self._url}/{self.index.names['shard'][int(self.index.columns['shard'][row])]}"

    def samples(
        self, index: int, *, start: int = 0, count: int | None = None
    ) -> NDArray[np.float32]:
        """Read samples of one utterance as decoded, (count,) float32 within -1 .. 1."""
        cut = Cut(number=index, start=start, count=count)
        return self._pool.run([self._stretch(cut, epsilon=None)])[0]

    def normalized(
        self, index: int, *, epsilon: float, start: int = 0, count: int | None = None
    ) -> NDArray[np.float32]:
        """Read samples shifted and scaled by the whole utterance's mean and variance."""
        cut = Cut(number=index, start=start, count=count)
        return self._pool.run([self._stretch(cut, epsilon=epsilon)])[0]

    def read(self, cuts: Sequence[Cut], *, spec: InputSpec) -> list[NDArray[np.float32]]:
        """Read stretches of utterances as an input spec wants them, in the order asked for.

        Raises:
            WorkerError: if a worker crashed or hung; it names the worker and the file.
            AudioError, FormatError: if the shards are not as they were when they were indexed.
        """
        epsilon = spec.normalize_epsilon if spec.normalize else None
        return self._pool.run([self._stretch(cut, epsilon=epsilon) for cut in cuts])

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _chosen(self, texts: Strings) -> Strings:
        return texts if self._rows is None else texts.only(self._rows)

    def _stretch(self, cut: Cut, *, epsilon: float | None) -> Stretch:
        """Say where a stretch lies, and how it is brought to the level of its utterance."""
        row = cut.number if self._rows is None else int(self._rows[cut.number])
        columns = self.index.columns
        length = int(columns["num_samples"][row])
        mean, scale = 0.0, 1.0
        if epsilon is not None:
            mean = float(columns["mean"][row])
            scale = float(1.0 / np.sqrt(columns["variance"][row] + epsilon))
        return Stretch(
            place=self._url,
            shard=self.index.names["shard"][int(columns["shard"][row])],
            offset=int(columns["offset"][row]),
            size=int(columns["size"][row]),
            crc=int(columns["crc"][row]),
            num_samples=length,
            start=cut.start,
            count=length - cut.start if cut.count is None else cut.count,
            mean=mean,
            scale=scale,
            id=self.index.ids[row],
        )


def open_shards(
    source: str | os.PathLike[str],
    folder: Path,
    *,
    workers: int | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    retries: int = 0,
    progress: Progress | None = None,
) -> ShardStore:
    """Open a folder of shards for training.

    Args:
        source: path of the folder, or an address such as "s3://bucket/shards".
        folder: where an index is kept that does not lie with the shards, and what is derived.
        workers: processes that decode; None for one a processor, 0 for none, without protection
            against a decoder that crashes.
        patience_seconds: after which a worker that is busy with one sample counts as hung.
        retries: how often a sample is tried again in a new worker when one is lost.
        progress: called with (shards looked at, all) while an index is built.

    Raises:
        ConfigError: if there are no shards.
        FormatError: if a shard is not what it should be.
    """
    place = str(source) if is_url(source) else Path(source).resolve()
    pool = WorkerPool(
        default_workers() if workers is None else workers,
        patience_seconds=patience_seconds,
        retries=retries,
    )
    try:
        index = open_index(place, folder, pool=pool, progress=progress)
    except BaseException:
        pool.close()
        raise
    return ShardStore(open_place(place).url, index, pool, folder=folder)
