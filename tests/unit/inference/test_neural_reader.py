"""Reading word by word gives what reading whole texts gives, whatever was read before."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.properties import test_prefix_search_properties as cases
from tests.random_lattices import random_emissions
from tests.small_language_models import TEXTS, small_language_model

from unheard.decoding.fusion import FusedDecoder
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.search import SearchConfig
from unheard.inference import neural_reader
from unheard.inference.neural_model import NeuralModel
from unheard.inference.neural_reader import NeuralReader
from unheard.text.alphabet import Alphabet

WORDS = ["abc", "abd", "e", "cab", "zz", "d", "abe"]
LETTERS = Alphabet(tokens=("-", "|", "a", "b", "c", "d"), blank="-", word_boundary="|")


def beginnings(model, texts):
    """Sum the pieces of each text, its end left out."""
    return np.array([found[:-1].sum() for found in model.score_units(texts)])


@pytest.mark.parametrize("context", [64, 6, 7])
def test_scores_are_those_of_whole_texts(context):
    """With short contexts, long texts are read in stretches."""
    model = NeuralModel(small_language_model(context=context))
    reader = NeuralReader(model)
    texts = [*TEXTS, "", "abc", "zz abc", "abc d e " * 4]
    for _ in range(2):  # first read, then remembered
        np.testing.assert_allclose(
            reader.score_sentences(texts), model.score_sentences(texts), atol=1e-4
        )
        np.testing.assert_allclose(
            reader.score_beginnings(texts), beginnings(model, texts), atol=1e-4
        )
    assert reader.score_beginnings([""]) == [0.0]
    assert np.ptp(model.score_sentences(texts)) > 100


def test_what_is_forgotten_is_read_again(monkeypatch):
    monkeypatch.setattr(neural_reader, "KEPT_BYTES", 0)
    monkeypatch.setattr(neural_reader, "_FIRST_ROOM", 16)
    monkeypatch.setattr(neural_reader, "BATCH_PLACES", 8)
    model = NeuralModel(small_language_model(context=7))
    reader = NeuralReader(model)
    rng = np.random.default_rng(0)
    for _ in range(20):
        texts = [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(5)]
        np.testing.assert_allclose(
            reader.score_sentences(texts), model.score_sentences(texts), atol=1e-4
        )
        assert reader._tree._rows < 200
    assert reader._tree._nodes < 200


def test_what_readings_have_in_common_is_read_once(monkeypatch):
    model = NeuralModel(small_language_model(context=64))
    reader = NeuralReader(model)
    network = model.bundle.model
    steps = []
    step = network.step
    monkeypatch.setattr(network, "step", lambda *given: steps.append(len(given[0])) or step(*given))
    start = "abc abd e cab"
    reader.score_beginnings([start])
    steps.clear()
    reader.score_beginnings([f"{start} {word}" for word in WORDS])
    pieces = model.bundle.pieces
    new = {tuple(pieces.encode(word)[:end]) for word in WORDS for end in range(len(word))}
    assert 0 < sum(steps) <= len(new) + 1  # the start's last piece, and no word's last


def test_threads_take_turns():
    model = NeuralModel(small_language_model(context=64))
    reader = NeuralReader(model)
    texts = [" ".join(words) for words in itertools.product(WORDS, repeat=2)]
    parts = [texts[start::7] for start in range(7)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(reader.score_sentences, parts))
    for part, scores in zip(parts, found, strict=True):
        np.testing.assert_allclose(scores, model.score_sentences(part), atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_transformer_in_the_beam_is_exact_with_nothing_pruned(frames):
    rng = np.random.default_rng(1)
    model = NeuralModel(small_language_model(context=64))
    reader = NeuralReader(model)
    lexicon = Lexicon.from_words(["ab", "a", "d", "cab"], LETTERS)
    unpruned = {"beam": 3_000, "beam_threshold": math.inf, "symbol_threshold": math.inf}
    plain = LexiconDecoder(lexicon, config=SearchConfig(nbest=2_000, **unpruned))
    config = SearchConfig(nbest=5, fuse_weight=0.1, fuse_frames=frames, **unpruned)
    fused = FusedDecoder(plain.with_config(config), reader)
    for _ in range(5):
        emissions = random_emissions(rng, 6, len(LETTERS))
        readings = plain.decode(emissions)
        judged = 0.1 * model.score_sentences([one.text for one in readings])
        ranked = sorted(
            ((one.score + score, one.text) for one, score in zip(readings, judged, strict=True)),
            reverse=True,
        )
        found = fused.decode(emissions)
        assert [one.text for one in found] == [text for _, text in ranked[:5]]
        assert [one.score for one in found] == pytest.approx([s for s, _ in ranked[:5]], abs=1e-4)
        assert all(one.parts.total == pytest.approx(one.score) for one in found)


def test_many_recordings_share_what_is_asked():
    rng = np.random.default_rng(2)
    reader = NeuralReader(NeuralModel(small_language_model(context=64)))
    lexicon = Lexicon.from_words(["ab", "a", "d", "cab", "bad"], LETTERS)
    fused = FusedDecoder(
        LexiconDecoder(lexicon, config=SearchConfig(beam=10, nbest=2, fuse_weight=0.1)), reader
    )
    many = [cases.long_case(rng, LETTERS, int(n)) for n in rng.integers(1, 60, 6)]
    expected = [fused.decode(one) for one in many]
    for threads in (1, 2):
        found = fused.decode_many(many, threads=threads)
        assert [[one.text for one in readings] for readings in found] == [
            [one.text for one in readings] for readings in expected
        ]
        for readings, same in zip(found, expected, strict=True):
            assert [r.score for r in readings] == pytest.approx([r.score for r in same], abs=1e-3)
