"""Alphabets: what is refused, and text to numbers and back."""

import json
import logging
import pickle
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from unheard.errors import AlphabetError, ConfigError
from unheard.text.alphabet import Alphabet, count_characters

LETTERS = Alphabet(tokens=("<blank>", "|", "a", "b", "c"), blank="<blank>", word_boundary="|")
CAPITALS = Alphabet.from_vocabulary(
    {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "SS": 6, "S": 7, "'": 8},
    blank="<pad>",
    word_boundary="|",
    unknown="<unk>",
    special=("<s>", "</s>"),
    case="upper",
)


def test_from_texts_puts_special_tokens_first_then_code_point_order() -> None:
    alphabet = Alphabet.from_texts(["Beera, ŋŋ", "n’a"], normalizer="basic-1")
    assert alphabet.tokens == ("<blank>", "|", "'", "a", "b", "e", "n", "r", "ŋ")
    assert (alphabet.blank_id, alphabet.word_boundary_id, alphabet.unknown_id) == (0, 1, None)
    assert alphabet == Alphabet.from_texts(["n’a", "Beera, ŋŋ"], normalizer="basic-1")
    assert len(alphabet) == 9


@pytest.mark.parametrize(
    "text",
    [
        "n'abazannyi ŋŋenda",
        "ኢትዮጵያ ወደቡ ን",
        "ñówul ëllëg góor",
        "می\u200cخواهم خانهٔ",
        "हिन्दी भाषा क़लम",
        "ọmọ́ ẹ̀kọ́",
        "tiếng việt",
        "كَتَبَ الدَّرْسَ",
        "한국어",
    ],
)
def test_any_script_comes_back_as_it_was(text: str) -> None:
    alphabet = Alphabet.from_texts([text], normalizer="none-1")
    composed = " ".join(alphabet.decode(alphabet.encode(word)) for word in text.split())
    decoded = alphabet.decode(alphabet.encode(text))
    assert decoded == composed
    assert decoded.encode() == unicodedata.normalize("NFC", text).encode()
    assert all(len(token) == 1 for token in alphabet.tokens[1:])


def test_mark_without_composed_form_is_its_own_token() -> None:
    alphabet = Alphabet.from_texts(["ọ́ o\u0323\u0301"], normalizer="none-1")
    assert alphabet.tokens[2:] == ("\u0301", "\u1ecd")
    assert alphabet.encode("ọ́ọ́") == [3, 2, 3, 2]
    assert alphabet.frames_needed(alphabet.encode("ọ́ọ́")) == 4


def test_rare_characters_are_left_out_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        alphabet = Alphabet.from_texts(["aab bax"], normalizer="none-1", min_count=2)
    assert alphabet.tokens == ("<blank>", "|", "a", "b")
    assert "'x' (U+0078 LATIN SMALL LETTER X): 1" in caplog.text
    assert alphabet.missing("axb yx") == ("x", "y")


def test_counts_leave_out_white_space_and_sort() -> None:
    counts = count_characters(["b a\na"], normalizer=str.upper)
    assert counts == {"A": 2, "B": 1}
    assert list(counts) == ["A", "B"]


def test_from_texts_refuses_the_boundary_in_a_text() -> None:
    with pytest.raises(AlphabetError, match=r"expected no '\|', found 2"):
        Alphabet.from_texts(["a|b|"], normalizer="none-1")
    assert Alphabet.from_texts(["a|b|"], normalizer="basic-1").tokens[2:] == ("a", "b")


def test_from_texts_refuses_texts_without_characters() -> None:
    with pytest.raises(AlphabetError, match="hold no characters"):
        Alphabet.from_texts([" ", "\u200b"], normalizer="basic-1")
    with pytest.raises(ConfigError, match="no such normaliser"):
        Alphabet.from_texts(["a"], normalizer="basic")


