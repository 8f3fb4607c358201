"""The verb `shard`: recordings in, tar files for training on very many hours out."""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from unheard.audio.signal import SAMPLE_RATE
from unheard.data.corpora import scan_source
from unheard.data.manifest import Utterance
from unheard.data.sample_codec import Encoding, Kept, Stored
from unheard.data.shards import (
    Made,
    Shard,
    damaged,
    forget_unfinished,
    ids_of,
    open_index,
    read_shards,
    write_shard,
)
from unheard.data.store import Unreadable
from unheard.data.workers import WorkerPool, default_workers
from unheard.errors import AudioError, ConfigError, FormatError, UnheardError, WorkerError
from unheard.files import locked
from unheard.tasks.runs import (
    keep_settings,
    report_skipped,
    report_unreadable,
    show_indexing,
    show_sharding,
)
from unheard.tasks.scan import nothing_found

PIECES_AT_ONCE = 20
"""Pieces of a long recording that are decoded together."""

PATIENCE_SECONDS = 300.0
"""A worker that needs longer for so many pieces hangs."""


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What a folder of shards holds.

    Attributes:
        out: the folder.
        shards: tar files.
        samples: in all of them.
        hours: of sound.
        megabytes: of the tar files.
        failed: recordings that could not be used; see unreadable.jsonl and skipped.jsonl.
    """

    out: str
    shards: int
    samples: int
    hours: float
    megabytes: float
    failed: int


def shard(
    recordings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    shard_megabytes: float = 500.0,
    codec: Kept = "flac",
    opus_kilobits: int = 32,
    piece_seconds: float = 30.0,
    transcripts: str | os.PathLike[str] | None = None,
    language: str | None = None,
    workers: int | None = None,
    verify: bool = False,
    quiet: bool = False,
) -> ShardResult:
    """Write recordings into tar files of samples, for training on thousands of hours.

    A sample is an audio file and a JSON file of the same name, the layout of WebDataset. Pre-train
    and fine-tune take the folder instead of recordings. Repeat the command to go on where it was
    stopped, or after recordings were added.

    Args:
        recordings: anything that `scan` reads.
        out: folder for shard-NNNNNN.tar, shards.jsonl and index/.
        shard_megabytes: a shard is full at this size [MB].
        codec: "flac" (16 kHz, 16 bits) loses nothing that a model hears, "opus" takes a tenth of
            the room; what is mono and stored so already is taken byte for byte. "keep" takes whole
            recordings as they are, whatever they are.
        opus_kilobits: bit rate of Opus [kbit/s].
        piece_seconds: recordings without a transcript are cut into equal pieces of at most this
            length, unless they are kept as they are [seconds].
        transcripts: a table or folder of texts, where they do not lie with the recordings.
        language: language tag of utterances that do not say theirs.
        workers: processes that decode and encode; by default one a processor.
        verify: also read all finished shards and compare their hashes.
        quiet: print nothing while it works.

    Returns:
        Counts and sizes.

    Raises:
        ConfigError: if nothing usable was found, or the folder was begun with other settings.
        FormatError: if `verify` finds a damaged shard.
    """
    if shard_megabytes <= 0 or piece_seconds <= 0 or opus_kilobits < 6:
        raise ConfigError(
            "shard_megabytes and piece_seconds must be above 0 and opus_kilobits at least 6, got "
            f"{shard_megabytes:g}, {piece_seconds:g} and {opus_kilobits}."
        )
    folder = Path(out)
    with (
        locked(folder / "lock"),
        WorkerPool(workers or default_workers(), patience_seconds=PATIENCE_SECONDS) as pool,
    ):
        keep_settings(
            folder / "request.json",
            {
                "recordings": os.fspath(recordings),
                "shard_megabytes": shard_megabytes,
                "codec": codec,
                "opus_kilobits": opus_kilobits,
                "piece_seconds": piece_seconds,
                "transcripts": None if transcripts is None else os.fspath(transcripts),
                "language": language,
            },
        )
        found = scan_source(
            recordings,
            transcripts=transcripts,
            language=language,
            exclude=[folder],
            extract_to=folder / "recordings",
        )
        failed = report_skipped(found.skipped, folder / "skipped.jsonl")
        if not found.utterances:
            raise ConfigError(nothing_found(recordings, found.skipped, folder / "skipped.jsonl"))
        finished = read_shards(folder)
        if verify and (broken := damaged(folder, finished)):
            raise FormatError(
                f"{folder} has damaged shards: {', '.join(broken)}. Delete them; the same command "
                "makes them again."
            )
        forget_unfinished(folder, finished)
        whole_seconds = math.inf if codec == "keep" else piece_seconds
        jobs = list(_jobs(found.utterances, whole_seconds=whole_seconds))
        done = {name for one in finished for name in ids_of(folder, one)}
        todo = [job for job in jobs if job.ids[0] not in done]
        del done
        made = _encode_all(todo, pool, codec, opus_kilobits)
        counted = _counted(made, first=len(jobs) - len(todo), total=len(jobs), quiet=quiet)
        number = 1 + max((_number(one) for one in finished), default=-1)
        full_bytes = round(shard_megabytes * 1_000_000)
        while (one := write_shard(folder, number, counted, full_bytes=full_bytes)) is not None:
            finished.append(one)
            number += 1
        unreadable = [bad for one in finished for bad in one.unreadable]
        report_unreadable(unreadable, folder)
        result = ShardResult(
            out=str(folder),
            shards=len(finished),
            samples=sum(one.rows for one in finished),
            hours=round(sum(one.seconds for one in finished) / 3600, 4),
            megabytes=round(sum(one.bytes for one in finished) / 1_000_000, 3),
            failed=failed + len(unreadable),
        )
        if not result.samples:
            raise ConfigError(
                f"None of the {len(unreadable)} recordings in {recordings} can be decoded; "
                f"{folder / 'unreadable.jsonl'} says why."
            )
        open_index(folder, folder, pool=pool, progress=None if quiet else show_indexing)
    return result


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A stretch of a recording to be encoded in one go.

    Attributes:
        utterance: the stretch.
        pieces: how many equal pieces it is cut into.
        ids: of the pieces.
        start: where it begins within its recording [samples at 16 kHz].
    """

    utterance: Utterance
    pieces: int
    ids: tuple[str, ...]
    start: int


