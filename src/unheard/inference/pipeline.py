"""Many recordings through one model: decoding ahead, batches of like length, long ones in windows.

Every verb that listens to recordings goes through `hear`; there is no second way.
"""

import logging
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from unheard.audio import io
from unheard.audio.io import AudioSource
from unheard.audio.signal import Waveform
from unheard.decoding.emissions import Emissions
from unheard.decoding.hypothesis import Hypothesis
from unheard.decoding.search import Decoder, SearchStream
from unheard.errors import AudioError
from unheard.inference.engine import Engine, plan_batches, with_too_short
from unheard.inference.windows import (
    CONTEXT_SECONDS,
    SEARCH_SECONDS,
    WINDOW_SECONDS,
    WindowPlan,
    plan_windows,
    stream_log_probs,
)

logger = logging.getLogger(__name__)

WHOLE_SECONDS = 30.0
"""Longest recording that goes through the model in one piece [seconds]."""
POOL_RECORDINGS = 32
"""Recordings sorted by length together; two such pools are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A recording to hear.

    Attributes:
        audio: path, bytes or binary file object, or samples already in memory.
        start_seconds: where the stretch to hear begins; not for samples in memory.
        max_seconds: length of the stretch; None is to the end.
    """

    audio: AudioSource | Waveform
    start_seconds: float = 0.0
    max_seconds: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of the recording is to be heard."""
        return self.start_seconds == 0 and self.max_seconds is None


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What came of one source.

    Attributes:
        index: place of the source among those given.
        readings: what was said, the best first; empty when the recording could not be read.
        duration_seconds: length of the recording, as decoded [seconds].
        error: why it could not; None when it could.
        warnings: what was odd about it (see `Waveform.warnings`).
    """

    index: int
    readings: tuple[Hypothesis, ...]
    duration_seconds: float
    error: AudioError | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Search:
    """From emissions to readings, in threads beside the model's."""

    decoder: Decoder
    threads: ThreadPoolExecutor


@dataclass(frozen=True, kw_only=True)
class LongRecording:
    """A recording too long to hold: to be streamed when its turn comes."""

    audio: AudioSource


def hear(
    engine: Engine,
    sources: Iterable[Source],
    decoder: Decoder,
    *,
    workers: int | None = None,
    pool: int = POOL_RECORDINGS,
    whole_seconds: float = WHOLE_SECONDS,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
    search_seconds: float = SEARCH_SECONDS,
) -> Generator[Heard]:
    """Run a model over recordings, and a search over what it says.

    Sources are taken a pool at a time. The next pool is decoded in threads while the model runs,
    and what it said last is searched in others; within a pool, batches are made of like lengths.
    Where padding changes results (padding "zeros"), every recording runs alone, so that its result
    depends on nothing else.

    Memory: two pools of at most `whole_seconds` each with the emissions of one, and for longer
    recordings two windows and what the search keeps (greedily 8 bytes a frame, 1.5 MB an hour).

    Args:
        engine: the model.
        sources: what to hear; consumed lazily.
        decoder: from emissions to text.
        workers: threads that decode, and as many that search; None chooses by the machine.
        pool: recordings sorted together.
        whole_seconds: longest recording that runs in one piece.
        window_seconds: longest window of longer ones.
        context_seconds: sound heard beyond a seam of windows that is no pause.
        search_seconds: how far before its latest place a seam is looked for.

    Yields:
        One result for each source, in the order in which they end.
    """
    plan = plan_windows(
        engine.encoder_config,
        sample_rate=engine.spec.sample_rate,
        window_seconds=window_seconds,
        context_seconds=context_seconds,
        search_seconds=search_seconds,
    )
    if workers is None:
        workers = min(os.cpu_count() or 1, 8)
    numbered = enumerate(sources)
    readers = ThreadPoolExecutor(max_workers=max(workers, 1), thread_name_prefix="decode")
    searchers = ThreadPoolExecutor(max_workers=max(workers, 1), thread_name_prefix="search")
    search = _Search(decoder=decoder, threads=searchers)

    def submit() -> dict[int, Future[Waveform | LongRecording]]:
        return {
            index: readers.submit(read_source, source, engine, whole_seconds)
            for index, source in islice(numbered, pool)
        }

    try:
        ahead = submit()
        while ahead:
            current, ahead = ahead, submit()
            yield from _hear_pool(engine, current, plan, whole_seconds, search)
    finally:
        searchers.shutdown(wait=True, cancel_futures=True)
        readers.shutdown(wait=True, cancel_futures=True)


def read_error(error: Exception, source: object) -> AudioError:
    """Turn whatever came out of reading a recording into an `AudioError`.

    One recording must never end a job over many, so faults that are nobody's intent are kept
    with the recording, as "internal_error", and logged with their traceback.
    """
    if isinstance(error, AudioError):
        return error
    if isinstance(error, OSError):
        return AudioError(f"The recording cannot be read: {error}.", reason="unreadable")
    logger.error("Unexpected fault while reading %r", source, exc_info=error)
    return AudioError(
        f"Reading the recording failed unexpectedly: {type(error).__name__}: {error}. "
        "Please report this with the recording.",
        reason="internal_error",
    )


