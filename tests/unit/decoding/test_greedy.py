import math

import numpy as np
import pytest
import torch

from unheard.decoding.emissions import Emissions
from unheard.decoding.greedy import GreedyDecoder
from unheard.text.alphabet import Alphabet

LATIN = Alphabet(
    tokens=("<blank>", "|", "a", "b"), blank="<blank>", word_boundary="|", unknown=None
)


def emissions_of(ids, *, vocab=4, probability=0.9, num_samples=None):
    """Emissions whose best path is `ids`, each with the same probability."""
    log_probs = torch.full((len(ids), vocab), math.log((1 - probability) / (vocab - 1)))
    for frame, token in enumerate(ids):
        log_probs[frame, token] = math.log(probability)
    return Emissions(
        log_probs=log_probs,
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=len(ids) * 320 + 80 if num_samples is None else num_samples,
        sample_rate=16_000,
    )


def decode(emissions, alphabet):
    (hypothesis,) = GreedyDecoder(alphabet).decode(emissions)
    return hypothesis


def test_repeats_merge_and_blanks_separate():
    hypothesis = decode(emissions_of([2, 2, 0, 2, 1, 3, 3, 0]), LATIN)
    assert hypothesis.text == "aa b"
    assert [word.text for word in hypothesis.words] == ["aa", "b"]


def test_word_times_reach_half_a_stride_past_their_frames():
    first, second = decode(emissions_of([0, 2, 2, 0, 3, 1, 3]), LATIN).words
    # Frame f is centred on sample 200 + 320 f.
    assert first.start_seconds == pytest.approx((200 + 320 * 0.5) / 16_000)
    assert first.end_seconds == pytest.approx((200 + 320 * 4.5) / 16_000)
    assert second.start_seconds == pytest.approx((200 + 320 * 5.5) / 16_000)
    assert second.end_seconds == pytest.approx((200 + 320 * 6.5) / 16_000)


def test_times_stay_within_the_recording():
    (word,) = decode(emissions_of([2], num_samples=400), LATIN).words
    assert word.start_seconds == pytest.approx(40 / 16_000)
    assert word.end_seconds == pytest.approx(360 / 16_000)
    (word,) = decode(emissions_of([2], num_samples=250), LATIN).words
    assert word.end_seconds == pytest.approx(250 / 16_000)


def test_confidence_is_the_geometric_mean_over_frames_with_a_symbol():
    emissions = emissions_of([2, 0, 3, 1, 3])
    for frame, probability in ((0, 0.8), (1, 0.5), (2, 0.6), (3, 0.7), (4, 0.9)):
        emissions.log_probs[frame] = math.log((1 - probability) / 3)
        emissions.log_probs[frame, [2, 0, 3, 1, 3][frame]] = math.log(probability)
    hypothesis = decode(emissions, LATIN)
    first, second = hypothesis.words
    assert first.confidence == pytest.approx(math.sqrt(0.8 * 0.6))
    assert second.confidence == pytest.approx(0.9)
    assert hypothesis.confidence == pytest.approx((0.8 * 0.6 * 0.7 * 0.9) ** 0.25)
    assert hypothesis.score == pytest.approx(math.log(0.8 * 0.5 * 0.6 * 0.7 * 0.9))


def test_only_blanks_and_no_frames():
    silence = decode(emissions_of([0, 0, 0], probability=0.7), LATIN)
    assert (silence.text, silence.words) == ("", ())
    assert silence.confidence == pytest.approx(0.7)
    nothing = decode(emissions_of([]), LATIN)
    assert (nothing.text, nothing.words, nothing.confidence, nothing.score) == ("", (), 0.0, 0.0)


def test_boundaries_alone_make_no_word():
    hypothesis = decode(emissions_of([1, 1, 0, 1]), LATIN)
    assert (hypothesis.text, hypothesis.words) == ("", ())


def test_right_to_left_text_is_in_logical_order():
    alphabet = Alphabet(
        tokens=("<blank>", "|", "س", "ل", "ا", "م"),
        blank="<blank>",
        word_boundary="|",
        unknown=None,
    )
    hypothesis = decode(emissions_of([2, 3, 4, 5, 1, 5], vocab=6), alphabet)
    assert hypothesis.text == "سلام م"
    starts = [word.start_seconds for word in hypothesis.words]
    assert starts == sorted(starts)


def test_without_a_boundary_each_symbol_with_its_marks_is_a_word():
    # Khmer: two letters, the second with a vowel sign that has no composed form.
    alphabet = Alphabet(
        tokens=("<blank>", "ក", "ខ", "ិ"), blank="<blank>", word_boundary=None, unknown=None
    )
    hypothesis = decode(emissions_of([1, 0, 2, 3, 3]), alphabet)
    assert hypothesis.text == "កខិ"
    assert [word.text for word in hypothesis.words] == ["ក", "ខិ"]


def test_special_symbols_are_not_written():
    alphabet = Alphabet(
        tokens=("<pad>", "<s>", "|", "a"),
        blank="<pad>",
        word_boundary="|",
        unknown=None,
        special=("<s>",),
    )
    hypothesis = decode(emissions_of([1, 2, 3, 3]), alphabet)
    assert hypothesis.text == "a"
    assert len(hypothesis.words) == 1


def test_text_is_what_collapse_and_decode_give():
    generator = np.random.default_rng(0)
    for _ in range(50):
        ids = generator.integers(0, 4, size=generator.integers(0, 40)).tolist()
        hypothesis = decode(emissions_of(ids), LATIN)
        assert hypothesis.text == LATIN.decode(LATIN.collapse(ids))
        assert hypothesis.text.split() == [word.text for word in hypothesis.words]
        edges = [
            edge for word in hypothesis.words for edge in (word.start_seconds, word.end_seconds)
        ]
        assert edges == sorted(edges)
