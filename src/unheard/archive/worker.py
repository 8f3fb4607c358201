"""One worker of an archive: tickets in, parts out, by the same code as `unheard transcribe`.

A worker may be killed at any moment, and a decoder may take its process along. What it had not
written is done again by another one, which finds the mark of the first beside the output and goes
on with care: one recording at a time, each named in the mark before it is begun. The one at which
the process ends a second time becomes a dead letter, and the rest goes on.
"""

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from unheard.archive.parts import (
    DEAD_LETTERS,
    TRANSCRIPTS,
    Format,
    part_name,
    read_part,
    write_part,
)
from unheard.archive.plan import Ticket, read_ticket
from unheard.archive.recordings import Item
from unheard.archive.stores import RemoteRecording, Store, StoreError, open_store
from unheard.data.manifest import printable
from unheard.data.places import is_url
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.hypothesis import Hypothesis
from unheard.decoding.search import Decoder, SearchStream
from unheard.errors import AudioError, ConfigError, UnheardError
from unheard.files import sha256_file
from unheard.inference.engine import Dtype
from unheard.inference.pipeline import POOL_RECORDINGS, Heard, Source, hear
from unheard.tasks.searching import SearchOptions
from unheard.tasks.transcribe import LazyEngine, make_transcript

COMMIT_SECONDS = 60.0
"""Work that a worker may lose when it is killed: after that time it writes a part [seconds]."""
PATIENCE_SECONDS = 900.0
"""A worker that neither ends a recording nor hears a window for so long hangs [seconds]."""
REPORT_SECONDS = 1.0
"""Between two reports of progress [seconds]."""
STORE_FAULTS = 24
"""After so many recordings in a row that a store does not give, the job stops."""
SPARE_ATTEMPTS = 5
"""How much more often than it has recordings a ticket may end its worker."""
ACCELERATOR_POOL = 128
"""Recordings sorted by length together where batches are large."""
REMOTE_READERS = 16
"""Threads that fetch and decode where recordings come over a network."""

CRASHED = "worker_crash"
HUNG = "worker_hung"
STORE = "store"
"""Reasons of dead letters that no decoder gives."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker of a run is told; plain data, for other processes and machines.

    Attributes:
        run: names the run; the parts of it begin with that.
        output: address of the output.
        list_name: of the list that tickets are stretches of.
        owner_name: file that says which run may write.
        marks: folder for the marks of tickets.
        source: folder that the recordings are in, if that is one on a disk.
        model: path or name of the model, or an address of its folder.
        search: how to get from log-probabilities to text.
        settings: all that decides a transcript, as the command's own process found it.
        metadata: kept in each part.
        format: of the transcripts.
        word_times: keep the words with their times.
        keep_readings: keep all readings of the search.
        adapter: language of a model with an adapter for each.
        device: where the model runs.
        padding: how padding is treated, instead of what the model says.
        dtype: number format of the matrix products.
        batch_seconds: padded audio in one batch [seconds].
        threads: processors of a worker.
        is_elsewhere: whether workers may be on other machines, so that they check the model.
        is_guarded: whether a worker that hangs may end its process.
        commit_seconds: see `COMMIT_SECONDS`.
        patience_seconds: see `PATIENCE_SECONDS`.
    """

    run: str
    output: str
    list_name: str
    owner_name: str
    marks: str
    source: str | None
    model: str
    search: SearchOptions
    settings: Mapping[str, Any]
    metadata: Mapping[str, str]
    format: Format
    word_times: bool
    keep_readings: bool
    adapter: str | None
    device: str
    padding: Literal["masked", "zeros"] | None
    dtype: Dtype
    batch_seconds: float | None
    threads: int
    is_elsewhere: bool = False
    is_guarded: bool = False
    commit_seconds: float = COMMIT_SECONDS
    patience_seconds: float = PATIENCE_SECONDS


@dataclass(kw_only=True)
class Outcome:
    """What became of a ticket, or of a part of it.

    Attributes:
        done: recordings transcribed.
        failed: recordings that could not be.
        audio_seconds: sound transcribed [seconds].
    """

    done: int = 0
    failed: int = 0
    audio_seconds: float = 0.0


