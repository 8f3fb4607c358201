import logging

import numpy as np
import pytest

from unheard.decoding.lexicon import Lexicon
from unheard.decoding.trie import build_trie, look_ahead
from unheard.errors import AlphabetError, FormatError
from unheard.text.alphabet import Alphabet

LATIN = Alphabet(tokens=("<blank>", "|", "a", "b", "c", "é"), blank="<blank>", word_boundary="|")
SCRIPT = Alphabet(tokens=("<blank>", "あ", "い", "う"), blank="<blank>")
PIECES = Alphabet(tokens=("<blank>", "▁a", "▁b", "ab", "c"), blank="<blank>")


def test_words_are_spelt_by_the_alphabet():
    lexicon = Lexicon.from_words(["ab", "ba", "ab", "e\u0301"], LATIN)
    assert lexicon.words == ("ab", "ba", "e\u0301")
    assert lexicon.spellings == ((0, (2, 3)), (1, (3, 2)), (2, (5,)))
    assert lexicon.boundary_after
    assert lexicon.separator == " "


def test_words_that_cannot_be_spelt_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        lexicon = Lexicon.from_words(["ab", "axb", "a b", "", "|"], LATIN)
    assert lexicon.words == ("ab",)
    assert set(lexicon.left_out) == {"axb", "a b", "", "|"}
    assert "'x'" in lexicon.left_out["axb"]
    assert "4 of 5 words" in caplog.text


def test_a_lexicon_without_words_is_refused():
    with pytest.raises(AlphabetError, match="no words: expected at least one"):
        Lexicon.from_words(["xyz"], LATIN)


def test_an_alphabet_of_capitals_spells_small_letters():
    capitals = Alphabet(
        tokens=("<blank>", "|", "A", "B"), blank="<blank>", word_boundary="|", case="upper"
    )
    assert Lexicon.from_words(["ab"], capitals).spellings == ((0, (2, 3)),)


def test_flashlights_form_is_read_and_written(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_bytes("\ufeffab\ta b |\r\nab  b a |\r\n\r\nother\ta b |\nquery a ? |\n".encode())
    lexicon = Lexicon.load(path, LATIN)
    assert lexicon.words == ("ab", "other")
    assert lexicon.spellings == ((0, (2, 3)), (0, (3, 2)), (1, (2, 3)))
    assert lexicon.boundary_after
    assert "'?'" in lexicon.left_out["query"]
    lexicon.save(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == "ab\ta b |\nab\tb a |\nother\ta b |\n"
    assert Lexicon.load(tmp_path / "again.txt", LATIN).spellings == lexicon.spellings


def test_a_list_of_words_is_read(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("ab\nba\n\nab\n", encoding="utf-8")
    assert Lexicon.load(path, LATIN).words == ("ab", "ba")


def test_spellings_without_a_boundary_follow_each_other(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("ab\ta b\nba\tb a\n", encoding="utf-8")
    lexicon = Lexicon.load(path, LATIN)
    assert not lexicon.boundary_after
    lexicon.save(path)
    assert path.read_text(encoding="utf-8") == "ab\ta b\nba\tb a\n"


def test_scripts_without_spaces_and_pieces_join_words_as_they_are_written():
    assert Lexicon.from_words(["あい"], SCRIPT).separator == ""
    pieces = Lexicon.from_spellings([("aab", ["▁a", "ab"])], PIECES, boundary_after=False)
    assert pieces.separator == " "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\ta b |\nba\n", "no spelling.*line 2"),
        (b"ab\ta b |\nba\tb a\n", "some spellings end with the boundary.*1 of 2.*line 2"),
        (b"ab\ta b |\n\xff\xfea\n", "not UTF-8: found byte 0xff"),
        ("ab\ta b |\n".encode("utf-16"), "not UTF-8"),
        ("ab\ta b |\n".encode("utf-16-be"), "zero byte"),
        (b"\x1f\x8b\x08\x00", "not UTF-8"),
    ],
)
def test_malformed_files_are_refused(content, message, tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        Lexicon.load(path, LATIN)


def test_special_symbols_spell_nothing():
    with pytest.raises(AlphabetError, match="does not spell with: '<blank>'"):
        Lexicon.from_spellings([("a", ["<blank>", "a"])], LATIN, boundary_after=True)
    with pytest.raises(AlphabetError, match="does not spell with: '\\|'"):
        Lexicon.from_spellings([("a-b", ["a", "|", "b"])], LATIN, boundary_after=True)
    with pytest.raises(AlphabetError, match="does not spell with: no symbols"):
        Lexicon.from_spellings([("a", [])], LATIN, boundary_after=True)
    with pytest.raises(AlphabetError, match="the alphabet has none"):
        Lexicon.from_spellings([("a", ["あ"])], SCRIPT, boundary_after=True)


def test_words_are_added():
    lexicon = Lexicon.from_words(["ab"], LATIN)
    assert lexicon.with_words(["ab"]) is lexicon
    more = lexicon.with_words(["ca", "ab"])
    assert more.words == ("ab", "ca")
    assert more.spellings == ((0, (2, 3)), (1, (4, 2)))
    with pytest.raises(AlphabetError, match="cannot be spelt"):
        lexicon.with_words(["x"])


def test_the_tree_holds_every_spelling_once():
    rng = np.random.default_rng(0)
    spellings = [tuple(rng.integers(1, 4, rng.integers(1, 6)).tolist()) for _ in range(200)]
    words = np.arange(200, dtype=np.int32)
    lengths = [len(s) for s in spellings]
    trie = build_trie(
        words,
        np.array([symbol for s in spellings for symbol in s], np.int32),
        np.concatenate(([0], np.cumsum(lengths))),
    )
    assert len(trie.symbol) == 1 + len({s[:n] for s in spellings for n in range(1, len(s) + 1)})
    found = {}
    for node in range(len(trie.symbol)):
        children = range(trie.first_child[node], trie.first_child[node + 1])
        assert all(trie.parent[child] == node for child in children)
        symbols = trie.symbol[children.start : children.stop].tolist()
        assert symbols == sorted(set(symbols))
        spelling, above = [], node
        while above:
            spelling.append(int(trie.symbol[above]))
            above = trie.parent[above]
        for label in trie.label[trie.first_label[node] : trie.first_label[node + 1]].tolist():
            found[label] = tuple(spelling[::-1])
    assert found == dict(enumerate(spellings))


def test_look_ahead_is_the_best_word_below():
    trie = build_trie(
        np.array([0, 1, 2], np.int32),
        np.array([1, 1, 2, 3, 1], np.int32),
        np.array([0, 1, 3, 5]),
    )
    # Words 0 "1", 1 "12", 2 "31": nodes root, 1, 3, 12, 31.
    hope = look_ahead(trie, np.array([-5.0, -2.0, -np.inf]))
    assert hope.tolist() == [-2.0, -2.0, -np.inf, -2.0, -np.inf]
