"""Timed words as CTM, one word a line: the form that scoring tools read.

Source: NIST SCTK, "ctm: time marked conversation scoring format".
"""

from collections.abc import Iterable
from typing import Protocol

from unheard.text.subtitles import TimedWord


class ScoredWord(TimedWord, Protocol):
    """A timed word with a confidence between 0 and 1."""

    @property
    def confidence(self) -> float:
        """How sure it is."""
        ...


def to_ctm(words: Iterable[ScoredWord], *, recording: str, channel: str = "1") -> str:
    """Write words as CTM: recording, channel, start, duration [seconds], word, confidence.

    Times have milliseconds. The fields are parted by single spaces, so white space within a
    word or the recording's name becomes "_"; a word without a visible character is "_" too.

    Args:
        words: in order of time.
        recording: its name.
        channel: of the recording.

    Returns:
        The file's text, each line ended by a line feed; store it as UTF-8.
    """
    lines: list[str] = []
    for word in words:
        start = round(word.start_seconds * 1000)
        length = round(word.end_seconds * 1000) - start
        lines.append(
            f"{_field(recording)} {_field(channel)} {start / 1000:.3f} {length / 1000:.3f} "
            f"{_field(word.text)} {word.confidence:.4f}\n"
        )
    return "".join(lines)


def _field(text: str) -> str:
    """Make one field of a text."""
    return "_".join(text.split()) or "_"
