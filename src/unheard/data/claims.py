"""What a source says about an utterance, read cell by cell and refused where it makes no sense.

A claim is made before its recording is looked at; `corpora` opens the recordings, for all
layouts alike.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unheard.data.folders import AudioFinder, Tree, split_suffix
from unheard.data.manifest import Skip, has_lone_surrogate, printable, utterance_from_row
from unheard.data.tables import ColumnChoice, Role, Row, Table, open_table
from unheard.errors import ManifestError


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a source says about one utterance, before its recording is looked at.

    Attributes:
        audio: the recording, resolved, under the declared roots.
        source: the file that says so; the recording itself where nothing else does.
        line: line of `source`, from 1, or None.
        id: given by the source, or None.
        text, speaker, language, label: as in `Utterance`.
        split: the corpus's own name of the part it stands in, or None.
        start_seconds: where the stretch begins, or None where the source says nothing.
        duration_seconds: how long it is, or None: to the end of the recording.
        extra: other columns.
    """

    audio: Path
    source: Path
    line: int | None = None
    id: str | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    label: str | None = None
    split: str | None = None
    start_seconds: float | None = None
    duration_seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a layout reads from.

    Attributes:
        tree: the folder.
        finder: turns names into recordings.
        columns: columns told by the caller.
        told: the caller said that this folder holds transcripts: what matches no recording is
            then worth a word.
        audio_suffixes: lower-case suffixes of recordings, with the dot.
        extract_to: folder for sound that lies inside tables, or None where none may be written.
        tables: what was found out about those that were opened, as plain JSON data.
    """

    tree: Tree
    finder: AudioFinder
    columns: ColumnChoice
    told: bool
    audio_suffixes: frozenset[str]
    extract_to: Path | None
    tables: list[dict[str, Any]] = field(default_factory=list)

    def note_table(
        self, path: Path, *, kind: str, columns: Mapping[Role, str], has_header: bool
    ) -> None:
        """Keep for the record how a table was understood."""
        self.tables.append(
            {
                "path": printable(str(path), longest=1000),
                "kind": kind,
                "has_header": has_header,
                "columns": {role: printable(name) for role, name in columns.items()},
            }
        )


def read_table(path: Path, reading: Reading, *, split: str | None = None) -> Iterator[Claim | Skip]:
    """Read one transcript table.

    Args:
        path: the table.
        reading: what its names are looked up in.
        split: the part its rows belong to, where they do not say.

    Raises:
        ConfigError: if a column that was told is not there.
        ManifestError: if it is no table of recordings.
        OSError: if it cannot be read.
    """
    for row in open_in(reading, path).rows():
        if isinstance(row, Skip):
            yield row
            continue
        try:
            yield claim_of_row(row, path, reading, split=split)
        except BadRow as bad:
            yield Skip(path=str(path), line=row.line, reason=bad.reason, detail=str(bad))


def open_in(reading: Reading, path: Path, *, quoted: bool | None = None) -> Table:
    """Open a table and note that it was read; see `open_table` for arguments and errors."""
    table = open_table(
        path, choice=reading.columns, names_audio=_audio_test(path, reading), quoted=quoted
    )
    reading.note_table(path, kind=table.kind, columns=table.columns, has_header=table.has_header)
    return table


def _audio_test(path: Path, reading: Reading) -> Callable[[str], bool]:
    """Make the test of whether a cell names a recording: by its suffix, or because it is here."""

    def names_audio(cell: str) -> bool:
        if not 0 < len(cell) <= 1024:
            return False
        if split_suffix(cell)[1].lower() in reading.audio_suffixes:
            return True
        return isinstance(reading.finder.find(cell, path.parent), Path)

    return names_audio


class BadRow(Exception):
    """A row cannot be used; becomes a Skip."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def claim_of_row(
    row: Row, source: Path, reading: Reading, *, split: str | None, audio: Path | None = None
) -> Claim:
    """Read the cells of one row.

    Args:
        row: of a table.
        source: the table's file; relative names start from its folder.
        reading: what names are looked up in.
        split: the part the row belongs to, where it does not say.
        audio: the recording, where it is known already.

    Raises:
        BadRow: if the row makes no sense, or names no recording that may be read.
    """
    cells = row.cells
    extra = {name: value for name, value in row.others.items() if _is_worth_keeping(value)}
    start: float | None
    if _is_of_a_manifest(row):
        own = {**row.others, **{role: value for role, value in cells.items() if value is not None}}
        try:
            utterance = utterance_from_row(own)
        except ManifestError as error:
            raise BadRow("manifest", str(error)) from error
        start = utterance.start / utterance.sample_rate
        duration: float | None = utterance.duration_seconds
        extra = {
            name: value
            for name, value in utterance.extra.items()
            if name not in ("split", "duration") and _is_worth_keeping(value)
        }
        given_split = utterance.extra.get("split")
    else:
        start, duration = _stretch(cells)
        given_split = cells.get("split")
    claim = Claim(
        audio=audio or _recording(cells.get("audio"), source, reading),
        source=source,
        line=row.line,
        id=read_label(cells.get("id"), "id"),
        text=read_text(cells.get("text")),
        speaker=read_label(cells.get("speaker"), "speaker"),
        language=read_label(cells.get("language"), "language"),
        label=read_label(cells.get("label"), "label"),
        split=read_label(given_split, "split") or split,
        start_seconds=start,
        duration_seconds=duration,
        extra=extra,
    )
    if (claim.split or "").lower() == "invalidated":
        return without_text(claim)
    return claim


