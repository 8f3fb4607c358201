"""A second model in the beam against every path of small lattices, and in pieces against whole."""

import itertools
import math

import numpy as np
import pytest
from tests.fused_models import ByLetters
from tests.properties import test_lexicon_search_properties as lexicon_cases
from tests.properties import test_prefix_search_properties as prefix_cases
from tests.properties.test_lexicon_search_properties import BOUNDED, UNBOUNDED
from tests.properties.test_prefix_search_properties import (
    LETTERS,
    TWO_BOUNDARIES,
    UNPRUNED,
    UNSPACED,
)
from tests.random_lattices import random_emissions, random_model

from unheard.decoding import fusion
from unheard.decoding.emissions import FrameTiming
from unheard.decoding.fusion import FusedDecoder
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.runs import boundary_ids
from unheard.decoding.search import SearchConfig


def text_of(symbols, alphabet):
    """Write symbols as the script joins words."""
    return (" " if boundary_ids(alphabet) else "").join(prefix_cases.words_of(symbols, alphabet))


def check_prefix(decoder, emissions, *, lm=None):
    """Compare readings with those of enumeration, the second model's score added."""
    config, alphabet, scorer = decoder.config, decoder.search.alphabet, decoder.scorer
    texts = {}
    for symbols, reference in prefix_cases.enumerate_texts(emissions, alphabet).items():
        parts = prefix_cases.score_parts(symbols, alphabet, config, lm=lm)
        text = text_of(symbols, alphabet)
        judged = config.fuse_weight * scorer.sentence(text)
        total = reference.acoustic + sum(parts.values()) + judged
        texts[text] = max(texts.get(text, (-math.inf, 0.0)), (total, judged))
    ranked = sorted(
        (text for text in texts if texts[text][0] > -math.inf), key=lambda t: -texts[t][0]
    )
    found = [one for one in decoder.decode(emissions) if one.score > -math.inf]
    assert [one.text for one in found] == ranked[: config.nbest]
    for one in found:
        total, judged = texts[one.text]
        assert one.score == pytest.approx(total, abs=1e-9)
        assert one.parts.total == one.score
        assert one.parts.fusion == pytest.approx(judged, abs=1e-9)
    return len(found)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("alphabet", [LETTERS, TWO_BOUNDARIES, UNSPACED])
def test_letters_with_nothing_pruned_are_exact(alphabet, frames):
    config = SearchConfig(**UNPRUNED, word_bonus=0.7, fuse_weight=0.8, fuse_frames=frames)
    decoder = FusedDecoder(PrefixDecoder(alphabet, config=config), ByLetters())
    cases = prefix_cases.lattices(15, alphabet, frames=5, seed=1)
    assert sum(check_prefix(decoder, emissions) for emissions in cases) > 40


def test_letters_with_an_ngram_beside_it_are_exact(tmp_path):
    rng = np.random.default_rng(2)
    words = prefix_cases.random_model(tmp_path, rng, units="word", words=["a", "ab", "bb", "aab"])
    letters = prefix_cases.random_model(tmp_path, rng, units="character", words=["|", "a", "b"])
    config = SearchConfig(**UNPRUNED, lm_weight=0.6, unknown_score=-1.0, fuse_frames=1)
    for lm in (words, letters):
        decoder = FusedDecoder(PrefixDecoder(LETTERS, lm=lm, config=config), ByLetters(1))
        cases = prefix_cases.lattices(12, LETTERS, frames=5, seed=3)
        assert sum(check_prefix(decoder, emissions, lm=lm) for emissions in cases) > 30


