"""Word pieces: what is split comes back, whatever the text, and hostile files are refused."""

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard.errors import ConfigError, FormatError
from unheard.lm.pieces import END_ID, START_ID, UNKNOWN_ID, WORD_START, Pieces

TEXTS = ["low lower lowest", "new newer newest", "wide wider widest", "slow slower low low"] * 3


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces.train(TEXTS, size=40)


def test_the_most_frequent_pair_is_merged_first(pieces: Pieces) -> None:
    # l-o and o-w are in as many words: the pair of the lower numbers comes first.
    first = [pieces.symbols[left] + pieces.symbols[right] for left, right in pieces.merges[:2]]
    assert first == ["lo", "low"]
    assert pieces.split("low slow") == ["▁low", "▁slow"]


def test_numbers_begin_with_the_markers(pieces: Pieces) -> None:
    assert pieces.symbols[:3] == ("<unk>", "<s>", "</s>")
    assert pieces.decode([START_ID, *pieces.encode("low wide"), END_ID]) == "low wide"
    singles = [symbol for symbol in pieces.symbols[3:] if len(symbol) == 1]
    assert singles == sorted(singles)


def test_there_are_no_more_pieces_than_asked_for() -> None:
    assert len(Pieces.train(TEXTS, size=25)) == 25
    only_characters = Pieces.train(TEXTS, size=0)
    assert not only_characters.merges
    assert only_characters.split("low we") == ["▁", "l", "o", "w", "▁", "w", "e"]


def test_a_pair_seen_once_is_not_merged() -> None:
    assert Pieces.train(["ab"], size=100).merges == []
    assert len(Pieces.train(["ab ab"], size=100).merges) == 2


def test_a_character_never_seen_is_unknown(pieces: Pieces) -> None:
    numbers = pieces.encode("loß")
    assert numbers.count(UNKNOWN_ID) == 1
    assert pieces.decode(numbers) == "lo\ufffd"
    assert pieces.missing("zoß zz") == ("z", "ß")


def test_markers_in_a_text_are_not_markers() -> None:
    pieces = Pieces.train(["<s> a </s> <unk>"] * 9, size=60)
    numbers = pieces.encode("<s> </s> <unk>")
    assert not {START_ID, END_ID, UNKNOWN_ID} & {*numbers}
    assert pieces.decode(numbers) == "<s> </s> <unk>"
    assert pieces.symbols.count("<s>") == 1


def test_composed_and_decomposed_text_is_the_same() -> None:
    pieces = Pieces.train(["é é"], size=0)
    assert pieces.encode("e\u0301") == pieces.encode("é")
    assert UNKNOWN_ID not in pieces.encode("e\u0301")


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.integers(0, 80))
def test_any_text_comes_back(texts: list[str], size: int) -> None:
    try:
        pieces = Pieces.train(texts, size=size)
    except ConfigError:
        assert not any(text.replace(WORD_START, " ").split() for text in texts)
        return
    again = Pieces.from_dict(pieces.to_dict())
    assert again.symbols == pieces.symbols
    assert again.merges == pieces.merges
    for text in texts:
        composed = unicodedata.normalize("NFC", text).replace(WORD_START, " ")
        expected = " ".join(composed.split())
        assert pieces.decode(pieces.encode(text)) == expected
        drawn = again.encode(text, dropout=0.5, generator=np.random.default_rng(size))
        assert pieces.decode(drawn) == expected
        assert UNKNOWN_ID not in drawn


def test_dropout_splits_otherwise_and_the_same_for_one_seed(pieces: Pieces) -> None:
    def draw(seed: int, dropout: float) -> list[int]:
        return pieces.encode(
            "lowest newest", dropout=dropout, generator=np.random.default_rng(seed)
        )

    assert draw(1, 0.5) == draw(1, 0.5)
    assert len({tuple(draw(seed, 0.5)) for seed in range(20)}) > 3
    assert draw(0, 1e-12) == pieces.encode("lowest newest")
    letters = [pieces.symbols[number] for number in draw(0, 1 - 1e-12)]
    assert letters == list("▁lowest▁newest")


def test_dropout_needs_a_generator(pieces: Pieces) -> None:
    with pytest.raises(ConfigError, match="generator"):
        pieces.encode("low", dropout=0.1)


def test_too_many_pieces_or_no_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="100000"):
        Pieces.train(TEXTS, size=100_001)
    with pytest.raises(ConfigError, match="no text has a word"):
        Pieces.train(["", " ▁ "], size=10)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"characters": "ab", "merges": []},
        {"characters": ["a", "b"]},
        {"characters": ["a", "b"], "merges": [], "more": 1},
        {"characters": ["a", 3], "merges": []},
        {"characters": ["ab"], "merges": []},
        {"characters": [" "], "merges": []},
        {"characters": ["\ud800"], "merges": []},
        {"characters": ["a", "b"], "merges": ["a  b"]},
        {"characters": ["a", "b"], "merges": ["ab"]},
        {"characters": ["a", "b"], "merges": [["a", "b"]]},
        {"characters": ["a", "b"], "merges": ["a c"]},
        {"characters": ["a", "b"], "merges": ["ab b", "a b"]},
        {"characters": ["a", "b"], "merges": ["a b", "a b"]},
        {"characters": ["a", "<", ">", "s"], "merges": ["< s", "<s >"]},
        {"characters": ["a"], "merges": ["<s> a"]},
    ],
)
def test_stored_pieces_that_make_no_sense_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Pieces.from_dict(data)


def test_two_ways_to_one_piece_are_one_piece() -> None:
    pieces = Pieces.from_dict({"characters": ["a", "b", "c"], "merges": ["a b", "ab c", "b c"]})
    other = Pieces.from_dict(
        {"characters": ["a", "b", "c"], "merges": ["a b", "ab c", "b c", "a bc"]}
    )
    assert len(other) == len(pieces)
    assert other.encode("abc")[-1] == pieces.encode("abc")[-1]
