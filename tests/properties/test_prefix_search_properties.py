"""The prefix search against every path of small lattices, and in pieces against the whole."""

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from unheard.decoding import prefix_search
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.runs import boundary_ids, is_mark
from unheard.decoding.search import SearchConfig
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet

LETTERS = Alphabet(tokens=("-", "|", "a", "b"), blank="-", word_boundary="|")
TWO_BOUNDARIES = Alphabet(tokens=("a", "|", "-", " "), blank="-", word_boundary="|")
UNSPACED = Alphabet(tokens=("-", "あ", "い", "\u3099", "<s>"), blank="-", special=("<s>",))

UNPRUNED = {
    "beam": 100_000,
    "beam_threshold": math.inf,
    "symbol_threshold": math.inf,
    "nbest": 6,
}
STRIDE, OFFSET, RATE = 320, 200, 16_000


def random_model(folder, rng, *, units, words):
    """An n-gram model with random scores, bigrams and back-offs for some words."""
    unigrams = ["<unk>", "<s>", "</s>", *words]
    # What follows "<s>", or precedes anything but "</s>".
    bigrams = [
        (first, second)
        for first in ["<s>", *words]
        for second in ["</s>", *words]
        if rng.random() < 0.5
    ]
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    for word in unigrams:
        score = -99 if word == "<s>" else -rng.uniform(0.1, 2.0)
        lines.append(f"{score:.6f}\t{word}\t{-rng.uniform(0.0, 1.0):.6f}")
    lines += ["", "\\2-grams:"]
    lines += [f"{-rng.uniform(0.1, 1.5):.6f}\t{a} {b}" for a, b in bigrams]
    path = folder / f"{units}.arpa"
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return NgramModel.load(path, units=units)


def random_emissions(rng, alphabet, frames, *, holes=False):
    log_probs = np.log(rng.dirichlet(np.full(len(alphabet), 0.8), size=frames) + 1e-12)
    if holes:
        log_probs[rng.random(log_probs.shape) < 0.2] = -math.inf
    return Emissions(
        log_probs=torch.from_numpy(log_probs),
        frame_stride_samples=STRIDE,
        frame_offset_samples=OFFSET,
        num_samples=frames * STRIDE,
        sample_rate=RATE,
    )


@dataclass
class Reference:
    """One text of a lattice, by enumeration."""

    acoustic: float
    path: tuple[int, ...]
    path_score: float


def enumerate_texts(emissions, alphabet, *, boundary_bonus=0.0):
    """Sum the probability of every path into its sequence of written symbols."""
    table = emissions.log_probs.numpy()
    boundaries = boundary_ids(alphabet)
    unwritten = {alphabet.tokens.index(token) for token in alphabet.special}
    sums, best = defaultdict(list), {}
    usable = [n for n in range(len(alphabet)) if n not in unwritten]
    for path in itertools.product(usable, repeat=table.shape[0]):
        score = sum(
            table[frame, symbol] + (boundary_bonus if symbol in boundaries else 0.0)
            for frame, symbol in enumerate(path)
        )
        if score == -math.inf:
            continue
        written = []
        for symbol, _ in itertools.groupby(path):
            if symbol == alphabet.blank_id:
                continue
            if symbol in boundaries:
                if written and written[-1] >= 0:
                    written.append(-1)
            else:
                written.append(symbol)
        if written and written[-1] < 0:
            written.pop()
        key = tuple(written)
        sums[key].append(score)
        if key not in best or score > best[key][1]:
            best[key] = (path, score)
    return {
        key: Reference(float(np.logaddexp.reduce(scores)), *best[key])
        for key, scores in sums.items()
    }


def words_of(symbols, alphabet):
    """Words as symbols, by the definition of the alphabet's script."""
    groups = [[]]
    for symbol in symbols:
        unspaced = not boundary_ids(alphabet)
        if symbol < 0 or (unspaced and not is_mark(alphabet.tokens[symbol])):
            groups.append([])
        if symbol >= 0:
            groups[-1].append(symbol)
    return [alphabet.decode(group) for group in groups if group]


