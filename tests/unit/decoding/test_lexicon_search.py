import math

import numpy as np
import pytest
import torch
from tests.random_lattices import emissions_of, random_model

from unheard.decoding.emissions import FrameTiming
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_kernel import nth_largest
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.search import SearchConfig
from unheard.errors import AlphabetError, ConfigError, ShapeError
from unheard.text.alphabet import Alphabet

LATIN = Alphabet(tokens=("<blank>", "|", "a", "b", "c"), blank="<blank>", word_boundary="|")
WORDS = Lexicon.from_words(["ab", "ba", "abc", "c", "cc"], LATIN)
TIMING = FrameTiming(frame_stride_samples=320, frame_offset_samples=200, sample_rate=16_000)


def spelt(path, *, probability=0.9, vocab=5):
    """Emissions with one symbol of `tokens` in each frame, "-" for the blank."""
    log_probs = torch.full((len(path), vocab), math.log((1 - probability) / (vocab - 1)))
    for frame, character in enumerate(path):
        log_probs[frame, "-|abc".index(character)] = math.log(probability)
    return emissions_of(log_probs)


def text_of(path, lexicon=WORDS, **settings):
    decoder = LexiconDecoder(lexicon, config=SearchConfig(**settings))
    return decoder.decode(spelt(path))[0].text


def test_words_and_when_they_were_said():
    (hypothesis,) = LexiconDecoder(WORDS).decode(spelt("--aa-b-||-b-aa"))
    assert hypothesis.text == "ab ba"
    first, second = hypothesis.words
    assert (first.text, second.text) == ("ab", "ba")
    assert first.start_seconds == pytest.approx((200 + 1.5 * 320) / 16_000)
    assert first.end_seconds == pytest.approx((200 + 5.5 * 320) / 16_000)
    assert second.start_seconds == pytest.approx((200 + 9.5 * 320) / 16_000)
    assert second.end_seconds == pytest.approx((200 + 13.5 * 320) / 16_000)
    assert first.confidence == pytest.approx(0.9)
    assert hypothesis.confidence == pytest.approx(0.9)


def test_only_words_of_the_lexicon_are_written():
    # "aba" is no word; "ab" and "abc" are the nearest.
    assert text_of("a-b-a") in {"ab", "abc"}


def test_a_word_needs_a_boundary_before_the_next_and_none_at_the_ends():
    assert text_of("ab|ba") == "ab ba"
    assert text_of("|ab||-|ba|-|") == "ab ba"


def test_a_repeated_symbol_needs_a_blank_between():
    assert text_of("ccc") == "c"
    assert text_of("c-c") == "cc"
    assert text_of("c|c") == "c c"


def test_without_boundaries_words_follow_each_other():
    script = Alphabet(tokens=("-", "|", "a", "b", "c"), blank="-")
    words = [("ab", "ab"), ("a", "a"), ("b", "b"), ("c", "c")]
    lexicon = Lexicon.from_spellings(
        [(word, list(s)) for word, s in words], script, boundary_after=False
    )
    assert text_of("abc", lexicon, word_bonus=-1.0) == "abc"
    (hypothesis,) = LexiconDecoder(lexicon, config=SearchConfig(word_bonus=-1.0)).decode(
        spelt("abcc")
    )
    assert [word.text for word in hypothesis.words] == ["ab", "c"]
    assert text_of("c-c", lexicon) == "cc"
    assert text_of("cc", lexicon) == "c"


def test_an_unfinished_word_is_left_out_where_no_word_can_end():
    lexicon = Lexicon.from_words(["ab", "abcabcabc"], LATIN)
    config = SearchConfig(beam=1)
    hypothesis = LexiconDecoder(lexicon, config=config).decode(spelt("ab|abcab"))[0]
    assert hypothesis.text == "ab"
    assert hypothesis.parts.total == pytest.approx(hypothesis.score)


def test_no_frames_give_an_empty_reading():
    (hypothesis,) = LexiconDecoder(WORDS).decode(emissions_of(torch.zeros(0, 5)))
    assert (hypothesis.text, hypothesis.words, hypothesis.score) == ("", (), 0.0)


def test_what_cannot_be_said_gives_an_empty_reading_of_no_probability():
    log_probs = torch.full((3, 5), -math.inf)
    log_probs[:, 2] = 0.0  # "a", which begins words and is none
    log_probs[1] = -math.inf
    log_probs[1, 4] = 0.0  # "ac" is in no word
    (hypothesis,) = LexiconDecoder(WORDS).decode(emissions_of(log_probs))
    assert (hypothesis.text, hypothesis.score) == ("", -math.inf)


def test_readings_are_distinct_and_in_order():
    config = SearchConfig(nbest=4)
    found = LexiconDecoder(WORDS, config=config).decode(spelt("a-b-c|-c", probability=0.5))
    assert len({hypothesis.text for hypothesis in found}) == 4
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)


def test_parts_say_what_each_setting_added(tmp_path):
    lm, _ = random_model(np.random.default_rng(0), ["ab", "c"], tmp_path / "lm.arpa")
    config = SearchConfig(lm_weight=0.7, word_bonus=-0.4, unknown_score=-2.0)
    decoder = LexiconDecoder(
        WORDS, lm=lm, hot_words={"ba": 3.0, "ab ba": 1.0, "c ab": 5.0}, config=config
    )
    (hypothesis,) = decoder.decode(spelt("a-b|b-a|c|c", probability=0.99))
    assert hypothesis.text == "ab ba c c"
    parts = hypothesis.parts
    said = [word if word != "ba" else "<unk>" for word in hypothesis.text.split()]
    assert parts.lm == pytest.approx(0.7 * lm.score_words(said).sum())
    assert parts.words == pytest.approx(4 * -0.4)
    assert parts.unknown_words == pytest.approx(-2.0)
    assert parts.hot_words == pytest.approx(4.0)
    assert parts.total == pytest.approx(hypothesis.score, abs=1e-12)
    assert parts.acoustic == pytest.approx(11 * math.log(0.99), abs=0.1)


