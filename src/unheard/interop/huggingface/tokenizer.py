"""Vocabularies of transformers and our alphabets, both ways.

What is repaired and what is refused is listed in docs/explanation/vocabularies.md.
Source: transformers models/wav2vec2/tokenization_wav2vec2.py, version 5.23.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.errors import AlphabetError, FormatError, shorten
from unheard.interop import storage
from unheard.text.alphabet import Alphabet, case_of

logger = logging.getLogger(__name__)

VOCABULARY_FILE = "vocab.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

KIND = "Wav2Vec2CTCTokenizer"

KNOWN_KINDS = (KIND, "Wav2Vec2Tokenizer")
"""Tokenizers whose vocabulary is written letter by letter; the second is an older name."""

BLANK_NAMES = ("<pad>", "[PAD]", "<blank>", "[BLANK]", "<ctc_blank>")
"""Names that can only mean a blank."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """All that the tokenizer files of a folder say, not yet compared with a model.

    Attributes:
        folder: where they are.
        vocabularies: language -> token -> number; the language is None in a flat vocabulary.
        roles: settings of the tokenizer.
        added: tokens kept outside a flat vocabulary.
        marks: tokens marked special.
    """

    folder: Path
    vocabularies: Mapping[str | None, Mapping[str, Any]]
    roles: Mapping[str, Any]
    added: Mapping[str, Any]
    marks: frozenset[str]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of a nested vocabulary, in order; empty for a flat one."""
        return tuple(sorted(name for name in self.vocabularies if name is not None))

    @property
    def target(self) -> str | None:
        """The language that the tokenizer starts with, if it says."""
        value = self.roles.get("target_lang")
        return value if isinstance(value, str) else None

    @property
    def lowers(self) -> bool:
        """Whether capitals of the vocabulary are written in lower case."""
        return self.roles.get("do_lower_case") is True

    def alphabet(self, language: str | None, *, vocab: int, blank_id: object = None) -> Alphabet:
        """Make the alphabet of a head.

        Args:
            language: which vocabulary; None for a flat one.
            vocab: outputs of the head.
            blank_id: number of the blank according to config.json, or None if it does not say.

        Raises:
            AlphabetError: if the tokens are not one for each output, or there is not one blank.
        """
        path = self.folder / VOCABULARY_FILE
        if language not in self.vocabularies:
            raise AlphabetError(
                f"{path} has no vocabulary for {language!r}: expected one for each language, found "
                f"{shorten(self.languages) or 'one without the name of a language'}. Fetch the "
                "file again."
            )
        place = f"{path}" if language is None else f"{path}, language {language}"
        tokens = dict(self.vocabularies[language])
        if language is None:
            for token, number in self.added.items():
                tokens.setdefault(token, number)
        pad = _content(self.roles.get("pad_token", "<pad>"))
        unknown = _content(self.roles.get("unk_token", "<unk>"))
        special = self._special() - {pad, unknown}
        boundary = _boundary(tokens, _content(self.roles.get("word_delimiter_token", "|")))
        special.discard(boundary or "")
        for token in [name for name in tokens if name in special or name == unknown]:
            if type(tokens[token]) is int and tokens[token] >= vocab:
                logger.info("%s: left out %r, which is no output of the model", place, token)
                del tokens[token]
        blanks = {name: tokens[name] for name in BLANK_NAMES if name in tokens and name != pad}
        if pad is None or pad not in tokens:
            hint = f"; found {_listed(blanks)}" if blanks else ""
            raise AlphabetError(
                f"{place} has no blank: expected the padding token {pad!r} among its "
                f"{len(tokens)} tokens, which CTC models of transformers use as blank{hint}. Name "
                f"it as pad_token in {TOKENIZER_FILE}."
            )
        if blanks and "pad_token" not in self.roles:
            raise AlphabetError(
                f"{place} has two blanks: expected one, found {_listed({pad: tokens[pad]})} and "
                f"{_listed(blanks)}. Say which as pad_token in {TOKENIZER_FILE}."
            )
        if type(blank_id) is int and blank_id != tokens[pad]:
            named = [name for name, number in tokens.items() if number == blank_id]
            raise AlphabetError(
                f"{place} has two blanks: expected pad_token_id {blank_id} of config.json to be "
                f"the padding token, found number {blank_id} for {shorten(map(repr, named))} and "
                f"{_listed({pad: tokens[pad]})}. Correct whichever is wrong."
            )
        special |= set(blanks)
        if len(tokens) != vocab:
            raise AlphabetError(
                f"{place} does not fit the model: expected {vocab} tokens, one for each output, "
                f"found {len(tokens)}{_numbering(tokens, vocab)}. The files belong to different "
                "models."
            )
        reserved = {token for token in (pad, boundary, unknown, *special) if token is not None}
        if self.lowers:
            tokens = _lower(tokens, reserved)
        try:
            return Alphabet.from_vocabulary(
                tokens,
                blank=pad,
                word_boundary=boundary,
                unknown=unknown if unknown in tokens else None,
                special=tuple(sorted(name for name in special if name in tokens)),
                case=case_of(token for token in tokens if token not in reserved),
            )
        except AlphabetError as error:
            raise AlphabetError(f"{place}: {error}") from error

    def _special(self) -> set[str]:
        """Tokens with a duty of their own that is neither blank nor boundary nor unknown."""
        roles = self.roles
        names = {_content(roles.get("bos_token", "<s>")), _content(roles.get("eos_token", "</s>"))}
        extra = roles.get("additional_special_tokens") or roles.get("extra_special_tokens") or []
        if isinstance(extra, list):
            names.update(_content(token) for token in extra)
        return {name for name in names if name is not None} | self.marks


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """Read the tokenizer of a folder; None when it has none, or one that writes no letters.

    Raises:
        FormatError: if a file is not what it should be, or an option is not supported.
    """
    path = folder / VOCABULARY_FILE
    if not path.is_file():
        logger.warning(
            "%s is not there: the model has emissions, but no alphabet to write text with.", path
        )
        return None
    table = storage.read_json_object(path)
    described = _read_if_there(folder / TOKENIZER_FILE)
    roles = {**_read_if_there(folder / SPECIAL_TOKENS_FILE), **described}
    kind = roles.get("tokenizer_class")
    if isinstance(kind, str) and kind not in KNOWN_KINDS:
        logger.warning(
            "%s names the tokenizer %s, expected %s: the model has emissions, but no alphabet to "
            "write text with.",
            folder / TOKENIZER_FILE,
            kind,
            KIND,
        )
        return None
    written = roles.get("replace_word_delimiter_char", " ")
    if written != " ":
        raise FormatError(
            f"{folder / TOKENIZER_FILE}: the option replace_word_delimiter_char = {written!r} is "
            "not supported: expected ' '. This vocabulary cannot be written as text."
        )
    vocabularies: dict[str | None, Mapping[str, Any]] = {None: table}
    if table and all(isinstance(value, dict) for value in table.values()):
        vocabularies = {**table}
    elif any(isinstance(value, dict) for value in table.values()):
        odd = next(name for name, value in table.items() if not isinstance(value, dict))
        raise FormatError(
            f"{path} mixes languages and tokens: expected a vocabulary for each language or one "
            f"for all, found {odd!r}: {table[odd]!r} beside vocabularies."
        )
    added, marks = _added_tokens(folder, described)
    return Tokenizer(
        folder=folder,
        vocabularies=vocabularies,
        roles=roles,
        added=added,
        marks=frozenset(marks),
    )


