"""From a text to its target, and from a path to timed sentences, words and characters."""

import math

import pytest
import torch

from unheard.decoding.align import FrameScores, align
from unheard.decoding.emissions import Emissions
from unheard.decoding.spans import (
    Script,
    TimedText,
    prepare,
    read_times,
    split_sentences,
)
from unheard.errors import AlignmentError
from unheard.text import normalize
from unheard.text.alphabet import Alphabet

SURE = -0.01
TONE = "\N{COMBINING GRAVE ACCENT}"
LATIN = Alphabet(
    tokens=("_", "|", "a", "b", "c", "ẹ", TONE, "'"), blank="_", word_boundary="|", unknown=None
)
UNSPACED = Alphabet(tokens=("_", "ក", "ខ", "\N{KHMER VOWEL SIGN AA}"), blank="_")
basic = normalize.get("basic-1")


def hear(heard: str, alphabet: Alphabet) -> Emissions:
    """Emissions of a model that is sure of one symbol a frame; "?" is one that no text has."""
    vocab = len(alphabet) + 1
    other = math.log((1 - math.exp(SURE)) / (vocab - 1))
    log_probs = torch.full((len(heard), vocab), other)
    for frame, symbol in enumerate(heard):
        place = alphabet.tokens.index(symbol) if symbol != "?" else vocab - 1
        log_probs[frame, place] = SURE
    return Emissions(
        log_probs=log_probs,
        frame_stride_samples=160,
        frame_offset_samples=80,
        num_samples=160 * len(heard),
        sample_rate=16_000,
    )


def lay(text: str, heard: str, alphabet: Alphabet = LATIN, *, rough: bool = False) -> TimedText:
    script = prepare(text, alphabet, normalizer=basic, rough=rough)
    scores = FrameScores.of(hear(heard, alphabet), script.target, blank_id=alphabet.blank_id)
    return read_times(align(scores, script.target), script)


def frames(spans) -> list[tuple[str, int, int]]:
    """Text, first frame and one past the last, of spans on a grid of a hundred frames a second."""
    return [
        (one.text, round(one.start_seconds * 100), round(one.end_seconds * 100)) for one in spans
    ]


