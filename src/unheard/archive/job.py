"""The verb `archive`: tens of thousands of hours, on one machine or many, in any number of runs."""

import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from unheard.archive import cluster
from unheard.archive.cluster import Pool
from unheard.archive.lock import WORK, label_of, owned, owner_name
from unheard.archive.meter import Meter
from unheard.archive.parts import (
    DEAD_LETTERS,
    INDEX,
    TRANSCRIPTS,
    Format,
    Known,
    read_known,
    take_out,
)
from unheard.archive.plan import ACCELERATOR_LIMITS, CPU_LIMITS, Plan, make_plan
from unheard.archive.recordings import Recordings
from unheard.archive.stores import Store, open_store
from unheard.archive.worker import Job, Outcome, Worker, lazy_engine, model_folder
from unheard.data.places import is_url
from unheard.errors import ConfigError, FormatError, Interrupted, UnheardError
from unheard.inference.engine import Dtype
from unheard.tasks.listing import parse_shard
from unheard.tasks.searching import SearchOptions
from unheard.tasks.transcripts_folder import fingerprint_of

HEADER = "archive.json"
FORMAT_VERSION = 1

WORKER_BYTES = 1_500_000_000
"""Memory that a worker is taken to need where their number is left to us [bytes]."""
ACCELERATOR_THREADS = 4
"""Processors of a worker with an accelerator, which decode and search."""
UNKNOWN_WORKERS = 64
"""Workers that tickets are cut for on a cluster of unknown size."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ArchiveSummary:
    """What became of an archive: done + skipped + failed is the number of its recordings.

    Attributes:
        done: transcribed in this run.
        skipped: had their transcript from an earlier run.
        failed: could not be transcribed, in this run or an earlier one.
        audio_seconds: sound transcribed in this run [seconds].
        elapsed_seconds: time this run took [seconds].
        output: where transcripts and dead letters are.
    """

    done: int
    skipped: int
    failed: int
    audio_seconds: float
    elapsed_seconds: float
    output: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def table(self) -> str:
        """Say it in a line."""
        parts = [f"{self.done} transcribed"]
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        if self.failed:
            parts.append(f"{self.failed} failed (see {self.output}/{DEAD_LETTERS})")
        speed = ""
        if self.done and self.elapsed_seconds > 0:
            times = self.audio_seconds / self.elapsed_seconds
            speed = f"; {self.audio_seconds / 3600:.2f} h of sound, {times:.1f} times real time"
        return f"{', '.join(parts)}{speed}. Transcripts are in {self.output}/{TRANSCRIPTS}"


def archive(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    format: Format = "parquet",
    workers: int | None = None,
    max_workers: int | None = None,
    address: str | None = None,
    shard: str | None = None,
    device: str = "cpu",
    workers_per_device: int = 1,
    threads: int | None = None,
    adapter: str | None = None,
    lm: str | os.PathLike[str] | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    beam: int | None = None,
    lm_weight: float | None = None,
    word_bonus: float | None = None,
    hot_words: str | None = None,
    rescore: str | os.PathLike[str] | None = None,
    rescore_weight: float | None = None,
    fuse: str | os.PathLike[str] | None = None,
    fuse_weight: float | None = None,
    nbest: int = 1,
    word_times: bool = True,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    batch_seconds: float | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    input_moved: bool = False,
    progress: bool = True,
) -> ArchiveSummary:
    """Transcribe an archive of any size, on this machine or a cluster, in any number of runs.

    Recordings come from a folder or an object store, transcripts go to either, in part files that
    are whole or absent. Each recording gets one record, a transcript or a dead letter that says
    why not, however often the job, a worker or the cluster is killed: the same command goes on
    where it stopped (docs/archives.md).

    Args:
        input: a folder or a prefix of a store, with everything below it, or a manifest (.jsonl,
            .csv, .tsv, .parquet) with "audio", and "id" and a stretch if wanted.
        output: a folder or a prefix of a store, such as s3://bucket/transcripts.
        model: folder or name of a model, or the address of its folder in a store.
        format: of the transcripts; "parquet" or "jsonl".
        workers: that work at a time; by default one for each processor or accelerator of this
            machine, and on a cluster as many as it has room for. 0 works in this process, without
            Ray, where a decoder that crashes ends the job.
        max_workers: grow from `workers` up to so many as there is work and room.
        address: of a Ray cluster to join, such as "auto"; without, Ray is started here and ended.
        shard: "i/n" does the i-th of n parts, by id; all may share one output.
        device: where the model runs, "cpu" or "cuda".
        workers_per_device: workers that share an accelerator.
        threads: processors of each worker; 1 by default, 4 beside an accelerator.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        lm: n-gram model to search with: an ARPA file (.arpa, .arpa.gz) or our own (.unheard-lm).
            With this or any of the next eleven, a beam search takes the place of greedy reading
            (docs/decoding.md).
        lexicon: file of the words that may be written; any text may be without one.
        preset: settings of the search by name ("wav2vec2-librispeech-10m-4gram", "pyctcdecode",
            ...), or the search.json of `unheard tune`.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: added for each word [nats]; a negative one gives fewer, longer words.
        hot_words: words or phrases to listen for, with commas between, each with a bonus [nats]
            if wanted: "Kampala,Nakawa=5".
        rescore: Transformer language model (a folder of `unheard lm train --kind transformer`) that
            puts the readings of the search in order.
        rescore_weight: of its natural log-probability; 0.5 by default.
        fuse: Transformer language model that judges the words of all readings while the search
            goes on.
        fuse_weight: of its natural log-probability; 0.5 by default.
        nbest: readings of each recording to keep, in the records.
        word_times: keep the words with their times and confidence.
        padding: how padding in a batch is treated, instead of what the model says.
        dtype: number format of the matrix products.
        batch_seconds: padded audio in one batch [seconds]; None chooses by device.
        overwrite: drop what is in `output` and begin anew.
        retry_failed: try recordings with a dead letter again.
        input_moved: go on although the input has another name than before; it must hold the same
            recordings.
        progress: show on the standard error how far it is.

    Returns:
        How many recordings were done, skipped, failed.

    Raises:
        ConfigError: if there is nothing at `input`, the output is in use or was made with another
            model, other settings or from another input, or the model has no CTC head.
        MissingExtraError: if Ray, or what an address needs, is not installed.
        UnheardError: if the output cannot be written, or a store does not answer.
    """
    started = time.monotonic()
    if threads is None:
        threads = 1 if device == "cpu" else ACCELERATOR_THREADS
        if workers == 0:
            threads = min(os.cpu_count() or 1, 8)
    _check_options(format, workers, max_workers, threads, workers_per_device)
    part = None if shard is None else parse_shard(shard)
    if overwrite and part is not None and part[1] > 1:
        raise ConfigError(
            "overwrite drops what is in the output, that of all shards: expected it without a "
            f"shard, found shard {shard}. Remove the output by hand, or name another one."
        )
    store = open_store(output)
    recordings = Recordings(input, exclude=store)
    label = label_of(part)
    run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{label}-{secrets.token_hex(3)}"
    work = f"{WORK}/{label}"
    job = Job(
        run=run,
        output=store.url,
        list_name=f"{work}/{run}/list.jsonl",
        owner_name=owner_name(label),
        marks=f"{work}/{run}/marks",
        source=None if recordings.is_manifest or is_url(recordings.url) else recordings.url,
        model=_absolute(model),
        search=SearchOptions(
            lm=None if lm is None else _absolute(lm),
            lexicon=None if lexicon is None else _absolute(lexicon),
            preset=None if preset is None else _absolute(preset),
            beam=beam,
            lm_weight=lm_weight,
            word_bonus=word_bonus,
            hot_words=hot_words,
            rescore=None if rescore is None else _absolute(rescore),
            rescore_weight=rescore_weight,
            fuse=None if fuse is None else _absolute(fuse),
            fuse_weight=fuse_weight,
            nbest=nbest,
        ),
        settings={},
        metadata={},
        format=format,
        word_times=word_times,
        keep_readings=nbest > 1,
        adapter=adapter,
        device=device,
        padding=padding,
        dtype=dtype,
        batch_seconds=batch_seconds,
        threads=threads,
        is_elsewhere=address is not None,
        is_guarded=workers != 0,
    )
    with model_folder(job.model) as folder:
        settings = lazy_engine(job, folder).settings()
    pool = _pool(job, workers, max_workers, address=address, share=workers_per_device)
    with _stoppable(), _writing(store), owned(store, run=run, label=label):
        if overwrite:
            _drop(store)
        fingerprint = _open_output(store, settings, job, recordings, input_moved=input_moved)
        job = _with_settings(job, settings, fingerprint)
        _tidy(store, label)
        known = read_known(store, metadata=job.metadata)
        if known.doubled:
            logger.info("%d records of recordings that had two were taken out", known.doubled)
        plan = make_plan(
            recordings,
            known,
            store,
            job.list_name,
            shard=part,
            retry_failed=retry_failed,
            workers=_expected_workers(pool),
            limits=CPU_LIMITS if device == "cpu" else ACCELERATOR_LIMITS,
        )
        if not plan.pending + plan.done + plan.failed and part is None:
            raise ConfigError(
                f"No recordings found in {recordings.source}: expected files with a suffix of "
                "audio or video, or rows of a manifest."
            )
        if plan.retried.size:
            dead = [name for name in known.parts if name.startswith(f"{DEAD_LETTERS}/")]
            take_out(store, dead, plan.retried, metadata=job.metadata)
        outcome = _run(job, plan, pool, shown=progress)
        _remove_strays(store, known, run=run, label=label, metadata=job.metadata)
        _tidy(store, label)
    return ArchiveSummary(
        done=outcome.done,
        skipped=plan.done,
        failed=outcome.failed + plan.failed,
        audio_seconds=outcome.audio_seconds,
        elapsed_seconds=time.monotonic() - started,
        output=store.url,
    )


def _check_options(
    format: str, workers: int | None, max_workers: int | None, threads: int, share: int
) -> None:
    """Refuse what cannot be meant."""
    if format not in ("parquet", "jsonl"):
        raise ConfigError(f"format must be parquet or jsonl, got {format!r}.")
    if workers is not None and workers < 0:
        raise ConfigError(f"workers must be 0 or more, got {workers}.")
    if max_workers is not None and max_workers < max(workers or 1, 1):
        raise ConfigError(
            f"max_workers must be at least the number of workers ({workers or 1}) and 1, got "
            f"{max_workers}."
        )
    if threads < 1 or share < 1:
        raise ConfigError(
            f"threads and workers_per_device must be 1 or more, got {threads} and {share}."
        )


def _absolute(source: str | os.PathLike[str]) -> str:
    """Name a file so that it is found from any folder; names and addresses stay as they are."""
    return os.path.abspath(source) if os.path.exists(source) else str(source)  # noqa: PTH100, PTH110


def _pool(
    job: Job, workers: int | None, max_workers: int | None, *, address: str | None, share: int
) -> Pool | None:
    """Decide how many workers there are; None is this process alone."""
    if workers == 0:
        return None
    gpus = 0.0 if job.device == "cpu" else 1 / share
    if address is not None:
        most = max_workers if workers is None or max_workers is not None else workers
        least = workers or 1
    else:
        least = workers or (1 if max_workers else _machine_workers(job, share))
        most = max_workers or least
    return Pool(address=address, least=least, most=most, threads=job.threads, gpus=gpus)


def _machine_workers(job: Job, share: int) -> int:
    """Workers that this machine has room for."""
    if job.device != "cpu":
        import torch

        return max(torch.cuda.device_count(), 1) * share
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        processors = os.cpu_count() or 1
    room = processors // job.threads
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        room = min(room, memory // WORKER_BYTES)
    return max(room, 1)


def _expected_workers(pool: Pool | None) -> int:
    """Workers that tickets are cut for."""
    return 1 if pool is None else pool.most or UNKNOWN_WORKERS


def _open_output(
    store: Store,
    settings: Mapping[str, Any],
    job: Job,
    recordings: Recordings,
    *,
    input_moved: bool,
) -> str:
    """Write the header, or compare it with that of an earlier run; return the fingerprint.

    Raises:
        ConfigError: if the output was made otherwise.
        FormatError: if its header is damaged.
    """
    settings = {**settings, "format": job.format, "word_times": job.word_times}
    fingerprint = fingerprint_of(settings)
    header = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "settings": settings,
        "input": recordings.url,
        "model": job.model,
    }
    try:
        found = json.loads(store.read(HEADER))
    except FileNotFoundError:
        found = None
    except ValueError as error:
        raise FormatError(
            f"{store.address(HEADER)} is damaged: {error}. Restore it from a copy, or choose "
            "another output."
        ) from error
    if found is None:
        if store.names(TRANSCRIPTS) or store.names(DEAD_LETTERS):
            raise ConfigError(
                f"{store.url} holds transcripts and no {HEADER} that says how they were made. "
                "Choose another output, or begin anew (--overwrite)."
            )
    elif found.get("fingerprint") != fingerprint:
        before = found.get("settings", {})
        changed = ", ".join(
            f"{name} (there {before.get(name)!r}, now {settings.get(name)!r})"
            for name in sorted({*before, *settings})
            if before.get(name) != settings.get(name)
        )
        raise ConfigError(
            f"{store.url} holds transcripts made with other settings: {changed or 'not recorded'}."
            " Choose another output, or begin anew (--overwrite)."
        )
    elif found.get("input") != recordings.url and not input_moved:
        raise ConfigError(
            f"{store.url} holds transcripts of another input: there {found.get('input')}, now "
            f"{recordings.url}. Recordings of the same name would be taken for done. Choose "
            "another output; if it is the same input in another place, add --input-moved."
        )
    if found != header:
        store.write(HEADER, json.dumps(header, ensure_ascii=False, indent=2).encode() + b"\n")
    return fingerprint


def _with_settings(job: Job, settings: Mapping[str, Any], fingerprint: str) -> Job:
    """Tell a job what its model turned out to be."""
    metadata = {"unheard.fingerprint": fingerprint, "unheard.model": str(settings["model"])}
    return replace(job, settings=settings, metadata=metadata)


def _run(job: Job, plan: Plan, pool: Pool | None, *, shown: bool) -> Outcome:
    """Work off the tickets."""
    if not plan.tickets:
        return Outcome()
    if shown:
        print(
            f"{plan.pending} recordings to transcribe"
            + (f"; {plan.done + plan.failed} have a record" if plan.done + plan.failed else ""),
            file=sys.stderr,
            flush=True,
        )
    if pool is None:
        with Meter(plan.pending, look=None, shown=shown) as meter:
            worker = Worker(job, report=meter.report)
            for ticket in plan.tickets:
                outcome = worker.work(ticket)
                meter.report(Outcome())
                meter.add(outcome)
        return meter.outcome
    with (
        cluster.running(job, plan.tickets, pool) as running,
        Meter(plan.pending, look=running.look, shown=shown) as meter,
    ):
        for ended in running.ended:
            meter.add(ended.outcome)
    if meter.outcome.done + meter.outcome.failed != plan.pending:
        raise UnheardError(
            f"Of {plan.pending} recordings, {meter.outcome.done + meter.outcome.failed} came to "
            "an end: expected all of them. Run the same command again; it does the others."
        )
    return meter.outcome


def _remove_strays(
    store: Store, known: Known, *, run: str, label: str, metadata: Mapping[str, str]
) -> None:
    """Look for parts that a worker of an earlier run wrote after this one had looked."""
    names = [*store.names(TRANSCRIPTS), *store.names(DEAD_LETTERS)]
    strays = [
        name
        for name in names
        if name not in known.parts and run not in name and f"-{label}-" in name
    ]
    if strays:
        read_known(store, metadata=metadata)


def _tidy(store: Store, label: str) -> None:
    """Remove what a run needs while it lasts, and what workers that were killed left."""
    store.remove_folder(f"{WORK}/{label}")
    for folder in (TRANSCRIPTS, DEAD_LETTERS, INDEX):
        store.sweep(folder, f"-{label}-")


def _drop(store: Store) -> None:
    """Remove what an archive consists of, and nothing else."""
    for folder in (TRANSCRIPTS, DEAD_LETTERS, INDEX):
        store.remove_folder(folder)
    store.remove(HEADER)


@contextlib.contextmanager
def _writing(store: Store) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a store that fails into a message."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UnheardError):
            raise
        raise UnheardError(
            f"Cannot work in {store.url}: {error}. See to the disk, the permissions or the "
            "network; the same command then goes on where it stopped."
        ) from error


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let a scheduler's signal to stop end the job as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise Interrupted("stopped by a signal", signal=number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
