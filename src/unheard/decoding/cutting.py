"""From a text laid over a long recording to utterances to learn from, without what does not match.

An utterance is a stretch of words that follow each other in the text and in the recording, every
one of them likely enough. It ends where a word is missing or unlikely, where there is sound that
the text does not have, and, when it would be too long, at the longest pause, ends of sentences
first.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from unheard.decoding.spans import Span, TimedText
from unheard.errors import ConfigError

PADDING_SECONDS = 0.2
"""Silence kept before and after an utterance, at most [seconds]."""
STAR_SECONDS = 0.15
"""Sound without text shorter than this is taken for a breath, not for a word [seconds]."""
SENTENCE_BONUS_SECONDS = 0.3
"""How much longer a pause at the end of a sentence counts [seconds]."""


@dataclass(frozen=True, kw_only=True)
class CutLimits:
    """What utterances may be like.

    Attributes:
        min_confidence: least confidence of every word.
        min_seconds: shortest utterance [seconds].
        max_seconds: longest utterance [seconds].

    Raises:
        ConfigError: if a limit is out of range.
    """

    min_confidence: float = 0.3
    min_seconds: float = 1.0
    max_seconds: float = 15.0

    def __post_init__(self) -> None:
        """Refuse limits that no utterance can keep."""
        in_order = 0 < self.min_seconds < self.max_seconds and math.isfinite(self.max_seconds)
        if not (0 <= self.min_confidence <= 1 and in_order):
            raise ConfigError(
                "the limits of utterances are out of range: expected a confidence of 0 to 1 and "
                f"0 < min_seconds < max_seconds, found {self}."
            )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One utterance to be.

    Attributes:
        text: its words as they stand in the text.
        start_seconds: from the start of the recording.
        end_seconds: from the start of the recording.
        confidence: geometric mean of those of its words.
        first_word: which word of the text its first one is, from 0.
        words: how many it has.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float
    first_word: int
    words: int


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """A recording cut into utterances.

    Attributes:
        pieces: in order.
        words: of the text.
        words_missing: that have no place in the recording.
        words_unsure: whose confidence is too low, or that last longer than an utterance may.
        words_short: in stretches too short to be utterances.
        sound_seconds: untranscribed sound met [seconds].
    """

    pieces: tuple[Piece, ...]
    words: int
    words_missing: int
    words_unsure: int
    words_short: int
    sound_seconds: float

    @property
    def words_kept(self) -> int:
        """Words in utterances."""
        return sum(piece.words for piece in self.pieces)

    @property
    def kept_seconds(self) -> float:
        """Sound in utterances [seconds]."""
        return sum(piece.end_seconds - piece.start_seconds for piece in self.pieces)


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A word with its number in the text and whether it ends a sentence."""

    span: Span
    index: int
    ends_sentence: bool


def cut(timed: TimedText, *, duration_seconds: float, separator: str, limits: CutLimits) -> Cuts:
    """Cut an aligned recording into utterances.

    Args:
        timed: the text with its times.
        duration_seconds: length of the recording [seconds].
        separator: what stands between two words.
        limits: what utterances may be like.
    """
    placed = _placed(timed)
    sure = [
        word
        for word in placed
        if word.span.confidence >= limits.min_confidence and _length([word]) <= limits.max_seconds
    ]
    stars = [
        (star.start_seconds, star.end_seconds)
        for star in timed.stars
        if star.end_seconds - star.start_seconds >= STAR_SECONDS
    ]
    runs = [
        part
        for run in _runs(sure, [start for start, _ in stars])
        for part in _split(run, limits.max_seconds)
    ]
    kept = [run for run in runs if _length(run) >= limits.min_seconds]
    # What an utterance must not reach into: other words, and sound without text.
    taken = sorted([(word.span.start_seconds, word.span.end_seconds) for word in placed] + stars)
    edges = _Edges(taken, duration_seconds)
    words_kept = sum(map(len, kept))
    return Cuts(
        pieces=tuple(_piece(run, edges, separator, limits.max_seconds) for run in kept),
        words=len(placed) + len(timed.missing),
        words_missing=len(timed.missing),
        words_unsure=len(placed) - len(sure),
        words_short=len(sure) - words_kept,
        sound_seconds=sum(end - start for start, end in stars),
    )


