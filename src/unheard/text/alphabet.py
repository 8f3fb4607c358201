"""The symbols that a recogniser writes, and the way between text and their numbers."""

import itertools
import logging
import operator
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self, get_args

from unheard.errors import AlphabetError, shorten
from unheard.text import normalize
from unheard.text.normalize import Normalizer

logger = logging.getLogger(__name__)

BLANK = "<blank>"
"""Name of the CTC blank in alphabets made here."""

WORD_BOUNDARY = "|"
"""Token between two words in alphabets made here."""

Case = Literal["keep", "lower", "upper"]
"""What `Alphabet.encode` does to the case of a text."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """The output symbols of a CTC model; a token's place in `tokens` is its number.

    **One token is one code point** of NFC text in the alphabets that `from_texts` makes, not one
    grapheme cluster. A combining mark that has no composed form with its letter (the tone
    over Yoruba ẹ, a Devanagari vowel sign, an Arabic haraka) is therefore a token of its own. Few
    transcripts show few of the possible clusters: with clusters, a syllable never seen in
    training could never be written, and a script of conjuncts would need thousands of tokens;
    with code points, any new combination of seen letters and marks can be. The price is length:
    CTC needs a frame for each token, and one more between two equal neighbours
    (`frames_needed`), so a letter with its mark takes two frames, and twice the same letter with
    its mark takes four, not three: the mark itself keeps the two apart. Ge'ez is written one
    syllable a code point, so nothing is split there.

    Alphabets of stored models may hold longer tokens; `encode` takes the longest that fits.

    Text is compared under canonical equivalence: it is composed to NFC before it is matched, a
    stored token that is not NFC stands for its composed form, and a character without a token is
    tried as its canonical parts (é as e and U+0301). Where two stored tokens are
    equivalent, the one in NFC is used, otherwise the first. `decode` returns NFC.

    The boundary, the blank, `unknown` and `special` are never matched against text: a literal
    "|" or "<s>" in a text is read as its characters.

    Attributes:
        tokens: (vocab,) all symbols, special ones included.
        blank: the token that stands for "no symbol" in CTC.
        word_boundary: the token that stands for white space, or None: white space is then not
            written.
        unknown: the token that stands for characters without a token, or None: such characters
            are an error. Decodes to U+FFFD.
        special: further tokens that are neither matched nor written, such as "<s>".
        case: what `encode` does to text first: "upper" for an alphabet of capitals.

    Raises:
        AlphabetError: if there are no tokens, one is empty, repeated, not encodable as UTF-8 or
            holds white space beside other characters, or if blank, boundary, unknown and special
            are not different tokens of the alphabet.
    """

    tokens: tuple[str, ...]
    blank: str
    word_boundary: str | None = None
    unknown: str | None = None
    special: tuple[str, ...] = ()
    case: Case = "keep"

    def __post_init__(self) -> None:
        """Refuse a malformed alphabet."""
        _check_tokens(self.tokens, word_boundary=self.word_boundary, special=self.special)
        roles = {
            "blank": self.blank,
            "word boundary": self.word_boundary,
            "unknown": self.unknown,
            **{f"special {number}": token for number, token in enumerate(self.special)},
        }
        given = {role: token for role, token in roles.items() if token is not None}
        known = set(self.tokens)
        for role, token in given.items():
            if token not in known:
                raise AlphabetError(
                    f"the {role} is not in the alphabet: expected one of the "
                    f"{len(self.tokens)} tokens {shorten(map(repr, self.tokens), limit=12)}, "
                    f"found {token!r}. Name a token that is there."
                )
        if len(set(given.values())) < len(given):
            raise AlphabetError(
                f"one token has two duties: expected different tokens, found {given}. "
                "Give each its own token."
            )
        if self.case not in get_args(Case):
            raise AlphabetError(
                f"the case rule is not known: expected one of {', '.join(get_args(Case))}, "
                f"found {self.case!r}."
            )

    def __len__(self) -> int:
        """Return the number of tokens (vocab)."""
        return len(self.tokens)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        normalizer: str | Normalizer,
        min_count: int = 1,
        word_boundary: str | None = WORD_BOUNDARY,
    ) -> Self:
        """Make the alphabet of some transcripts.

        The tokens are the blank, the boundary, and the code points of the normalised texts in code
        point order: the same texts in any order give the same alphabet.

        Args:
            texts: transcripts, as they are.
            normalizer: name of a normaliser, or a function; NFC is applied after it.
            min_count: characters that occur fewer times are left out, and logged as a warning;
                `missing` tells which texts have them.
            word_boundary: token for white space; None for none.

        Raises:
            AlphabetError: if no text has a character, or if one holds the boundary itself.
            ConfigError: if there is no such normaliser.
        """
        counts = count_characters(texts, normalizer=normalizer)
        if word_boundary in counts:
            raise AlphabetError(
                f"a transcript holds the word boundary: expected no {word_boundary!r}, found "
                f"{counts[word_boundary]} of them. Remove them (the normaliser basic-1 does), "
                "or choose another boundary."
            )
        rare = sorted(character for character, count in counts.items() if count < min_count)
        if rare:
            named = shorten((f"{describe(c)}: {counts[c]}" for c in rare), limit=20)
            logger.warning("left out characters seen fewer than %d times: %s", min_count, named)
        kept = sorted(counts.keys() - set(rare))
        if not kept:
            raise AlphabetError(
                "the transcripts hold no characters: expected at least one seen "
                f"{min_count} times, found none after normalising. Check the text column."
            )
        boundary = () if word_boundary is None else (word_boundary,)
        return cls(tokens=(BLANK, *boundary, *kept), blank=BLANK, word_boundary=word_boundary)

    @classmethod
    def from_vocabulary(
        cls,
        vocabulary: Mapping[str, int],
        *,
        blank: str,
        word_boundary: str | None = None,
        unknown: str | None = None,
        special: tuple[str, ...] = (),
        case: Case = "keep",
    ) -> Self:
        """Make an alphabet from a stored table of token -> number.

        Raises:
            AlphabetError: if the numbers are not 0 .. vocab - 1, each once (the message lists the
                missing and the repeated ones), or as for the class.
        """
        odd = {t: n for t, n in vocabulary.items() if type(n) is not int}
        if odd:
            raise AlphabetError(
                "a vocabulary number is not an integer: expected 0 .. "
                f"{len(vocabulary) - 1}, found {shorten(f'{t!r}: {n!r}' for t, n in odd.items())}."
            )
        by_number: dict[int, list[str]] = {}
        for token, number in vocabulary.items():
            by_number.setdefault(number, []).append(token)
        expected = range(len(vocabulary))
        if set(by_number) != set(expected):
            repeated = {number: names for number, names in by_number.items() if len(names) > 1}
            outside = sorted(set(by_number) - set(expected))
            holes = sorted(set(expected) - set(by_number))
            raise AlphabetError(
                f"the vocabulary's numbers are not 0 .. {len(vocabulary) - 1}, each once: "
                f"missing {shorten(map(str, holes)) or 'none'}; "
                f"outside {shorten(map(str, outside)) or 'none'}; "
                f"repeated {shorten(f'{n} {names}' for n, names in repeated.items()) or 'none'}. "
                "Repair the file: the order of tokens must be that of the model's output."
            )
        return cls(
            tokens=tuple(by_number[number][0] for number in expected),
            blank=blank,
            word_boundary=word_boundary,
            unknown=unknown,
            special=special,
            case=case,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild an alphabet from `to_dict`.

        Raises:
            AlphabetError: if a key is missing or not known, a value is of another type, or as for
                the class.
        """
        names = {field.name for field in fields(cls)}
        if not {"tokens", "blank"} <= set(data) <= names:
            raise AlphabetError(
                f"the stored alphabet has other keys: expected {sorted(names)}, of which tokens "
                f"and blank are required, found {sorted(data)}."
            )
        sequences = {name: data[name] for name in ("tokens", "special") if name in data}
        for name, value in sequences.items():
            if not isinstance(value, list | tuple):
                raise AlphabetError(
                    f'"{name}" of the stored alphabet is not a list: found {type(value).__name__}.'
                )
        return cls(**{**data, **{name: tuple(value) for name, value in sequences.items()}})

    def to_dict(self) -> dict[str, Any]:
        """Return the alphabet as plain JSON data."""
        return {
            "tokens": list(self.tokens),
            "blank": self.blank,
            "word_boundary": self.word_boundary,
            "unknown": self.unknown,
            "special": list(self.special),
            "case": self.case,
        }

    @cached_property
    def blank_id(self) -> int:
        """Number of the blank."""
        return self.tokens.index(self.blank)

    @cached_property
    def word_boundary_id(self) -> int | None:
        """Number of the word boundary, or None when there is none."""
        return None if self.word_boundary is None else self.tokens.index(self.word_boundary)

    @cached_property
    def unknown_id(self) -> int | None:
        """Number of the unknown token, or None when there is none."""
        return None if self.unknown is None else self.tokens.index(self.unknown)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's tokens.

        The text is composed to NFC and put into the alphabet's case. Each run of white space
        between two words becomes one boundary; there is none at either end.

        Raises:
            AlphabetError: if a character has no token and the alphabet no `unknown`.
        """
        numbers, missing = self._match(text)
        if missing and self.unknown is None:
            shown = text if len(text) <= 60 else text[:59] + "…"
            raise AlphabetError(
                f"the text holds characters that are not among the {len(self)} tokens: "
                f"{shorten(map(describe, missing))} (in {shown!r}). Normalise it as the "
                "transcripts of the alphabet were, or make the alphabet from texts that have them."
            )
        return numbers

    def missing(self, text: str) -> tuple[str, ...]:
        """Return the characters of a text that have no token, each once, in order."""
        return self._match(text)[1]

    def decode(self, ids: Iterable[int]) -> str:
        """Write tokens as text, without CTC collapse (see `collapse`).

        Boundaries become spaces (one for a run, none at either end); blanks and special tokens
        are not written; the unknown token becomes U+FFFD. Right-to-left text stays in logical
        order. The result is in NFC.

        Raises:
            AlphabetError: if a number is not that of a token.
        """
        pieces: list[str] = []
        for value in ids:
            number = operator.index(value)
            if not 0 <= number < len(self.tokens):
                raise AlphabetError(
                    f"a token number is outside the alphabet: expected 0 .. {len(self) - 1}, "
                    f"found {number}. The numbers come from another model's alphabet."
                )
            pieces.append(self._written[number])
        words = "".join(pieces).split(" ")
        return unicodedata.normalize("NFC", " ".join(word for word in words if word))

    def collapse(self, ids: Iterable[int]) -> list[int]:
        """Merge equal neighbours, then remove blanks: the CTC rule.

        Source: Graves et al. 2006, sec. 3.1 (the map B).
        """
        merged = (operator.index(number) for number, _ in itertools.groupby(ids))
        return [number for number in merged if number != self.blank_id]

    def frames_needed(self, ids: Iterable[int]) -> int:
        """Return the fewest frames in which CTC can write these tokens [frames].

        One for each token and one blank between two equal neighbours.
        """
        numbers = list(ids)
        return len(numbers) + sum(a == b for a, b in itertools.pairwise(numbers))

    @cached_property
    def _reserved(self) -> frozenset[str]:
        """Tokens that text never matches."""
        named = (self.blank, self.word_boundary, self.unknown, *self.special)
        return frozenset(token for token in named if token is not None)

    @cached_property
    def _matchable(self) -> dict[str, int]:
        """Composed form -> number, for every token that text can match."""
        table: dict[str, int] = {}
        for number, token in enumerate(self.tokens):
            composed = unicodedata.normalize("NFC", token)
            if token not in self._reserved and (token == composed or composed not in table):
                table[composed] = number
        return table

    @cached_property
    def _longest(self) -> int:
        """Length of the longest token that text can match [code points]."""
        return max(map(len, self._matchable), default=0)

    @cached_property
    def _written(self) -> tuple[str, ...]:
        """What each token decodes to."""
        written = dict.fromkeys(self._reserved, "")
        if self.word_boundary is not None:
            written[self.word_boundary] = " "
        if self.unknown is not None:
            written[self.unknown] = _REPLACEMENT
        plain = (" " if token.isspace() else token for token in self.tokens)
        return tuple(
            written.get(token, text) for token, text in zip(self.tokens, plain, strict=True)
        )

    def _match(self, text: str) -> tuple[list[int], tuple[str, ...]]:
        """Return the numbers of a text (unknown ones where defined), and what has no token."""
        composed = unicodedata.normalize("NFC", text)
        if self.case != "keep":
            recased = composed.lower() if self.case == "lower" else composed.upper()
            composed = unicodedata.normalize("NFC", recased)
        numbers: list[int] = []
        missing: dict[str, None] = {}
        for place, word in enumerate(composed.split()):
            if place and self.word_boundary_id is not None:
                numbers.append(self.word_boundary_id)
            start = 0
            while start < len(word):
                for length in range(min(self._longest, len(word) - start), 0, -1):
                    number = self._matchable.get(word[start : start + length])
                    if number is not None:
                        numbers.append(number)
                        start += length
                        break
                else:
                    parts = self._parts(word[start])
                    if parts is None:
                        missing[word[start]] = None
                        parts = [] if self.unknown_id is None else [self.unknown_id]
                    numbers.extend(parts)
                    start += 1
        return numbers, tuple(missing)

    def _parts(self, character: str) -> list[int] | None:
        """Return the numbers of a character's canonical parts, or None if one has no token."""
        number = self._matchable.get(character)
        if number is not None:
            return [number]
        decomposition = unicodedata.decomposition(character)
        if decomposition and not decomposition.startswith("<"):
            parts = [chr(int(code, 16)) for code in decomposition.split()]
        else:
            parts = list(unicodedata.normalize("NFD", character))  # Hangul, by rule
        if parts == [character]:
            return None
        numbers: list[int] = []
        for part in parts:
            found = self._parts(part)
            if found is None:
                return None
            numbers.extend(found)
        return numbers


