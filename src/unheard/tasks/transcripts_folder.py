"""The output folder of `transcribe`: one record for each recording, whatever happens on the way.

    transcribe.json      what made the records: settings, model, their fingerprint
    transcripts.jsonl    one line for each recording that was transcribed
    dead_letters.jsonl   one line for each that could not be: path, reason, detail, bytes, sha256
    <name>.<format>      the text or subtitles of each recording

A recording has its record in exactly one of the two files. Its own output file is written
first, whole or not at all; then its record is appended in one write and flushed. Threads do that
beside the model, which does not wait for the disk; records keep the order in which they are
given. A process killed before a record is written does its recording again. Records that are to
be made again (a changed recording, a failed one that is tried again) are taken out, atomically,
before the work begins.
"""

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from unheard import files
from unheard.errors import AudioError, ConfigError, FormatError, UnheardError
from unheard.tasks.listing import Listed, digest, fold_name, shorten_name

Format = Literal["txt", "jsonl", "srt", "vtt"]
"""What is written for each recording; "jsonl" is transcripts.jsonl alone."""

Render = Callable[[Mapping[str, Any], Format], str]
"""Makes the text of a recording's own output from its record."""

FORMAT_VERSION = 1
HEADER = "transcribe.json"
TRANSCRIPTS = "transcripts.jsonl"
DEAD_LETTERS = "dead_letters.jsonl"
LOCK = ".transcribe.lock"

MOST_PENDING = 64
"""Transcripts that wait for the disk at most; with more, the model waits too."""
_WRITERS = 4


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The little of a record that a later run needs."""

    failed: bool
    num_bytes: int | None
    modified_ns: int | None
    output: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left to do.

    Attributes:
        pending: recordings without a record.
        done: recordings that have a transcript already.
        failed: recordings that have a dead letter already.
    """

    pending: tuple[Listed, ...]
    done: int
    failed: int