def _placed(timed: TimedText) -> list[_Placed]:
    """List the words in order."""
    numbers = iter(timed.indices)
    return [
        _Placed(span=word, index=next(numbers), ends_sentence=place == len(sentence.parts) - 1)
        for sentence in timed.sentences
        for place, word in enumerate(sentence.parts)
    ]


def _runs(words: Sequence[_Placed], star_starts: Sequence[float]) -> list[list[_Placed]]:
    """Gather words that follow each other without a word or foreign sound between."""
    runs: list[list[_Placed]] = []
    stars = iter(star_starts)
    star = next(stars, math.inf)
    for word in words:
        broken = not runs or word.index != runs[-1][-1].index + 1
        # A star between two words begins before the second one does.
        while star < word.span.end_seconds:
            broken = True
            star = next(stars, math.inf)
        if broken:
            runs.append([])
        runs[-1].append(word)
    return runs


def _split(run: list[_Placed], max_seconds: float) -> list[list[_Placed]]:
    """Split a run at its longest pauses until every part is short enough."""
    parts: list[list[_Placed]] = []
    waiting = [run]
    while waiting:
        part = waiting.pop()
        if _length(part) <= max_seconds:
            parts.append(part)
            continue
        # Cuts near an end leave crumbs: both sides get a quarter of the longest utterance, if
        # there is a pause between words that allows it.
        start, end = part[0].span.start_seconds, part[-1].span.end_seconds
        margin = min(max_seconds / 4, (end - start) / 3)
        places = range(1, len(part))
        inner = [
            place
            for place in places
            if part[place - 1].span.end_seconds - start >= margin
            and end - part[place].span.start_seconds >= margin
        ]
        best = max(inner or places, key=lambda place: _pause(part[place - 1], part[place]))
        waiting += [part[best:], part[:best]]
    return parts


def _pause(before: _Placed, after: _Placed) -> float:
    """Length of the pause between two words; longer at the end of a sentence [seconds]."""
    bonus = SENTENCE_BONUS_SECONDS if before.ends_sentence else 0.0
    return after.span.start_seconds - before.span.end_seconds + bonus


def _length(words: Sequence[_Placed]) -> float:
    """From the start of the first word to the end of the last [seconds]."""
    return words[-1].span.end_seconds - words[0].span.start_seconds


class _Edges:
    """Finds how far an utterance may reach into the silence around it."""

    def __init__(self, taken: Sequence[tuple[float, float]], duration_seconds: float) -> None:
        self._starts = [start for start, _ in taken]
        self._ends = sorted(end for _, end in taken)
        self._duration = duration_seconds

    def before(self, seconds: float) -> float:
        """Silence to keep before a word, at most half of what there is [seconds]."""
        place = bisect.bisect_right(self._ends, seconds)
        previous = self._ends[place - 1] if place else -seconds
        return min(PADDING_SECONDS, (seconds - previous) / 2)

    def after(self, seconds: float) -> float:
        """Silence to keep after a word, at most half of what there is [seconds]."""
        place = bisect.bisect_left(self._starts, seconds)
        ahead = 2 * self._duration - seconds
        following = self._starts[place] if place < len(self._starts) else ahead
        return max(min(PADDING_SECONDS, (following - seconds) / 2), 0.0)


def _piece(run: Sequence[_Placed], edges: _Edges, separator: str, max_seconds: float) -> Piece:
    """Make an utterance of a run."""
    first, last = run[0].span.start_seconds, run[-1].span.end_seconds
    room = (max_seconds - (last - first)) / 2
    spans = [word.span for word in run]
    return Piece(
        text=separator.join(span.text for span in spans),
        start_seconds=first - min(edges.before(first), room),
        end_seconds=last + min(edges.after(last), room),
        confidence=math.exp(
            sum(math.log(max(span.confidence, 1e-30)) for span in spans) / len(spans)
        ),
        first_word=run[0].index,
        words=len(run),
    )