def _is_of_a_manifest(row: Row) -> bool:
    """Say whether a row has the fields of our own manifest, whose times are in samples."""
    counts = [row.others.get("num_samples", ""), row.others.get("sample_rate", "")]
    named = "id" in row.cells and "audio" in row.cells
    return named and not any(isinstance(count, str) for count in counts)


def without_text(claim: Claim) -> Claim:
    """Set aside a transcript that is not known to be right; the recording is used without it."""
    if claim.text is None:
        return claim
    return replace(claim, text=None, extra={**claim.extra, "text_unverified": claim.text})


def _recording(name: Any, source: Path, reading: Reading) -> Path:
    """Find the recording that a cell names."""
    if isinstance(name, dict):
        name = name.get("path")
    if not isinstance(name, str) or not name.strip():
        raise BadRow("no_audio", "the row names no recording")
    return found_or_bad(reading.finder.find(name, source.parent))


def found_or_bad(found: Path | Skip) -> Path:
    """The recording, or the reason why there is none."""
    if isinstance(found, Skip):
        raise BadRow(found.reason, found.detail)
    return found


def _stretch(cells: Mapping[Role, Any]) -> tuple[float | None, float | None]:
    """Read start and duration in seconds from whichever columns there are."""
    start = read_seconds(cells.get("start"), "start")
    end = read_seconds(cells.get("end"), "end")
    duration = read_seconds(cells.get("duration"), "duration")
    if duration is None:
        milliseconds = read_seconds(cells.get("duration_milliseconds"), "duration in milliseconds")
        duration = None if milliseconds is None else milliseconds / 1000.0
    if end is not None and duration is None:
        duration = end - (start or 0.0)
    if duration is not None and not duration > 0.0:
        raise BadRow("duration", f"the duration must be above 0 s, but is {duration:g} s")
    return start, duration


def read_seconds(value: Any, name: str) -> float | None:
    """Read a time; nothing stands for not known."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    reason = "duration" if name.startswith("duration") else "start"
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0.0:
        raise BadRow(reason, f"the {name} must be a number of at least 0, but is {value!r:.40}")
    return seconds


def read_text(value: Any) -> str | None:
    """Read a transcript as it stands; an empty one means that there is none.

    Raises:
        BadRow: if it is no text, is not proper Unicode, or has nothing that can be seen.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRow("text", f"the transcript must be a text, but is {type(value).__name__}")
    if has_lone_surrogate(value):
        raise BadRow("encoding", f"the transcript is not proper Unicode: {printable(value)}")
    if not value.strip():
        return None
    if not any(character.isprintable() and not character.isspace() for character in value):
        raise BadRow("empty_text", f"the transcript has nothing to see: {printable(value)}")
    return value


def read_label(value: Any, name: str) -> str | None:
    """Read a short name, such as a speaker; white space around it goes."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(name, f"the {name} must be a text, but is {type(value).__name__}")
    text = str(value).strip()
    if has_lone_surrogate(text):
        raise BadRow("encoding", f"the {name} is not proper Unicode: {printable(text)}")
    return text or None


def _is_worth_keeping(value: Any) -> bool:
    """Say whether another column's value says anything that JSON can carry."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int | bool) and value != ""


_SPLITS = (
    ("train", re.compile(r"(?:train|training)(?![a-z])", re.IGNORECASE)),
    ("valid", re.compile(r"(?:dev|valid|validation|val|development)(?![a-z])", re.IGNORECASE)),
    ("test", re.compile(r"(?:test|eval|evaluation|heldout|held-out)(?![a-z])", re.IGNORECASE)),
)


def split_of_name(name: str | None) -> str | None:
    """Say which part a corpus's own name of it means: "train", "valid", "test", or none.

    `train-clean-100` and `train_10min.tsv` are "train", `dev` is "valid"; `validated` and
    `other`, which say how far a clip was checked, are no parts.
    """
    if name is None:
        return None
    return next((split for split, pattern in _SPLITS if pattern.match(name)), None)