def score_parts(symbols, alphabet, config, *, lm=None, hot_words=()):
    """Everything in a score that is not acoustic, from its definition."""
    words = words_of(symbols, alphabet)
    parts = {"lm": 0.0, "unknown_words": 0.0, "hot_words": 0.0}
    if boundary_ids(alphabet):
        count = len(words)
    else:
        count = sum(not is_mark(alphabet.tokens[symbol]) for symbol in symbols)
    parts["words"] = config.word_bonus * count
    if lm is not None:
        if lm.units == "word":
            units = words
            unknown = sum(word not in lm.vocabulary and word not in hot_words for word in words)
        else:
            units = ["|" if symbol < 0 else alphabet.tokens[symbol] for symbol in symbols]
            unknown = sum(unit not in lm.vocabulary for unit in units)
        parts["lm"] = config.lm_weight * float(lm.score_words(units).sum())
        parts["unknown_words"] = config.unknown_score * unknown if unknown else 0.0
    for phrase, bonus in dict(hot_words).items():
        if boundary_ids(alphabet):
            looked, wanted = words, phrase.split()
        else:
            looked, wanted = list("".join(words)), list(phrase)
        parts["hot_words"] += bonus * sum(
            looked[start : start + len(wanted)] == wanted for start in range(len(looked))
        )
    return parts


def timed_words(path, table, alphabet):
    """(text, start, end, confidence) of each word on one path, and the confidence of all."""
    boundaries = boundary_ids(alphabet)
    frames_of, group, last = [], [], None
    for frame, symbol in enumerate(path):
        if symbol == alphabet.blank_id:
            last = None
            continue
        if symbol in boundaries:
            if group:
                frames_of.append(group)
            group = []
        else:
            starts = symbol != last and not boundaries and not is_mark(alphabet.tokens[symbol])
            if starts and group:
                frames_of.append(group)
                group = []
            group.append(frame)
        last = symbol
    if group:
        frames_of.append(group)
    sounding = [frame for frame, symbol in enumerate(path) if symbol != alphabet.blank_id]

    def confidence(frames):
        if not frames:
            return 0.0
        return math.exp(np.mean([table[frame, path[frame]] for frame in frames]))

    words = [
        (
            alphabet.decode(alphabet.collapse(path[group[0] : group[-1] + 1])),
            max(0.0, OFFSET + (group[0] - 0.5) * STRIDE) / RATE,
            min(table.shape[0] * STRIDE, OFFSET + (group[-1] + 0.5) * STRIDE) / RATE,
            confidence(group),
        )
        for group in frames_of
    ]
    return words, confidence(sounding or range(len(path)))


def check(decoder, emissions, *, lm=None, hot_words=()):
    """Compare the n-best readings of a search with those of enumeration; return how many."""
    alphabet, config = decoder.alphabet, decoder.config
    reference = enumerate_texts(emissions, alphabet, boundary_bonus=config.boundary_bonus)
    parts = {
        symbols: score_parts(symbols, alphabet, config, lm=lm, hot_words=hot_words)
        for symbols in reference
    }
    totals = {
        symbols: reference[symbols].acoustic + sum(parts[symbols].values()) for symbols in parts
    }
    # Where two sequences of symbols are one text, the better one is listed.
    ranked = sorted((s for s in totals if totals[s] > -math.inf), key=lambda s: -totals[s])
    texts = {}
    separator = " " if boundary_ids(alphabet) else ""
    for symbols in ranked:
        texts.setdefault(separator.join(words_of(symbols, alphabet)), symbols)
    found = decoder.decode(emissions)
    expected = list(texts.items())[: config.nbest]
    if not expected:
        assert [h.score for h in found] == [-math.inf] * len(found)
        return 0
    found = [hypothesis for hypothesis in found if hypothesis.score > -math.inf]
    assert [hypothesis.text for hypothesis in found] == [text for text, _ in expected]
    for hypothesis, (_, symbols) in zip(found, expected, strict=True):
        assert hypothesis.score == pytest.approx(totals[symbols], abs=1e-9)
        assert hypothesis.parts.total == hypothesis.score
        assert hypothesis.parts.acoustic == pytest.approx(reference[symbols].acoustic, abs=1e-9)
        for name, value in parts[symbols].items():
            assert getattr(hypothesis.parts, name) == pytest.approx(value, abs=1e-9)
        words, confidence = timed_words(
            reference[symbols].path, emissions.log_probs.numpy(), alphabet
        )
        assert len(words) == len(hypothesis.words)
        for word, (text, start, end, probability) in zip(hypothesis.words, words, strict=True):
            assert word.text == text
            assert word.start_seconds == pytest.approx(start, abs=1e-9)
            assert word.end_seconds == pytest.approx(end, abs=1e-9)
            assert word.confidence == pytest.approx(probability, rel=1e-9)
        assert hypothesis.confidence == pytest.approx(confidence, rel=1e-9)
    return len(expected)


