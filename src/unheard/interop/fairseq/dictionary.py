"""The vocabulary of a fairseq recogniser: a pickled `Dictionary`, or dict.ltr.txt beside the model.

Both begin with four symbols: <s>, which is the CTC blank, <pad>, </s> and <unk>. The text file
leaves them out; it has a token and a count a line.
Source: fairseq data/dictionary.py, tasks/audio_finetuning.py (`blank_symbol`) @ 3d262bb.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.errors import AlphabetError, FormatError, shorten
from unheard.text.alphabet import Alphabet, Case

BLANK, PAD, END, UNKNOWN = SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""What every dictionary begins with, in this order."""

WORD_BOUNDARY = "|"

MAX_DICTIONARY_BYTES = 16 << 20
"""Largest dict.ltr.txt that is read [bytes]."""

_OVERWRITE = "#fairseq:overwrite"

_FILLER = re.compile(r"madeupword\d{4}")
"""Tokens that fairseq adds to make a dictionary's length a multiple of 8."""


def read_pickled(state: Mapping[str, Any], *, source: object) -> Alphabet:
    """Read the alphabet of a pickled `Dictionary`.

    Args:
        state: its attributes.
        source: what to call it in messages.

    Raises:
        AlphabetError: if its symbols are not a list of texts that begins with the four specials.
    """
    symbols = state.get("symbols")
    if not isinstance(symbols, list | tuple) or not all(isinstance(s, str) for s in symbols):
        raise AlphabetError(
            f"{source} is not a dictionary: expected a list of symbols, found "
            f"{type(symbols).__name__}."
        )
    return _alphabet(symbols, source=source)


def read_text(path: Path) -> Alphabet:
    """Read a dict.ltr.txt.

    Raises:
        FormatError: if it is too large, not UTF-8, or a line is not a token and a count.
        AlphabetError: if a token comes twice, or is one of the four specials.
    """
    size = path.stat().st_size
    if size > MAX_DICTIONARY_BYTES:
        raise FormatError(
            f"{path} is too large: expected at most {MAX_DICTIONARY_BYTES} bytes of vocabulary, "
            f"found {size}."
        )
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not a vocabulary: expected UTF-8, found {error}.") from error
    tokens: list[str] = list(SPECIALS)
    seen = set(tokens)
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.strip():
            continue
        token, _, count = line.rstrip().rpartition(" ")
        repeats = count == _OVERWRITE
        if repeats:
            token, _, count = token.rpartition(" ")
        if not token or not re.fullmatch(r"-?\d{1,18}", count):
            raise FormatError(
                f"{path}, line {number}: expected a token and a count, found {line[:40]!r}."
            )
        if repeats or token in seen:
            raise AlphabetError(
                f"{path}, line {number}: expected every token once, found {token!r} again."
            )
        tokens.append(token)
        seen.add(token)
    return _alphabet(tokens, source=path)


def _alphabet(tokens: Sequence[str], *, source: object) -> Alphabet:
    """Make an alphabet of all tokens of a dictionary."""
    if tuple(tokens[: len(SPECIALS)]) != SPECIALS:
        raise AlphabetError(
            f"{source} begins otherwise: expected {', '.join(SPECIALS)}, found "
            f"{shorten(map(repr, tokens[:4])) or 'nothing'}. The first is the blank."
        )
    fillers = [token for token in tokens if _FILLER.fullmatch(token)]
    reserved = {*SPECIALS, WORD_BOUNDARY, *fillers}
    try:
        return Alphabet(
            tokens=tuple(tokens),
            blank=BLANK,
            word_boundary=WORD_BOUNDARY if WORD_BOUNDARY in tokens else None,
            unknown=UNKNOWN,
            special=(PAD, END, *fillers),
            case=_case(token for token in tokens if token not in reserved),
        )
    except AlphabetError as error:
        raise AlphabetError(f"{source}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """An alphabet as fairseq needs it.

    Attributes:
        tokens: after the four specials.
        rows: for every output there, the number of the token here; None where the alphabet has
            no such token and its output shall never be the best.
    """

    tokens: tuple[str, ...]
    rows: tuple[int | None, ...]


def arrange(alphabet: Alphabet) -> Outputs:
    """Order an alphabet as fairseq's dictionaries are: the four specials first.

    The blank becomes <s>, whatever it is called here, and the boundary "|", which is what fairseq
    takes for one. An alphabet that came from fairseq keeps its order.

    Raises:
        AlphabetError: if a token cannot be a line of a dictionary.
    """
    number = {token: place for place, token in enumerate(alphabet.tokens)}
    # transformers calls the blank <pad> and has <s> second, where fairseq has them otherwise.
    second = PAD if alphabet.blank != PAD else BLANK
    special = set(alphabet.special)
    first = (
        alphabet.blank,
        second if second in special else None,
        END if END in special else None,
        alphabet.unknown,
    )
    rest = [token for token in alphabet.tokens if token not in first]
    names = [WORD_BOUNDARY if token == alphabet.word_boundary else token for token in rest]
    odd = [
        name
        for name in names
        if name in SPECIALS or name != name.rstrip() or any(c in name for c in "\r\n")
    ]
    odd += [name for name, count in Counter(names).items() if count > 1]
    if odd:
        raise AlphabetError(
            "the alphabet does not fit fairseq's dictionaries: expected tokens once each, without "
            f"white space at their end, other than {', '.join(SPECIALS)}; found "
            f"{shorten(map(repr, odd))}."
        )
    rows = [None if token is None else number[token] for token in (*first, *rest)]
    return Outputs(tokens=tuple(names), rows=tuple(rows))


def write_text(tokens: Iterable[str]) -> str:
    """Write the lines of a dict.ltr.txt; nobody has counted, so every count is 1."""
    return "".join(f"{token} 1\n" for token in tokens)


def _case(tokens: Iterable[str]) -> Case:
    """Tell the case of an alphabet: that of all letters that have one, or "keep"."""
    text = "".join(tokens)
    if text != text.lower() and text == text.upper():
        return "upper"
    if text != text.upper() and text == text.lower():
        return "lower"
    return "keep"