def count_characters(texts: Iterable[str], *, normalizer: str | Normalizer) -> dict[str, int]:
    """Count the code points of normalised texts, white space apart, in code point order.

    Args:
        texts: transcripts, as they are.
        normalizer: name of a normaliser, or a function; NFC is applied after it.

    Raises:
        ConfigError: if there is no such normaliser.
    """
    function = normalize.get(normalizer) if isinstance(normalizer, str) else normalizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.normalize("NFC", function(text)))
    return {character: counts[character] for character in sorted(counts) if not character.isspace()}


def describe(character: str) -> str:
    """Name a character so that it can be told from its likes: 'ŋ' (U+014B ...)."""
    names = " ".join(
        f"U+{ord(point):04X} {unicodedata.name(point, '')}".strip() for point in character
    )
    return f"{character!r} ({names})"


def _check_tokens(
    tokens: tuple[str, ...], *, word_boundary: str | None, special: tuple[str, ...]
) -> None:
    """Refuse tokens that cannot be told apart, matched or stored."""
    if isinstance(tokens, str) or not tokens:
        raise AlphabetError(f"the alphabet has no list of tokens: found {tokens!r}.")
    places: dict[str, list[int]] = {}
    for number, token in enumerate(tokens):
        if not isinstance(token, str):
            raise AlphabetError(f"token {number} is not text: expected a string, found {token!r}.")
        places.setdefault(token, []).append(number)
    if "" in places:
        raise AlphabetError(
            f"a token is empty: expected at least one character, found none at {places['']}."
        )
    repeated = {token: numbers for token, numbers in places.items() if len(numbers) > 1}
    if repeated:
        listed = shorten(f"{token!r} at {numbers}" for token, numbers in repeated.items())
        raise AlphabetError(f"a token is repeated: expected each once, found {listed}.")
    for token, numbers in places.items():
        if any(0xD800 <= ord(point) <= 0xDFFF for point in token):
            raise AlphabetError(
                f"token {numbers[0]} is not storable as UTF-8: found lone surrogates in {token!r}."
            )
        if token == word_boundary or token in special or token.isspace():
            continue
        if any(point.isspace() for point in token):
            raise AlphabetError(
                f"token {numbers[0]} holds white space beside other characters, so that no text "
                f"can match it: found {token!r}."
            )


def case_of(tokens: Iterable[str]) -> Case:
    """Tell the case of letters: that of all which have one, or "keep"."""
    text = "".join(tokens)
    if text != text.lower() and text == text.upper():
        return "upper"
    if text != text.upper() and text == text.lower():
        return "lower"
    return "keep"
