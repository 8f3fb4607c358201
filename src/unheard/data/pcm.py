"""Decoded recordings, once and for all: 16 kHz mono samples in one memory-mapped file.

Training hears every recording hundreds of times. Decoding it each time costs as much as the step
itself on a small machine, so a run decodes once into 16-bit samples (115 MB an hour).
"""

import copy
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unheard.audio import io
from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.data.manifest import Utterance
from unheard.data.store import Cut, Unreadable
from unheard.errors import AudioError, FormatError
from unheard.files import atomic_path, locked, read_json, sha256_file, write_json_atomic

_FULL_SCALE = 32767.0
Progress = Callable[[int, int], None]
"""Called with (done, all)."""


class PcmStore:
    """Samples of many utterances behind each other in one file, mapped into memory.

    Attributes:
        ids: utterance ids in order.
        num_samples: (utterances,) int64 [samples at 16 kHz].
        sha256: of all samples.
        loads_at_once: batches are made one after another; there is nothing to wait for.
        unreadable: utterances left out, and why.
    """

    loads_at_once = 1

    def __init__(self, folder: Path, *, recordings: Mapping[str, str] | None = None) -> None:
        """Open a store that `open_store` has made.

        Args:
            folder: of the store.
            recordings: path of each utterance's recording by id, which the store does not keep.

        Raises:
            FormatError: if the store was damaged.
        """
        index = read_json(folder / "index.json")
        self._recordings = recordings or {}
        self.folder = folder
        self.ids: list[str] = index["ids"]
        self.num_samples = np.asarray(index["num_samples"], dtype=np.int64)
        self.sha256: str = index["sha256"]
        self.unreadable = [Unreadable(**row) for row in index["unreadable"]]
        self._starts = np.cumsum(self.num_samples) - self.num_samples
        self._means = np.asarray(index["means"], dtype=np.float64)
        self._variances = np.asarray(index["variances"], dtype=np.float64)
        self._names = _read_names(folder, self.ids)
        path = folder / "samples.i16"
        expected = int(self.num_samples.sum()) * 2
        found = path.stat().st_size
        if found != expected:
            raise FormatError(
                f"{path} should hold {expected} bytes and holds {found}. Delete {folder}; it is "
                "made again from the recordings."
            )
        self._samples = (
            np.memmap(path, dtype=np.int16, mode="r") if expected else np.zeros(0, dtype=np.int16)
        )

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self.ids)

    def only(self, numbers: Sequence[int]) -> "PcmStore":
        """Return a view of some utterances, in the given order, numbered anew."""
        chosen = copy.copy(self)
        index = np.asarray(numbers, dtype=np.int64)
        chosen.ids = [self.ids[number] for number in numbers]
        chosen.num_samples = self.num_samples[index]
        chosen._starts = self._starts[index]
        chosen._means = self._means[index]
        chosen._variances = self._variances[index]
        chosen._names = {
            column: [names[number] for number in numbers] for column, names in self._names.items()
        }
        return chosen

    def names(self, column: str) -> list[str]:
        """Language or corpus of every utterance, "" where not known."""
        return self._names[column]

    def audio(self, index: int) -> str:
        """Say which recording an utterance was decoded from; its id if that is not known."""
        name = self.ids[index]
        return self._recordings.get(name, name)

    @property
    def seconds(self) -> float:
        """Length of all utterances together [seconds]."""
        return float(self.num_samples.sum()) / SAMPLE_RATE

    def samples(
        self, index: int, *, start: int = 0, count: int | None = None
    ) -> NDArray[np.float32]:
        """Read samples of one utterance as decoded, (count,) float32 within -1 .. 1."""
        count = int(self.num_samples[index]) - start if count is None else count
        first = int(self._starts[index]) + start
        return self._samples[first : first + count].astype(np.float32) / _FULL_SCALE

    def normalized(
        self, index: int, *, epsilon: float, start: int = 0, count: int | None = None
    ) -> NDArray[np.float32]:
        """Read samples shifted and scaled by the whole utterance's mean and variance.

        A crop keeps the level it has within its utterance: normalising comes before cropping
        (fairseq data/audio/raw_audio_dataset.py @ 3d262bb).
        """
        scale = 1.0 / np.sqrt(self._variances[index] + epsilon)
        samples = self.samples(index, start=start, count=count)
        return ((samples - self._means[index]) * scale).astype(np.float32)

    def close(self) -> None:
        """Do nothing: the map goes with its last user."""

    def read(self, cuts: Sequence[Cut], *, spec: InputSpec) -> list[NDArray[np.float32]]:
        """Read stretches of utterances as an input spec wants them, in the order asked for."""
        if not spec.normalize:
            return [self.samples(cut.number, start=cut.start, count=cut.count) for cut in cuts]
        return [
            self.normalized(
                cut.number, epsilon=spec.normalize_epsilon, start=cut.start, count=cut.count
            )
            for cut in cuts
        ]