def describe_vocabulary(
    alphabet: Alphabet, *, lowers: bool = False, duties: Alphabet | None = None
) -> dict[str, int]:
    """Write an alphabet as token -> number.

    Args:
        alphabet: what to write.
        lowers: write letters as capitals, for a tokenizer with `do_lower_case`.
        duties: an alphabet whose names for blank, boundary and unknown token are to be used: one
            tokenizer has the same for all its languages.

    Raises:
        AlphabetError: if a letter has such a name.
    """
    reserved = _reserved(alphabet)
    names: dict[str | None, str | None] = {}
    if duties is not None:
        names = {
            alphabet.blank: duties.blank,
            alphabet.word_boundary: duties.word_boundary,
            alphabet.unknown: duties.unknown,
        }
    vocabulary: dict[str, int] = {}
    for number, token in enumerate(alphabet.tokens):
        name = names.get(token) or token
        if lowers and token not in reserved:
            name = token.upper()
        if name in vocabulary:
            raise AlphabetError(
                f"two tokens would have one name: expected {name!r} once, found it for the numbers "
                f"{vocabulary[name]} and {number}. Rename one."
            )
        vocabulary[name] = number
    return vocabulary


def can_lower(alphabet: Alphabet) -> bool:
    """Whether a tokenizer with `do_lower_case` can write this alphabet without loss."""
    reserved = _reserved(alphabet)
    letters = [token for token in alphabet.tokens if token not in reserved]
    capitals = [token.upper() for token in letters]
    return (
        alphabet.case == "lower"
        and all(c.lower() == letter for c, letter in zip(capitals, letters, strict=True))
        and len({*capitals, *reserved}) == len(alphabet.tokens)
    )


