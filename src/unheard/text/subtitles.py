"""SubRip (SRT) and WebVTT subtitles from timed words.

`segments_from_words` decides where subtitles end, `readable` how long they stay, `to_srt` and
`to_vtt` write them.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from unheard.errors import ConfigError

LINE_CHARACTERS = 42
"""Longest line of a subtitle that readers follow with ease [characters]."""

LINES = 2
"""Most lines of a subtitle."""
MAX_SECONDS = 6.0
"""Longest subtitle [seconds]."""
MIN_SECONDS = 1.0
"""A subtitle that is shorter stays so long where there is room [seconds]."""
PAUSE_SECONDS = 0.6
"""Silence between two words that ends a subtitle [seconds]."""
READING_SPEED = 17.0
"""What readers follow with ease [characters a second]."""
GAP_MILLISECONDS = 80
"""Left free before the next subtitle by one that stays longer than it is spoken."""

_SENTENCE_ENDS = frozenset(
    ".?!\u2026\u061f\u06d4\u0589\u0964\u0965\u1362\u1367\u1368\u3002\uff01\uff0e\uff1f"
)
_CLAUSE_ENDS = frozenset(
    ",;:\u2013\u2014\u060c\u061b\u1361\u1363\u1364\u1365\u1366\u3001\uff0c\uff1a\uff1b"
)
_CLOSING = "\"')]}\u00bb\u2019\u201d\u203a\u300d\u300f\uff09"
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
    max_seconds: float = MAX_SECONDS,
    max_characters: int = LINES * LINE_CHARACTERS,
    line_characters: int = LINE_CHARACTERS,
    pause_seconds: float = PAUSE_SECONDS,
    separator: str = " ",
) -> list[Segment]:
    """Join words into subtitles.

    A subtitle ends at every pause. Between two pauses the words are dealt out so that there are few
    subtitles, none is too long in time or text for two lines, and they end where a sentence or a
    clause does (by its punctuation) or at the longer of the short silences. A word is never cut:
    one that is too long by itself is a subtitle of its own. Words without a visible character are
    left out. The times are those of the words.

    Args:
        words: in the order they are spoken.
        max_seconds: longest subtitle [seconds].
        max_characters: longest text of a subtitle, spaces included [code points].
        line_characters: longest line of its two [code points]; where words are joined without
            spaces, a subtitle is one line.
        pause_seconds: silence between two words that ends a subtitle [seconds].
        separator: what stands between words; nothing in scripts that write no spaces.

    Raises:
        ConfigError: if a limit is not above zero, or as `Segment` for a word's times.
    """
    limits = _Limits(
        max_seconds=max_seconds,
        max_characters=max_characters if separator else min(max_characters, line_characters),
        line_characters=line_characters,
        pause_seconds=pause_seconds,
        separator=separator,
    )
    segments: list[Segment] = []
    spoken: list[Segment] = []
    for word in words:
        text = _one_line(word.text)
        if not text:
            continue
        # Each word is checked by itself before it is joined.
        added = Segment(text=text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
        if spoken and (
            added.start_seconds - spoken[-1].end_seconds >= pause_seconds
            or added.start_seconds < spoken[-1].start_seconds
        ):
            segments.extend(_deal(spoken, limits))
            spoken = []
        spoken.append(added)
    segments.extend(_deal(spoken, limits))
    return segments


def readable(
    segments: Sequence[Segment],
    *,
    until_seconds: float = math.inf,
    characters_a_second: float = READING_SPEED,
    min_seconds: float = MIN_SECONDS,
) -> list[Segment]:
    """Let subtitles stay long enough to be read, where there is room for it.

    One that is spoken faster than it can be read, or in less than `min_seconds`, stays into the
    pause behind it, no longer than needed and not quite up to the next. None overlap: one that
    begins before the end of the one before begins there.

    Args:
        segments: in the order of their starts.
        until_seconds: length of the recording [seconds].
        characters_a_second: how fast they can be read.
        min_seconds: how long even the shortest stays.

    Returns:
        As many subtitles with the same texts, each within whole milliseconds of its own.
    """
    times: list[tuple[int, int]] = []
    for segment in segments:
        start = max(round(segment.start_seconds * 1000), times[-1][1] if times else 0)
        times.append((start, max(round(segment.end_seconds * 1000), start + 1)))
    shown: list[Segment] = []
    for place, (segment, (start, end)) in enumerate(zip(segments, times, strict=True)):
        following = times[place + 1][0] if place + 1 < len(times) else math.inf
        wanted = start + 1000 * max(min_seconds, len(segment.text) / characters_a_second)
        stays = min(wanted, following - GAP_MILLISECONDS, until_seconds * 1000)
        shown.append(
            Segment(
                text=segment.text,
                start_seconds=start / 1000,
                end_seconds=max(end, math.floor(stays)) / 1000,
            )
        )
    return shown


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """How long a subtitle may be; see `segments_from_words`."""

    max_seconds: float
    max_characters: int
    line_characters: int
    pause_seconds: float
    separator: str

    def __post_init__(self) -> None:
        for name in ("max_seconds", "max_characters", "line_characters", "pause_seconds"):
            limit = getattr(self, name)
            if not limit > 0:
                raise ConfigError(f"{name} is out of range: expected more than 0, found {limit}.")


def _deal(words: Sequence[Segment], limits: _Limits) -> Iterator[Segment]:
    """Deal words without a pause between them out to subtitles, at the least cost.

    Costs: one for each subtitle; half of one more for one that is gone in less than a second; and
    for ending one in the middle of things, less the longer the silence there is. To end with a
    sentence is worth as much as a subtitle costs.
    """
    count = len(words)
    cost = [0.0] + [math.inf] * count
    begin = [0] * (count + 1)
    for first in range(count):
        fitted = _Fit(limits)
        end = 0.0
        for last in range(first, count):
            end = max(end, words[last].end_seconds)
            seconds = end - words[first].start_seconds
            fits = fitted.add(words[last].text) and seconds <= limits.max_seconds
            if not fits and last > first:
                break
            total = cost[first] + 1.0 + (0.5 if seconds < MIN_SECONDS else 0.0)
            if last + 1 < count:
                silence = words[last + 1].start_seconds - words[last].end_seconds
                total += _break_cost(words[last].text, silence / limits.pause_seconds)
            # Of equals the one that fills the earlier subtitles.
            if total <= cost[last + 1]:
                cost[last + 1], begin[last + 1] = total, first
    stops: list[int] = []
    stop = count
    while stop:
        stops.append(stop)
        stop = begin[stop]
    first = 0
    for stop in reversed(stops):
        part = words[first:stop]
        yield Segment(
            text=limits.separator.join(word.text for word in part),
            start_seconds=part[0].start_seconds,
            end_seconds=max(word.end_seconds for word in part),
        )
        first = stop


def _break_cost(text: str, silence: float) -> float:
    """What it costs to end a subtitle behind a word; `silence` is a share of a pause."""
    last = text.rstrip(_CLOSING)[-1:]
    if last in _SENTENCE_ENDS:
        return -1.0
    if last in _CLAUSE_ENDS:
        return -0.2
    # Rounded, so that equal silences cost the same.
    return 0.6 * round(1.0 - min(max(silence, 0.0), 1.0), 3)


class _Fit:
    """Whether words, added one by one, still go into two lines."""

    def __init__(self, limits: _Limits) -> None:
        self._limits = limits
        self._characters = -len(limits.separator)
        self._lines = 1
        self._line = 0

    def add(self, text: str) -> bool:
        """Add a word; say whether all so far fit."""
        self._characters += len(self._limits.separator) + len(text)
        if self._limits.separator:
            for piece in text.split(" "):
                if self._line and self._line + 1 + len(piece) > self._limits.line_characters:
                    self._lines += 1
                    self._line = 0
                self._line += len(piece) + (1 if self._line else 0)
        return self._characters <= self._limits.max_characters and self._lines <= LINES


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
    if len(line) <= line_characters:
        return [line]
    # Two lines of about the same length rather than a long and a short one.
    breaks = [place for place, character in enumerate(line) if character == " "]
    even = min(breaks, key=lambda place: abs(2 * place + 1 - len(line)), default=0)
    if even and max(even, len(line) - even - 1) <= line_characters:
        return [line[:even], line[even + 1 :]]
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
