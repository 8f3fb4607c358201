"""Which recordings an archive has: those of a folder or prefix, or the rows of a manifest.

A manifest is JSON lines (.jsonl), delimited text (.csv, .tsv) or Parquet. Each row names a
recording by path or address, and may name an id and a stretch of it:

    audio                     required; relative to the manifest, or absolute, or an address
    id                        unique; the audio's name and where the stretch begins by default
    start_seconds, duration   the stretch [seconds]
    start, num_samples, sample_rate   the same in samples, as `unheard scan` writes it

Columns go by their usual other names too (`unheard.data.tables.COLUMN_NAMES`). A row that cannot
be understood is a recording with an error, never the end of the job.
"""

import codecs
import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unheard.archive.stores import LocalStore, Store, open_store
from unheard.audio.io import AUDIO_SUFFIXES
from unheard.data.manifest import (
    LONGEST_LINE_BYTES,
    LONGEST_UTTERANCE_SECONDS,
    has_parent_step,
    is_absolute,
    parse_json_line,
    printable,
)
from unheard.data.places import is_url
from unheard.data.tables import COLUMN_NAMES
from unheard.errors import ConfigError, ManifestError, MissingExtraError
from unheard.tasks.listing import part_of, walk_recordings

MANIFEST_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
ROWS_AT_ONCE = 4096

