"""The search through a lexicon against all paths written down, and in pieces against whole."""

import itertools
import math

import numpy as np
import pytest
from tests.random_lattices import (
    emissions_of,
    path_scores,
    random_emissions,
    random_model,
    sentence_score,
)

from unheard.decoding.emissions import FrameTiming
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.search import SearchConfig
from unheard.text.alphabet import Alphabet

BOUNDED = Alphabet(tokens=("<blank>", "|", "a", "b"), blank="<blank>", word_boundary="|")
UNBOUNDED = Alphabet(tokens=("a", "<blank>", "b"), blank="<blank>")
SPELLINGS = ("a", "b", "aa", "ab", "ba", "bb", "aba", "bab", "abb")
EVERYTHING = {"beam": 3_000, "beam_threshold": math.inf, "symbol_threshold": math.inf}


def random_lexicon(rng, alphabet):
    """Four to six words, two of them alike, one with two spellings."""
    count = int(rng.integers(3, 6))
    chosen = [str(s) for s in rng.choice(SPELLINGS, count, replace=False)]
    rows = [(f"w{place}", list(spelling)) for place, spelling in enumerate(chosen)]
    rows.append(("alike", list(chosen[0])))
    rows.append(("w1", list(str(rng.choice(SPELLINGS)))))
    bounded = alphabet.word_boundary is not None and bool(rng.random() < 0.7)
    return Lexicon.from_spellings(rows, alphabet, boundary_after=bounded)


def segmentations(chunk, spellings):
    """All ways to write a run of symbols as spellings."""
    if not chunk:
        yield ()
    for spelling in spellings:
        if chunk[: len(spelling)] == spelling:
            for rest in segmentations(chunk[len(spelling) :], spellings):
                yield (spelling, *rest)


def readings(symbols, lexicon):
    """All word sequences that a symbol sequence writes, once for each choice of spellings."""
    boundary = lexicon.alphabet.word_boundary_id
    chunks = [
        tuple(run)
        for is_boundary, run in itertools.groupby(symbols, lambda s: s == boundary)
        if not is_boundary
    ]
    words_of = {}
    for word, spelling in lexicon.spellings:
        words_of.setdefault(spelling, []).append(lexicon.words[word])
    parts = []
    for chunk in chunks:
        if lexicon.boundary_after:
            parts.append([(chunk,)] if chunk in words_of else [])
        else:
            parts.append(list(segmentations(chunk, list(words_of))))
    for choice in itertools.product(*parts):
        spelt = [spelling for segmentation in choice for spelling in segmentation]
        yield from itertools.product(*(words_of[spelling] for spelling in spelt))


def by_hand(emissions, lexicon, config, *, table=None, hot=None):
    """Text -> score of its best reading, from all paths."""
    log_probs = emissions.log_probs.numpy().astype(np.float64)
    if lexicon.alphabet.word_boundary_id is not None:
        log_probs[:, lexicon.alphabet.word_boundary_id] += config.boundary_bonus
    acoustic = {}
    for symbols, score in path_scores(log_probs, lexicon.alphabet.blank_id).items():
        for words in readings(symbols, lexicon):
            acoustic[words] = np.logaddexp(acoustic.get(words, -math.inf), score)
    scores = {}
    for words, score in acoustic.items():
        total = score + config.word_bonus * len(words)
        if table is not None:
            total += config.lm_weight * sentence_score(table, words)
            total += config.unknown_score * sum((word,) not in table for word in words)
        for phrase, bonus in (hot or {}).items():
            wanted = tuple(phrase.split())
            places = range(len(words) - len(wanted) + 1)
            total += bonus * sum(words[p : p + len(wanted)] == wanted for p in places)
        text = lexicon.separator.join(words)
        if total > scores.get(text, -math.inf):
            scores[text] = total
    return scores


def check(found, expected):
    """The readings are the best that are expected, best first, with their scores."""
    ranked = sorted(expected.values(), reverse=True)
    assert [h.score for h in found] == pytest.approx(ranked[: len(found)], abs=1e-4)
    assert len({hypothesis.text for hypothesis in found}) == len(found)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=1e-4)
        assert hypothesis.parts.total == pytest.approx(hypothesis.score, abs=1e-9)


@pytest.mark.parametrize("alphabet", [BOUNDED, UNBOUNDED], ids=["boundary", "no-boundary"])
@pytest.mark.parametrize("with_lm", [False, True], ids=["plain", "lm"])
def test_nothing_pruned_finds_what_all_paths_give(alphabet, with_lm, tmp_path):
    rng = np.random.default_rng(5 + with_lm)
    cut_short = 0
    for case in range(25):
        lexicon = random_lexicon(rng, alphabet)
        lm = table = None
        if with_lm:
            known = [word for word in lexicon.words if word != "w2"]
            lm, table = random_model(rng, known, tmp_path / f"{case}.arpa")
        hot = {"w0": 1.5, "w1 w0": 2.0, "w0 w1 w0": 0.7} if case % 3 == 0 else {}
        config = SearchConfig(
            nbest=400,
            lm_weight=float(rng.uniform(0.2, 2.0)),
            word_bonus=float(rng.uniform(-1, 1)),
            unknown_score=float(rng.uniform(-3, 1)),
            boundary_bonus=float(rng.uniform(-1, 0.5)),
            look_ahead=bool(rng.random() < 0.7),
            **EVERYTHING,
        )
        emissions = random_emissions(rng, int(rng.integers(1, 7)), len(alphabet))
        expected = by_hand(emissions, lexicon, config, table=table, hot=hot)
        decoder = LexiconDecoder(lexicon, lm=lm, hot_words=hot, config=config)
        found = decoder.decode(emissions)
        assert len(found) == len(expected)
        check(found, expected)
        one = decoder.with_config(SearchConfig(**{**vars(config), "nbest": 1}))
        check(one.decode(emissions), expected)
        narrow = decoder.with_config(SearchConfig(**{**vars(config), "nbest": 1, "beam": 1}))
        (first,) = narrow.decode(emissions)
        cut_short += first.score < found[0].score - 1e-6
    # The comparison can tell a search that loses readings from one that does not.
    assert cut_short > 3