def lattices(count, alphabet, *, frames, seed):
    """Random lattices of 0 to `frames` frames, every third with impossible symbols."""
    rng = np.random.default_rng(seed)
    for case in range(count):
        yield random_emissions(rng, alphabet, int(rng.integers(frames + 1)), holes=case % 3 == 2)


@pytest.mark.parametrize("alphabet", [LETTERS, TWO_BOUNDARIES, UNSPACED])
def test_without_a_model_the_best_texts_are_those_of_all_paths(alphabet):
    config = SearchConfig(**UNPRUNED, word_bonus=0.7, boundary_bonus=-0.3)
    decoder = PrefixDecoder(alphabet, config=config)
    assert sum(check(decoder, e) for e in lattices(20, alphabet, frames=5, seed=1)) > 50


@pytest.mark.parametrize("look_ahead", [True, False])
@pytest.mark.parametrize("unknown_score", [-1.5, 0.5, -math.inf])
def test_with_a_model_of_words(tmp_path, unknown_score, look_ahead):
    rng = np.random.default_rng(2)
    words = ["a", "ab", "bb", "aab"]
    lm = random_model(tmp_path, rng, units="word", words=words)
    config = SearchConfig(
        **UNPRUNED,
        lm_weight=0.8,
        word_bonus=-0.4,
        unknown_score=unknown_score,
        look_ahead=look_ahead,
    )
    decoder = PrefixDecoder(LETTERS, lm=lm, config=config)
    counted = sum(check(decoder, e, lm=lm) for e in lattices(20, LETTERS, frames=5, seed=3))
    assert counted > 40


@pytest.mark.parametrize("alphabet", [LETTERS, UNSPACED])
def test_with_a_model_of_characters(tmp_path, alphabet):
    rng = np.random.default_rng(4)
    characters = {"LETTERS": ["|", "a", "b"], "UNSPACED": ["あ", "い"]}
    known = characters["LETTERS" if alphabet is LETTERS else "UNSPACED"]
    lm = random_model(tmp_path, rng, units="character", words=known)
    config = SearchConfig(**UNPRUNED, lm_weight=1.2, word_bonus=0.3, unknown_score=-2.0)
    decoder = PrefixDecoder(alphabet, lm=lm, config=config)
    counted = sum(check(decoder, e, lm=lm) for e in lattices(20, alphabet, frames=5, seed=5))
    assert counted > 60


def test_with_hot_words(tmp_path):
    rng = np.random.default_rng(6)
    lm = random_model(tmp_path, rng, units="word", words=["a", "ab"])
    hot = {"b": 2.0, "a b": 1.5, "ab": -1.0, "bb": 3.0}
    for model in (None, lm):
        config = SearchConfig(**UNPRUNED, lm_weight=0.5, unknown_score=-3.0)
        decoder = PrefixDecoder(LETTERS, lm=model, hot_words=hot, config=config)
        for emissions in lattices(15, LETTERS, frames=5, seed=7):
            check(decoder, emissions, lm=model, hot_words=hot)