@dataclass(kw_only=True)
class Mark:
    """What a worker writes down about a ticket, for the one that may have to go on.

    Attributes:
        attempt: how often a worker ended at this ticket before.
        trying: id of the recording that is done alone at the moment.
        hung: whether the worker ended itself because it hung.
        outcome: of the ticket, once it is finished.
    """

    attempt: int = 0
    trying: str | None = None
    hung: bool = False
    outcome: Outcome | None = None


Report = Callable[[Outcome], None]
"""Takes what became of the present ticket so far."""


@contextlib.contextmanager
def model_folder(model: str) -> Iterator[str]:
    """Give a model's path or name; one that lies in a store is fetched, and removed afterwards.

    Raises:
        ConfigError: if there is nothing at its address.
    """
    if not is_url(model):
        yield model
        return
    store = open_store(model)
    with tempfile.TemporaryDirectory(prefix="unheard-model-") as folder:
        for entry in store.walk():
            target = Path(folder, entry.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(entry.name))
        if not any(Path(folder).iterdir()):
            raise ConfigError(
                f"There is no model at {printable(model)}: expected a folder of files, found none."
            )
        yield folder


def lazy_engine(job: Job, folder: str) -> LazyEngine:
    """Prepare the model of a job, without loading it."""
    return LazyEngine(
        folder,
        job.search,
        keep_readings=job.keep_readings,
        adapter=job.adapter,
        device=job.device,
        padding=job.padding,
        dtype=job.dtype,
        batch_seconds=job.batch_seconds,
    )