class TranscriptsFolder:
    """Holds an output folder while it is written to; a context manager."""

    keeps_order = False

    def __init__(self, path: str | os.PathLike[str], *, format: Format, render: Render) -> None:
        """Name the folder; nothing is touched yet.

        Args:
            path: the folder; made if it is not there.
            format: what to write for each recording.
            render: makes the text of that from a record.
        """
        self.path = Path(path)
        self._format: Format = format
        self._render = render
        self._names: dict[str, str] = {}
        self._known: dict[str, _Known] = {}
        self._stack = ExitStack()
        # Outputs wait for the disk side by side, records one after the other.
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="outputs")
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        """Lock the folder.

        Raises:
            ConfigError: if another process writes there, or it cannot be written.
        """
        with self._writing():
            self._stack.enter_context(files.locked(self.path / LOCK))
            self._stack.enter_context(self._writers)
            self._stack.enter_context(self._recorder)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Write what is waiting, also after a fault, and unlock."""
        with self._stack:
            while self._pending:
                stored = self._pending.popleft()
                # A fault that ended the run is told, not those that follow from it.
                with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception):
                    stored.result()

    def open(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Read what an earlier run left, or begin.

        Args:
            settings: all that decides the transcripts; other settings than those of the records
                there are refused.
            overwrite: drop the records there instead.

        Raises:
            ConfigError: if the folder holds records made otherwise.
            FormatError: if a file there is damaged beyond a torn last line.
        """
        fingerprint = fingerprint_of(settings)
        header_path = self.path / HEADER
        with self._writing():
            self._sweep()
            if overwrite:
                for name in (TRANSCRIPTS, DEAD_LETTERS):
                    (self.path / name).unlink(missing_ok=True)
            has_records = any((self.path / name).exists() for name in (TRANSCRIPTS, DEAD_LETTERS))
            if has_records:
                self._check_header(header_path, settings, fingerprint)
            for name in (TRANSCRIPTS, DEAD_LETTERS):
                _repair_tail(self.path / name)
            header = {
                "format_version": FORMAT_VERSION,
                "fingerprint": fingerprint,
                "settings": dict(settings),
                "format": self._format,
            }
            if not header_path.exists() or files.read_json(header_path) != header:
                files.write_json_atomic(header_path, header)

    def plan(self, listed: Sequence[Listed], *, retry_failed: bool) -> Plan:
        """Decide what is to be done, and take out the records that are to be made again.

        A recording with a record is left alone unless its size or modification time has changed,
        or it failed and `retry_failed` is asked for. Output files that are missing (another
        format is asked for, or one was removed) are made from the records.

        Args:
            listed: the recordings of this run.
            retry_failed: try again what has a dead letter.
        """
        by_path = {one.path: one for one in listed}
        again: set[str] = set()
        with self._writing():
            for row in _rows(self.path / DEAD_LETTERS):
                self._learn(row, failed=True)
            for row in _rows(self.path / TRANSCRIPTS):
                self._learn(row, failed=False)
                one = by_path.get(row["path"])
                if one is not None and self._is_current(one):
                    self._restore(row)
        pending: list[Listed] = []
        done = failed = 0
        for one in listed:
            known = self._known.get(one.path)
            if known is None:
                pending.append(one)
            elif not self._is_current(one) or (known.failed and retry_failed):
                again.add(one.path)
                pending.append(one)
            elif known.failed:
                failed += 1
            else:
                done += 1
        if again:
            with self._writing():
                self._forget(again)
        return Plan(pending=tuple(pending), done=done, failed=failed)

    def write_transcript(self, one: Listed, row: Mapping[str, Any]) -> None:
        """Write a recording's output, then its record; both soon, and in any case at the exit."""
        name = self._name(one)
        record = {
            "path": one.path,
            "status": "done",
            **{key: value for key, value in row.items() if key not in ("path", "words")},
            "output": name,
            "bytes": one.num_bytes,
            "modified_ns": one.modified_ns,
            # Last, since they are long.
            "words": row["words"],
        }
        written = self._writers.submit(self._write_output, record)

        def store() -> None:
            with self._writing():
                written.result()
                files.append_jsonl(self.path / TRANSCRIPTS, record)

        self._submit(store)

    def write_dead_letter(self, one: Listed, error: AudioError) -> None:
        """Write down why a recording could not be transcribed."""
        row = {
            "path": one.path,
            "status": "failed",
            "reason": error.reason,
            "detail": str(error),
            "bytes": one.num_bytes,
        }

        def store() -> None:
            with self._writing():
                ending = {"sha256": _hash(one), "modified_ns": one.modified_ns}
                files.append_jsonl(self.path / DEAD_LETTERS, {**row, **ending})

        self._submit(store)

    def _submit(self, store: Callable[[], None]) -> None:
        """Let a record be written in its turn; raises what an earlier one failed with."""
        self._pending.append(self._recorder.submit(store))
        while self._pending and (len(self._pending) > MOST_PENDING or self._pending[0].done()):
            self._pending.popleft().result()

    def _check_header(self, path: Path, settings: Mapping[str, Any], fingerprint: str) -> None:
        """Refuse records that were made with other settings."""
        found: dict[str, Any] = files.read_json(path) if path.exists() else {}
        if found.get("fingerprint") == fingerprint:
            return
        before = found.get("settings", {})
        changed = sorted(
            name for name in {*before, *settings} if before.get(name) != settings.get(name)
        )
        what = ", ".join(
            f"{name} (there {before.get(name)!r}, now {settings.get(name)!r})" for name in changed
        )
        raise ConfigError(
            f"{self.path} holds transcripts made with other settings: {what or 'not recorded'}. "
            "Choose another folder, or overwrite them (--overwrite)."
        )

    def _learn(self, row: Mapping[str, Any], *, failed: bool) -> None:
        """Keep what later decisions need of a record."""
        self._known[row["path"]] = _Known(
            failed=failed,
            num_bytes=row.get("bytes"),
            modified_ns=row.get("modified_ns"),
            output=row.get("output"),
        )
        output = row.get("output")
        if output is not None:
            self._names[fold_name(output)] = row["path"]

    def _is_current(self, one: Listed) -> bool:
        """Whether a recording is still the file that its record is about."""
        known = self._known[one.path]
        return (known.num_bytes, known.modified_ns) == (one.num_bytes, one.modified_ns)

    def _forget(self, paths: Collection[str]) -> None:
        """Take records out of both files, each file in one step."""
        for name in (TRANSCRIPTS, DEAD_LETTERS):
            source = self.path / name
            if not source.exists():
                continue
            with files.atomic_path(source) as temporary, temporary.open("wb") as target:
                for line, row in _lines(source):
                    if row["path"] not in paths:
                        target.write(line)

    def _name(self, one: Listed) -> str:
        """Choose the output name of a recording: its own, or one that no other has."""
        known = self._known.get(one.path)
        if known is not None and known.output is not None:
            return known.output
        name = shorten_name(one.name)
        if self._names.setdefault(fold_name(name), one.path) != one.path:
            name = shorten_name(f"{name}~{digest(one.path)}")
            self._names[fold_name(name)] = one.path
        return name

    def _output_path(self, name: str) -> Path:
        """Where a recording's own output goes."""
        return self.path / f"{name}.{self._format}"

    def _write_output(self, record: Mapping[str, Any]) -> None:
        """Write a recording's own output, where the format has one."""
        if self._format != "jsonl":
            text = self._render(record, self._format)
            files.write_text_atomic(self._output_path(record["output"]), text)

    def _restore(self, record: Mapping[str, Any]) -> None:
        """Make an output again that is not there."""
        if self._format != "jsonl" and not self._output_path(record["output"]).exists():
            self._write_output(record)

    def _sweep(self) -> None:
        """Remove what a killed process left half written; the lock says that none is at work."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                stem, mark, process = name.rpartition(".tmp-")
                ours = stem in {HEADER, TRANSCRIPTS, DEAD_LETTERS} or stem.endswith(
                    (".txt", ".srt", ".vtt")
                )
                if mark and ours and process.isdecimal():
                    (Path(folder) / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a full disk or a read-only folder into a message."""
        try:
            yield
        except OSError as error:
            raise UnheardError(
                f"Cannot write to {self.path}: {error}. Free space or choose another folder; the "
                "same command then goes on where it stopped."
            ) from error


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """Hash settings: SHA-256 of their JSON with sorted keys."""
    text = json.dumps(dict(settings), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Read a file of records line by line: transcripts of a large archive do not fit in memory."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FormatError(
                    f"{path} line {number} is not JSON: {error}. Remove the line; its recording "
                    "is then transcribed again."
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                raise FormatError(
                    f'{path} line {number}: expected a record with a "path", found none. Remove '
                    "the line; its recording is then transcribed again."
                )
            yield line, row


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a file."""
    for _, row in _lines(path):
        yield row


def _repair_tail(path: Path) -> None:
    """Cut off a last line that a killed process left unfinished."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position:
            start = max(position - 65536, 0)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            file.flush()
            os.fsync(file.fileno())


def _hash(one: Listed) -> str | None:
    """Hash a recording that is a regular file and can be read."""
    if one.num_bytes is None:
        return None
    try:
        return files.sha256_file(one.path)
    except OSError:
        return None
