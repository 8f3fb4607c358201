"""The utterance, and the JSONL manifest that lists utterances.

A manifest is UTF-8 text, one JSON object a line, no header:

    {"id": "u1", "audio": "clips/a.flac", "start": 0, "num_samples": 32000, "sample_rate": 16000,
     "text": "…", "speaker": "…", "language": "lg", "label": "…", "extra": {…}}

`id`, `audio`, `num_samples` and `sample_rate` are required; a field that is not known is left out.
`audio` is relative to the manifest's folder and does not leave it, or it is absolute. Texts are
kept as they were, byte for byte; a file name that is not UTF-8 is written with escapes.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unheard.errors import ManifestError
from unheard.files import atomic_path

LONGEST_LINE_BYTES = 16 << 20
"""A line above this is refused without being read into memory [bytes]."""

LONGEST_UTTERANCE_SECONDS = 1_000_000.0
"""A length above this (11 days) is taken for a mistake [s]."""

HIGHEST_SAMPLE_RATE = 768_000
"""The highest sample rate of a recording [Hz]."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A stretch of a recording, with whatever is known about it.

    Attributes:
        id: unique within a manifest.
        audio: path of the recording, relative to the manifest's folder (or absolute).
        start: first sample of the stretch within the recording [samples at `sample_rate`].
        num_samples: length of the stretch [samples at `sample_rate`].
        sample_rate: of the recording as stored [Hz].
        text: transcript, or None when not known.
        speaker: speaker name, or None when not known.
        language: language tag, or None when not known.
        label: class label for classification, or None.
        extra: anything else a source held, kept as it was.
    """

    id: str
    audio: str
    start: int = 0
    num_samples: int
    sample_rate: int
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    label: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_seconds(self) -> float:
        """Length in seconds, from the samples."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Something a scan met and left out, and why.

    Attributes:
        path: the file it stands in, or the file itself.
        line: line number within `path`, from 1; None when the whole file is meant.
        reason: short stable code; `corpora.REASONS` says what each means.
        detail: what was found, for a person.
    """

    path: str
    line: int | None = None
    reason: str
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "path": self.path,
            "line": self.line,
            "reason": self.reason,
            "detail": self.detail,
        }


def read_manifest(path: str | os.PathLike[str], *, check_files: bool = False) -> list[Utterance]:
    """Read a whole manifest and check every line.

    Args:
        path: the manifest.
        check_files: also require that each recording exists.

    Returns:
        The utterances, in the order of the file.

    Raises:
        ManifestError: if a line is wrong, or an id stands twice; the message names the file and
            the lines (the first five of them).
        OSError: if the file cannot be read at all.
    """
    source = Path(path)
    utterances: list[Utterance] = []
    first_line: dict[str, int] = {}
    problems: list[str] = []
    num_problems = 0
    known_files: dict[Path, bool] = {}
    for number, line in iter_lines(source):
        try:
            row = parse_json_line(line)
            if row is None:
                continue
            utterance = utterance_from_row(row)
            if utterance.id in first_line:
                raise ManifestError(
                    f'the id "{printable(utterance.id)}" stands on line '
                    f"{first_line[utterance.id]} already"
                )
            if check_files:
                recording = audio_path(utterance, source.parent)
                if recording not in known_files:
                    known_files[recording] = recording.is_file()
                if not known_files[recording]:
                    raise ManifestError(f"there is no recording at {printable(str(recording))}")
        except ManifestError as error:
            num_problems += 1
            if len(problems) < 5:
                problems.append(f"line {number}: {error}")
            continue
        first_line[utterance.id] = number
        utterances.append(utterance)
    if num_problems:
        more = f" And {num_problems - len(problems)} more." if num_problems > len(problems) else ""
        raise ManifestError(
            f"{source} has {num_problems} wrong line{'s' if num_problems > 1 else ''}. "
            + "; ".join(problems)
            + f".{more} Mend or drop these lines, or make the manifest anew with: unheard scan"
        )
    return utterances


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest; a reader sees the old file or the whole new one.

    Raises:
        ManifestError: if an id stands twice, or an `extra` holds what JSON has no form for.
    """
    seen: set[str] = set()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for utterance in utterances:
            if utterance.id in seen:
                raise ManifestError(
                    f'Cannot write {path}: the id "{printable(utterance.id)}" stands twice. '
                    "Ids must be unique within a manifest."
                )
            seen.add(utterance.id)
            try:
                line = json_line(row_from_utterance(utterance))
            except (TypeError, ValueError) as error:
                raise ManifestError(
                    f'Cannot write {path}: utterance "{printable(utterance.id)}" holds what JSON '
                    f"has no form for ({error}). Keep plain data in `extra`."
                ) from error
            file.write(line)


def audio_path(utterance: Utterance, manifest_folder: str | os.PathLike[str]) -> Path:
    """Give the path of an utterance's recording.

    Args:
        utterance: as read from a manifest.
        manifest_folder: the folder that manifest stands in.
    """
    return Path(manifest_folder) / utterance.audio


def row_from_utterance(utterance: Utterance) -> dict[str, Any]:
    """Make the JSON object of an utterance: keys by meaning, unknown fields left out."""
    row: dict[str, Any] = {
        "id": utterance.id,
        "audio": utterance.audio,
        "start": utterance.start,
        "num_samples": utterance.num_samples,
        "sample_rate": utterance.sample_rate,
    }
    for name in ("text", "speaker", "language", "label"):
        value = getattr(utterance, name)
        if value is not None:
            row[name] = value
    if utterance.extra:
        row["extra"] = utterance.extra
    return row