class Worker:
    """Transcribes tickets, one after the other, with a model that stays loaded."""

    def __init__(self, job: Job, *, report: Report | None = None) -> None:
        """Load the model.

        Args:
            job: what to do.
            report: called now and then with what became of the present ticket so far.

        Raises:
            ConfigError: if the model or the search is another one on this machine.
        """
        self._job = job
        self._report = report
        self._store = open_store(job.output)
        with model_folder(job.model) as folder:
            lazy = lazy_engine(job, folder)
            if job.is_elsewhere:
                self._check(lazy.settings())
            self._engine = lazy.get()
            decoder = job.search.decoder(self._engine.alphabet)
        self._health = _Health()
        self._watch = _Watch(job.patience_seconds)
        self._decoder: Decoder = _WatchedDecoder(decoder, self._watch)

    def work(self, ticket: Ticket) -> Outcome:
        """Transcribe what is left of a ticket.

        Returns:
            What became of all of it, also of what another worker did before.

        Raises:
            UnheardError: if the output cannot be written, the store does not answer, or another
                run has taken over the output.
        """
        mark = self._read_mark(ticket)
        if mark is not None and mark.outcome is not None:
            return mark.outcome
        attempt = 0 if mark is None else mark.attempt + 1
        if attempt > ticket.count + SPARE_ATTEMPTS:
            raise UnheardError(
                f"The process that transcribes ended {attempt} times at the same {ticket.count} "
                "recordings: expected at most once for each. Is there too little memory? The same "
                "command goes on where it stopped."
            )
        stem = f"{self._job.run}-{ticket.number:06d}"
        parts = _Parts(self._job, self._store, self._health, stem=stem)
        self._write_mark(ticket, Mark(attempt=attempt))
        items = read_ticket(self._store, self._job.list_name, ticket)
        with self._guarding(ticket, attempt):
            if mark is None:
                self._listen(items, parts)
            else:
                self._listen_carefully(items, parts, ticket, mark)
            parts.keep_faults()
            parts.commit()
        self._write_mark(ticket, Mark(attempt=attempt, outcome=parts.outcome))
        return parts.outcome

    def _listen_carefully(
        self, items: Sequence[Item], parts: "_Parts", ticket: Ticket, before: Mark
    ) -> None:
        """Go on where a worker ended: one recording at a time, named before it is begun."""
        finished = parts.find_written()
        for item in items:
            if item.id in finished:
                continue
            if item.id == before.trying:
                # It was alone with the worker when that ended, and among others before.
                parts.fail(item, _crash(hung=before.hung), is_deadly=True)
                parts.commit()
                continue
            mark = Mark(attempt=before.attempt + 1, trying=item.id)
            self._write_mark(ticket, mark)
            self._watch.mark = (ticket, mark)
            self._listen([item], parts)

    def _listen(self, items: Sequence[Item], parts: "_Parts") -> None:
        """Transcribe recordings into parts."""
        readable = [item for item in items if item.fault is None]
        for item in items:
            if item.fault is not None:
                reason, detail = item.fault
                parts.fail(item, AudioError(detail, reason=reason))
        on_cpu = self._engine.bundle.device.type == "cpu"
        far = any(is_url(item.audio) for item in readable)
        fetched: dict[int, RemoteRecording] = {}
        results = hear(
            self._engine,
            _sources(readable, fetched),
            self._decoder,
            workers=max(self._job.threads, REMOTE_READERS if far else 1),
            pool=POOL_RECORDINGS if on_cpu else ACCELERATOR_POOL,
        )
        reported = time.monotonic()
        with contextlib.closing(results):
            for heard in results:
                self._watch.tick()
                recording = fetched.pop(heard.index, None)
                fault = None if recording is None else recording.fault
                if recording is not None:
                    recording.close()
                self._keep(readable[heard.index], heard, fault, parts)
                now = time.monotonic()
                if parts.is_due(now):
                    parts.commit()
                if self._report is not None and now - reported > REPORT_SECONDS:
                    reported = now
                    self._report(parts.so_far)

    def _keep(self, item: Item, heard: Heard, fault: StoreError | None, parts: "_Parts") -> None:
        """Make a record of a result."""
        if heard.error is None:
            transcript = make_transcript(
                self._engine,
                heard,
                path=item.audio,
                word_times=self._job.word_times,
                keep_readings=self._job.keep_readings,
            )
            parts.finish(item, transcript.to_dict(), with_words=self._job.word_times)
            return
        source = self._job.source
        if heard.error.reason == "vanished" and source is not None and not Path(source).is_dir():
            raise UnheardError(
                f"The folder {source} is not there any more: expected the recordings in it. "
                "Mount it again; the same command then goes on where it stopped."
            )
        if fault is not None:
            parts.fail(item, AudioError(str(fault), reason=STORE), is_fault_of_store=True)
        else:
            # One object that may not be read is one; all of them are a matter of credentials.
            forbidden = is_url(item.audio) and heard.error.reason == "permission"
            parts.fail(item, heard.error, is_fault_of_store=forbidden)

    def _check(self, found: Mapping[str, Any]) -> None:
        """Refuse to work with another model, or another search, than the job was planned for."""
        expected = self._job.settings
        changed = sorted(
            name
            for name in found
            if json.dumps(found[name], sort_keys=True)
            != json.dumps(expected.get(name), sort_keys=True)
        )
        if changed:
            raise ConfigError(
                f"On {socket.gethostname()} the model or its settings differ from those of the "
                f"machine that started the job: {', '.join(changed)}. Put the same files on every "
                "machine, or on a shared folder or store."
            )

    def _mark_name(self, ticket: Ticket) -> str:
        return f"{self._job.marks}/{ticket.number:06d}.json"

    def _read_mark(self, ticket: Ticket) -> Mark | None:
        try:
            row = json.loads(self._store.read(self._mark_name(ticket)))
        except FileNotFoundError:
            return None
        outcome = row.pop("outcome")
        return Mark(**row, outcome=None if outcome is None else Outcome(**outcome))

    def _write_mark(self, ticket: Ticket, mark: Mark) -> None:
        with _writing(self._job.output):
            self._store.write(self._mark_name(ticket), json.dumps(asdict(mark)).encode())

    @contextlib.contextmanager
    def _guarding(self, ticket: Ticket, attempt: int) -> Iterator[None]:
        """End this process if it hangs, after writing down that it did."""
        if not self._job.is_guarded:
            yield
            return
        self._watch.mark = (ticket, Mark(attempt=attempt))

        def give_up() -> None:
            at, mark = self._watch.mark or (ticket, Mark(attempt=attempt))
            with contextlib.suppress(OSError, UnheardError):
                self._write_mark(at, Mark(attempt=mark.attempt, trying=mark.trying, hung=True))
            os._exit(1)

        with self._watch.watching(give_up):
            yield


