import math

import numpy as np
import pytest
import torch

from unheard.decoding import prefix_kernel as kernel
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.search import SearchConfig
from unheard.errors import AlphabetError, ConfigError, ShapeError
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet

LETTERS = Alphabet.from_texts(["the cat sat on a mat", "mango"], normalizer="basic-1")
WRITTEN = "the cat sat on a mat"
TIMING = FrameTiming(frame_stride_samples=320, frame_offset_samples=200, sample_rate=16_000)


def emissions_of(log_probs):
    return Emissions(
        log_probs=log_probs,
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=320 * log_probs.shape[0],
        sample_rate=16_000,
    )


def spoken(text, alphabet=LETTERS, *, doubt=None, sharpness=9.0):
    """A blank and two frames for each letter; `doubt` makes a second letter as likely."""
    ids = [number for symbol in alphabet.encode(text) for number in (alphabet.blank_id, symbol)]
    rows = torch.zeros(2 * len(ids), len(alphabet))
    for place, number in enumerate(ids):
        rows[2 * place : 2 * place + 2, number] = sharpness
        for meant, other in (doubt or {}).items():
            if alphabet.tokens[number] == meant:
                index = alphabet.tokens.index(other)
                rows[2 * place : 2 * place + 2, index] = sharpness + 0.5
    return emissions_of(rows.log_softmax(dim=-1))


def model(tmp_path, unigrams, bigrams=(), units=None, name="lm"):
    """An n-gram model; scores in decimal logarithms as ARPA has them."""
    table = {"<unk>": -3.0, "<s>": -99.0, "</s>": -1.0, **unigrams}
    lines = ["\\data\\", f"ngram 1={len(table)}"]
    lines += [f"ngram 2={len(bigrams)}"] if bigrams else []
    lines += ["", "\\1-grams:"]
    back = "\t-0.3" if bigrams else ""
    lines += [f"{score}\t{word}{back}" for word, score in table.items()]
    if bigrams:
        lines += ["", "\\2-grams:", *(f"{score}\t{pair}" for pair, score in bigrams.items())]
    path = tmp_path / f"{name}.arpa"
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return NgramModel.load(path, units=units)


def test_clear_speech_is_read_as_greedily_with_the_same_times():
    emissions = spoken(WRITTEN)
    (greedy,) = GreedyDecoder(LETTERS).decode(emissions)
    (found,) = PrefixDecoder(LETTERS).decode(emissions)
    assert found.text == greedy.text == WRITTEN
    assert [(w.text, w.start_seconds, w.end_seconds) for w in found.words] == [
        (w.text, w.start_seconds, w.end_seconds) for w in greedy.words
    ]
    assert found.confidence == pytest.approx(greedy.confidence, rel=1e-5)
    # All ways to say it are more probable than the best one.
    assert greedy.score < found.score < 0.0


def test_a_model_of_words_corrects_letters(tmp_path):
    emissions = spoken(WRITTEN, doubt={"c": "m", "s": "h"})
    words = dict.fromkeys("the cat sat on a mat".split(), -1.0)
    lm = model(tmp_path, words)
    alone = PrefixDecoder(LETTERS).decode(emissions)[0].text
    assert alone == "the mat hat on a mat"
    config = SearchConfig(unknown_score=-10.0)
    helped = PrefixDecoder(LETTERS, lm=model(tmp_path, {**words, "mat": -4.0}), config=config)
    assert helped.decode(emissions)[0].text == "the cat sat on a mat"
    assert PrefixDecoder(LETTERS, lm=lm, config=config).decode(emissions)[0].text != alone


def test_context_decides_between_words_that_sound_alike(tmp_path):
    unigrams = {"the": -1.0, "cat": -1.0, "mat": -1.0, "on": -1.0}
    lm = model(tmp_path, unigrams, {"the cat": -0.1, "on mat": -0.1})
    decoder = PrefixDecoder(LETTERS, lm=lm)
    doubt = {"c": "m", "m": "c"}
    assert decoder.decode(spoken("the cat", doubt=doubt))[0].text == "the cat"
    assert decoder.decode(spoken("on cat", doubt=doubt))[0].text == "on mat"


def test_a_closed_vocabulary_writes_its_words_only(tmp_path):
    lm = model(tmp_path, {"the": -1.0, "cat": -2.0})
    config = SearchConfig(unknown_score=-math.inf, beam=500)
    found = PrefixDecoder(LETTERS, lm=lm, config=config).decode(spoken("the mat"))
    assert found[0].text == "the cat"
    open_config = SearchConfig(unknown_score=-5.0)
    assert PrefixDecoder(LETTERS, lm=lm, config=open_config).decode(spoken("the mat"))[0].text == (
        "the mat"
    )


def test_where_no_word_can_be_finished_the_score_says_so(tmp_path):
    lm = model(tmp_path, {"mango": -1.0})
    config = SearchConfig(unknown_score=-math.inf)
    log_probs = spoken("man", sharpness=60.0).log_probs
    (found,) = PrefixDecoder(LETTERS, lm=lm, config=config).decode(emissions_of(log_probs[:8]))
    assert found.score == -math.inf
    assert found.parts.unknown_words == -math.inf
    assert math.isfinite(found.parts.acoustic)