def utterance_from_row(row: Mapping[str, Any]) -> Utterance:
    """Check one JSON object of a manifest.

    Raises:
        ManifestError: naming the field, what it should be and what it is; the caller adds where.
    """
    if "num_samples" not in row and ("duration" in row or "duration_seconds" in row):
        raise ManifestError(
            'no "num_samples", but a duration in seconds: this is a transcript table, not a '
            "manifest; turn it into one with: unheard scan"
        )
    audio = _string(row, "audio")
    if not audio or "\0" in audio:
        raise ManifestError(f'"audio" must be a path, but is {audio!r}')
    if has_parent_step(audio):
        raise ManifestError(f'"audio" must not hold "..", but is {printable(audio)}')
    identity = _string(row, "id")
    if not identity:
        raise ManifestError('"id" is empty')
    start = _whole(row, "start", least=0) if "start" in row else 0
    num_samples = _whole(row, "num_samples", least=1)
    sample_rate = _whole(row, "sample_rate", least=1)
    if sample_rate > HIGHEST_SAMPLE_RATE:
        raise ManifestError(
            f'"sample_rate" must be at most {HIGHEST_SAMPLE_RATE} Hz, but is {sample_rate}'
        )
    if (start + num_samples) / sample_rate > LONGEST_UTTERANCE_SECONDS:
        raise ManifestError(
            f"the stretch ends after {(start + num_samples) / sample_rate:.6g} s, which is above "
            f"the limit of {LONGEST_UTTERANCE_SECONDS:.0f} s"
        )
    extra = row.get("extra", {})
    if not isinstance(extra, dict):
        raise ManifestError(f'"extra" must be an object, but is {type(extra).__name__}')
    unknown = {key: value for key, value in row.items() if key not in _FIELDS}
    return Utterance(
        id=identity,
        audio=audio,
        start=start,
        num_samples=num_samples,
        sample_rate=sample_rate,
        text=_optional_text(row, "text"),
        speaker=_optional_text(row, "speaker"),
        language=_optional_text(row, "language"),
        label=_optional_text(row, "label"),
        extra={**unknown, **extra},
    )


def iter_lines(
    path: str | os.PathLike[str], *, longest_bytes: int = LONGEST_LINE_BYTES
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file with their numbers, in bounded memory.

    Lines end at LF, or at CR LF; a byte order mark at the start is dropped.

    Args:
        path: the file.
        longest_bytes: a longer line is passed over and given as None.

    Yields:
        (number from 1, the line without its end, or None where it was too long).
    """
    with Path(path).open("rb") as file:
        number = 0
        while line := file.readline(longest_bytes + 2):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.endswith(b"\n") and len(line) > longest_bytes:
                _pass_over_line(file)
                yield number, None
                continue
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def parse_json_line(line: bytes | None) -> dict[str, Any] | None:
    """Read one line of a JSONL file; None for a blank line.

    Raises:
        ManifestError: if it is too long, not UTF-8, or not a JSON object.
    """
    if line is None:
        raise ManifestError(f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB")
    if not line.strip():
        return None
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestError(f"the line is not UTF-8 (byte {error.start + 1})") from error
    except RecursionError as error:
        raise ManifestError("the line is nested too deeply") from error
    except ValueError as error:
        raise ManifestError(f"the line is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ManifestError(f"the line must be a JSON object, but is {type(row).__name__}")
    return row


def json_line(row: Mapping[str, Any]) -> bytes:
    """Write one line of a JSONL file: any script readable, lone surrogates escaped.

    Raises:
        TypeError, ValueError: if `row` holds what JSON has no form for.
    """
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    escaped = _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    return escaped.encode("utf-8") + b"\n"


def printable(text: str, *, longest: int = 200) -> str:
    """Make any text safe for one line of a message: controls and surrogates escaped."""
    shown = text if len(text) <= longest else text[:longest] + "…"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in shown
    )


def is_absolute(path: str) -> bool:
    """Say whether a path is absolute by the rules of any system: a slash or a drive first."""
    return path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path) is not None


def has_parent_step(path: str) -> bool:
    """Say whether a path holds "..", by the rules of any system."""
    return ".." in path.replace("\\", "/").split("/")


def has_lone_surrogate(text: str) -> bool:
    """Say whether a text holds half a surrogate pair, which UTF-8 has no form for."""
    return _SURROGATE.search(text) is not None


_SURROGATE = re.compile("[\ud800-\udfff]")

_FIELDS = frozenset(
    (
        "id",
        "audio",
        "start",
        "num_samples",
        "sample_rate",
        "text",
        "speaker",
        "language",
        "label",
        "extra",
    )
)


def _string(row: Mapping[str, Any], name: str) -> str:
    """A required text field."""
    value = row.get(name)
    if not isinstance(value, str):
        found = "missing" if name not in row else f"{type(value).__name__} {value!r:.40}"
        raise ManifestError(f'"{name}" must be a text, but is {found}')
    return value


def _optional_text(row: Mapping[str, Any], name: str) -> str | None:
    """A text field that may be absent or null."""
    if row.get(name) is None:
        return None
    value = _string(row, name)
    if has_lone_surrogate(value):
        raise ManifestError(f'"{name}" holds half a surrogate pair: {printable(value)}')
    return value


def _whole(row: Mapping[str, Any], name: str, *, least: int) -> int:
    """A required whole number; 3.0 passes for 3."""
    value = row.get(name)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        found = "missing" if name not in row else f"{value!r:.40}"
        raise ManifestError(f'"{name}" must be a whole number of at least {least}, but is {found}')
    return value


def _pass_over_line(file: BinaryIO) -> None:
    """Read to the end of the line without keeping it."""
    while chunk := file.readline(1 << 20):
        if chunk.endswith(b"\n"):
            return