def _jobs(utterances: Sequence[Utterance], *, whole_seconds: float) -> Iterator[_Job]:
    """Cut what has no transcript into pieces, and long recordings into jobs of some pieces."""
    for utterance in utterances:
        seconds = utterance.duration_seconds
        begin = round(utterance.start / utterance.sample_rate * SAMPLE_RATE)
        if utterance.text or utterance.label or seconds <= whole_seconds:
            yield _Job(utterance=utterance, pieces=1, ids=(utterance.id,), start=begin)
            continue
        pieces = math.ceil(seconds / whole_seconds)
        edges = [utterance.num_samples * number // pieces for number in range(pieces + 1)]
        for first in range(0, pieces, PIECES_AT_ONCE):
            last = min(first + PIECES_AT_ONCE, pieces)
            stretch = replace(
                utterance,
                start=utterance.start + edges[first],
                num_samples=edges[last] - edges[first],
            )
            yield _Job(
                utterance=stretch,
                pieces=last - first,
                ids=tuple(f"{utterance.id}@{number}" for number in range(first, last)),
                start=round(stretch.start / stretch.sample_rate * SAMPLE_RATE),
            )


def _encode_all(
    jobs: Sequence[_Job], pool: WorkerPool, codec: Kept, opus_kilobits: int
) -> Iterator[Made]:
    """Encode in parallel, in order, with a few results waiting in memory."""
    waiting: deque[tuple[_Job, Future[list[Stored]]]] = deque()
    for job in jobs:
        if len(waiting) == 3 * max(1, pool.workers):
            yield _made(*waiting.popleft())
        utterance = job.utterance
        wanted = Encoding(
            path=utterance.audio,
            start_seconds=utterance.start / utterance.sample_rate,
            seconds=utterance.duration_seconds,
            pieces=job.pieces,
            codec=codec,
            opus_kilobits=opus_kilobits,
        )
        waiting.append((job, pool.submit(wanted)))
    while waiting:
        yield _made(*waiting.popleft())


def _made(job: _Job, future: "Future[list[Stored]]") -> Made:
    """Take a result; what could not be used is put on record and costs nothing else."""
    try:
        stored = future.result()
    except (AudioError, WorkerError) as error:
        reason, detail = error.reason, str(error)
    except UnheardError as error:
        reason, detail = "failed", str(error)
    else:
        # Pieces without sound were left out; the others keep their names.
        samples = tuple((job.ids[one.piece], job.start + one.start, one) for one in stored)
        return Made(utterance=job.utterance, samples=samples)
    return Made(
        utterance=job.utterance,
        unreadable=Unreadable(
            id=job.ids[0], audio=job.utterance.audio, reason=reason, detail=detail
        ),
    )


def _counted(made: Iterator[Made], *, first: int, total: int, quiet: bool) -> Iterator[Made]:
    """Show how far it is."""
    for done, one in enumerate(made, start=first + 1):
        yield one
        if not quiet:
            show_sharding(done, total)


def _number(shard: Shard) -> int:
    """Number of a shard, from its name."""
    return int("".join(letter for letter in shard.shard if letter.isdecimal()))
