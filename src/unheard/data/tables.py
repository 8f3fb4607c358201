"""Transcript tables: delimited text and JSON lines, read row by row.

The delimiter, the quoting and whether there is a header are found from the content; what each
column means is found from its name, or told. Nothing is guessed about a single row: one that does
not fit is given as a Skip with its line, and reading goes on.
"""

import codecs
import csv
import io
import itertools
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unheard.data.manifest import (
    LONGEST_LINE_BYTES,
    Skip,
    iter_lines,
    parse_json_line,
    printable,
)
from unheard.errors import ConfigError, ManifestError

Role = Literal[
    "audio",
    "text",
    "speaker",
    "language",
    "split",
    "id",
    "label",
    "start",
    "end",
    "duration",
    "duration_milliseconds",
]
"""What a column can mean to us; times are in seconds unless the name says otherwise."""

COLUMN_NAMES: dict[Role, tuple[str, ...]] = {
    "audio": (
        "audio_filepath",
        "audio_file_path",
        "audio_path",
        "audio_file",
        "audio_filename",
        "audio_file_name",
        "audio",
        "path",
        "file_path",
        "filepath",
        "file_name",
        "filename",
        "file",
        "wav_path",
        "wav_filename",
        "wav_file",
        "wav",
        "clip",
        "recording",
        "sound",
        "sound_file",
    ),
    "text": (
        "text",
        "sentence",
        "transcript",
        "transcription",
        "transcripts",
        "raw_transcription",
        "raw_text",
        "normalized_text",
        "normalised_text",
        "utterance",
        "prompt",
        "words",
    ),
    "speaker": (
        "speaker",
        "speaker_id",
        "client_id",
        "spk",
        "spk_id",
        "speaker_name",
        "reader",
        "reader_id",
        "user_id",
        "voice",
    ),
    "language": ("language", "lang", "locale", "language_id", "language_code"),
    "split": ("split", "partition", "subset"),
    "id": ("id", "utterance_id", "utt_id", "utt", "uid", "segment_id", "key"),
    "label": ("label", "class", "intent", "emotion"),
    "start": ("start", "offset", "start_seconds", "start_time", "begin", "onset"),
    "end": ("end", "end_seconds", "end_time", "stop"),
    "duration": ("duration", "duration_seconds", "duration_s", "dur", "seconds"),
    "duration_milliseconds": ("duration_ms", "duration_milliseconds", "duration[ms]"),
}
"""The names each column goes by, the likeliest first; compared without case, spaces or dashes."""

MOST_RECORD_LINES = 50
"""A quoted field that runs over more lines than this is taken for a missing quote."""

_SAMPLE_ROWS = 200
"""Rows looked at to find the delimiter and the header."""


@dataclass(frozen=True, kw_only=True)
class ColumnChoice:
    """Columns told by the caller instead of found by name; None leaves one to be found."""

    audio: str | None = None
    text: str | None = None
    speaker: str | None = None

    def told(self) -> dict[Role, str]:
        """The roles that were told, with their column names."""
        pairs: list[tuple[Role, str | None]] = [
            ("audio", self.audio),
            ("text", self.text),
            ("speaker", self.speaker),
        ]
        return {role: name for role, name in pairs if name is not None}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: its line, the cells whose meaning is known, and the others.

    Cells of delimited files are texts; those of JSON lines are whatever JSON held.
    """

    line: int
    cells: dict[Role, Any]
    others: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose shape is known, ready to be read.

    Attributes:
        path: the file.
        kind: "json lines", or the delimiter by name.
        columns: the column that each meaning was found in.
        has_header: False when the first row is data already.
    """

    path: Path
    kind: str
    columns: dict[Role, str]
    has_header: bool
    _rows: Callable[[], Iterator[Row | Skip]]

    def rows(self) -> Iterator[Row | Skip]:
        """Read the table from its beginning, in bounded memory."""
        return self._rows()


def open_table(
    path: Path,
    *,
    choice: ColumnChoice | None = None,
    names_audio: Callable[[str], bool],
    quoted: bool | None = None,
) -> Table:
    """Find out how a table is written and what its columns mean.

    Args:
        path: a .tsv, .csv, .txt, .jsonl or .json file; the content decides, not the suffix.
        choice: columns told by the caller, by name; or by number from 1 where there is no header.
        names_audio: says whether a cell names a recording; finds the audio column of a table
            without a header.
        quoted: whether cells may be quoted; None finds out.

    Raises:
        ConfigError: if a column that was told is not there.
        ManifestError: if no column names recordings, or the file is no table at all.
        OSError: if the file cannot be read.
    """
    told = (choice or ColumnChoice()).told()
    first = next((line for _, line in _text_lines(path) if line is None or line.strip()), "")
    if first is not None and first.lstrip().startswith("{"):
        return _open_json_lines(path, told)
    return _open_delimited(path, told, names_audio, quoted)