def open_store(
    utterances: Sequence[Utterance],
    folder: Path,
    *,
    root: Path,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PcmStore:
    """Open the store of these utterances, decoding them first when it is not there yet.

    Args:
        utterances: what to decode; each is a stretch of a recording.
        folder: where the store is or shall be.
        root: folder that relative audio paths start from.
        workers: decoding threads; by default one a processor.
        progress: called with (done, all).

    Returns:
        The store; recordings that cannot be decoded are in `unreadable` and nowhere else.

    Raises:
        ConfigError: if another process decodes into this folder.
        FormatError: if the store was damaged.
    """
    with locked(folder / "lock"):
        fingerprint = _fingerprint(utterances, root)
        index_path = folder / "index.json"
        if not (index_path.exists() and read_json(index_path).get("fingerprint") == fingerprint):
            for left_by_killed in folder.glob("samples.i16.tmp-*"):
                left_by_killed.unlink()
            workers = workers or os.cpu_count() or 1
            _decode_all(utterances, folder, root, fingerprint, workers, progress)
        _keep_names(utterances, folder)
        paths = {utterance.id: str(root / utterance.audio) for utterance in utterances}
        return PcmStore(folder, recordings=paths)


def _keep_names(utterances: Sequence[Utterance], folder: Path) -> None:
    """Write down languages and corpora, which may change without the sound."""
    names = {
        "language": {one.id: one.language for one in utterances if one.language},
        "corpus": {one.id: str(one.extra["corpus"]) for one in utterances if "corpus" in one.extra},
    }
    path = folder / "names.json"
    if not path.exists() or read_json(path) != names:
        write_json_atomic(path, names)


def _read_names(folder: Path, ids: Sequence[str]) -> dict[str, list[str]]:
    """Read languages and corpora in the order of the store."""
    path = folder / "names.json"
    known = read_json(path) if path.exists() else {}
    return {
        column: [known.get(column, {}).get(name, "") for name in ids]
        for column in ("language", "corpus")
    }


def _fingerprint(utterances: Sequence[Utterance], root: Path) -> str:
    """Hash what decides the content: which stretches of which files, and the files' dates."""
    digest = hashlib.sha256()
    for utterance in utterances:
        path = root / utterance.audio
        try:
            status = path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = (-1, -1)
        row = (utterance.id, utterance.audio, utterance.start, utterance.num_samples, *state)
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _decode_all(
    utterances: Sequence[Utterance],
    folder: Path,
    root: Path,
    fingerprint: str,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode in parallel, write in order; the index comes last and makes the store valid."""
    ids: list[str] = []
    counts: list[int] = []
    means: list[float] = []
    variances: list[float] = []
    unreadable: list[dict[str, str]] = []
    (folder / "index.json").unlink(missing_ok=True)
    with (
        atomic_path(folder / "samples.i16") as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(workers) as pool,
    ):
        decoded = _decode_ahead(utterances, root, pool, ahead=4 * workers)
        for done, (utterance, result) in enumerate(zip(utterances, decoded, strict=True), start=1):
            if isinstance(result, AudioError):
                unreadable.append(
                    {
                        "id": utterance.id,
                        "audio": utterance.audio,
                        "reason": result.reason,
                        "detail": str(result),
                    }
                )
            else:
                ids.append(utterance.id)
                counts.append(result.shape[0])
                real = result.astype(np.float64) / _FULL_SCALE
                means.append(float(real.mean()))
                variances.append(float(real.var()))
                file.write(result.tobytes())
            if progress is not None:
                progress(done, len(utterances))
    write_json_atomic(
        folder / "index.json",
        {
            "fingerprint": fingerprint,
            "sample_rate": SAMPLE_RATE,
            "sha256": sha256_file(folder / "samples.i16"),
            "ids": ids,
            "num_samples": counts,
            "means": means,
            "variances": variances,
            "unreadable": unreadable,
        },
    )


def _decode_ahead(
    utterances: Sequence[Utterance], root: Path, pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[NDArray[np.int16] | AudioError]:
    """Give decoded utterances in order, with at most `ahead` of them waiting in memory."""
    waiting: deque[Future[NDArray[np.int16] | AudioError]] = deque()
    for utterance in utterances:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(pool.submit(_decode, utterance, root))
    while waiting:
        yield waiting.popleft().result()


def _decode(utterance: Utterance, root: Path) -> NDArray[np.int16] | AudioError:
    """Decode one stretch to 16-bit samples, or say why not."""
    try:
        waveform = io.read(
            root / utterance.audio,
            sample_rate=SAMPLE_RATE,
            start_seconds=utterance.start / utterance.sample_rate,
            max_seconds=utterance.duration_seconds,
        )
    except AudioError as error:
        return error
    if waveform.samples.shape[0] == 0:
        return AudioError(f"{utterance.audio} holds no sound.", reason="too_short")
    return np.round(np.clip(waveform.samples, -1, 1) * _FULL_SCALE).astype(np.int16)
