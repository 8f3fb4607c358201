"""Searches that hand out their certain words on the way end as if they had not."""

import math

import numpy as np
import pytest
import torch
from tests.random_lattices import emissions_of, random_model

from unheard.decoding import prefix_search
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.search import Decoder, SearchConfig
from unheard.errors import ConfigError
from unheard.text.alphabet import Alphabet

LATIN = Alphabet(tokens=("<blank>", "|", "a", "b", "c"), blank="<blank>", word_boundary="|")
SCRIPT = Alphabet(tokens=("<blank>", "ก", "ข", "ค", "ี"), blank="<blank>")
SPACED_WORDS = ["ab", "ba", "abc", "c", "cc"]
CONFIG = SearchConfig(beam=30, beam_threshold=8.0, word_bonus=0.3, lm_weight=0.6)
KINDS = [
    "greedy",
    "greedy without spaces",
    "prefix",
    "prefix with a model",
    "prefix without spaces",
    "lexicon",
    "lexicon with a model",
    "lexicon without spaces",
]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    folder = tmp_path_factory.mktemp("models")
    lm, _ = random_model(np.random.default_rng(0), SPACED_WORDS, folder / "words.arpa")
    script = Lexicon.from_spellings(
        [("กข", ["ก", "ข"]), ("ค", ["ค"]), ("ขี", ["ข", "ี"])], SCRIPT, boundary_after=False
    )
    words = Lexicon.from_words(SPACED_WORDS, LATIN)
    found = [
        GreedyDecoder(LATIN),
        GreedyDecoder(SCRIPT),
        PrefixDecoder(LATIN, hot_words={"abc": 1.0}, config=CONFIG),
        PrefixDecoder(LATIN, lm=lm, config=CONFIG),
        PrefixDecoder(SCRIPT, config=CONFIG),
        LexiconDecoder(words, hot_words={"ab": 1.0, "ba c": 2.0}, config=CONFIG),
        LexiconDecoder(words, lm=lm, config=CONFIG),
        LexiconDecoder(script, config=CONFIG),
    ]
    return dict(zip(KINDS, found, strict=True))


def speech(frames: int, seed: int) -> Emissions:
    """A planted path with pauses, and noise that makes some frames doubtful."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (frames, 5))
    path = np.repeat(generator.choice(5, frames, p=[0.4, 0.2, 0.15, 0.15, 0.1]), 2)[:frames]
    logits[np.arange(frames), path] += generator.uniform(1, 8, frames)
    return emissions_of(torch.from_numpy(logits).log_softmax(dim=-1).float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_settled_words_and_the_rest_are_the_whole(decoders, kind, seed):
    decoder, emissions = decoders[kind], speech(600, seed)
    whole = decoder.decode(emissions)[0]
    generator = np.random.default_rng(seed)
    stream = decoder.stream(FrameTiming.of(emissions))
    words, start = [], 0
    while start < 600:
        size = int(generator.integers(0, 60))
        stream.feed(emissions.log_probs[start : start + size])
        start += size
        words += stream.settle()
        # What is certain is among what is believed, and what is believed begins with it.
        partial = stream.partial()
        assert partial.text.startswith(partial.stable_text)
    assert len(words) > 20, "most words must be settled on the way"
    last = stream.finish(num_samples=emissions.num_samples)[0]
    assert [word.text for word in (*words, *last.words)] == [word.text for word in whole.words]
    times = [(word.start_seconds, word.end_seconds) for word in (*words, *last.words)]
    expected = [(word.start_seconds, word.end_seconds) for word in whole.words]
    apart = np.abs(np.array(times) - np.array(expected))
    # In the light of later frames the best path to a word may be another one.
    assert apart.max() <= (0.0 if "greedy" in kind else 0.5)
    assert (apart == 0).mean() > 0.9
    assert last.score == pytest.approx(whole.score, rel=1e-9)
    assert last.confidence == pytest.approx(whole.confidence, abs=0.0 if "greedy" in kind else 0.02)
    if whole.parts is not None:
        for part in ("acoustic", "lm", "words", "unknown_words", "hot_words"):
            assert getattr(last.parts, part) == pytest.approx(getattr(whole.parts, part), abs=1e-6)
    with pytest.raises(ConfigError, match="finished"):
        stream.settle()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_goes_its_own_way(decoders, kind):
    decoder, emissions, other = decoders[kind], speech(200, 2), speech(200, 3)
    stream = decoder.stream(FrameTiming.of(emissions))
    stream.feed(emissions.log_probs[:100])
    fork = stream.fork()
    fork.feed(other.log_probs)
    fork.settle()
    second = stream.fork()
    second.feed(emissions.log_probs[100:])
    told = fork.finish()[0]
    stream.feed(emissions.log_probs[100:])
    expected = decoder.decode(emissions)
    assert stream.finish(num_samples=emissions.num_samples) == expected
    assert second.finish(num_samples=emissions.num_samples) == expected
    assert told.text != expected[0].text


@pytest.mark.parametrize("kind", KINDS)
def test_memory_follows_what_is_open(decoders, kind):
    """A search that settles holds no more after ten times the frames."""
    decoder = decoders[kind]
    emissions = speech(400, 4)
    stream = decoder.stream(FrameTiming.of(emissions))
    sizes = []
    for _ in range(30):
        for start in range(0, 400, 100):
            stream.feed(emissions.log_probs[start : start + 100])
            stream.settle()
        sizes.append(_held(stream))
    assert max(sizes[20:]) <= 1.5 * max(sizes[:3])


def test_what_memory_held_before_a_prefix_search_does_not_matter(decoders, monkeypatch):
    """Rows that a search does not keep up must not lead its sweeps astray."""
    allocate = prefix_search._allocate

    def poisoned(limits, vocab):
        working = allocate(limits, vocab)
        for array in working:
            array[...] = 10**9 if array.dtype.kind == "i" else math.nan
        return working

    monkeypatch.setattr(prefix_search, "_allocate", poisoned)
    decoder, emissions = decoders["prefix"], speech(300, 5)
    stream = decoder.stream(FrameTiming.of(emissions))
    words = []
    for frame in emissions.log_probs.split(3):
        stream.feed(frame)
        words += stream.settle()
    words += stream.finish()[0].words
    monkeypatch.undo()
    whole = decoder.decode(emissions)[0].words
    assert [word.text for word in words] == [word.text for word in whole]


def _held(stream) -> int:
    """Numbers that a search has in use."""
    if hasattr(stream, "_pieces"):
        return sum(piece.token_ids.shape[0] for piece in stream._pieces)
    if hasattr(stream, "_working"):
        return int(stream._working.counts[:2].sum())
    return int(stream._histories.used[0]) + sum(map(len, stream._frames))