@pytest.mark.parametrize("alphabet", [BOUNDED, UNBOUNDED], ids=["boundary", "no-boundary"])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_lexicon_with_nothing_pruned_is_exact(alphabet, frames, tmp_path):
    rng = np.random.default_rng(5)
    scorer = ByLetters(2)
    for case in range(20):
        lexicon = lexicon_cases.random_lexicon(rng, alphabet)
        lm = table = None
        if case % 2:
            lm, table = random_model(rng, lexicon.words, tmp_path / f"{case}.arpa")
        config = SearchConfig(
            nbest=400,
            lm_weight=float(rng.uniform(0.2, 2.0)),
            word_bonus=float(rng.uniform(-1, 1)),
            fuse_weight=float(rng.uniform(0.2, 2.0)),
            fuse_frames=frames,
            **lexicon_cases.EVERYTHING,
        )
        emissions = random_emissions(rng, int(rng.integers(1, 7)), len(alphabet))
        plain = lexicon_cases.by_hand(emissions, lexicon, config, table=table)
        expected = {
            text: score + config.fuse_weight * scorer.sentence(text)
            for text, score in plain.items()
        }
        decoder = FusedDecoder(LexiconDecoder(lexicon, lm=lm, config=config), scorer)
        found = decoder.decode(emissions)
        assert len(found) == len(expected)
        lexicon_cases.check(found, expected)
        for one in found:
            judged = config.fuse_weight * scorer.sentence(one.text)
            assert one.parts.fusion == pytest.approx(judged, abs=1e-9)


@pytest.mark.parametrize("kind", ["letters", "unspaced", "lexicon"])
def test_readings_in_the_beam_have_been_judged(kind):
    """After a block, the best reading so far is the best with what its whole words are worth."""
    rng = np.random.default_rng(6)
    scorer = ByLetters(3)
    config = SearchConfig(
        **{**UNPRUNED, "nbest": 1}, fuse_weight=4.0, fuse_frames=1, look_ahead=False
    )
    alphabet = UNSPACED if kind == "unspaced" else LETTERS
    lexicon = Lexicon.from_words(["a", "b", "ab", "ba"], LETTERS)
    search = (
        LexiconDecoder(lexicon, config=config)
        if kind == "lexicon"
        else PrefixDecoder(alphabet, config=config)
    )
    decoder = FusedDecoder(search, scorer)
    changed = 0
    for _ in range(25):
        emissions = prefix_cases.random_emissions(rng, alphabet, 5)
        stream, plain = (one.stream(FrameTiming.of(emissions)) for one in (decoder, search))
        stream.feed(emissions.log_probs)
        plain.feed(emissions.log_probs)
        best, best_score = None, -math.inf
        for symbols, score in prefix_scores(emissions, alphabet, lexicon, kind):
            whole = whole_words(symbols, alphabet)
            text = text_of(whole, alphabet)
            score += config.fuse_weight * scorer.beginning(text)
            if score > best_score:
                best, best_score = text_of(symbols, alphabet), score
        assert stream.partial().text == best
        changed += plain.partial().text != best
    assert changed > 5


def prefix_scores(emissions, alphabet, lexicon, kind):
    """Every prefix with the sum of its paths; a boundary at the end is part of it, as -1."""
    table = emissions.log_probs.numpy()
    boundaries = boundary_ids(alphabet)
    sums = {}
    usable = [n for n, token in enumerate(alphabet.tokens) if token not in alphabet.special]
    for path in itertools.product(usable, repeat=table.shape[0]):
        written = []
        for symbol, _ in itertools.groupby(path):
            if symbol in boundaries:
                if written and written[-1] >= 0:
                    written.append(-1)
            elif symbol != alphabet.blank_id:
                written.append(symbol)
        key = tuple(written)
        score = sum(table[frame, symbol] for frame, symbol in enumerate(path))
        sums[key] = np.logaddexp(sums.get(key, -math.inf), score)
    for symbols, score in sums.items():
        words = text_of(symbols, alphabet).split(" ")
        known = set(lexicon.words) | {""}
        begun = any(word.startswith(words[-1]) for word in known)
        if kind != "lexicon" or (set(words[:-1]) <= known and begun):
            yield symbols, score


def whole_words(symbols, alphabet):
    """The symbols of words that are certain to be whole."""
    if boundary_ids(alphabet):
        ends = [place for place, symbol in enumerate(symbols) if symbol < 0]
        return symbols[: ends[-1]] if ends else ()
    starts = [
        place for place, s in enumerate(symbols) if not prefix_cases.is_mark(alphabet.tokens[s])
    ]
    return symbols[: starts[-1]] if starts else ()