class _Parts:
    """The records of a ticket: kept for a while, then written as a part."""

    def __init__(self, job: Job, store: Store, health: "_Health", *, stem: str) -> None:
        self._job = job
        self._store = store
        self._health = health
        self._stem = stem
        self._number = 0
        self._done: list[dict[str, Any]] = []
        self._failed: list[dict[str, Any]] = []
        self._faults_of_store: list[dict[str, Any]] = []
        self._since = time.monotonic()
        self._seconds = 0.0
        self.outcome = Outcome()

    @property
    def so_far(self) -> Outcome:
        """What became of the ticket, written or not."""
        return Outcome(
            done=self.outcome.done + len(self._done),
            failed=self.outcome.failed + len(self._failed),
            audio_seconds=self.outcome.audio_seconds + self._seconds,
        )

    def is_due(self, now: float) -> bool:
        """Whether it is time to write."""
        return now - self._since >= self._job.commit_seconds

    def finish(self, item: Item, row: Mapping[str, Any], *, with_words: bool) -> None:
        """Keep a transcript."""
        self._health.faults_in_a_row = 0
        self.keep_faults()
        dropped = {"path"} if with_words else {"path", "words"}
        record = {
            "id": item.id,
            "audio": _shown(item.audio),
            "start_seconds": item.start_seconds,
            **{key: value for key, value in row.items() if key not in dropped},
        }
        self._done.append(record)
        self._seconds += row["duration_seconds"]

    def fail(
        self,
        item: Item,
        error: AudioError,
        *,
        is_deadly: bool = False,
        is_fault_of_store: bool = False,
    ) -> None:
        """Keep a dead letter.

        Args:
            item: the recording.
            error: why it could not be transcribed.
            is_deadly: do not touch it any more.
            is_fault_of_store: keep it back until the store gives another recording.

        Raises:
            UnheardError: if the store gives none any more.
        """
        record = {
            "id": item.id,
            "audio": _shown(item.audio),
            "start_seconds": item.start_seconds,
            "reason": error.reason,
            "detail": str(error),
            "bytes": item.num_bytes,
            "sha256": None if is_deadly else _hash(item),
        }
        if not is_fault_of_store:
            self._failed.append(record)
            return
        self._faults_of_store.append(record)
        self._health.faults_in_a_row += 1
        if self._health.faults_in_a_row >= STORE_FAULTS:
            raise UnheardError(
                f"The store gave none of the last {STORE_FAULTS} recordings; the last error was: "
                f"{error} Check the network and the credentials; the same command then goes on "
                "where it stopped."
            )

    def find_written(self) -> set[str]:
        """Find what another worker wrote of this ticket; the next part comes after it."""
        ids: set[str] = set()
        while True:
            names = [
                part_name(folder, f"{self._stem}-{self._number}", self._job.format)
                for folder in (DEAD_LETTERS, TRANSCRIPTS)
            ]
            there = [name for name in names if self._store.exists(name)]
            if not there:
                return ids
            for name in there:
                records = read_part(self._store, name)
                ids.update(record["id"] for record in records)
                if name.startswith(TRANSCRIPTS):
                    self.outcome.done += len(records)
                    self.outcome.audio_seconds += sum(
                        record["duration_seconds"] for record in records
                    )
                else:
                    self.outcome.failed += len(records)
            self._number += 1

    def commit(self) -> None:
        """Write what is kept as a part, if this run may still write."""
        if self._done or self._failed:
            with _writing(self._job.output):
                self._check_owner()
                stem = f"{self._stem}-{self._number}"
                for folder, records in ((DEAD_LETTERS, self._failed), (TRANSCRIPTS, self._done)):
                    if records:
                        name = part_name(folder, stem, self._job.format)
                        write_part(self._store, name, records, metadata=self._job.metadata)
            self.outcome = self.so_far
            self._number += 1
            self._done, self._failed, self._seconds = [], [], 0.0
        self._since = time.monotonic()

    def keep_faults(self) -> None:
        """Keep what the store did not give: it gives others, or the ticket is at its end."""
        self._failed += self._faults_of_store
        self._faults_of_store = []

    def _check_owner(self) -> None:
        """Stop if another run has begun: its plan does not know of this worker."""
        try:
            owner = json.loads(self._store.read(self._job.owner_name))
        except FileNotFoundError:
            owner = {}
        if owner.get("run") != self._job.run:
            raise UnheardError(
                f"Another run writes to {self._job.output}: expected {self._job.run}, found "
                f"{owner.get('run')}. This worker stops; what it had not written is done there."
            )