def tokens(script: Script, alphabet: Alphabet = LATIN) -> str:
    return "".join(alphabet.tokens[one] for one in script.target.tokens)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Yes. No!  Why?\nA line", ["Yes.", "No!", "Why?", "A line"]),
        ("«Oui.» Non. 3.5 km", ["«Oui.»", "Non.", "3.5 km"]),
        ("他来了。我走了！", ["他来了。", "我走了！"]),
        ("राम आया। वह गया॥", ["राम आया।", "वह गया॥"]),
        ("ሰላም ነው። እሺ፧", ["ሰላም ነው።", "እሺ፧"]),
        ("نعم؟ لا۔", ["نعم؟", "لا۔"]),
        (" \n\n ", []),
        ("Wait... what?", ["Wait...", "what?"]),
    ],
)
def test_sentences_of_many_scripts(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_times_of_sentences_words_and_characters() -> None:
    timed = lay("Ba, ab!\nCAB.", "__bba_|_ab__|caab_")
    assert frames(timed.sentences) == [("Ba, ab!", 2, 10), ("CAB.", 13, 17)]
    assert frames(timed.words) == [("Ba,", 2, 5), ("ab!", 8, 10), ("CAB.", 13, 17)]
    assert frames(timed.words[0].parts) == [("b", 2, 4), ("a", 4, 5)]
    assert frames(timed.characters)[-3:] == [("c", 13, 14), ("a", 14, 16), ("b", 16, 17)]
    assert timed.words[0].confidence == pytest.approx(math.exp(SURE), abs=1e-6)
    assert timed.indices == (0, 1, 2)
    assert timed.stars == timed.missing == ()
    assert [timed.spans(unit) for unit in ("sentence", "word", "char")] == [
        timed.sentences,
        timed.words,
        timed.characters,
    ]


def test_confidence_is_low_where_something_else_was_said() -> None:
    timed = lay("ba ab", "ba|cc")
    assert timed.words[0].confidence > 0.98
    assert timed.words[1].confidence < 0.01
    assert timed.words[1].confidence < timed.sentences[0].confidence < timed.words[0].confidence


def test_a_letter_and_its_mark_are_one_character() -> None:
    timed = lay("ẹ̀b", f"_ẹ{TONE}{TONE}b_")
    assert frames(timed.characters) == [(f"ẹ{TONE}", 1, 4), ("b", 4, 5)]


def test_without_word_boundary_every_character_is_a_word() -> None:
    timed = lay("កាខ ក", "_ក\N{KHMER VOWEL SIGN AA}_ខក", UNSPACED)
    assert frames(timed.words) == [("កា", 1, 3), ("ខ", 4, 5), ("ក", 5, 6)]
    assert frames(timed.sentences) == [("កាខ ក", 1, 6)]


def test_a_star_takes_what_is_not_in_the_text() -> None:
    timed = lay("ba * ab", "ba|??__??|ab")
    assert frames(timed.words) == [("ba", 0, 2), ("ab", 10, 12)]
    # Of the two boundaries heard, one is the text's; the other is the star's.
    assert frames(timed.stars) == [("*", 3, 10)]
    assert timed.stars[0].confidence > 0.98
    for text, heard, expected in (
        ("* ab", "??|ab", [(0, 3)]),
        ("ab *", "ab|??", [(2, 5)]),
        ("ba * ab", "ba|ab", []),
        ("* ba ab *", "ba|ab", []),
    ):
        found = lay(text, heard)
        assert [span[1:] for span in frames(found.stars)] == expected
        assert found.words[0].confidence > 0.98


def test_words_that_cannot_be_written_stand_in_their_gap() -> None:
    timed = lay("ba 15 xy ab 7", "ba|????????|ab|?")
    assert [span[0] for span in frames(timed.words)] == ["ba", "15", "xy", "ab", "7"]
    first, second = timed.words[1:3]
    assert (first.start_seconds, second.end_seconds) == (0.03, 0.12)
    assert first.end_seconds == second.start_seconds == pytest.approx(0.075)
    assert first.confidence == second.confidence == 0
    assert frames(timed.words)[-1] == ("7", 14, 16)
    assert timed.stars == ()
    # Said so fast that nothing is left for them: they have no place.
    assert [word.text for word in lay("ba 15 ab", "ba|ab").missing] == ["15"]


def test_part_of_a_word_that_cannot_be_written_belongs_to_it() -> None:
    script = prepare("aXb ba", LATIN, normalizer=basic)
    assert (tokens(script), script.unwritable) == ("ab|ba", ("x",))
    timed = lay("aXb ba", "a??b|ba")
    assert frames(timed.words) == [("aXb", 0, 4), ("ba", 5, 7)]
    assert frames(timed.words[0].parts) == [("a", 0, 1), ("b", 3, 4)]
    assert timed.words[0].confidence > 0.98
    assert frames(lay("ba xa", "ba|??a").words)[1] == ("xa", 3, 6)
    assert frames(lay("ax ba", "a??|ba").words)[0] == ("ax", 0, 3)


def test_case_and_punctuation_follow_the_model() -> None:
    capitals = Alphabet(tokens=("_", "|", "A", "B"), blank="_", word_boundary="|", case="upper")
    script = prepare("— “Ab”, ba7! —", capitals, normalizer=basic)
    assert tokens(script, capitals) == "AB|BA"
    assert script.unwritable == ("7",)
    assert [word.text for word in script.words] == ["“Ab”,", "ba7!"]
    # A word that is written as two: the boundary between them is the word's.
    script = prepare("a/b c", LATIN, normalizer=basic)
    assert tokens(script) == "a|b|c"
    assert [word.text for word in script.words] == ["a/b", "c"]


def test_a_rough_text_has_stars_and_skips_everywhere() -> None:
    script = prepare("ba c a", LATIN, normalizer=basic, rough=True)
    assert tokens(script) == "ba|c|a"
    assert sorted(script.target.stars) == [0, 2, 3, 4, 5, 6]
    assert script.target.skips == ((0, 2), (2, 3), (3, 4), (4, 5), (5, 6))


def test_a_rough_text_loses_what_was_not_said() -> None:
    timed = lay("ba cab ab abba ca", "???|ba|_ab_??_??|ca", rough=True)
    assert frames(timed.words) == [("ba", 4, 6), ("ab", 8, 10), ("ca", 17, 19)]
    assert [(word.text, word.index) for word in timed.missing] == [("cab", 1), ("abba", 3)]
    assert timed.indices == (0, 2, 4)
    assert [span[1:] for span in frames(timed.stars)] == [(0, 4), (11, 16)]
    nothing = lay("cab", "____", rough=True)
    assert nothing.sentences == nothing.words == ()
    assert nothing.missing[0].text == "cab"


@pytest.mark.parametrize("text", ["", " \n", "—", "*", "* ! *"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(AlignmentError, match="nothing to align"):
        prepare(text, LATIN, normalizer=basic)
