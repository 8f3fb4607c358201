"""Timed text as a TextGrid, the form that Praat reads.

Source: Praat manual, "TextGrid file formats", the long text form.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from unheard.errors import ConfigError
from unheard.text.subtitles import TimedWord

_MICROSECOND = Decimal("0.000001")
_SHORTEST_MICROSECONDS = 1000


def to_textgrid(tiers: Mapping[str, Sequence[TimedWord]], *, duration_seconds: float) -> str:
    """Write tiers of timed text as a TextGrid.

    The intervals of a tier cover the whole recording, as Praat wants it: those between spans are
    empty. Times are rounded to microseconds. A span that begins before the one before it ends is
    cut; each lasts at least a millisecond, for which the recording is taken to be longer if need
    be.

    Args:
        tiers: name of a tier -> its spans in order of time.
        duration_seconds: length of the recording [seconds].

    Returns:
        The file's text, lines ended by line feeds; store it as UTF-8.

    Raises:
        ConfigError: if there is no tier, or spans are out of order.
    """
    if not tiers:
        raise ConfigError("a TextGrid needs at least one tier: found none.")
    placed = {name: _place(name, spans) for name, spans in tiers.items()}
    ends = [intervals[-1][1] for intervals in placed.values() if intervals]
    end = max([_microseconds(duration_seconds), _SHORTEST_MICROSECONDS, *ends])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {_seconds(end)}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, spans) in enumerate(placed.items(), start=1):
        intervals = list(_cover(spans, end))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(name)}",
            "        xmin = 0",
            f"        xmax = {_seconds(end)}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, stop, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {_seconds(start)}",
                f"            xmax = {_seconds(stop)}",
                f"            text = {_quoted(text)}",
            ]
    return "\n".join(lines) + "\n"


def _place(name: str, spans: Iterable[TimedWord]) -> list[tuple[int, int, str]]:
    """Put the spans of a tier on whole microseconds, none over another."""
    placed: list[tuple[int, int, str]] = []
    before = 0
    for span in spans:
        start = _microseconds(span.start_seconds)
        if start < 0 or (placed and start < placed[-1][0]):
            raise ConfigError(
                f'the spans of the tier "{name}" are out of order: expected rising times from 0, '
                f"found {span.start_seconds} s ({span.text[:40]!r})."
            )
        start = max(start, before)
        before = max(_microseconds(span.end_seconds), start + _SHORTEST_MICROSECONDS)
        placed.append((start, before, span.text))
    return placed


def _cover(spans: Iterable[tuple[int, int, str]], end: int) -> Iterable[tuple[int, int, str]]:
    """Fill what lies between spans, and at both ends, with empty intervals."""
    before = 0
    for start, stop, text in spans:
        if start > before:
            yield before, start, ""
        yield start, stop, text
        before = stop
    if before < end:
        yield before, end, ""


def _microseconds(seconds: float) -> int:
    """Round a time."""
    return round(seconds * 1_000_000)


def _seconds(microseconds: int) -> str:
    """Write a time without superfluous digits [seconds]."""
    written = f"{Decimal(microseconds) * _MICROSECOND:f}"
    return written.rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    """Write a text on one line in quotes; a quote in it is doubled."""
    return '"' + " ".join(text.split()).replace('"', '""') + '"'
