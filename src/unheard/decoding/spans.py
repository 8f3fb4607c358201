"""From a text to what is aligned, and from the aligned path to timed sentences, words, characters.

The text is kept as it is written; what the model can write of each word is aligned. A word, or a
part of one, that the alphabet has no symbols for (digits, another script) becomes a star: any
sound may stand there. Punctuation that the normaliser drops is no word, and stays in the text of
its sentence.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from unheard.decoding.align import AlignedPath, Target
from unheard.decoding.runs import is_mark, probability
from unheard.errors import AlignmentError
from unheard.text.alphabet import Alphabet

STAR = "*"
"""A word of a text that stands for any sound, or none."""

Unit = Literal["sentence", "word", "char"]
"""What times are given for."""

UNITS: tuple[Unit, ...] = get_args(Unit)

# What ends a sentence in the scripts of the world, with the quotes and brackets that may close it.
_CLOSING = "\"'»”’)\\]}」』】〉》"
_SENTENCE_END = re.compile(
    # Full width marks and the danda need no space after them; a full stop does.
    f"[。！？｡][{_CLOSING}]*|[.!?…։؟۔।॥።፧፨၊။។៕᠃᠉‽⁇⁈⁉][{_CLOSING}]*(?=\\s|$)"
)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of text with its place in the recording.

    Attributes:
        text: as it stands in the text given; for characters, as the model writes them.
        start_seconds: from the start of the recording.
        end_seconds: from the start of the recording.
        confidence: 0 .. 1, the geometric mean of the probabilities of the span's symbols over the
            frames that carry them; 0 for a word that the alphabet has no symbol of; for a star,
            of the best symbol of each frame.
        parts: the words of a sentence, or the characters of a word.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float
    parts: tuple["Span", ...] = ()

    def to_dict(self, *, parts: Sequence[str] = ()) -> dict[str, Any]:
        """Return plain data: times to a tenth of a millisecond, confidences to four digits.

        Args:
            parts: what to call the parts, and their parts; those without a name are left out.
        """
        data: dict[str, Any] = {
            "text": self.text,
            "start_seconds": round(self.start_seconds, 4),
            "end_seconds": round(self.end_seconds, 4),
            "confidence": round(self.confidence, 4),
        }
        if parts:
            data[parts[0]] = [one.to_dict(parts=parts[1:]) for one in self.parts]
        return data


@dataclass(frozen=True, kw_only=True)
class MissingWord:
    """A word of the text that has no place in the recording.

    Attributes:
        text: as it stands in the text given.
        index: which word of the text it is, from 0; stars are not counted.
    """

    text: str
    index: int


@dataclass(frozen=True, kw_only=True)
class TimedText:
    """A text laid over a recording.

    Attributes:
        sentences: in order, with their words, and these with their characters; without the
            sentences none of whose words has a place.
        stars: sound that a star stands for, as spans with the text "*", in order of time.
        missing: words without a place.
        indices: for every word in `words`, which word of the text it is.
        score: natural log of the path's probability, less penalties.
    """

    sentences: tuple[Span, ...]
    stars: tuple[Span, ...]
    missing: tuple[MissingWord, ...]
    indices: tuple[int, ...]
    score: float

    @property
    def words(self) -> tuple[Span, ...]:
        """All words that have a place, in order."""
        return tuple(word for sentence in self.sentences for word in sentence.parts)

    @property
    def characters(self) -> tuple[Span, ...]:
        """All characters that have a place, in order."""
        return tuple(character for word in self.words for character in word.parts)

    def spans(self, unit: Unit) -> tuple[Span, ...]:
        """All spans of a unit, in order."""
        return {"sentence": self.sentences, "word": self.words, "char": self.characters}[unit]


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One character for a reader, a letter with its marks: tokens `first` to `stop` - 1."""

    text: str
    first: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class _Word:
    """A word of the text: tokens `first` to `stop` - 1 of the target."""

    text: str
    sentence: int
    first: int
    stop: int
    pieces: tuple[_Piece, ...] = ()
    stars: frozenset[int] = frozenset()
    """Positions within the word where a character has no symbol."""


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """A place between two words where any sound may stand.

    `words` are the words without a single symbol that stand here; the gap is a star if there are
    none.
    """

    positions: tuple[int, ...]
    words: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Script:
    """A text made ready to be aligned; see `prepare`.

    Attributes:
        target: what is aligned.
        sentences: as written, stars included.
        words: of the whole text, in order.
        gaps: in order.
        unwritable: characters, as normalised, that the alphabet has no symbol for.
    """

    target: Target
    sentences: tuple[str, ...]
    words: tuple[_Word, ...]
    gaps: tuple[_Gap, ...]
    unwritable: tuple[str, ...]


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences: at every line end, and after marks that end a sentence.

    The marks are those of Latin, Greek, Armenian, Arabic, Indic, Ethiopic, Burmese, Khmer,
    Mongolian and East Asian writing. A full stop after an abbreviation counts as one.
    """
    sentences: list[str] = []
    for line in text.splitlines():
        start = 0
        for mark in _SENTENCE_END.finditer(line):
            sentences.append(line[start : mark.end()])
            start = mark.end()
        sentences.append(line[start:])
    return [" ".join(sentence.split()) for sentence in sentences if sentence.strip()]


def prepare(
    text: str, alphabet: Alphabet, *, normalizer: Callable[[str], str], rough: bool = False
) -> Script:
    """Make a text ready to be aligned.

    Words are what stands between white space. In an alphabet without a word boundary every
    character (with the marks that follow) is a word of its own, as in scripts that write no
    spaces.

    Args:
        text: as it is, with "*" as a word wherever there is sound without text.
        alphabet: symbols of the model.
        normalizer: what the model's transcripts went through.
        rough: text and sound differ in places: a star stands between all words and at both ends,
            and every word, and every boundary between words, may be left out.

    Raises:
        AlignmentError: if there is not one word in the text.
    """
    builder = _Builder(alphabet, normalizer)
    sentences = tuple(split_sentences(text))
    for number, sentence in enumerate(sentences):
        for written in sentence.split():
            if written == STAR:
                builder.star()
            else:
                builder.add(written, number)
    script = builder.finish(sentences, rough=rough)
    if not script.words:
        raise AlignmentError(
            "there is nothing to align: expected a text with at least one word, found "
            f"{text[:60]!r}. Punctuation alone is no word."
        )
    return script


class _Builder:
    """Collects the tokens of a text, word by word."""

    def __init__(self, alphabet: Alphabet, normalizer: Callable[[str], str]) -> None:
        self._alphabet = alphabet
        self._normalizer = normalizer
        self._tokens: list[int] = []
        self._words: list[_Word] = []
        self._stars: set[int] = set()
        self._gaps: list[_Gap] = []
        self._unwritable: dict[str, None] = {}
        # What has been met since the last word with a symbol.
        self._open = False
        self._waiting: list[int] = []

    def star(self) -> None:
        """Open the gap before the next word."""
        self._open = True

    def add(self, written: str, sentence: int) -> None:
        """Add a word; in an alphabet without word boundary, its characters as words."""
        parts = self._normalizer(written).split()
        if self._alphabet.word_boundary_id is not None:
            if parts:
                self._add_word(written, parts, sentence)
            return
        for part in parts:
            for character in _clusters(unicodedata.normalize("NFC", part)):
                self._add_word(character, [character], sentence)

    def finish(self, sentences: tuple[str, ...], *, rough: bool) -> Script:
        """Close the text."""
        self._close_gap((len(self._tokens),))
        gaps: Sequence[_Gap] = self._gaps
        skips: list[tuple[int, int]] = []
        if rough:
            gaps = _all_gaps(self._words, self._gaps, len(self._tokens))
            previous = 0
            for word in self._words:
                if word.stop > word.first:
                    if word.first > previous > 0:
                        skips.append((previous, word.first))
                    skips.append((word.first, word.stop))
                    previous = word.stop
        # Sound at the edge of a word that begins or ends with a star is that word's.
        taken = frozenset().union(*(word.stars for word in self._words))
        gaps = [
            replace(gap, positions=tuple(p for p in gap.positions if p not in taken))
            for gap in gaps
        ]
        return Script(
            target=Target(
                tokens=tuple(self._tokens),
                stars=frozenset(self._stars.union(*(gap.positions for gap in gaps))),
                skips=tuple(skips),
            ),
            sentences=sentences,
            words=tuple(self._words),
            gaps=tuple(gaps),
            unwritable=tuple(self._unwritable),
        )

    def _add_word(self, written: str, parts: Sequence[str], sentence: int) -> None:
        """Add one word, whose normalised form may be several."""
        runs = [_runs(unicodedata.normalize("NFC", part), self._alphabet) for part in parts]
        self._unwritable.update(
            (character, None)
            for run in runs
            for text, known in run
            if not known
            for character in text
        )
        if not any(known for run in runs for _, known in run):
            self._waiting.append(len(self._words))
            place = len(self._tokens)
            self._words.append(_Word(text=written, sentence=sentence, first=place, stop=place))
            return
        before = len(self._tokens)
        boundary = self._alphabet.word_boundary_id
        if before and boundary is not None:
            self._tokens.append(boundary)
        first = len(self._tokens)
        self._close_gap((before, first) if first > before else (before,))
        pieces: list[_Piece] = []
        stars: set[int] = set()
        for number, run in enumerate(runs):
            if number and boundary is not None:
                self._tokens.append(boundary)
            for text, known in run:
                if known:
                    self._add_run(text, pieces)
                else:
                    stars.add(len(self._tokens))
        self._stars |= stars
        self._words.append(
            _Word(
                text=written,
                sentence=sentence,
                first=first,
                stop=len(self._tokens),
                pieces=tuple(pieces),
                stars=frozenset(stars),
            )
        )

    def _add_run(self, text: str, pieces: list[_Piece]) -> None:
        """Add characters that the alphabet can write."""
        for number in self._alphabet.encode(text):
            place = len(self._tokens)
            self._tokens.append(number)
            token = self._alphabet.tokens[number]
            if pieces and pieces[-1].stop == place and is_mark(token):
                first = pieces.pop().first
            else:
                first = place
            shown = self._alphabet.decode(self._tokens[first:])
            pieces.append(_Piece(text=shown, first=first, stop=place + 1))

    def _close_gap(self, positions: tuple[int, ...]) -> None:
        """End the gap before a word, if there is one."""
        if self._open or self._waiting:
            self._gaps.append(_Gap(positions=positions, words=tuple(self._waiting)))
        self._open = False
        self._waiting = []


def _all_gaps(words: Sequence[_Word], found: Sequence[_Gap], length: int) -> list[_Gap]:
    """Put a gap between all words that have symbols, and at both ends."""
    known = {gap.positions[-1]: gap for gap in found}
    gaps: list[_Gap] = []
    previous = 0
    for word in words:
        if word.stop > word.first:
            places = (previous, word.first) if word.first > previous else (word.first,)
            gaps.append(known.get(word.first, _Gap(positions=places, words=())))
            previous = word.stop
    if length not in {gap.positions[-1] for gap in gaps}:
        gaps.append(known.get(length, _Gap(positions=(length,), words=())))
    return gaps


def _runs(text: str, alphabet: Alphabet) -> list[tuple[str, bool]]:
    """Cut a text into stretches that the alphabet can write, and such that it cannot."""
    absent = set(alphabet.missing(text))
    if not absent:
        return [(text, True)] if text else []
    # What is missing is named in the alphabet's case.
    recased = {"keep": text, "lower": text.lower(), "upper": text.upper()}[alphabet.case]
    runs: list[tuple[str, bool]] = []
    for character in unicodedata.normalize("NFC", recased):
        known = character not in absent
        if runs and runs[-1][1] == known:
            runs[-1] = (runs[-1][0] + character, known)
        else:
            runs.append((character, known))
    return runs


def _clusters(text: str) -> Iterator[str]:
    """Cut a text into letters with the marks that follow."""
    cluster = ""
    for character in text:
        if cluster and not is_mark(character):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def read_times(path: AlignedPath, script: Script) -> TimedText:
    """Give the times of everything in a text.

    A span runs from its first to its last frame, half a stride to either side, clipped to the
    recording; between spans lies what carries no symbol of theirs. Words without a symbol share
    the sound in their gap evenly.

    Args:
        path: of the script's target.
        script: the text.
    """
    reader = _Reader(path)
    spans: dict[int, Span] = {}
    stars: list[Span] = []
    for number, word in enumerate(script.words):
        if word.stop > word.first and (span := reader.word(word)) is not None:
            spans[number] = span
    for gap in script.gaps:
        found = reader.gap(gap)
        if found is None:
            continue
        if not gap.words:
            stars.append(found)
        length = (found.end_seconds - found.start_seconds) / max(len(gap.words), 1)
        for place, number in enumerate(gap.words):
            spans[number] = Span(
                text=script.words[number].text,
                start_seconds=found.start_seconds + place * length,
                end_seconds=found.start_seconds + (place + 1) * length,
                confidence=0.0,
            )
    members: dict[int, list[int]] = {}
    for number in sorted(spans):
        members.setdefault(script.words[number].sentence, []).append(number)
    return TimedText(
        sentences=tuple(
            Span(
                text=script.sentences[sentence],
                start_seconds=spans[numbers[0]].start_seconds,
                end_seconds=spans[numbers[-1]].end_seconds,
                confidence=reader.confidence([script.words[number] for number in numbers]),
                parts=tuple(spans[number] for number in numbers),
            )
            for sentence, numbers in sorted(members.items())
        ),
        stars=tuple(stars),
        missing=tuple(
            MissingWord(text=word.text, index=number)
            for number, word in enumerate(script.words)
            if number not in spans
        ),
        indices=tuple(sorted(spans)),
        score=path.score,
    )


class _Reader:
    """Looks up frames of a path by position; built in one pass over them."""

    def __init__(self, path: AlignedPath) -> None:
        self._path = path
        self._frames = np.flatnonzero(path.on_token)
        self._token_of = path.positions[self._frames] - 1
        self._star_frames = np.flatnonzero(path.on_star)
        self._star_at = path.positions[self._star_frames]
        sums = path.log_probs[self._frames]
        self._sums = np.concatenate((np.zeros(1), np.cumsum(sums)))

    def word(self, word: _Word) -> Span | None:
        """Time a word; None if it was left out."""
        low, high = self._range(word.first, word.stop)
        if low == high:
            return None
        first, last = self._frames[low], self._frames[high - 1]
        for position in word.stars:
            begin, end = np.searchsorted(self._star_at, (position, position + 1))
            if begin < end:
                first = min(first, self._star_frames[begin])
                last = max(last, self._star_frames[end - 1])
        return Span(
            text=word.text,
            start_seconds=self._path.edge_seconds(float(first) - 0.5),
            end_seconds=self._path.edge_seconds(float(last) + 0.5),
            confidence=self.confidence([word]),
            parts=tuple(self._piece(piece) for piece in word.pieces),
        )

    def gap(self, gap: _Gap) -> Span | None:
        """Time the sound in a gap; None if there is none."""
        places = [
            np.searchsorted(self._star_at, (position, position + 1)) for position in gap.positions
        ]
        if not any(begin < end for begin, end in places):
            return None
        frames = np.concatenate([self._star_frames[begin:end] for begin, end in places])
        return Span(
            text=STAR,
            start_seconds=self._path.edge_seconds(float(frames[0]) - 0.5),
            end_seconds=self._path.edge_seconds(float(frames[-1]) + 0.5),
            confidence=probability(float(self._path.log_probs[frames].sum()), int(frames.size)),
        )

    def confidence(self, words: Sequence[_Word]) -> float:
        """Geometric mean of the probabilities over all frames that carry tokens of some words."""
        total, frames = 0.0, 0
        for word in words:
            low, high = self._range(word.first, word.stop)
            total += float(self._sums[high] - self._sums[low])
            frames += high - low
        return probability(total, frames)

    def _piece(self, piece: _Piece) -> Span:
        """Time one character."""
        low, high = self._range(piece.first, piece.stop)
        return Span(
            text=piece.text,
            start_seconds=self._path.edge_seconds(float(self._frames[low]) - 0.5),
            end_seconds=self._path.edge_seconds(float(self._frames[high - 1]) + 0.5),
            confidence=probability(float(self._sums[high] - self._sums[low]), high - low),
        )

    def _range(self, first: int, stop: int) -> tuple[int, int]:
        """Places in the list of token frames that belong to tokens `first` to `stop` - 1."""
        low, high = np.searchsorted(self._token_of, (first, stop))
        return int(low), int(high)
