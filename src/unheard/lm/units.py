"""What a language model calls a word: words, characters or word pieces."""

import re
from collections.abc import Iterable
from typing import Literal, get_args

from unheard.errors import ConfigError
from unheard.lm.pieces import WORD_START, Pieces
from unheard.lm.vocabulary import MARKERS

Units = Literal["word", "character", "piece"]
UNITS: tuple[Units, ...] = get_args(Units)

CHARACTER_BOUNDARY = "|"
"""Stands between two words in a model of characters, as in the vocabularies of wav2vec models."""

_WORD = re.compile("[^ \t\n\v\f\r]+")


def split_text(text: str, units: Units, pieces: Pieces | None = None) -> list[str]:
    """Split a sentence into a model's units.

    - Words are what white space of ASCII parts, as KenLM has it: a no-break space is a character
      of its word.
    - Characters are code points, with one `CHARACTER_BOUNDARY` between two words and none at the
      ends. In the text, that sign counts as white space.
    - Word pieces are those of `Pieces.split`.

    Raises:
        ConfigError: if the units are pieces and there are none to split into.
    """
    if units == "word":
        return _WORD.findall(text)
    if units == "character":
        words = _WORD.findall(text.replace(CHARACTER_BOUNDARY, " "))
        return list(CHARACTER_BOUNDARY.join(words))
    if pieces is None:
        raise ConfigError(
            "a model of word pieces cannot split text: expected its pieces, found none. Load it "
            "with pieces=, or from the file in our own format that `unheard lm train` wrote."
        )
    return pieces.split(text)


def guess_units(words: Iterable[str]) -> Units:
    """Tell the units of a model from its vocabulary.

    Pieces if a word begins with U+2581, characters if none is longer than one and one of them is
    `CHARACTER_BOUNDARY`, else words. Sentence marks and whatever else begins with "<" do not
    count.
    """
    plain = [word for word in words if word not in MARKERS and not word.startswith("<")]
    if any(word.startswith(WORD_START) for word in plain):
        return "piece"
    if CHARACTER_BOUNDARY in plain and all(len(word) == 1 for word in plain):
        return "character"
    return "word"
