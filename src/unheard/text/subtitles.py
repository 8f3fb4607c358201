"""SubRip (SRT) and WebVTT subtitles from timed words."""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from unheard.errors import ConfigError

LINE_CHARACTERS = 42
"""Longest line of a subtitle that readers follow with ease [characters]."""

_BREAKS = re.compile("[\x00-\x20\x7f-\x85\u2028\u2029]+")


class TimedWord(Protocol):
    """Anything with a text and its times from the start of the recording [seconds]."""

    @property
    def text(self) -> str:
        """The word."""
        ...

    @property
    def start_seconds(self) -> float:
        """When it begins [seconds]."""
        ...

    @property
    def end_seconds(self) -> float:
        """When it ends [seconds]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One subtitle.

    Attributes:
        text: what is said, in logical order.
        start_seconds: from the start of the recording [seconds].
        end_seconds: from the start of the recording [seconds].

    Raises:
        ConfigError: if a time is not finite or below zero, or the end is before the start.
    """

    text: str
    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        """Refuse times that no subtitle can have."""
        if not (math.isfinite(self.end_seconds) and 0 <= self.start_seconds <= self.end_seconds):
            raise ConfigError(
                "a subtitle's times are out of order: expected 0 <= start <= end [seconds], found "
                f"{self.start_seconds} and {self.end_seconds} (text {self.text[:40]!r})."
            )


def segments_from_words(
    words: Iterable[TimedWord],
    *,
    max_seconds: float = 6.0,
    max_characters: int = 2 * LINE_CHARACTERS,
    pause_seconds: float = 0.6,
    separator: str = " ",
) -> list[Segment]:
    """Join words into subtitles.

    A subtitle ends before a pause, and before the word that would make it too long in time or
    text. A word is never cut: one that is too long by itself is a subtitle of its own. Words
    without a visible character are left out.

    Args:
        words: in the order they are spoken.
        max_seconds: longest subtitle [seconds].
        max_characters: longest text of a subtitle, spaces included [code points].
        pause_seconds: silence between two words that ends a subtitle [seconds].
        separator: what stands between words; nothing in scripts that write no spaces.

    Raises:
        ConfigError: if a limit is not above zero, or as `Segment` for a word's times.
    """
    for name, limit in (
        ("max_seconds", max_seconds),
        ("max_characters", max_characters),
        ("pause_seconds", pause_seconds),
    ):
        if not limit > 0:
            raise ConfigError(f"{name} is out of range: expected more than 0, found {limit}.")
    segments: list[Segment] = []
    for word in words:
        text = _one_line(word.text)
        if not text:
            continue
        # Each word is checked by itself before it is joined.
        added = Segment(text=text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
        last = segments[-1] if segments else None
        if (
            last is not None
            and added.start_seconds - last.end_seconds < pause_seconds
            and added.start_seconds >= last.start_seconds
            and added.end_seconds - last.start_seconds <= max_seconds
            and len(last.text) + len(separator) + len(added.text) <= max_characters
        ):
            segments[-1] = Segment(
                text=f"{last.text}{separator}{added.text}",
                start_seconds=last.start_seconds,
                end_seconds=max(last.end_seconds, added.end_seconds),
            )
        else:
            segments.append(added)
    return segments


def to_srt(segments: Iterable[Segment], *, line_characters: int | None = LINE_CHARACTERS) -> str:
    """Write segments as SubRip.

    Times are rounded to milliseconds; a subtitle lasts at least one. Control characters and line
    breaks in a text become spaces; segments without a visible character are left out.
    SubRip has no escapes: "-->" in a text becomes "->", all else stays as it is.

    Args:
        segments: in the order to write them.
        line_characters: where to break lines, between words [code points]; None: never.

    Returns:
        The file's text, lines ended by line feeds; store it as UTF-8.
    """
    cues: list[str] = []
    for segment in segments:
        lines = _lines(segment.text, line_characters)
        if lines:
            start, end = _milliseconds(segment)
            text = "\n".join(lines).replace("-->", "->")
            times = f"{_clock(start, ',')} --> {_clock(end, ',')}"
            cues.append(f"{len(cues) + 1}\n{times}\n{text}\n")
    return "\n".join(cues)


def to_vtt(segments: Iterable[Segment], *, line_characters: int | None = LINE_CHARACTERS) -> str:
    """Write segments as WebVTT.

    Times are rounded to milliseconds; a subtitle lasts at least one. Control characters and line
    breaks in a text become spaces; segments without a visible character are left out. "&", "<"
    and ">" are written as character references.

    Args:
        segments: in the order to write them.
        line_characters: where to break lines, between words [code points]; None: never.

    Returns:
        The file's text, lines ended by line feeds; store it as UTF-8.

    Source: W3C, "WebVTT: The Web Video Text Tracks Format".
    """
    blocks = ["WEBVTT\n"]
    for segment in segments:
        lines = _lines(segment.text, line_characters)
        if lines:
            start, end = _milliseconds(segment)
            text = "\n".join(lines)
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n")
    return "\n".join(blocks)


def _one_line(text: str) -> str:
    """Put a space for each run of spaces, controls and line breaks; none at either end."""
    return _BREAKS.sub(" ", text).strip()


def _lines(text: str, line_characters: int | None) -> Sequence[str]:
    """Break a text into lines, between words only; none for a text with nothing to see."""
    line = _one_line(text)
    if line_characters is None or not line:
        return [line] if line else []
    if line_characters < 1:
        raise ConfigError(
            f"line_characters is out of range: expected at least 1, found {line_characters}."
        )
    return textwrap.wrap(line, line_characters, break_long_words=False, break_on_hyphens=False)


def _milliseconds(segment: Segment) -> tuple[int, int]:
    """Return start and end of a segment, one apart at least [milliseconds]."""
    start = round(segment.start_seconds * 1000)
    return start, max(round(segment.end_seconds * 1000), start + 1)


def _clock(milliseconds: int, separator: str) -> str:
    """Write a time as hours, minutes, seconds and milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{separator}{rest:03}"