def _hear_pool(
    engine: Engine,
    pool: dict[int, "Future[Waveform | LongRecording]"],
    plan: WindowPlan,
    whole_seconds: float,
    search: "_Search",
) -> Iterator[Heard]:
    """Run one pool of recordings that are being decoded."""
    short: list[tuple[int, Waveform]] = []
    long: list[tuple[int, Waveform | LongRecording]] = []
    for index, future in pool.items():
        try:
            found = future.result()
        except Exception as error:  # noqa: BLE001 (kept with its recording: see read_error)
            yield _failed(index, read_error(error, index))
            continue
        if isinstance(found, LongRecording) or found.duration_seconds > whole_seconds:
            long.append((index, found))
        else:
            short.append((index, found))
    yield from _hear_short(engine, short, search)
    for index, recording in long:
        yield _hear_long(engine, index, recording, plan, search)


def _hear_short(
    engine: Engine, recordings: Sequence[tuple[int, Waveform]], search: "_Search"
) -> Iterator[Heard]:
    """Run recordings of utterance length in batches; the search follows in its threads."""
    lengths = [waveform.samples.shape[0] for _, waveform in recordings]
    if engine.batch_changes_results:
        batches = [[place] for place in range(len(recordings))]
    else:
        batches = plan_batches(lengths, budget_samples=engine.batch_samples)
    searched: deque[Future[Heard]] = deque()
    for batch in batches:
        outputs = engine.log_probs([recordings[place][1].samples for place in batch])
        for place, log_probs in zip(batch, outputs, strict=True):
            index, waveform = recordings[place]
            emissions = engine.emissions(
                log_probs, num_samples=lengths[place], warnings=waveform.warnings
            )
            searched.append(search.threads.submit(_read, search.decoder, index, emissions))
        while searched and searched[0].done():
            yield searched.popleft().result()
    while searched:
        yield searched.popleft().result()


def _read(decoder: Decoder, index: int, emissions: Emissions) -> Heard:
    """Search the emissions of one recording."""
    return Heard(
        index=index,
        readings=tuple(decoder.decode(emissions)),
        duration_seconds=emissions.num_samples / emissions.sample_rate,
        error=None,
        warnings=emissions.warnings,
    )


def _hear_long(
    engine: Engine,
    index: int,
    recording: Waveform | LongRecording,
    plan: WindowPlan,
    search: "_Search",
) -> Heard:
    """Run one long recording in windows."""
    if isinstance(recording, Waveform):
        stream, frames = _search_windows(engine, [recording.samples], plan, search)
        num_samples, warnings = recording.samples.shape[0], recording.warnings
        return _heard(engine, index, stream, frames, num_samples, warnings)
    # The fault of a recording ends that recording; the fault of a model ends the job.
    faults: list[Exception] = []

    def guarded(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        try:
            yield from blocks
        except Exception as error:  # noqa: BLE001 (kept with its recording: see read_error)
            faults.append(error)

    try:
        sound = io.stream(recording.audio, sample_rate=engine.spec.sample_rate)
    except Exception as error:  # noqa: BLE001 (kept with its recording: see read_error)
        return _failed(index, read_error(error, index))
    with sound:
        stream, frames = _search_windows(engine, guarded(sound), plan, search)
        if faults:
            return _failed(index, read_error(faults[0], index))
        return _heard(engine, index, stream, frames, sound.num_samples, sound.warnings)


def _search_windows(
    engine: Engine, blocks: Iterable[NDArray[np.float32]], plan: WindowPlan, search: "_Search"
) -> tuple[SearchStream, int]:
    """Search a recording of any length, a window while the next one is heard.

    Returns:
        The search, to be finished, and the number of frames it was fed.
    """
    stream = search.decoder.stream(engine.timing)
    frames = 0
    fed: Future[None] | None = None
    for part in stream_log_probs(engine, blocks, plan):
        frames += part.shape[0]
        if fed is not None:
            fed.result()
        fed = search.threads.submit(stream.feed, part)
    if fed is not None:
        fed.result()
    return stream, frames


def read_source(source: Source, engine: Engine, whole_seconds: float) -> Waveform | LongRecording:
    """Decode one recording at the model's rate, or find that it is too long to hold."""
    rate = engine.spec.sample_rate
    if isinstance(source.audio, Waveform):
        if source.audio.sample_rate == rate:
            return source.audio
        return Waveform(
            samples=engine.prepare(source.audio),
            sample_rate=rate,
            warnings=source.audio.warnings,
        )
    if not source.is_whole or not _can_reopen(source.audio):
        return io.read(
            source.audio,
            sample_rate=rate,
            start_seconds=source.start_seconds,
            max_seconds=source.max_seconds,
        )
    # Headers lie about length, so it is measured.
    blocks: list[NDArray[np.float32]] = []
    with io.stream(source.audio, sample_rate=rate) as stream:
        for block in stream:
            blocks.append(block)
            if stream.num_samples > whole_seconds * rate:
                return LongRecording(audio=source.audio)
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return Waveform(samples=samples, sample_rate=rate, warnings=stream.warnings)


def _can_reopen(audio: AudioSource) -> bool:
    """Whether a recording can be read a second time: a file object that can go back can."""
    if isinstance(audio, str | os.PathLike | bytes | bytearray | memoryview):
        return True
    seekable = getattr(audio, "seekable", None)
    return callable(seekable) and bool(seekable())


def _heard(
    engine: Engine,
    index: int,
    stream: SearchStream,
    frames: int,
    num_samples: int,
    warnings: tuple[str, ...],
) -> Heard:
    """End the search over a long recording."""
    return Heard(
        index=index,
        readings=tuple(stream.finish(num_samples=num_samples)),
        duration_seconds=num_samples / engine.spec.sample_rate,
        error=None,
        warnings=with_too_short(warnings, frames=frames),
    )


def _failed(index: int, error: AudioError) -> Heard:
    """Say that a recording could not be read."""
    return Heard(index=index, readings=(), duration_seconds=0.0, error=error, warnings=())