def test_pieces_give_the_same_as_the_whole(tmp_path):
    rng = np.random.default_rng(1)
    compared = 0
    for alphabet in (BOUNDED, UNBOUNDED):
        lexicon = random_lexicon(rng, alphabet)
        lm, _ = random_model(rng, lexicon.words, tmp_path / "lm.arpa")
        config = SearchConfig(beam=8, lm_weight=0.5, word_bonus=0.3, nbest=3)
        decoder = LexiconDecoder(lexicon, lm=lm, config=config)
        for _ in range(100):
            emissions = random_emissions(rng, int(rng.integers(0, 60)), len(alphabet))
            whole = decoder.decode(emissions)
            stream = decoder.stream(FrameTiming.of(emissions))
            frames = emissions.log_probs.shape[0]
            cuts = sorted(rng.integers(0, frames + 1, int(rng.integers(0, 8))).tolist())
            stable = ""
            for begin, end in itertools.pairwise([0, *cuts, frames]):
                stream.feed(emissions.log_probs[begin:end])
                partial = stream.partial()
                assert partial.stable_text.startswith(stable)
                assert partial.text.startswith(partial.stable_text)
                stable = partial.stable_text
            pieces = stream.finish(num_samples=emissions.num_samples)
            assert pieces == whole
            assert all(hypothesis.text.startswith(stable) for hypothesis in whole)
            compared += bool(whole[0].text)
    assert compared > 100


def test_threads_give_the_same_as_one(tmp_path):
    rng = np.random.default_rng(2)
    lexicon = random_lexicon(rng, BOUNDED)
    lm, _ = random_model(rng, lexicon.words, tmp_path / "lm.arpa")
    decoder = LexiconDecoder(lexicon, lm=lm, config=SearchConfig(beam=20, lm_weight=1.0, nbest=2))
    many = [random_emissions(rng, int(rng.integers(1, 80)), 4) for _ in range(40)]
    expected = [decoder.decode(one) for one in many]
    assert decoder.decode_many(many, threads=4) == expected
    assert len({hypotheses[0].text for hypotheses in expected}) > 20


def test_a_long_recording_needs_no_room_for_what_it_forgot(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    lexicon = random_lexicon(rng, BOUNDED)
    lm, _ = random_model(rng, lexicon.words, tmp_path / "lm.arpa")
    decoder = LexiconDecoder(lexicon, lm=lm, config=SearchConfig(beam=6, lm_weight=1.0))
    emissions = random_emissions(rng, 900, 4)
    expected = decoder.decode(emissions)
    monkeypatch.setattr("unheard.decoding.lexicon_search._FIRST_ROOM", 8)
    assert decoder.decode(emissions) == expected
    assert len(expected[0].words) > 80


def test_a_path_lies_where_the_best_of_all_paths_lies():
    rng = np.random.default_rng(4)
    for _ in range(20):
        lexicon = random_lexicon(rng, BOUNDED)
        emissions = random_emissions(rng, 5, 4)
        log_probs = emissions.log_probs.numpy().astype(np.float64)
        best = {}
        for path in itertools.product(range(4), repeat=5):
            score = sum(log_probs[t, v] for t, v in enumerate(path))
            symbols = tuple(v for v, _ in itertools.groupby(path) if v)
            for words in readings(symbols, lexicon):
                if score > best.get(words, (-math.inf,))[0]:
                    best[words] = (score, path)
        decoder = LexiconDecoder(lexicon, config=SearchConfig(nbest=50, **EVERYTHING))
        for hypothesis in decoder.decode(emissions):
            words = tuple(hypothesis.text.split())
            score, path = best[words]
            carried = [t for t, v in enumerate(path) if v > 1]
            if not words:
                continue
            first, last = hypothesis.words[0], hypothesis.words[-1]
            stride, half = 320 / 16_000, 160
            assert first.start_seconds == pytest.approx(
                (200 + 320 * carried[0] - half) / 16_000, abs=stride / 100
            )
            assert last.end_seconds == pytest.approx(
                (200 + 320 * carried[-1] + half) / 16_000, abs=stride / 100
            )
            symbols = [log_probs[t, v] for t, v in enumerate(path) if v]
            assert hypothesis.confidence == pytest.approx(math.exp(np.mean(symbols)), rel=1e-5)


def test_extreme_emissions_stay_finite():
    lexicon = Lexicon.from_words(["a", "ab", "b"], BOUNDED)
    rng = np.random.default_rng(6)
    flat = random_emissions(rng, 3_000, 4).log_probs
    certain = flat.clone()
    certain[::7] = -math.inf
    certain[::7, 0] = 0.0
    decoder = LexiconDecoder(lexicon, config=SearchConfig(beam=10))
    for log_probs in (flat, flat - 50.0, certain, flat * 30):
        (hypothesis,) = decoder.decode(emissions_of(log_probs))
        assert math.isfinite(hypothesis.score)
        assert hypothesis.parts.total == pytest.approx(hypothesis.score, rel=1e-12)
