"""Word pieces: frequent words whole, rare ones in parts, and no word that cannot be written.

A word begins with a sign of its own, U+2581, as sentencepiece has it, so that pieces joined give
the text back. Without a merge, the pieces are characters.

Source: Sennrich et al. 2016, "Neural machine translation of rare words with subword units";
Provilkov et al. 2020, "BPE-dropout". Merges and their order are those of the tokenizers library
(0.23, `BpeTrainer`), whose ties go to the pair of the lowest numbers.
"""

import heapq
import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeGuard

import numpy as np

from unheard.errors import ConfigError, FormatError
from unheard.lm.vocabulary import MARKERS

WORD_START = "▁"
"""Stands before every word; in a text it is read as white space."""

UNKNOWN_ID, START_ID, END_ID = range(len(MARKERS))
"""Numbers of `MARKERS`: a character never seen, the beginning and the end of a text."""

PieceUnits = Literal["piece", "character"]
"""Pieces of any length, or of one character each."""

MOST_PIECES = 100_000
"""More than any published model has; a file of settings has room for as many."""
_KEPT_WORDS = 100_000


class Pieces:
    """Splits texts into pieces and joins them again.

    Numbers are those of `MARKERS`, then of single characters in code point order, then of merged
    pieces in the order in which they were learnt.

    Attributes:
        symbols: what each number stands for.
        merges: pairs of numbers that become one, the most frequent first.
    """

    def __init__(self, characters: Iterable[str], merges: Iterable[tuple[str, str]] = ()) -> None:
        """Number the pieces.

        Args:
            characters: single code points, besides `WORD_START`.
            merges: pairs of pieces, each made of what comes before.

        Raises:
            FormatError: if a character is not one, or a merge joins what there is not.
        """
        single = sorted({*characters, WORD_START})
        for character in single:
            if len(character) != 1 or character.isspace() or "\ud800" <= character <= "\udfff":
                raise FormatError(
                    "A character of word pieces is not a single one that can be written: found "
                    f"{character!r}."
                )
        self._numbers = {symbol: number for number, symbol in enumerate((*MARKERS, *single))}
        self.merges: list[tuple[int, int]] = []
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for left, right in merges:
            self._add(left, right)
        self.symbols: tuple[str, ...] = tuple(self._numbers)
        self._kept: dict[str, list[int]] = {}

    def _add(self, left: str, right: str) -> None:
        """Add a merge; another pair may have made the same piece before."""
        known = self._numbers
        if left in MARKERS or right in MARKERS or left not in known or right not in known:
            raise FormatError(
                "A merge of word pieces joins what is not there: expected two earlier pieces, "
                f"found {left!r} and {right!r}."
            )
        pair = (known[left], known[right])
        if pair in self._ranks or left + right in MARKERS:
            raise FormatError(f"A merge of word pieces is not usable: {left!r} and {right!r}.")
        if len(known) >= MOST_PIECES:
            raise FormatError(f"There are more than {MOST_PIECES} word pieces.")
        number = known.setdefault(left + right, len(known))
        self._ranks[pair] = (len(self.merges), number)
        self.merges.append(pair)

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int, least: int = 2) -> "Pieces":
        """Learn pieces from texts.

        Args:
            texts: each line or sentence; white space parts words.
            size: how many pieces there shall be at most, single characters and `MARKERS` among
                them; 0 for characters only.
            least: times that a pair must have been seen to be merged.

        Raises:
            ConfigError: if no text has a word, or `size` is beyond what any model has.
        """
        words = Counter(itertools.chain.from_iterable(map(words_of, texts)))
        if not words:
            raise ConfigError("There is nothing to learn word pieces from: no text has a word.")
        characters = sorted({*itertools.chain.from_iterable(words), WORD_START})
        pieces = cls(characters)
        if size > MOST_PIECES:
            raise ConfigError(f"There can be {MOST_PIECES} word pieces at most, got {size}.")
        if size <= len(pieces):
            return pieces
        return cls(characters, _learn_merges(words, pieces._numbers, size=size, least=least))

    def __len__(self) -> int:
        """Count the pieces, `MARKERS` among them."""
        return len(self.symbols)

    def encode(
        self, text: str, *, dropout: float = 0.0, generator: np.random.Generator | None = None
    ) -> list[int]:
        """Numbers of a text's pieces, without beginning and end.

        Args:
            text: composed to NFC here; a character that is not known becomes unknown.
            dropout: probability of passing a possible merge over, which splits a word otherwise
                each time (BPE-dropout); for training.
            generator: draws which; needed with dropout.

        Raises:
            ConfigError: if there is dropout and no generator.
        """
        if dropout > 0:
            if generator is None:
                raise ConfigError("BPE-dropout draws: expected a generator, got none.")
            drawn = (self._split_at_random(word, dropout, generator) for word in words_of(text))
            return list(itertools.chain.from_iterable(drawn))
        numbers: list[int] = []
        for word in words_of(text):
            known = self._kept.get(word)
            if known is None:
                known = self._split(word)
                if len(self._kept) < _KEPT_WORDS:
                    self._kept[word] = known
            numbers += known
        return numbers

    def split(self, text: str) -> list[str]:
        """Pieces of a text as they are written."""
        return [self.symbols[number] for number in self.encode(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Text of pieces: the beginning and the end leave nothing, what is not known U+FFFD."""
        written = {UNKNOWN_ID: "\ufffd", START_ID: "", END_ID: ""}
        joined = "".join(written.get(number, self.symbols[number]) for number in numbers)
        return " ".join(joined.replace(WORD_START, " ").split())

    def missing(self, text: str) -> tuple[str, ...]:
        """Characters of a text that are not known, each once, in order."""
        letters = itertools.chain.from_iterable(words_of(text))
        return tuple(dict.fromkeys(one for one in letters if one not in self._numbers))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "characters": [
                symbol
                for symbol in self.symbols[len(MARKERS) :]
                if len(symbol) == 1 and symbol != WORD_START
            ],
            "merges": [
                f"{self.symbols[left]} {self.symbols[right]}" for left, right in self.merges
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Pieces":
        """Rebuild pieces from `to_dict`, which nobody vouches for.

        Raises:
            FormatError: if it is not what `to_dict` gives.
        """
        characters, merges = data.get("characters"), data.get("merges")
        if set(data) != {"characters", "merges"} or not (
            _is_texts(characters) and _is_texts(merges)
        ):
            raise FormatError(
                "Stored word pieces are not what they should be: expected lists of texts, "
                f"characters and merges, found {sorted(map(str, data))}."
            )
        pairs = [merge.split(" ") for merge in merges]
        odd = next(
            (merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2), None
        )
        if odd is not None:
            raise FormatError(
                f"A stored merge of word pieces is not two, with a space between: found {odd!r}."
            )
        return cls(characters, [(left, right) for left, right in pairs])

    def _split(self, word: str) -> list[int]:
        """Merge the earliest learnt pair, everywhere, until none is left."""
        numbers = [self._numbers.get(character, UNKNOWN_ID) for character in word]
        while len(numbers) > 1:
            best = min(
                (self._ranks[pair] for pair in itertools.pairwise(numbers) if pair in self._ranks),
                default=None,
            )
            if best is None:
                break
            rank, merged = best
            numbers = _merge(numbers, self.merges[rank], merged)
        return numbers

    def _split_at_random(
        self, word: str, dropout: float, generator: np.random.Generator
    ) -> list[int]:
        """Merge as `_split` does, one place at a time, each possible merge passed over at times."""
        numbers = [self._numbers.get(character, UNKNOWN_ID) for character in word]
        while len(numbers) > 1:
            draws = generator.random(len(numbers) - 1)
            best = min(
                (
                    (*self._ranks[pair], place)
                    for place, pair in enumerate(itertools.pairwise(numbers))
                    if pair in self._ranks and draws[place] >= dropout
                ),
                default=None,
            )
            if best is None:
                break
            _, merged, place = best
            numbers[place : place + 2] = [merged]
        return numbers


def words_of(text: str) -> list[str]:
    """Words of a text, each with `WORD_START` before it."""
    composed = unicodedata.normalize("NFC", text).replace(WORD_START, " ")
    return [WORD_START + word for word in composed.split()]


def _learn_merges(
    words: Mapping[str, int], numbers: Mapping[str, int], *, size: int, least: int
) -> list[tuple[str, str]]:
    """Merge the most frequent pair, again and again.

    Counts change only in the words that hold the merged pair, so each merge looks at these alone;
    the heap holds an entry for every count that a pair has had, and old ones are passed over.
    """
    symbols = list(numbers)
    numbered = dict(numbers)
    spelt = [[numbered[character] for character in word] for word in words]
    times = list(words.values())
    counts: Counter[tuple[int, int]] = Counter()
    where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for index, word in enumerate(spelt):
        for pair in itertools.pairwise(word):
            counts[pair] += times[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while heap and len(symbols) < size:
        negative, pair = heapq.heappop(heap)
        if counts.get(pair) != -negative:
            continue
        if -negative < least:
            break
        left, right = symbols[pair[0]], symbols[pair[1]]
        if left + right in MARKERS:
            del counts[pair]
            continue
        merged = numbered.setdefault(left + right, len(symbols))
        if merged == len(symbols):
            symbols.append(left + right)
        merges.append((left, right))
        changed: Counter[tuple[int, int]] = Counter()
        for index in where.pop(pair):
            before = spelt[index]
            after = _merge(before, pair, merged)
            for old in itertools.pairwise(before):
                changed[old] -= times[index]
            for new in itertools.pairwise(after):
                changed[new] += times[index]
                where[new].add(index)
            spelt[index] = after
        del counts[pair]
        changed.pop(pair, None)
        for other, change in changed.items():
            if change:
                counts[other] += change
                heapq.heappush(heap, (-counts[other], other))
    return merges


def _merge(numbers: Sequence[int], pair: tuple[int, int], merged: int) -> list[int]:
    """Replace a pair by one number, from left to right."""
    left, right = pair
    result: list[int] = []
    waiting = False
    for number in numbers:
        if waiting and number == right:
            result[-1] = merged
            waiting = False
        else:
            result.append(number)
            waiting = number == left
    return result


def _is_texts(value: object) -> TypeGuard[list[str]]:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