def describe_tokenizer(
    alphabet: Alphabet, *, lowers: bool = False, target: str | None = None
) -> dict[str, Any]:
    """Write the settings of a tokenizer.

    Without a word boundary the delimiter is a character that the vocabulary lacks: transformers
    needs one.
    """
    boundary = alphabet.word_boundary
    if boundary is None:
        boundary = "|" if "|" not in alphabet.tokens else ""
    settings = {
        "tokenizer_class": KIND,
        **describe_special_tokens(alphabet),
        "word_delimiter_token": boundary,
        "replace_word_delimiter_char": " ",
        "do_lower_case": lowers,
    }
    if target is not None:
        settings["target_lang"] = target
    return settings


def describe_special_tokens(alphabet: Alphabet) -> dict[str, str | None]:
    """Write which token has which duty."""
    return {
        "pad_token": alphabet.blank,
        "unk_token": alphabet.unknown,
        "bos_token": "<s>" if "<s>" in alphabet.special else None,
        "eos_token": "</s>" if "</s>" in alphabet.special else None,
    }


def _reserved(alphabet: Alphabet) -> set[str]:
    """Tokens that are no letters."""
    named = (alphabet.blank, alphabet.word_boundary, alphabet.unknown, *alphabet.special)
    return {token for token in named if token is not None}


def _read_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object, or nothing when there is no such file."""
    return storage.read_json_object(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """Read a token that is text, or an object around its text."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _boundary(tokens: Mapping[str, Any], named: str | None) -> str | None:
    """Find the word boundary: the one that is named or, if that is no token, the only white space.

    Vocabularies made from raw text hold " " where the tokenizer's default is "|".
    """
    if named in tokens:
        return named
    spaces = [token for token in tokens if token.isspace()]
    return spaces[0] if len(spaces) == 1 else None


def _added_tokens(folder: Path, described: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Read tokens kept outside the vocabulary, and which of all tokens are marked special.

    The word boundary of some folders is marked so too; its duty goes before.
    """
    tokens = _read_if_there(folder / ADDED_TOKENS_FILE)
    marks: set[str] = set()
    table = described.get("added_tokens_decoder")
    for number, token in (table if isinstance(table, dict) else {}).items():
        text = _content(token)
        if text is None or not number.isdecimal() or len(number) > 9:
            raise FormatError(
                f"{folder / TOKENIZER_FILE}: expected a number and a token in "
                f"added_tokens_decoder, found {number!r}: {token!r}."
            )
        tokens.setdefault(text, int(number))
        if isinstance(token, dict) and token.get("special") is True:
            marks.add(text)
    return tokens, marks


def _listed(tokens: Mapping[str, Any]) -> str:
    """Name tokens with their numbers."""
    return shorten(f"{name!r} with number {number!r}" for name, number in tokens.items())


def _numbering(tokens: Mapping[str, Any], vocab: int) -> str:
    """Say which numbers are missing or too many."""
    numbers = {number for number in tokens.values() if type(number) is int}
    holes = [number for number in range(vocab) if number not in numbers]
    outside = [
        f"{number} ({name!r})"
        for name, number in tokens.items()
        if type(number) is not int or not 0 <= number < vocab
    ]
    text = ""
    if holes:
        text += f"; outputs without a token: {shorten(map(str, holes))}"
    if outside:
        text += f"; tokens without an output: {shorten(outside)}"
    return text


def _lower(tokens: Mapping[str, Any], reserved: set[str]) -> dict[str, Any]:
    """Make tokens lower case where that does not make two of them one."""
    lowered: dict[str, Any] = {}
    for token, number in tokens.items():
        small = token.lower()
        kept = token in reserved or small in tokens or small in lowered
        lowered[token if kept else small] = number
    return lowered