def test_encode_and_decode_words() -> None:
    assert LETTERS.encode("  ab \n c ") == [2, 3, 1, 4]
    assert LETTERS.encode("") == []
    assert LETTERS.decode([1, 2, 0, 3, 1, 0, 1, 4, 1]) == "ab c"
    assert LETTERS.decode(np.array([2, 3])) == "ab"


def test_encode_names_the_characters_it_lacks() -> None:
    with pytest.raises(AlphabetError, match=r"'ŋ' \(U\+014B LATIN SMALL LETTER ENG\).*'\|'"):
        LETTERS.encode("aŋ|b")
    with pytest.raises(AlphabetError, match="and 3 more"):
        LETTERS.encode("defghijk")
    with pytest.raises(AlphabetError, match=r"\\ud800"):
        LETTERS.encode("\ud800")


def test_special_tokens_never_match_text() -> None:
    with pytest.raises(AlphabetError, match="U\\+003C LESS-THAN SIGN"):
        LETTERS.encode("<blank>")
    assert CAPITALS.encode("<s>") == [3, 7, 3]
    assert CAPITALS.encode("|") == [3]
    assert CAPITALS.encode("e | e") == [5, 4, 3, 4, 5]
    assert CAPITALS.decode([1, 5, 0, 3, 2]) == "E\ufffd"


def test_longest_token_wins_within_a_word() -> None:
    assert CAPITALS.encode("esse") == [5, 6, 5]
    assert CAPITALS.encode("ß") == [6]
    assert CAPITALS.encode("es se's") == [5, 7, 4, 7, 5, 8, 7]


def test_space_may_be_the_boundary() -> None:
    alphabet = Alphabet(tokens=("[PAD]", "[UNK]", " ", "a"), blank="[PAD]", word_boundary=" ",
                        unknown="[UNK]")  # fmt: skip
    assert alphabet.encode("a  a") == [3, 2, 3]
    assert alphabet.decode([2, 3, 2, 2, 3]) == "a a"


def test_space_beside_another_boundary_is_written_but_never_encoded() -> None:
    alphabet = Alphabet(tokens=("_", "|", " ", "a"), blank="_", word_boundary="|")
    assert alphabet.encode("a a") == [3, 1, 3]
    assert alphabet.decode([3, 2, 1, 3]) == "a a"


def test_without_a_boundary_white_space_is_not_written() -> None:
    alphabet = Alphabet(tokens=("_", "tʃ", "t", "a"), blank="_")
    assert alphabet.encode("tʃ a t") == [1, 3, 2]
    assert alphabet.decode([1, 3]) == "tʃa"


def test_decomposed_vocabularies_are_matched_under_canonical_equivalence() -> None:
    parts = Alphabet(tokens=("_", "e", "\u0302", "\u0301", "ê"), blank="_")
    assert parts.encode("ế") == [4, 3]
    assert parts.decode([1, 2, 3]) == "ế"
    decomposed = Alphabet(tokens=("_", "e\u0301", "e", "क़"), blank="_")
    assert decomposed.encode("é") == decomposed.encode("e\u0301") == [1]
    assert decomposed.encode("क़") == [3]
    assert decomposed.decode([1]) == "é"
    both = Alphabet(tokens=("_", "e\u0301", "é"), blank="_")
    assert both.encode("e\u0301") == [2]
    assert replace(both, tokens=("_", "é", "e\u0301")).encode("e\u0301") == [1]
    assert replace(both, tokens=("_", "s\u0323\u0307", "s\u0307\u0323")).encode("ṩ") == [1]
    jamo = Alphabet(tokens=("_", "\u1112", "\u1161", "\u11ab"), blank="_")
    assert jamo.encode("한") == [1, 2, 3]
    assert parts.missing("한") == ("한",)


def test_decode_refuses_foreign_numbers() -> None:
    for number in (5, -1):
        with pytest.raises(AlphabetError, match=rf"expected 0 \.\. 4, found {number}"):
            LETTERS.decode([number])
    with pytest.raises(TypeError):
        LETTERS.decode([0.5])  # pyright: ignore[reportArgumentType]