def decoders(tmp_path, config, scorer):
    """Searches with a small beam, each with a second model in it."""
    rng = np.random.default_rng(10)
    words = ["a", "ab", "ba", "bb", "abba"]
    lm = prefix_cases.random_model(tmp_path, rng, units="word", words=words)
    searches = [
        PrefixDecoder(LETTERS, config=config),
        PrefixDecoder(LETTERS, lm=lm, config=config),
        PrefixDecoder(UNSPACED, config=config),
        LexiconDecoder(Lexicon.from_words(words, LETTERS), lm=lm, config=config),
        LexiconDecoder(Lexicon.from_words(["a", "b", "ab"], UNBOUNDED), config=config),
    ]
    alphabets = [LETTERS, LETTERS, UNSPACED, LETTERS, UNBOUNDED]
    return [
        (FusedDecoder(one, scorer), alphabet)
        for one, alphabet in zip(searches, alphabets, strict=True)
    ]


def test_pieces_give_the_same_as_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(fusion, "WINDOW_WORDS", 4)
    monkeypatch.setattr(fusion, "_SPARE_RECORDS", 20)
    rng = np.random.default_rng(11)
    config = SearchConfig(beam=8, beam_threshold=12.0, nbest=3, fuse_frames=5)
    words = 0
    for decoder, alphabet in decoders(tmp_path, config, ByLetters(4)):
        for _ in range(12):
            emissions = prefix_cases.long_case(rng, alphabet, int(rng.integers(0, 90)))
            whole = decoder.decode(emissions)
            frames = emissions.log_probs.shape[0]
            cuts = np.sort(rng.integers(0, frames + 1, size=rng.integers(0, 6)))
            stream = decoder.stream(FrameTiming.of(emissions))
            settling = decoder.stream(FrameTiming.of(emissions))
            said, stable = [], ""
            for start, stop in itertools.pairwise([0, *cuts, frames]):
                for one in (stream, settling):
                    one.feed(emissions.log_probs[start:stop])
                stream.fork().finish()
                said += [word.text for word in settling.settle()]
                assert stream.partial().stable_text.startswith(stable)
                stable = stream.partial().stable_text
            assert stream.finish(num_samples=emissions.num_samples) == whole
            rest = settling.finish(num_samples=emissions.num_samples)
            assert len(rest) == len(whole)
            for one, same in zip(rest, whole, strict=True):
                text = stream.separator.join([*said, *([one.text] if one.text else [])])
                assert text == same.text
                assert one.score == pytest.approx(same.score, abs=1e-6)
                assert one.parts.fusion == pytest.approx(same.parts.fusion, abs=1e-9)
                assert one.parts.total == pytest.approx(one.score, abs=1e-6)
            words += len(said)
    assert words > 50


def test_many_at_once_are_as_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fusion, "TOGETHER", 3)
    rng = np.random.default_rng(12)
    config = SearchConfig(beam=8, nbest=2, fuse_frames=7)
    for decoder, alphabet in decoders(tmp_path, config, ByLetters(5)):
        many = [prefix_cases.long_case(rng, alphabet, int(n)) for n in rng.integers(0, 60, 8)]
        expected = [decoder.decode(one) for one in many]
        decoder.scorer.calls.clear()
        assert decoder.decode_many(many, threads=1) == expected
        assert decoder.decode_many(many, threads=2) == expected
        # Words of three recordings are asked about at once.
        assert len(decoder.scorer.calls) < 2 * (8 + 3 * 60 / 7 + 3)


def test_a_beam_keeps_what_only_the_second_model_likes(tmp_path):
    """Beside putting the whole beam of an n-gram search in order, with the same weights."""
    rng = np.random.default_rng(13)
    words = ["a", "b", "ab", "ba", "aa", "bb", "abb"]
    lm = prefix_cases.random_model(tmp_path, rng, units="word", words=words)
    scorer = ByLetters(6)
    config = SearchConfig(beam=16, lm_weight=0.0, fuse_weight=2.0, fuse_frames=2)
    for search in (
        LexiconDecoder(Lexicon.from_words(words, LETTERS), lm=lm, config=config),
        PrefixDecoder(LETTERS, lm=lm, config=config),
    ):
        fused = FusedDecoder(search, scorer)
        plain = search.with_config(SearchConfig(beam=16, nbest=16, lm_weight=2.0))
        gains = []
        for _ in range(30):
            emissions = prefix_cases.long_case(rng, LETTERS, 40)
            best = max(
                one.score - one.parts.lm + 2.0 * scorer.sentence(one.text)
                for one in plain.decode(emissions)
            )
            gains.append(fused.decode(emissions)[0].score - best)
        assert np.mean(gains) > 1.0
