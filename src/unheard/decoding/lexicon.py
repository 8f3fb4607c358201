"""A lexicon: which words may be written, and how each is spelt in a model's alphabet."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from unheard.decoding.trie import Trie, build_trie
from unheard.errors import AlphabetError, FormatError, shorten
from unheard.files import write_text_atomic
from unheard.lm.ngram import NgramModel
from unheard.lm.vocabulary import MARKERS
from unheard.text.alphabet import Alphabet, describe

logger = logging.getLogger(__name__)

_PIECE_BOUNDARY = "▁"
"""Begins a symbol that begins a word (U+2581), as SentencePiece writes it."""

_WHITE_SPACE = " \t\n\v\f\r"
"""What separates the fields of a file: white space of ASCII, as in language models."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Words with their spellings; a word may have several, and several words one.

    Attributes:
        alphabet: of the model.
        words: each once, as they are written in the result and known to a language model.
        spellings: (word number, symbol numbers), each pair once; without the boundary after it.
        boundary_after: whether a word boundary stands between any two words. If not, words follow
            each other with or without one.
        separator: what is written between two words.
        left_out: words that cannot be spelt, each with the reason.

    Raises:
        AlphabetError: if no word can be spelt.
    """

    alphabet: Alphabet
    words: tuple[str, ...]
    spellings: tuple[tuple[int, tuple[int, ...]], ...]
    boundary_after: bool
    separator: str
    left_out: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse a lexicon without words."""
        if not self.spellings:
            reasons = [f"{word!r}: {reason}" for word, reason in self.left_out.items()]
            raise AlphabetError(
                "the lexicon has no words: expected at least one that the alphabet can spell, "
                f"found {shorten(reasons, limit=5) or 'none at all'}. "
                "Check that its words are normalised and cased as the alphabet is."
            )

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.words)

    @classmethod
    def from_words(cls, words: Iterable[str], alphabet: Alphabet) -> Self:
        """Spell words with the alphabet's own symbols.

        Words that hold white space, or a character without a symbol, are left out; the log says
        how many, and `left_out` says which and why.

        Args:
            words: as they shall be written; repetitions are ignored.
            alphabet: of the model.

        Raises:
            AlphabetError: if no word can be spelt.
        """
        spelt, left_out = _spell(words, alphabet)
        bounded = word_boundary_id(alphabet) is not None
        return cls._gather(alphabet, spelt, left_out, boundary_after=bounded)

    @classmethod
    def from_model(cls, lm: NgramModel, alphabet: Alphabet) -> Self:
        """Spell the vocabulary of a language model of words.

        Raises:
            AlphabetError: if no word can be spelt.
        """
        return cls.from_words((w for w in lm.vocabulary.words if w not in MARKERS), alphabet)

    @classmethod
    def load(cls, path: str | os.PathLike[str], alphabet: Alphabet) -> Self:
        """Read a file: one word a line, or one spelling a line in flashlight's form.

        In flashlight's form a line is the word, white space, and its symbols with white space
        between them: `word w o r d |`. The boundary stands at the end of all lines, and then
        between any two words, or of none. A word may have several lines. In a list of words, no
        line has a second field. Empty lines are skipped; lines may end with CR LF.

        Args:
            path: text in UTF-8, with or without a byte order mark.
            alphabet: of the model.

        Raises:
            FormatError: if the file is not text, is of both forms, or has a boundary at the end of
                some spellings only.
            AlphabetError: if no word can be spelt.
        """
        path = Path(path)
        rows = [(number, fields) for number, fields in _rows(path) if fields]
        listed = [number for number, fields in rows if len(fields) == 1]
        if len(listed) == len(rows):
            return cls.from_words((fields[0] for _, fields in rows), alphabet)
        if listed:
            raise FormatError(
                f"a word has no spelling: expected each line to hold a word and its symbols, found "
                f"one field ({path}, line {listed[0]}; {len(listed)} such lines of {len(rows)}). "
                "Give every word a spelling, or none."
            )
        boundary_id = word_boundary_id(alphabet)
        boundary = None if boundary_id is None else alphabet.tokens[boundary_id]
        ended = [fields[-1] == boundary for _, fields in rows]
        if any(ended) and not all(ended):
            number = rows[ended.index(not ended[0])][0]
            raise FormatError(
                f"some spellings end with the boundary {boundary!r} and some do not: found "
                f"{sum(ended)} of {len(ended)} that do ({path}, line {number} is unlike the "
                "first). Write it after all of them, or after none."
            )
        return cls.from_spellings(
            ((fields[0], fields[1:-1] if ended[0] else fields[1:]) for _, fields in rows),
            alphabet,
            boundary_after=ended[0],
        )

    @classmethod
    def from_spellings(
        cls,
        spellings: Iterable[tuple[str, Sequence[str]]],
        alphabet: Alphabet,
        *,
        boundary_after: bool,
    ) -> Self:
        """Take words as they are spelt elsewhere.

        Args:
            spellings: words, each with the symbols of one spelling; no boundary among them.
            alphabet: of the model.
            boundary_after: whether a word boundary stands between any two words.

        Raises:
            AlphabetError: if no word can be spelt, or a boundary is asked for that the alphabet
                does not have.
        """
        boundary_id = word_boundary_id(alphabet)
        if boundary_after and boundary_id is None:
            raise AlphabetError(
                "the lexicon's words end with a boundary, and the alphabet has none. Use the "
                "spellings without it."
            )
        closed = {alphabet.blank, alphabet.unknown, *alphabet.special}
        if boundary_id is not None:
            closed.add(alphabet.tokens[boundary_id])
        numbers = {t: number for number, t in enumerate(alphabet.tokens) if t not in closed}
        spelt: dict[str, list[tuple[int, ...]]] = {}
        left_out: dict[str, str] = {}
        for word, symbols in spellings:
            odd = [symbol for symbol in symbols if symbol not in numbers]
            if odd or not symbols:
                found = shorten(dict.fromkeys(map(repr, odd))) or "no symbols"
                left_out[word] = f"its spelling has what the alphabet does not spell with: {found}"
            else:
                spelt.setdefault(word, []).append(tuple(numbers[symbol] for symbol in symbols))
        for word in spelt.keys() & left_out.keys():
            logger.warning("left out a spelling of %r: %s", word, left_out.pop(word))
        return cls._gather(alphabet, spelt, left_out, boundary_after=boundary_after)

    @classmethod
    def _gather(
        cls,
        alphabet: Alphabet,
        spelt: Mapping[str, Sequence[tuple[int, ...]]],
        left_out: dict[str, str],
        *,
        boundary_after: bool,
    ) -> Self:
        """Number the words, and say how many are not among them."""
        if left_out:
            shown = shorten((f"{word!r} ({left_out[word]})" for word in left_out), limit=5)
            logger.warning(
                "left out %d of %d words of the lexicon: %s",
                len(left_out),
                len(left_out) + len(spelt),
                shown,
            )
        pieces = any(token.startswith(_PIECE_BOUNDARY) for token in alphabet.tokens)
        spaced = pieces or word_boundary_id(alphabet) is not None
        return cls(
            alphabet=alphabet,
            words=tuple(spelt),
            spellings=tuple(
                (number, spelling)
                for number, several in enumerate(spelt.values())
                for spelling in dict.fromkeys(several)
            ),
            boundary_after=boundary_after,
            separator=" " if spaced else "",
            left_out=left_out,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the spellings in flashlight's form."""
        tokens = self.alphabet.tokens
        boundary_id = word_boundary_id(self.alphabet)
        end = f" {tokens[boundary_id]}" if self.boundary_after and boundary_id is not None else ""
        write_text_atomic(
            Path(path),
            "".join(
                f"{self.words[word]}\t{' '.join(tokens[symbol] for symbol in spelling)}{end}\n"
                for word, spelling in self.spellings
            ),
        )

    def with_words(self, words: Iterable[str]) -> Self:
        """Return a lexicon that also has these words, spelt by the alphabet.

        Raises:
            AlphabetError: if one cannot be spelt.
        """
        new = [word for word in dict.fromkeys(words) if word not in self.numbers]
        if not new:
            return self
        spelt, left_out = _spell(new, self.alphabet)
        if left_out:
            reasons = (f"{word!r}: {reason}" for word, reason in left_out.items())
            raise AlphabetError(f"words cannot be spelt: {shorten(reasons)}.")
        count = len(self.words)
        more = ((count + place, s) for place, several in enumerate(spelt.values()) for s in several)
        return type(self)(
            alphabet=self.alphabet,
            words=(*self.words, *spelt),
            spellings=(*self.spellings, *more),
            boundary_after=self.boundary_after,
            separator=self.separator,
            left_out=self.left_out,
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Word -> number."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def trie(self) -> Trie:
        """The spellings as a prefix tree."""
        lengths = np.fromiter((len(s) for _, s in self.spellings), np.int64, len(self.spellings))
        return build_trie(
            np.fromiter((word for word, _ in self.spellings), np.int32, len(self.spellings)),
            np.fromiter((symbol for _, s in self.spellings for symbol in s), np.int32),
            np.concatenate(([0], np.cumsum(lengths))),
        )

    @cached_property
    def spellings_of(self) -> dict[int, list[tuple[int, ...]]]:
        """Word number -> its spellings."""
        table: dict[int, list[tuple[int, ...]]] = {}
        for word, spelling in self.spellings:
            table.setdefault(word, []).append(spelling)
        return table


def _spell(
    words: Iterable[str], alphabet: Alphabet
) -> tuple[dict[str, list[tuple[int, ...]]], dict[str, str]]:
    """Spell words with the alphabet's own symbols; say why those that cannot be are left out."""
    spelt: dict[str, list[tuple[int, ...]]] = {}
    left_out: dict[str, str] = {}
    for word in dict.fromkeys(words):
        missing = alphabet.missing(word)
        if len(word.split()) != 1:
            left_out[word] = "it is empty or holds white space"
        elif missing:
            left_out[word] = f"no symbol for {', '.join(map(describe, missing))}"
        else:
            spelt[word] = [tuple(alphabet.encode(word))]
    return spelt, left_out


def word_boundary_id(alphabet: Alphabet) -> int | None:
    """Number of the symbol between two words: the boundary, or a token of white space."""
    if alphabet.word_boundary_id is not None:
        return alphabet.word_boundary_id
    return next((n for n, token in enumerate(alphabet.tokens) if token.isspace()), None)


def _rows(path: Path) -> Iterable[tuple[int, list[str]]]:
    """Split the lines of a text file at white space; number them from 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise FormatError(
                        f"the lexicon is no text: found a zero byte ({path}, line {number})."
                    )
                fields = line.translate(_TO_SPACE).split(" ")
                yield number, [field for field in fields if field]
    except UnicodeDecodeError as error:
        raise FormatError(
            f"the lexicon is not UTF-8: found byte {error.object[error.start]:#04x} ({path}). "
            "Store the file as UTF-8."
        ) from error


_TO_SPACE = str.maketrans(dict.fromkeys(_WHITE_SPACE, " "))
