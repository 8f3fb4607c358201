"""What a language model calls a word: words, characters or word pieces."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from unheard.lm.vocabulary import MARKERS

Units = Literal["word", "character", "piece"]

CHARACTER_BOUNDARY = "|"
"""Stands between two words in a model of characters, as in the vocabularies of wav2vec models."""

PIECE_BOUNDARY = "▁"
"""Begins a piece that begins a word (U+2581), as SentencePiece writes it."""

_WHITE_SPACE = " \t\n\v\f\r"
_WORD = re.compile(f"[^{_WHITE_SPACE}]+")


def split_text(text: str, units: Units) -> list[str]:
    """Split a sentence into a model's units.

    Words are what white space of ASCII separates, as KenLM has it: a no-break space is a
    character of its word. A model of characters has a boundary between two words and none at the
    ends; "|" in the text counts as white space there. Pieces must come separated by white space.
    """
    if units != "character":
        return _WORD.findall(text)
    words = _WORD.findall(text.replace(CHARACTER_BOUNDARY, " "))
    return list(CHARACTER_BOUNDARY.join(words))


def guess_units(words: Sequence[str] | Iterable[str]) -> Units:
    """Tell the units of a model from its vocabulary.

    Characters if no word but the sentence marks is longer than one character; pieces if a word
    begins with U+2581; else words.
    """
    plain = [word for word in words if word not in MARKERS and not word.startswith("<")]
    if plain and all(len(word) == 1 for word in plain):
        return "character"
    if any(word.startswith(PIECE_BOUNDARY) for word in plain):
        return "piece"
    return "word"
