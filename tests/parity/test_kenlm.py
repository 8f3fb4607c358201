"""Our models are KenLM's: the same n-grams, the same numbers, the same sentence scores."""

import gzip
import hashlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unheard
from unheard.lm.arpa import LN_10
from unheard.lm.counts import count_ngrams, number_words
from unheard.lm.kneser_ney import smooth
from unheard.lm.ngram import NgramModel, train_ngram
from unheard.lm.trie import build_tables

ASSETS = Path(__file__).parents[1] / "assets" / "kenlm"
MODELS: dict[str, dict[str, Any]] = json.loads((ASSETS / "models.json").read_text())
TOLERANCE = 2e-6
"""Of log10 values; KenLM computes and writes in float32, with up to 17 in front of the point."""


@cache
def _texts() -> tuple[str, ...]:
    return tuple(gzip.decompress((ASSETS / "text.txt.gz").read_bytes()).decode().splitlines())


@cache
def _trained(name: str) -> NgramModel:
    settings = MODELS[name]
    trained = train_ngram(_texts(), order=settings["order"], prune=settings["prune"])
    assert trained.fallbacks == {}
    return trained.model


@cache
def _stored() -> NgramModel:
    return unheard.NgramModel.load(ASSETS / "3gram-prune.arpa.gz")


def _entries(model: NgramModel) -> list[dict[str, tuple[float, float]]]:
    """N-grams of each order with log10 probability and back-off."""
    tables = model.tables
    names = [""] * len(tables.word)
    inner = len(tables.backoff)
    orders: list[dict[str, tuple[float, float]]] = []
    depth = np.zeros(len(tables.word), dtype=int)
    for node in range(inner):
        for child in range(tables.first_child[node], tables.first_child[node + 1]):
            names[child] = f"{names[node]} {model.vocabulary.words[tables.word[child]]}".strip()
            depth[child] = depth[node] + 1
            backoff = float(tables.backoff[child]) if child < inner else 0.0
            while len(orders) < depth[child]:
                orders.append({})
            orders[depth[child] - 1][names[child]] = (
                float(tables.log_prob[child]) / LN_10,
                backoff / LN_10,
            )
    return orders


def _differences(model: NgramModel, name: str) -> list[str]:
    """What of a model is not as KenLM made it."""
    found = []
    orders = _entries(model)
    expected = MODELS[name]["orders"]
    assert len(orders) == len(expected)
    for order, (entries, known) in enumerate(zip(orders, expected, strict=True), start=1):
        listed = "".join(f"{words}\n" for words in sorted(entries))
        if hashlib.sha256(listed.encode()).hexdigest() != known["sha256"]:
            found.append(f"{order}-grams are others: {len(entries)} for {known['ngrams']}")
            continue
        for column, total in enumerate((known["sum_log10"], known["sum_backoff"])):
            ours = math.fsum(entry[column] for entry in entries.values())
            if abs(ours - total) > TOLERANCE / 2 * len(entries):
                found.append(f"sum {column} of {order}-grams: {ours} for {total}")
        for words, log_prob, backoff in known["sample"]:
            worst = max(abs(entries[words][0] - log_prob), abs(entries[words][1] - backoff))
            if worst > TOLERANCE:
                found.append(f"{words!r} is off by {worst}")
    return found


@pytest.mark.parametrize("name", MODELS)
def test_models_of_a_text_are_those_of_kenlm(name: str) -> None:
    assert _differences(_trained(name), name) == []


def test_every_number_of_a_model_is_that_of_kenlm() -> None:
    ours, theirs = _trained("3gram-prune"), _stored()
    assert ours.vocabulary.words == theirs.vocabulary.words
    np.testing.assert_array_equal(ours.tables.word, theirs.tables.word)
    np.testing.assert_array_equal(ours.tables.first_child, theirs.tables.first_child)
    np.testing.assert_array_equal(ours.tables.suffix, theirs.tables.suffix)
    tolerance = TOLERANCE * LN_10
    np.testing.assert_allclose(ours.tables.log_prob, theirs.tables.log_prob, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.tables.backoff, theirs.tables.backoff, rtol=0, atol=tolerance)


def test_the_comparison_sees_a_slightly_wrong_discount() -> None:
    counted = count_ngrams(number_words(text.split() for text in _texts()), 3)
    level = counted[1]
    level.adjusted[level.adjusted == 4] = 5  # moves the discount of three and more
    model = _trained("3gram")
    wrong = NgramModel(build_tables(smooth(counted).levels), model.vocabulary, units="word")
    assert any("2-grams" in difference for difference in _differences(wrong, "3gram"))


@pytest.mark.parametrize("name", MODELS)
def test_sentences_score_as_with_kenlm(name: str) -> None:
    model = _stored() if name == "3gram-prune" else _trained(name)
    scores = MODELS[name]["scores"]
    assert sum(unknown for _, unknown, _ in scores) > 10
    for log10, unknown, text in scores:
        assert model.score_sentence(text) / LN_10 == pytest.approx(log10, abs=1e-4)
        assert sum(model.word_id(word) == 0 for word in text.split()) == unknown