@dataclass(kw_only=True)
class _Health:
    """How the store of the recordings is.

    Attributes:
        faults_in_a_row: recordings that it did not give, since the last one that it did.
    """

    faults_in_a_row: int = 0


@dataclass
class _Watch:
    """Knows when a worker last got on."""

    patience_seconds: float
    mark: tuple[Ticket, Mark] | None = None
    _last: float = field(default_factory=time.monotonic)

    def tick(self) -> None:
        """Note that it got on."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watching(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Call `give_up` when it has not got on for too long."""
        self.tick()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(min(self.patience_seconds / 4, 10.0)):
                if time.monotonic() - self._last > self.patience_seconds:
                    give_up()
                    return

        threading.Thread(target=watch, name="watch", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


class _WatchedDecoder:
    """A decoder that notes each recording and each window that comes to it."""

    def __init__(self, decoder: Decoder, watch: _Watch) -> None:
        self._decoder = decoder
        self._watch = watch

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Read one recording."""
        self._watch.tick()
        return self._decoder.decode(emissions)

    def decode_many(
        self, emissions: Sequence[Emissions], *, threads: int | None = None
    ) -> list[list[Hypothesis]]:
        """Read many recordings."""
        self._watch.tick()
        return self._decoder.decode_many(emissions, threads=threads)

    def stream(self, timing: FrameTiming) -> SearchStream:
        """Begin a search whose frames come piece by piece."""
        return cast("SearchStream", _WatchedStream(self._decoder.stream(timing), self._watch))


class _WatchedStream:
    """A search that notes each window that comes to it; all else is the search's own."""

    def __init__(self, stream: SearchStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def feed(self, log_probs: Any) -> None:
        """Take further frames."""
        self._watch.tick()
        self._stream.feed(log_probs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _sources(items: Sequence[Item], fetched: dict[int, RemoteRecording]) -> Iterator[Source]:
    """Make sources of recordings; those of stores are noted, to be closed again."""
    for index, item in enumerate(items):
        audio: str | BinaryIO = item.audio
        if is_url(item.audio):
            fetched[index] = RemoteRecording(item.audio)
            audio = cast("BinaryIO", fetched[index])
        yield Source(audio=audio, start_seconds=item.start_seconds, max_seconds=item.length_seconds)


@contextlib.contextmanager
def _writing(output: str) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a store that fails into a message."""
    try:
        yield
    except OSError as error:
        raise UnheardError(
            f"Cannot write to {output}: {error}. Make room, or see to the permissions or the "
            "network; the same command then goes on where it stopped."
        ) from error


def _crash(*, hung: bool) -> AudioError:
    """Say that a recording ended two processes."""
    how = f"hung for more than {PATIENCE_SECONDS:g} s" if hung else "ended without a word"
    return AudioError(
        f"The process that transcribed it {how}, for the second time: with others, and then "
        "alone. If it was not ended from outside (no memory left?), look at that file.",
        reason=HUNG if hung else CRASHED,
    )


def _shown(audio: str) -> str:
    """Write a path in UTF-8 whatever bytes it has."""
    return audio.encode("utf-8", "backslashreplace").decode()


def _hash(item: Item) -> str | None:
    """Hash a recording on a disk; None where it cannot be read, or is far away."""
    if item.num_bytes is None or is_url(item.audio):
        return None
    try:
        return sha256_file(item.audio)
    except OSError:
        return None
