"""Smoothing: a model by the textbook, mass that adds up, pruning, small texts."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unheard.errors import ConfigError
from unheard.lm.kneser_ney import (
    FALLBACK_DISCOUNTS,
    Discounts,
    check_prune,
    estimate_discounts,
)
from unheard.lm.ngram import NgramModel, TrainedNgram, train_ngram


class Textbook:
    """Interpolated modified Kneser-Ney by its definition, with dictionaries and no pruning."""

    def __init__(self, sentences: list[list[str]], order: int) -> None:
        self.order = order
        occurrences: Counter[tuple[str, ...]] = Counter()
        before: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for words in sentences:
            tokens = ["<s>", *words, "</s>"]
            for length in range(1, order + 1):
                for start in range(len(tokens) - length + 1):
                    ngram = tuple(tokens[start : start + length])
                    occurrences[ngram] += 1
                    if start:
                        before[ngram].add(tokens[start - 1])
        self.adjusted = {
            ngram: count if len(ngram) == order or ngram[0] == "<s>" else len(before[ngram])
            for ngram, count in occurrences.items()
            if ngram != ("<s>",)
        }
        self.words = {ngram[0] for ngram in self.adjusted if len(ngram) == 1} | {"<unk>"}
        self.discounts = []
        for length in range(1, order + 1):
            counts = [count for ngram, count in self.adjusted.items() if len(ngram) == length]
            found = estimate_discounts(np.array(counts, dtype=np.int64))
            self.discounts.append(FALLBACK_DISCOUNTS if isinstance(found, str) else found)

    def probability(self, context: tuple[str, ...], word: str) -> float:
        lower = self.probability(context[1:], word) if context else 1 / len(self.words)
        discounts = (0.0, *self.discounts[len(context)])
        after = {
            ngram[-1]: count
            for ngram, count in self.adjusted.items()
            if len(ngram) == len(context) + 1 and ngram[:-1] == context
        }
        if not after:
            return lower
        total = sum(after.values())
        left = sum(discounts[min(count, 3)] for count in after.values())
        own = after[word] - discounts[min(after[word], 3)] if word in after else 0.0
        return own / total + left / total * lower


WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


@settings(max_examples=40)
@given(sentences=st.lists(WORDS.filter(bool), min_size=1, max_size=8), asked=WORDS)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_scores_are_those_of_the_definition(
    order: int, sentences: list[list[str]], asked: list[str]
) -> None:
    trained = train_ngram(map(" ".join, sentences), order=order)
    textbook = Textbook(sentences, order)
    assume(not any("leave nothing" in reason for reason in trained.fallbacks.values()))
    tokens = ["<s>", *(word if (word,) in textbook.adjusted else "<unk>" for word in asked), "</s>"]
    expected = [
        math.log(textbook.probability(tuple(tokens[max(place - order + 1, 0) : place]), word))
        for place, word in enumerate(tokens)
        if place
    ]
    scores = trained.model.score_words(asked)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6)


def _mass(model: NgramModel, history: list[str]) -> float:
    """Sum of the probabilities of everything that may come next."""
    words = [word for word in model.vocabulary.words if word != "<s>"]
    return math.fsum(math.exp(model.score_words([*history, word], end=False)[-1]) for word in words)


@settings(max_examples=30)
@given(
    sentences=st.lists(WORDS.filter(bool), min_size=1, max_size=30),
    history=st.lists(st.sampled_from("abcdx"), max_size=4),
    prune=st.sampled_from([(), (0, 1), (0, 0, 1), (0, 1, 2)]),
)
def test_probabilities_add_up_to_one(
    sentences: list[list[str]], history: list[str], prune: tuple[int, ...]
) -> None:
    model = train_ngram(map(" ".join, sentences), order=3, prune=prune).model
    assert _mass(model, history) == pytest.approx(1.0, abs=1e-5)


def test_discounts_follow_chen_and_goodman() -> None:
    # 8 n-grams seen once, 4 twice, 2 three times, 1 four times: Y = 8 / 16.
    adjusted = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4] + [9] * 7 + [0])
    assert estimate_discounts(adjusted) == Discounts(one=0.5, two=1.25, more=2.0)


@pytest.mark.parametrize(
    ("adjusted", "reason"),
    [
        ([1, 2, 4], "no n-gram has an adjusted count of 3"),
        ([5], "no n-gram has an adjusted count of 1 or 2 or 3"),
        ([1] * 9 + [2] + [3] * 9, "the discount of a count of 2 would be -20.1"),
    ],
)
def test_discounts_that_cannot_be_estimated(adjusted: list[int], reason: str) -> None:
    assert estimate_discounts(np.array(adjusted)) == reason


def _of(*texts: str, order: int = 3, **more) -> TrainedNgram:
    return train_ngram(texts, order=order, **more)


def test_a_tiny_text_falls_back_and_says_so() -> None:
    trained = _of("a b", order=2)
    assert trained.discounts == (FALLBACK_DISCOUNTS, FALLBACK_DISCOUNTS)
    assert set(trained.fallbacks) == {1, 2}
    assert "no n-gram has an adjusted count of 2 or 3" in trained.fallbacks[1]
    assert trained.model.score_sentence("a b") > trained.model.score_sentence("b a")


def test_pruning_leaves_out_what_is_rare_and_keeps_single_words() -> None:
    texts = ["a b c", "a b d", "e"]
    full = _of(*texts).model
    assert full.counts == (8, 8, 6)
    assert _of(*texts, prune=(0, 1)).model.counts == (8, 2, 1)
    assert _of(*texts, prune=(0, 0, 1)).model.counts == (8, 8, 1)
    assert _of(*texts, prune=(0, 9)).model.counts == (8, 0, 0)


@pytest.mark.parametrize("prune", [(1,), (0, 2, 1), (0, -1), (0, 0, 0, 1)])
def test_pruning_that_makes_no_sense(prune: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected at most 3 numbers that begin with 0"):
        _of("a b", prune=prune)


def test_the_last_threshold_holds_for_higher_orders() -> None:
    assert check_prune((0, 1), order=4) == (0, 1, 1, 1)
    assert check_prune((), order=2) == (0, 0)


@pytest.mark.parametrize("order", [0, 21])
def test_orders_out_of_range(order: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 20"):
        _of("a", order=order)


def test_a_text_without_a_word() -> None:
    with pytest.raises(ConfigError, match="found 2 empty ones"):
        _of("", "   ")


def test_empty_lines_and_markers_are_passed_over_and_counted() -> None:
    trained = _of("a <s> b", "", "<unk>", "b </s> a")
    assert (trained.sentences, trained.empty, trained.markers) == (2, 2, 3)
    clean = _of("a b", "b a")
    assert trained.model.vocabulary.words == clean.model.vocabulary.words
    np.testing.assert_array_equal(trained.model.tables.log_prob, clean.model.tables.log_prob)