BAD_ROW = "manifest"
DUPLICATE = "duplicate_id"
"""Reasons of dead letters of rows that are no recordings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One recording, or a stretch of one, to transcribe.

    Attributes:
        id: names it in the records; unique within an archive.
        audio: its path or address.
        start_seconds: where the stretch begins.
        length_seconds: its length; None is to the end.
        num_bytes: size of the recording; None when not known.
        fault: reason and detail of why it cannot be read, where that is known already.
    """

    id: str
    audio: str
    start_seconds: float = 0.0
    length_seconds: float | None = None
    num_bytes: int | None = None
    fault: tuple[str, str] | None = None

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for the id."""
        return digest_of(self.id)

    def to_line(self) -> bytes:
        """Write it as a line of JSON."""
        row = (
            self.id,
            self.audio,
            self.start_seconds,
            self.length_seconds,
            self.num_bytes,
            self.fault,
        )
        return _LINE.encode(row).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Item":
        """Read what `to_line` wrote."""
        name, audio, start, length, num_bytes, fault = json.loads(line)
        return cls(
            id=name,
            audio=audio,
            start_seconds=start,
            length_seconds=length,
            num_bytes=num_bytes,
            fault=None if fault is None else (fault[0], fault[1]),
        )


_LINE = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def digest_of(name: str) -> bytes:
    """Give 16 bytes that stand for an id."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Recordings:
    """What an archive is made from; can be listed more than once."""

    def __init__(self, source: str | os.PathLike[str], *, exclude: Store | None = None) -> None:
        """Look at what is there, without listing it.

        Args:
            source: folder, prefix or manifest; see the module.
            exclude: where the transcripts go: not looked into.

        Raises:
            ConfigError: if there is nothing, or it is a single recording.
            MissingExtraError: if it needs a package that is missing.
        """
        self.source = str(source)
        self._exclude = exclude
        suffix = Path(self.source).suffix.lower()
        self._kind = suffix if suffix in MANIFEST_SUFFIXES else "folder"
        if self._kind == "folder":
            self._store = open_store(source)
            if isinstance(self._store, LocalStore) and not self._store.folder.is_dir():
                is_file = self._store.folder.is_file()
                raise ConfigError(
                    f"{self.source} is no archive: expected a folder, a prefix of a store, or a "
                    f"manifest ({', '.join(MANIFEST_SUFFIXES)}), found "
                    f"{'a file' if is_file else 'nothing'}. "
                    + ("For single files: unheard transcribe" if is_file else "Check the path.")
                )
            return
        parent, _, self._name = self.source.replace(os.sep, "/").rpartition("/")
        self._store = open_store(parent or ("/" if self.source.startswith("/") else "."))
        if not self._store.exists(self._name):
            raise ConfigError(
                f"There is no manifest {printable(self.source)}: expected a file, found nothing. "
                "Check the path."
            )
        if self._kind == ".parquet":
            _pyarrow_parquet()

    @property
    def url(self) -> str:
        """What names the archive wherever the command is started from."""
        return self._store.url if self._kind == "folder" else self._store.address(self._name)

    @property
    def is_manifest(self) -> bool:
        """Whether it is a manifest."""
        return self._kind != "folder"

    def still_there(self) -> bool:
        """Say whether the folder can still be seen: a disk may have been taken away."""
        return not isinstance(self._store, LocalStore) or self._store.folder.is_dir()

    def items(self, *, shard: tuple[int, int] | None = None) -> Iterator[Item]:
        """List the recordings, one after the other.

        Args:
            shard: (i, n) keeps the i-th of n parts, by id.

        Raises:
            ManifestError: if a manifest as a whole cannot be read.
        """
        found = self._rows() if self.is_manifest else self._files()
        if shard is None:
            return found
        part, parts = shard
        return (item for item in found if part_of(item.id, parts) == part - 1)

    def _files(self) -> Iterator[Item]:
        """List a folder or prefix."""
        if isinstance(self._store, LocalStore):
            exclude = self._exclude.folder if isinstance(self._exclude, LocalStore) else None
            for one in walk_recordings(self._store.folder, exclude=exclude):
                fault = None if one.error is None else (one.error.reason, str(one.error))
                yield Item(
                    id=_written(one.name), audio=one.path, num_bytes=one.num_bytes, fault=fault
                )
            return
        prefix = None if self._exclude is None else f"{self._exclude.url}/"
        for entry in self._store.walk():
            address = self._store.address(entry.name)
            if prefix is not None and address.startswith(prefix):
                continue
            if os.path.splitext(entry.name)[1].lower() in AUDIO_SUFFIXES:  # noqa: PTH122 (no path)
                yield Item(id=entry.name, audio=address, num_bytes=entry.num_bytes)

    def _rows(self) -> Iterator[Item]:
        """List a manifest."""
        for number, row in self._raw_rows():
            try:
                if isinstance(row, ManifestError):
                    raise row
                yield self._item(row)
            except ManifestError as error:
                where = f"{self._name}:{number}"
                yield Item(id=where, audio=where, fault=(BAD_ROW, f"row {number}: {error}"))

    def _raw_rows(self) -> Iterator[tuple[int, Mapping[str, Any] | ManifestError]]:
        """Read a manifest row by row: line numbers, and rows or what is wrong with them."""
        with self._store.open(self._name) as file:
            if self._kind == ".jsonl":
                yield from _json_rows(file)
            elif self._kind == ".parquet":
                yield from _parquet_rows(file, self._name)
            else:
                delimiter = "\t" if self._kind == ".tsv" else ","
                yield from _delimited_rows(file, self._name, delimiter=delimiter)

    def _item(self, row: Mapping[str, Any]) -> Item:
        """Understand one row.

        Raises:
            ManifestError: naming the field, what it should be and what it is.
        """
        audio = _cell(row, "audio")
        if not isinstance(audio, str) or not audio or "\0" in audio:
            raise ManifestError(f'"audio" must be a path or an address, but is {audio!r:.60}')
        if not is_url(audio):
            if has_parent_step(audio):
                raise ManifestError(f'"audio" must not hold "..", but is {printable(audio)}')
            if not is_absolute(audio):
                address = self._store.address(audio)
            else:
                address = audio
        else:
            address = audio
        start, length = _stretch(row)
        name = _cell(row, "id")
        if name is None:
            name = audio if start == 0 else f"{audio}#{start:g}"
        name = str(name)
        if not name:
            raise ManifestError('"id" is empty')
        return Item(id=_written(name), audio=address, start_seconds=start, length_seconds=length)