def test_a_hot_word_is_heard_and_known(tmp_path):
    emissions = spoken("the mango", doubt={"g": "t"})
    lm = model(tmp_path, {"the": -1.0})
    plain = PrefixDecoder(LETTERS, lm=lm).decode(emissions)[0]
    assert plain.text == "the manto"
    hot = PrefixDecoder(LETTERS, lm=lm, hot_words={"mango": 4.0}).decode(emissions)[0]
    assert hot.text == "the mango"
    assert (hot.parts.hot_words, hot.parts.unknown_words) == (4.0, 0.0)
    assert plain.parts.unknown_words == SearchConfig().unknown_score


def test_a_hot_phrase_counts_as_whole_words_only():
    decoder = PrefixDecoder(LETTERS, hot_words={"on a": 2.0, "at": 5.0})
    (found,) = decoder.decode(spoken(WRITTEN))
    assert found.text == WRITTEN
    assert found.parts.hot_words == 2.0


def test_a_model_of_characters_works_in_a_script_without_spaces(tmp_path):
    alphabet = Alphabet(tokens=("-", "山", "川", "田"), blank="-")
    lm = model(
        tmp_path, dict.fromkeys("山川田", -1.0), {"山 川": -0.05, "山 田": -2.0}, units="character"
    )
    emissions = spoken("山川", alphabet, doubt={"川": "田"})
    assert PrefixDecoder(alphabet).decode(emissions)[0].text == "山田"
    (found,) = PrefixDecoder(alphabet, lm=lm).decode(emissions)
    assert found.text == "山川"
    assert [word.text for word in found.words] == ["山", "川"]
    expected = lm.score_words(["山", "川"]).sum()
    assert found.parts.lm == pytest.approx(expected)


def test_a_model_of_pieces_scores_every_symbol(tmp_path):
    alphabet = Alphabet(tokens=("-", "▁ma", "ngo", "nto"), blank="-")
    lm = model(tmp_path, {"▁ma": -1.0, "ngo": -0.5, "nto": -3.0}, units="piece")
    rows = torch.zeros(6, 4)
    for frame, symbol in enumerate([1, 1, 0, 3, 3, 0]):
        rows[frame, symbol] = 6.0
    rows[3:5, 2] = 5.5
    (found,) = PrefixDecoder(alphabet, lm=lm).decode(emissions_of(rows.log_softmax(-1)))
    assert found.parts.lm == pytest.approx(lm.score_words(["▁ma", "ngo"]).sum())


def test_special_symbols_are_never_written():
    alphabet = Alphabet(
        tokens=("-", "|", "a", "<s>"), blank="-", word_boundary="|", special=("<s>",)
    )
    rows = torch.zeros(4, 4)
    rows[:, 3] = 8.0
    rows[2, 2] = 7.0
    for reading in PrefixDecoder(alphabet, config=SearchConfig(nbest=5)).decode(
        emissions_of(rows.log_softmax(-1))
    ):
        assert set(reading.text) <= {"a", " "}


def test_nbest_texts_are_different_and_in_order():
    config = SearchConfig(nbest=20)
    found = PrefixDecoder(LETTERS, config=config).decode(spoken("a cat", sharpness=3.0))
    assert len(found) == 20
    assert len({reading.text for reading in found}) == 20
    scores = [reading.score for reading in found]
    assert scores == sorted(scores, reverse=True)


def test_no_frames_give_the_empty_text():
    (found,) = PrefixDecoder(LETTERS).decode(emissions_of(torch.zeros(0, len(LETTERS))))
    assert (found.text, found.words, found.score, found.confidence) == ("", (), 0.0, 0.0)


def test_wide_and_half_precision_emissions_are_taken():
    emissions = spoken(WRITTEN)
    for kind in (torch.float64, torch.bfloat16, torch.float16):
        (found,) = PrefixDecoder(LETTERS).decode(emissions_of(emissions.log_probs.to(kind)))
        assert found.text == WRITTEN
    stream = PrefixDecoder(LETTERS).stream(TIMING)
    stream.feed(emissions.log_probs.numpy()[:, :])
    assert stream.finish()[0].text == WRITTEN


def test_symbols_per_frame_limits_what_is_tried():
    log_probs = torch.log(torch.tensor([[0.1, 0.0, 0.5, 0.4]]).clamp_min(1e-9))
    alphabet = Alphabet(tokens=("-", "|", "a", "b"), blank="-", word_boundary="|")
    for limit, texts in ((1, {"a", ""}), (2, {"a", "b", ""})):
        config = SearchConfig(nbest=5, symbols_per_frame=limit)
        found = PrefixDecoder(alphabet, config=config).decode(emissions_of(log_probs))
        assert {reading.text for reading in found} == texts