def test_hot_words_stand_anywhere_in_a_script_without_boundaries():
    hot = {"あい": 2.0, "い": 0.5, "ああ": 1.0}
    decoder = PrefixDecoder(UNSPACED, hot_words=hot, config=SearchConfig(**UNPRUNED))
    counted = 0
    for emissions in lattices(20, UNSPACED, frames=5, seed=8):
        counted += check(decoder, emissions, hot_words=hot)
    assert counted > 60


def test_a_beam_that_is_too_small_finds_no_better_text_than_there_is():
    config = SearchConfig(**{**UNPRUNED, "nbest": 1})
    whole = PrefixDecoder(LETTERS, config=config)
    narrow = whole.with_config(SearchConfig(beam=2))
    worse = 0
    for emissions in lattices(60, LETTERS, frames=9, seed=9):
        exact, rough = whole.decode(emissions)[0], narrow.decode(emissions)[0]
        assert rough.score <= exact.score + 1e-9
        worse += rough.score < exact.score - 1e-9
    assert worse > 10  # or the narrow beam pruned nothing, and the comparison says nothing


def long_case(rng, alphabet, frames):
    """Peaked frames, as trained models give, with enough doubt to fill a beam."""
    logits = rng.normal(size=(frames, len(alphabet))) * 2.0
    logits[:, alphabet.blank_id] += 2.0
    log_probs = torch.log_softmax(torch.from_numpy(logits).float(), dim=-1)
    return Emissions(
        log_probs=log_probs,
        frame_stride_samples=STRIDE,
        frame_offset_samples=OFFSET,
        num_samples=frames * STRIDE,
        sample_rate=RATE,
    )


def test_a_stream_ends_as_the_whole_does(tmp_path, monkeypatch):
    """200 random inputs in random pieces, with and without models; the trees are swept often."""
    monkeypatch.setattr(prefix_search, "_LEAST_ROOM", 16)
    rng = np.random.default_rng(10)
    words = random_model(tmp_path, rng, units="word", words=["a", "ab", "ba", "bb", "abba"])
    characters = random_model(tmp_path, rng, units="character", words=["a", "b", "|"])
    config = SearchConfig(beam=8, beam_threshold=12.0, symbol_threshold=6.0, nbest=4)
    decoders = [
        PrefixDecoder(LETTERS, config=config),
        PrefixDecoder(LETTERS, lm=words, hot_words=["abba"], config=config),
        PrefixDecoder(LETTERS, lm=characters, config=config),
        PrefixDecoder(UNSPACED, config=config),
    ]
    stable_parts = 0
    for case in range(200):
        decoder = decoders[case % len(decoders)]
        emissions = long_case(rng, decoder.alphabet, int(rng.integers(0, 90)))
        whole = decoder.decode(emissions)
        frames = emissions.log_probs.shape[0]
        cuts = np.sort(rng.integers(0, frames + 1, size=rng.integers(0, 6)))
        stream = decoder.stream(FrameTiming.of(emissions))
        stable = ""
        for start, stop in itertools.pairwise([0, *cuts, frames]):
            stream.feed(emissions.log_probs[start:stop])
            partial = stream.partial()
            assert partial.stable_text.startswith(stable)
            assert partial.text.startswith(partial.stable_text)
            stable = partial.stable_text
        streamed = stream.finish(num_samples=emissions.num_samples)
        assert streamed == whole
        assert all(reading.text.startswith(stable) for reading in whole)
        stable_parts += bool(stable)
    assert stable_parts > 50


def test_sweeping_changes_nothing(monkeypatch):
    rng = np.random.default_rng(11)
    decoder = PrefixDecoder(LETTERS, config=SearchConfig(beam=6, nbest=3))
    emissions = [long_case(rng, LETTERS, 400) for _ in range(5)]
    whole = decoder.decode_many(emissions, threads=1)
    monkeypatch.setattr(prefix_search, "_LEAST_ROOM", 1)
    stream = decoder.stream(FrameTiming.of(emissions[0]))
    room = stream._working.prefix_numbers.shape[0]
    assert room == 32 * 6  # far fewer than the prefixes of 400 frames: they are swept
    assert decoder.decode_many(emissions, threads=2) == whole