def _stretch(row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Read where a row's stretch begins and how long it is [seconds]."""
    if row.get("num_samples") not in (None, ""):
        rate = _number(row.get("sample_rate"), "sample_rate", least=1)
        length = _number(row["num_samples"], "num_samples", least=1) / rate
        start = row.get("start")
        return (0.0 if start in (None, "") else _number(start, "start") / rate), length
    start, length, end = (_cell(row, role) for role in ("start", "duration", "end"))
    start = 0.0 if start in (None, "") else _number(start, "start")
    if length not in (None, ""):
        return start, _number(length, "duration")
    if end in (None, ""):
        return start, None
    end = _number(end, "end")
    if end <= start:
        raise ManifestError(f'"end" must be after the start at {start:g} s, but is {end:g} s')
    return start, end - start


def _number(value: Any, name: str, *, least: float = 0.0) -> float:
    """Read a number that is not negative; texts of delimited files too."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not least <= number < math.inf:
        raise ManifestError(
            f'"{name}" must be a number of at least {least:g}, but is {value!r:.40}'
        )
    if name in ("start", "duration", "end") and number > LONGEST_UTTERANCE_SECONDS:
        raise ManifestError(f'"{name}" is {number:g} s, which no recording has')
    return number


def _cell(row: Mapping[str, Any], role: Any) -> Any:
    """Find a value by any of the names that its column may have; None if there is none."""
    for name in COLUMN_NAMES[role]:
        if name in row:
            return row[name]
    return None


def _written(name: str) -> str:
    """Make a name that UTF-8 can hold of any file name; different ones stay different."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogatepass")
        shown = name.encode("utf-8", "backslashreplace").decode()
        return f"{shown}~{hashlib.sha256(raw).hexdigest()[:8]}"
    return name


def _json_rows(file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | ManifestError]]:
    """Read JSON lines in bounded memory."""
    for number, line in _lines(file):
        try:
            row = parse_json_line(line)
        except ManifestError as error:
            yield number, error
            continue
        if row is not None:
            yield number, row


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Give lines with their numbers; None for one that is too long to be read."""
    number = 0
    while line := file.readline(LONGEST_LINE_BYTES + 2):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                continue
            yield number, None
        else:
            yield number, line.rstrip(b"\r\n")


def _delimited_rows(
    file: BinaryIO, name: str, *, delimiter: str
) -> Iterator[tuple[int, Mapping[str, Any] | ManifestError]]:
    """Read delimited text with a header line."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    try:
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        if not {*(reader.fieldnames or ())} & {*COLUMN_NAMES["audio"]}:
            raise ManifestError(
                f'{name} has no column of recordings: expected a header with "audio" among its '
                f"names, found {printable(str(reader.fieldnames))}. Add a header line."
            )
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, ManifestError(f"the row is not delimited text ({error})")
                continue
            values = [value for key, value in row.items() if key is not None]
            if any("\ufffd" in value for value in values if value):
                yield reader.line_num, ManifestError("the row is not UTF-8")
            elif None in row or None in values:
                yield reader.line_num, ManifestError("the row has not as many fields as the header")
            else:
                # An empty field is one that is not known.
                yield reader.line_num, {key: value for key, value in row.items() if value}
    finally:
        text.detach()


def _parquet_rows(
    file: BinaryIO, name: str
) -> Iterator[tuple[int, Mapping[str, Any] | ManifestError]]:
    """Read Parquet, of its columns those that are needed."""
    parquet = _pyarrow_parquet()
    try:
        table = parquet.ParquetFile(file)
        known = {
            column
            for role in ("audio", "id", "start", "end", "duration")
            for column in COLUMN_NAMES[role]
        } | {"num_samples", "sample_rate"}
        columns = [column for column in table.schema_arrow.names if column in known]
        if not {*columns} & {*COLUMN_NAMES["audio"]}:
            raise ManifestError(
                f'{name} has no column of recordings: expected "audio", found '
                f"{printable(str(table.schema_arrow.names))}."
            )
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, {key: value for key, value in row.items() if value is not None}
    except (ValueError, OSError) as error:
        # pyarrow's own errors are of these kinds.
        raise ManifestError(f"{name} is not a Parquet file: {error}. Write it again.") from error


def _pyarrow_parquet() -> Any:
    """Import pyarrow, which is optional."""
    try:
        import pyarrow.parquet
    except (ImportError, OSError) as error:
        raise MissingExtraError("pyarrow", extra="data", purpose="Parquet") from error
    return pyarrow.parquet