def test_collapse_merges_then_removes_blanks() -> None:
    assert LETTERS.collapse([0, 2, 2, 0, 2, 3, 3, 1, 1, 0]) == [2, 2, 3, 1]
    assert LETTERS.collapse(np.array([2, 2])) == [2]
    assert LETTERS.collapse([]) == []
    blank_last = Alphabet(tokens=("a", "b", "_"), blank="_")
    assert blank_last.collapse([2, 0, 0, 2, 0, 1]) == [0, 0, 1]
    assert blank_last.decode([0, 2, 1]) == "ab"


def test_frames_needed_counts_blanks_between_equal_neighbours() -> None:
    assert LETTERS.frames_needed(LETTERS.encode("aab b")) == 6
    assert LETTERS.frames_needed([]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ()}, "no list of tokens"),
        ({"tokens": "abc"}, "no list of tokens"),
        ({"tokens": ("<blank>", "|", "a", "", "")}, r"token is empty.*\[3, 4\]"),
        ({"tokens": ("<blank>", "|", "a", "b", "a")}, r"repeated.*'a' at \[2, 4\]"),
        ({"tokens": ("<blank>", "|", 7)}, "token 2 is not text"),
        ({"tokens": ("<blank>", "|", "a b")}, "token 2 holds white space"),
        ({"tokens": ("<blank>", "|", "\ud800")}, "token 2 is not storable as UTF-8"),
        ({"blank": "<pad>"}, r"blank is not in the alphabet.*'<blank>', '\|', 'a'.*'<pad>'"),
        ({"word_boundary": " "}, "word boundary is not in the alphabet"),
        ({"unknown": "<unk>"}, "unknown is not in the alphabet"),
        ({"special": ("<s>",)}, "special 0 is not in the alphabet"),
        ({"word_boundary": "<blank>"}, "two duties"),
        ({"unknown": "|"}, "two duties"),
        ({"special": ("a", "a")}, "two duties"),
        ({"case": "title"}, "expected one of keep, lower, upper, found 'title'"),
    ],
)
def test_malformed_alphabets_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(AlphabetError, match=message):
        replace(LETTERS, **changes)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"_": 0, "a": 2, "b": 3}, "missing 1; outside 3; repeated none"),
        ({"_": 0, "a": 1, "b": 1}, r"missing 2; outside none; repeated 1 \['a', 'b'\]"),
        ({"_": 0, "a": -1}, "missing 1; outside -1"),
        ({"_": 0, "a": "1"}, "not an integer.*'a': '1'"),
        ({"_": 0, "a": True}, "not an integer.*'a': True"),
        ({"a": 0}, "blank is not in the alphabet"),
        ({}, "no list of tokens"),
    ],
)
def test_malformed_vocabularies_are_refused(vocabulary: dict, message: str) -> None:
    with pytest.raises(AlphabetError, match=message):
        Alphabet.from_vocabulary(vocabulary, blank="_")


@pytest.mark.parametrize("alphabet", [LETTERS, CAPITALS])
def test_plain_data_round_trip(alphabet: Alphabet) -> None:
    data = json.loads(json.dumps(alphabet.to_dict()))
    assert Alphabet.from_dict(data) == alphabet
    assert pickle.loads(pickle.dumps(alphabet)) == alphabet
    assert hash(Alphabet.from_dict(data)) == hash(alphabet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "other keys.*colour"),
        ({"tokens": "abc"}, '"tokens" of the stored alphabet is not a list: found str'),
        ({"tokens": {"a": 0}}, "not a list: found dict"),
        ({"special": None}, '"special"'),
    ],
)
def test_odd_plain_data_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(AlphabetError, match=message):
        Alphabet.from_dict({**LETTERS.to_dict(), **changes})
    with pytest.raises(AlphabetError, match="tokens and blank are required"):
        Alphabet.from_dict({"tokens": ["a"]})
