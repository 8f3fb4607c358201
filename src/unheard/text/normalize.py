"""Named, versioned text normalisers.

A normaliser is a function from text to text. Its name ends in a version: what a name does never
changes, because models and error rates are only comparable under the same rules; a better rule gets
a new name. All of them are idempotent, keep text in logical order, and leave the order of
words alone.

Character classes and case come from `unicodedata`, so characters that are newer than the running
Python's Unicode version are unassigned to it, and kept as they are.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable

from unheard.errors import ConfigError

Normalizer = Callable[[str], str]
"""From text to text."""

_ZERO_WIDTH_JOINER = "\u200d"
_JOINERS = "\u200c\u200d"
_APOSTROPHES = "'\u2018\u2019\u201b\u055a\uff07`\u00b4"
_HYPHENS = "-\u2010\u2011"
# Middle dot (Catalan, Gascon) and Hebrew maqaf, geresh, gershayim.
_INNER = "'-\u00b7\u05be\u05f3\u05f4"
# Armenian emphasis, exclamation and question marks stand after the stressed vowel, inside the word.
_WRITTEN_WITHIN_WORDS = "\u055b\u055c\u055e\u055f"
_TATWEEL = "\u0640"
# Burmese signs that are read aloud as words although Unicode calls them punctuation.
_SPOKEN_PUNCTUATION = "\u104c\u104d\u104e\u104f"
_MODIFIER_SYMBOLS = ((0x02C2, 0x02FF), (0xA700, 0xA721), (0xA789, 0xA78A))
_VARIATION_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_VIRAMA_CLASS = 9


def none_1(text: str) -> str:
    """Compose to NFC and collapse white space; change nothing else.

    - Canonical composition (NFC): only the composition changes, never the letters.
    - Each run of white space, as `str.isspace` has it, becomes one space; none at either end.

    Case, punctuation, symbols, digits, joiners and bidirectional controls stay.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def basic_1(text: str) -> str:
    """Keep what is spoken, in any script: letters, marks, digits, and joints inside words.

    In this order:

    1. Composed to NFC.
    2. Lower case where the script has case, by `str.lower`, which folds nothing: "ß" stays, Greek
       final sigma is written as such. The dotless i of Turkish and its relatives is not known
       here: "I" becomes "i", and "İ" becomes "i" with a combining dot (U+0307). Lower-case such
       text by the language's own rule first.
    3. Kept: letters (L*), marks above, below and beside letters (Mn, Mc: tones, vowel signs,
       viramas, harakat, dots below), digits and numbers (N*), tone letters and other modifier
       symbols that orthographies use (U+02C2-02FF, U+A700-A721, U+A789-A78A), four Burmese signs
       that are read aloud (U+104C-104F), private-use and unassigned characters.
       Letters of one look stay as they were typed: Persian and Arabic yeh (U+06CC, U+064A) and
       kaf (U+06A9, U+0643) are not unified; click letters (U+01C0-01C3) are letters, "!" is not.
    4. Apostrophes (U+0027, U+2018, U+2019, U+201B, U+055A, U+FF07, U+0060, U+00B4) are written "'",
       and hyphens (U+002D, U+2010, U+2011) "-". They, the middle dot (U+00B7) and the Hebrew
       maqaf, geresh and gershayim are kept between two kept characters (n'abazannyi, col·lega)
       and are punctuation elsewhere: a Hausa 'y at the start of a word loses its apostrophe,
       which looks like a quotation mark. The modifier letters U+02BB, U+02BC and U+A78C are
       letters, kept everywhere and never turned into "'".
    5. Dropped, leaving nothing: zero-width space, byte order mark, soft hyphen, bidirectional
       and all other format controls, control characters that are not white space, variation
       selectors, enclosing marks, lone surrogates, tatweel (U+0640, which only stretches a line),
       and the Armenian marks written inside a word (U+055B, U+055C, U+055E, U+055F).
    6. The joiners ZWNJ and ZWJ (U+200C, U+200D) are kept between two kept characters (Persian
       half-space, Indic conjuncts), one of a run, and ZWJ also after a virama at the end of a word
       (Malayalam chillus); dropped elsewhere.
    7. All other punctuation and symbols become a space: so do the Ethiopic word space, the danda,
       dashes, "_" and "|".
    8. Each run of white space becomes one space, none at either end; composed to NFC again.
    """
    text = unicodedata.normalize("NFC", text).lower().translate(_BASIC_TABLE)
    text = unicodedata.normalize("NFC", text)  # marks may have met: their order decides below
    text = _JOINER_RUN.sub(_keep_joiner, text)
    text = _OUTER_PUNCTUATION.sub(" ", text)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def get(name: str) -> Normalizer:
    """Return the normaliser of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in NORMALIZERS:
        near = difflib.get_close_matches(name, NORMALIZERS, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ConfigError(
            f'no such normaliser: expected one of {", ".join(NORMALIZERS)}, found "{name}".{hint}'
        )
    return NORMALIZERS[name]


class _BasicTable(dict[int, str]):
    """Translation of single characters, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        """Work out one character and remember it."""
        written = _basic_character(chr(code))
        self[code] = written
        return written


def _basic_character(character: str) -> str:
    """Return what one character becomes, before its neighbours are looked at."""
    code = ord(character)
    category = unicodedata.category(character)
    if character in _APOSTROPHES:
        return "'"
    if character in _HYPHENS:
        return "-"
    if character in _INNER or character in _JOINERS or character in _SPOKEN_PUNCTUATION:
        return character
    if character.isspace():
        return " "
    if character in _WRITTEN_WITHIN_WORDS or character == _TATWEEL:
        return ""
    if category in ("Cf", "Cc", "Cs", "Me") or _within(code, _VARIATION_SELECTORS):
        return ""
    if category[0] in "PS" and not _within(code, _MODIFIER_SYMBOLS):
        return " "
    return character


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    """Tell whether a code point lies in one of the closed ranges."""
    return any(first <= code <= last for first, last in ranges)


def _keep_joiner(match: re.Match[str]) -> str:
    """Return the joiner that a run of joiners is worth in its place, or nothing."""
    text, start, end = match.string, match.start(), match.end()
    joiner = text[start]
    before = text[start - 1 : start]
    after = text[end : end + 1]
    if not before or before in _NOT_KEPT:
        return ""
    if after and after not in _NOT_KEPT:
        return joiner
    ends_in_virama = unicodedata.combining(before) == _VIRAMA_CLASS
    return joiner if joiner == _ZERO_WIDTH_JOINER and ends_in_virama else ""


_BASIC_TABLE = _BasicTable()
_NOT_KEPT = " " + _INNER
_JOINER_RUN = re.compile(f"[{_JOINERS}]+")
_OUTER_PUNCTUATION = re.compile(
    f"(?<![^{re.escape(_NOT_KEPT)}])[{re.escape(_INNER)}]"
    f"|[{re.escape(_INNER)}](?![^{re.escape(_NOT_KEPT)}])"
)

NORMALIZERS: dict[str, Normalizer] = {
    "none-1": none_1,
    "basic-1": basic_1,
}
"""Every normaliser by name."""