def test_the_symbol_threshold_spares_the_most_probable_one():
    log_probs = torch.log(torch.tensor([[0.3, 0.0, 0.4, 0.3]]).clamp_min(1e-9))
    alphabet = Alphabet(tokens=("-", "|", "a", "b"), blank="-", word_boundary="|")
    config = SearchConfig(nbest=5, symbol_threshold=0.1)
    found = PrefixDecoder(alphabet, config=config).decode(emissions_of(log_probs))
    assert {reading.text for reading in found} == {"a", ""}


def test_partial_readings_grow():
    emissions = spoken(WRITTEN)
    stream = PrefixDecoder(LETTERS, config=SearchConfig(beam_threshold=6.0)).stream(TIMING)
    seen = []
    for start in range(0, emissions.log_probs.shape[0], 10):
        stream.feed(emissions.log_probs[start : start + 10])
        seen.append(stream.partial())
    assert seen[-1].text == WRITTEN
    assert WRITTEN.startswith(seen[-1].stable_text)
    assert len(seen[-1].stable_text) > len(seen[len(seen) // 2].stable_text) > 0
    stream.finish()
    for action in (stream.partial, stream.finish, lambda: stream.feed(emissions.log_probs)):
        with pytest.raises(ConfigError, match="finished"):
            action()


def test_memory_follows_the_text_not_the_frames():
    rng = np.random.default_rng(0)
    stream = PrefixDecoder(LETTERS, config=SearchConfig(beam=20)).stream(TIMING)
    for _ in range(40):
        noise = torch.from_numpy(rng.normal(size=(500, len(LETTERS)))) * 2.0
        noise[:, LETTERS.blank_id] += 6.0
        stream.feed(noise.log_softmax(dim=-1))
    assert stream.frames == 20_000
    room = stream._working.prefix_numbers.shape[0]
    written = len(stream.finish()[0].text)
    assert room < 4 * (written + 4096)


def test_another_alphabet_is_refused():
    with pytest.raises(ShapeError, match="another alphabet"):
        PrefixDecoder(LETTERS).decode(emissions_of(torch.zeros(3, 5)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_log_probability_is_refused(value):
    log_probs = spoken("a cat").log_probs
    log_probs[3, 2] = value
    with pytest.raises(ShapeError, match="frame 3, symbol 2"):
        PrefixDecoder(LETTERS).decode(emissions_of(log_probs))


def test_a_model_of_words_needs_a_boundary(tmp_path):
    lm = model(tmp_path, {"ab": -1.0}, units="word")
    with pytest.raises(ConfigError, match="boundary"):
        PrefixDecoder(Alphabet(tokens=("-", "a", "b"), blank="-"), lm=lm)


def test_a_model_of_another_case_is_refused(tmp_path):
    with pytest.raises(AlphabetError, match="cased"):
        PrefixDecoder(LETTERS, lm=model(tmp_path, {"THE": -1.0, "CAT": -1.0}, units="word"))
    with pytest.raises(AlphabetError, match="cased"):
        PrefixDecoder(LETTERS, lm=model(tmp_path, {"T": -1.0, "|": -1.0}, units="character"))


@pytest.mark.parametrize("word", ["", "  ", "Ж"])
def test_a_hot_word_that_cannot_be_spelt_is_refused(word):
    with pytest.raises(AlphabetError):
        PrefixDecoder(LETTERS, hot_words=[word])


def test_with_config_shares_the_tables(tmp_path):
    lm = model(tmp_path, dict.fromkeys(WRITTEN.split(), -1.0))
    decoder = PrefixDecoder(LETTERS, lm=lm, config=SearchConfig(nbest=3))
    other = decoder.with_config(SearchConfig(nbest=1, lm_weight=0.25))
    assert other._spelt is decoder._spelt
    emissions = spoken(WRITTEN, sharpness=4.0)
    assert len(decoder.decode(emissions)) == 3
    (found,) = other.decode(emissions)
    assert found.parts.lm == pytest.approx(0.25 * lm.score_sentence(found.text))


def test_what_a_sweep_follows_was_written_in_this_frame():
    """After a boundary the best path has no place in a symbol; no number may be left there."""
    alphabet = Alphabet(tokens=("<blank>", "|", "a"), blank="<blank>", word_boundary="|")
    rng = np.random.default_rng(5)
    decoder = PrefixDecoder(alphabet, config=SearchConfig(beam=20, symbol_threshold=0.0))
    whole = emissions_of(torch.from_numpy(rng.normal(size=(60, 3))).log_softmax(-1))
    stream = decoder.stream(FrameTiming.of(whole))
    boundaries = 0
    for frame in whole.log_probs.split(1):
        working = stream._working
        side = working.counts[kernel.SIDE]
        working.slot_numbers[1 - side] = np.iinfo(np.int32).max  # what is never written stays
        stream.feed(frame)
        slots = working.slot_numbers[1 - side, : working.counts[kernel.SLOTS]]
        boundaries += int((slots[:, kernel.LAST_SYMBOL] == 1).sum())
        assert (slots[:, [kernel.B_ENTRY, kernel.N_ENTRY]] < working.counts[kernel.ENTRIES]).all()
    assert boundaries > 60
    assert stream.finish() == decoder.decode(whole)