def test_words_that_the_model_does_not_know_can_be_shut_out(tmp_path):
    lm, _ = random_model(np.random.default_rng(0), ["ab", "c"], tmp_path / "lm.arpa")
    decoder = LexiconDecoder(WORDS, lm=lm, config=SearchConfig(lm_weight=0.0, unknown_score=-1.0))
    assert decoder.decode(spelt("b-a|c"))[0].text == "ba c"
    closed = decoder.with_config(SearchConfig(lm_weight=0.0, unknown_score=-math.inf))
    assert set(closed.decode(spelt("b-a|c"))[0].text.split()) <= {"ab", "c"}


def test_a_model_that_knows_no_word_is_refused(tmp_path):
    lm, _ = random_model(np.random.default_rng(0), ["AB", "C"], tmp_path / "lm.arpa")
    with pytest.raises(ConfigError, match=r"knows no word of the lexicon.*'ab'.*'AB'"):
        LexiconDecoder(WORDS, lm=lm)


def test_a_hot_word_is_preferred_and_added():
    path = "a-b-b|c"
    assert text_of(path) != "abb c"
    decoder = LexiconDecoder(WORDS, hot_words=["abb"])
    assert decoder.decode(spelt(path))[0].text == "abb c"
    with pytest.raises(AlphabetError, match="cannot be spelt"):
        LexiconDecoder(WORDS, hot_words=["xyz"])
    with pytest.raises(ConfigError, match="hot word is empty"):
        LexiconDecoder(WORDS, hot_words=[" "])


def test_a_bonus_gives_more_words():
    path = "c-c"
    assert text_of(path, word_bonus=0.0) == "cc"
    assert text_of(path, word_bonus=20.0) == "c c"


def test_growth_is_limited_to_the_symbols_that_are_asked_for():
    log_probs = torch.log_softmax(torch.tensor([[0.0, -9.0, 1.0, 0.5, 0.9]]), dim=-1)
    emissions = emissions_of(log_probs)
    lexicon = Lexicon.from_words(["a", "b", "c"], LATIN)

    def texts(**settings):
        config = SearchConfig(nbest=9, **settings)
        return {h.text for h in LexiconDecoder(lexicon, config=config).decode(emissions)}

    assert texts() == {"", "a", "b", "c"}
    assert texts(symbols_per_frame=1) == {"", "a"}
    assert texts(symbols_per_frame=2) == {"", "a", "c"}
    assert texts(symbol_threshold=1.4) == {"", "a", "c"}
    assert texts(symbol_threshold=0.0) == {"", "a"}


@pytest.mark.parametrize("boundary", ["|", None])
def test_many_more_symbols_than_the_beam_holds(boundary):
    letters = [chr(0x4E00 + number) for number in range(150)]
    alphabet = Alphabet(tokens=("<blank>", "|", *letters), blank="<blank>", word_boundary=boundary)
    lexicon = Lexicon.from_spellings(
        [(letter, [letter]) for letter in letters], alphabet, boundary_after=boundary is not None
    )
    rng = np.random.default_rng(0)
    found = set()
    for case in range(20):
        limit = 5 if case % 2 else None
        config = SearchConfig(beam=1, symbols_per_frame=limit, symbol_threshold=math.inf)
        logits = torch.from_numpy(rng.normal(0, 1, (1, len(alphabet))))
        logits[0, :2] = -5.0
        emissions = emissions_of(logits.log_softmax(-1).float())
        (hypothesis,) = LexiconDecoder(lexicon, config=config).decode(emissions)
        assert hypothesis.text == alphabet.tokens[int(logits.argmax())]
        found.add(hypothesis.text)
    assert len(found) > 10


def test_a_stream_says_what_it_believes():
    stream = LexiconDecoder(WORDS, config=SearchConfig(beam_threshold=4.0)).stream(TIMING)
    assert stream.partial().text == ""
    stream.feed(spelt("ab|a").log_probs)
    partial = stream.partial()
    assert partial.text == "ab a"
    stream.feed(spelt("bc|" + "-" * 9, probability=0.999).log_probs.numpy())
    assert stream.partial().stable_text == "ab abc"
    assert stream.finish()[0].text == "ab abc"
    with pytest.raises(ConfigError, match="finished"):
        stream.feed(spelt("a").log_probs)
    with pytest.raises(ConfigError, match="finished"):
        stream.finish()


def test_a_stream_keeps_nothing_of_its_callers_memory():
    rows = spelt("a-b").log_probs.numpy().copy()
    stream = LexiconDecoder(WORDS).stream(TIMING)
    stream.feed(rows)
    rows[:] = 0.0
    words = stream.finish()[0].words
    assert words[0].confidence == pytest.approx(0.9)


def test_emissions_that_are_none_are_refused():
    decoder = LexiconDecoder(WORDS)
    with pytest.raises(ShapeError, match=r"expected \(frames, 5\), found \(3, 4\)"):
        decoder.decode(emissions_of(torch.zeros(3, 4)))
    for odd in (math.nan, math.inf):
        log_probs = spelt("ab").log_probs
        log_probs[1, 0] = odd
        with pytest.raises(ShapeError, match=r"NaN or \+inf in frame 1"):
            decoder.decode(emissions_of(log_probs))


def test_the_nth_largest_is_that_of_a_sorted_list():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 40))
        values = rng.integers(0, 12, count).astype(np.float64)
        n = int(rng.integers(1, count + 1))
        assert nth_largest(values.copy(), count, n) == np.sort(values)[::-1][n - 1]