def find_columns(names: Sequence[str], told: Mapping[Role, str], *, where: str) -> dict[Role, str]:
    """Match column names with meanings: as told first, then by the names in `COLUMN_NAMES`.

    Raises:
        ConfigError: if a told column is not among `names`.
    """
    columns: dict[Role, str] = {}
    for role, name in told.items():
        if name not in names:
            folded = [known for known in names if _fold(known) == _fold(name)]
            if not folded:
                listed = ", ".join(printable(known) for known in names)
                raise ConfigError(
                    f'{where} has no column "{name}" for the {role}: found {listed}. '
                    "Name one of these."
                )
            name = folded[0]
        columns[role] = name
    by_fold: dict[str, str] = {}
    for name in names:
        by_fold.setdefault(_fold(name), name)
    for role, candidates in COLUMN_NAMES.items():
        if role in columns:
            continue
        for candidate in candidates:
            name = by_fold.get(_fold(candidate))
            if name is not None and name not in columns.values():
                columns[role] = name
                break
    return columns


def _fold(name: str) -> str:
    """Compare column names without case, spaces, dashes and underscores."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def _open_json_lines(path: Path, told: Mapping[Role, str]) -> Table:
    """A file of JSON objects; its columns are the keys of its first rows."""
    names: dict[str, None] = {}
    for _, row in itertools.islice(_json_rows(path), _SAMPLE_ROWS):
        if not isinstance(row, Skip):
            names.update(dict.fromkeys(row))
    columns = find_columns(list(names), told, where=str(path))
    _require_audio(path, columns, list(names))

    def rows() -> Iterator[Row | Skip]:
        for number, row in _json_rows(path):
            if isinstance(row, Skip):
                yield row
            else:
                cells, others = sort_cells(row, columns)
                yield Row(line=number, cells=cells, others=others)

    return Table(path=path, kind="json lines", columns=columns, has_header=True, _rows=rows)


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Skip]]:
    """Read JSON objects with their line numbers."""
    for number, line in iter_lines(path):
        try:
            row = parse_json_line(line)
        except ManifestError as error:
            yield number, Skip(path=str(path), line=number, reason="json", detail=str(error))
            continue
        if row is not None:
            yield number, row


def sort_cells(
    row: Mapping[str, Any], columns: Mapping[Role, str]
) -> tuple[dict[Role, Any], dict[str, Any]]:
    """Part the cells whose meaning is known from the others."""
    taken = set(columns.values())
    cells: dict[Role, Any] = {role: row[name] for role, name in columns.items() if name in row}
    return cells, {name: value for name, value in row.items() if name not in taken}


_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_FIRST_SPACE = " "
"""Stands for the first white space of a line, after which all is text."""


def _open_delimited(
    path: Path,
    told: Mapping[Role, str],
    names_audio: Callable[[str], bool],
    quoted: bool | None,
) -> Table:
    """A delimited file: find delimiter, quoting, header, and the meaning of its columns."""
    sample = [line for _, line in itertools.islice(_text_lines(path), _SAMPLE_ROWS)]
    lines = [line for line in sample if line is not None]
    if not any(line.strip() for line in lines):
        raise ManifestError(f"{path} is empty: expected a table of recordings and transcripts.")
    delimiter, may_quote = _find_dialect(lines)
    may_quote = may_quote if quoted is None else quoted
    records = [
        record
        for record in _records(
            enumerate(lines, start=1), path, delimiter=delimiter, quoted=may_quote
        )
        if not isinstance(record, Skip)
    ]
    if not records:
        raise ManifestError(f"{path} holds no row that can be read as a table.")
    if quoted is None and _first_space_parts_better(lines, records, names_audio):
        delimiter, may_quote = _FIRST_SPACE, False
        records = [(number, line.split(None, 1)) for number, line in enumerate(lines, start=1)]
        records = [record for record in records if record[1]]
    header = [name.strip() for name in records[0][1]]
    has_header = len(set(header)) == len(header) and _is_header(
        header, records[1:], told, names_audio
    )
    cells_of_rows = [cells for _, cells in records[1 if has_header else 0 :]]
    if has_header:
        names = header
        columns = find_columns(names, told, where=str(path))
        if "audio" not in columns:
            columns = _columns_by_content(cells_of_rows, names, columns, names_audio)
    else:
        width = Counter(len(cells) for cells in cells_of_rows).most_common(1)[0][0]
        names = [str(number) for number in range(1, width + 1)]
        for role, name in told.items():
            if name not in names:
                raise ConfigError(
                    f'{path} has no header, so there is no column "{name}" for the {role}. '
                    f"Name it by its number, 1 to {width}."
                )
        columns = _columns_by_content(cells_of_rows, names, told, names_audio)
    _require_audio(path, columns, records[0][1])
    kind = _DELIMITERS.get(delimiter, "space")
    needed = max(names.index(name) for name in columns.values()) + 1

    def rows() -> Iterator[Row | Skip]:
        all_records = _records(_text_lines(path), path, delimiter=delimiter, quoted=may_quote)
        header_to_come = has_header
        for record in all_records:
            if isinstance(record, Skip):
                yield record
                continue
            number, cells = record
            if header_to_come:
                header_to_come = False
                continue
            # Editors drop empty cells at the end of a row; any other count of cells means that
            # a delimiter stands inside a text, and that nobody can say which cell is which.
            padded = [*cells, *[""] * (needed - len(cells))] if len(cells) > 1 else cells
            if len(padded) > len(names) or len(padded) < needed:
                yield Skip(
                    path=str(path),
                    line=number,
                    reason="columns",
                    detail=f"expected {len(names)} cells, found {len(cells)}; "
                    f"a {kind} inside a text?",
                )
                continue
            row = dict(zip(names, padded, strict=False))
            sorted_cells, others = sort_cells(row, columns)
            yield Row(line=number, cells=sorted_cells, others=others if has_header else {})

    return Table(
        path=path,
        kind=f"{kind}-separated",
        columns=columns,
        has_header=has_header,
        _rows=rows,
    )


def _require_audio(path: Path, columns: Mapping[Role, str], names: Sequence[str]) -> None:
    """Refuse a table that names no recordings."""
    if "audio" not in columns:
        listed = ", ".join(printable(name, longest=40) for name in names[:20])
        raise ManifestError(
            f"No column of {path} names recordings: found the columns {listed}. "
            f"Say which one does, or give it one of these names: "
            f"{', '.join(COLUMN_NAMES['audio'][:6])}."
        )


def _is_header(
    header: Sequence[str],
    records: Sequence[tuple[int, Sequence[str]]],
    told: Mapping[Role, str],
    names_audio: Callable[[str], bool],
) -> bool:
    """Say whether the first row names columns."""
    if any(_fold(name) in {_fold(cell) for cell in header} for name in told.values()):
        return True
    if any(names_audio(cell) for cell in header):
        return False
    known = {_fold(name) for name in itertools.chain(*COLUMN_NAMES.values())}
    if any(_fold(cell) in known for cell in header):
        return True
    # Unknown names above a column of recordings are a header still.
    return any(names_audio(cell) for _, cells in records for cell in cells)


def _columns_by_content(
    records: Sequence[Sequence[str]],
    names: Sequence[str],
    known: Mapping[Role, str],
    names_audio: Callable[[str], bool],
) -> dict[Role, str]:
    """Find the audio column by what it names, and the text as the longest of the others."""
    columns: dict[Role, str] = dict(known)
    width = len(names)
    fitting = [cells for cells in records if len(cells) == width]
    if "audio" not in columns:
        hits = [sum(names_audio(cells[index]) for cells in fitting) for index in range(width)]
        if max(hits, default=0) > 0:
            columns["audio"] = names[hits.index(max(hits))]
    if "text" not in columns:
        lengths = [
            (sum(_words_length(cells[index]) for cells in fitting), -index)
            for index in range(width)
            if names[index] not in columns.values()
        ]
        if lengths:
            columns["text"] = names[-max(lengths)[1]]
    return columns


def _words_length(cell: str) -> int:
    """Length of a cell without spaces and bars, so that "h e l l o" is no longer than "hello"."""
    return len(cell) - cell.count(" ") - cell.count("|")


def _first_space_parts_better(
    lines: Sequence[str],
    records: Sequence[tuple[int, Sequence[str]]],
    names_audio: Callable[[str], bool],
) -> bool:
    """Say whether each line is a recording, white space and a text, as in "a.wav some words"."""
    parts = [parts for line in lines if len(parts := line.split(None, 1)) == 2]
    spaced = sum(names_audio(first) for first, _ in parts)
    delimited = sum(any(map(names_audio, cells)) for _, cells in records)
    return spaced > max(delimited, len(lines) / 2)


def _find_dialect(lines: Sequence[str]) -> tuple[str, bool]:
    """Find the delimiter, and whether cells may be quoted.

    The delimiter is the one that parts most rows into the same number of cells, at least two. In
    tab-separated files a quote is a letter like any other, unless the content shows that it is
    not: Common Voice writes its sentences with bare quotes.
    """
    best: tuple[float, int, str] | None = None
    for order, delimiter in enumerate(_DELIMITERS):
        counts: Counter[int] = Counter()
        for record in _records(
            enumerate(lines, start=1), Path(), delimiter=delimiter, quoted=delimiter != "\t"
        ):
            if not isinstance(record, Skip):
                counts[len(record[1])] += 1
        if not counts:
            continue
        width, number = counts.most_common(1)[0]
        if width < 2:
            continue
        score = number / sum(counts.values())
        if best is None or score > best[0] + 0.1:
            best = (score, -order, delimiter)
    if best is None:
        return "\t", False
    delimiter = best[2]
    return delimiter, delimiter != "\t" or _tab_cells_are_quoted(lines)


def _tab_cells_are_quoted(lines: Sequence[str]) -> bool:
    """Say whether a tab-separated file uses quotes as CSV does.

    It does if some cell is quoted and holds what only quoting can carry: a doubled quote or a tab.
    """
    text = "\n".join(lines)
    doubled = re.search(r'(?:^|\t)"(?:[^"\t\n]|"")*""(?:[^"\t\n]|"")*"(?:\t|$)', text, re.MULTILINE)
    with_tab = re.search(r'(?:^|\t)"[^"\n]*\t[^"\n]*"(?:\t|$)', text, re.MULTILINE)
    if doubled:
        return True
    if not with_tab:
        return False
    # Two cells that each begin or end with a bare quote look the same: the row counts decide.
    widths = [
        Counter(
            len(record[1])
            for record in _records(enumerate(lines, start=1), Path(), delimiter="\t", quoted=quoted)
            if not isinstance(record, Skip)
        ).most_common(1)[0]
        for quoted in (False, True)
    ]
    return widths[1][1] > widths[0][1]


def _records(
    lines: Iterable[tuple[int, str | None]], path: Path, *, delimiter: str, quoted: bool
) -> Iterator[tuple[int, list[str]] | Skip]:
    """Part lines into cells; a quoted cell may run over several lines.

    A quote that never closes costs its own line, not the rest of the file.
    """

    def skip(number: int, reason: str, detail: str) -> Skip:
        return Skip(path=str(path), line=number, reason=reason, detail=detail)

    source = iter(lines)
    waiting: deque[tuple[int, str | None]] = deque()

    def take() -> tuple[int, str | None] | None:
        return waiting.popleft() if waiting else next(source, None)

    while (taken := take()) is not None:
        number, line = taken
        if line is None:
            yield skip(
                number, "long_line", f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB"
            )
            continue
        if not line.strip():
            continue
        if delimiter == _FIRST_SPACE:
            yield number, line.split(None, 1)
            continue
        if not quoted or '"' not in line:
            yield number, line.split(delimiter)
            continue
        parts = [line]
        more: list[tuple[int, str | None]] = []
        while True:
            try:
                cells = next(
                    csv.reader(
                        io.StringIO("\n".join(parts), newline=""), delimiter=delimiter, strict=True
                    )
                )
            except csv.Error as error:
                following = None
                if "unexpected end of data" in str(error) and len(parts) < MOST_RECORD_LINES:
                    following = take()
                if following is not None:
                    more.append(following)
                    if following[1] is not None:
                        parts.append(following[1])
                        continue
                waiting.extendleft(reversed(more))
                yield skip(number, "quotes", f"the quotes of this row do not match ({error})")
                break
            yield number, cells
            break


def _text_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Read lines as text: UTF-8, or UTF-16 where a byte order mark says so.

    Bytes that are not UTF-8 become surrogate escapes, so that a file name written in them still
    finds its file; texts that hold them are refused later.
    """
    with path.open("rb") as file:
        mark = file.read(2)
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        with path.open(encoding="utf-16", errors="surrogateescape", newline="\n") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES), ""), 1):
                yield number, line.removesuffix("\n").removesuffix("\r")
        return
    for number, line in iter_lines(path):
        yield number, None if line is None else line.decode("utf-8", "surrogateescape")
