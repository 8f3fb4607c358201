"""Scores of texts by a Transformer: each is that of the text alone, and probabilities add up."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.small_language_models import TEXTS, small_language_model

from unheard.inference import neural_model
from unheard.inference.neural_model import NeuralModel
from unheard.interop.language_model import save_language_model
from unheard.lm.pieces import END_ID, START_ID

MODEL = NeuralModel(small_language_model(context=64))


def plainly(text: str) -> list[float]:
    """Score a text piece by piece, each with all that came before it."""
    network, pieces = MODEL.bundle.model, MODEL.bundle.pieces
    tokens = [START_ID, *pieces.encode(text), END_ID]
    found = []
    for place in range(1, len(tokens)):
        with torch.inference_mode():
            logits = network(torch.tensor([tokens[:place]]))[0, -1].double()
        found.append(float(logits.log_softmax(dim=0)[tokens[place]]))
    return found


def test_scores_are_those_of_each_text_alone() -> None:
    texts = [*TEXTS, "", "abc", "zz abc", "a" * 40]
    found = MODEL.score_sentences(texts)
    assert found.dtype == np.float64
    for text, score in zip(texts, found, strict=True):
        assert score == pytest.approx(sum(plainly(text)), abs=1e-4)
        assert MODEL.score_sentence(text) == pytest.approx(score, abs=1e-4)
    assert np.ptp(found) > 10


def test_pieces_add_up_to_the_text() -> None:
    pieces = MODEL.score_pieces("abc zab")
    assert [one.piece for one in pieces] == [*MODEL.bundle.pieces.split("abc zab"), "</s>"]
    assert [one.log_prob for one in pieces] == pytest.approx(plainly("abc zab"), abs=1e-5)
    assert MODEL.unknown_units("abc zab").sum() == 1


def test_probabilities_of_what_may_follow_add_up_to_one() -> None:
    pieces = MODEL.bundle.pieces
    network = MODEL.bundle.model
    with torch.inference_mode():
        following = network(torch.tensor([[START_ID]]))[0, 0].log_softmax(dim=0).exp()
    assert float(following.sum()) == pytest.approx(1.0, abs=1e-5)
    # The empty text is that whose end follows at once.
    assert math.exp(MODEL.score_sentence("")) == pytest.approx(float(following[END_ID]), abs=1e-6)
    assert len(following) == len(pieces)


def test_batches_within_bounds_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(words) for words in itertools.product(["abc", "d", "e ab"], repeat=3)]
    whole = MODEL.score_sentences(texts)
    monkeypatch.setattr(neural_model, "BATCH_TOKENS", 40)
    rows: list[tuple[int, ...]] = []
    network = MODEL.bundle.model
    handle = network.register_forward_hook(lambda *call: rows.append(tuple(call[1][0].shape)))
    try:
        found = MODEL.score_sentences(texts)
    finally:
        handle.remove()
    assert max(batch * length for batch, length in rows if batch > 1) <= 40
    assert 5 < len(rows) < 27
    np.testing.assert_allclose(found, whole, atol=1e-4)


def test_equal_texts_are_scored_once() -> None:
    seen: list[int] = []
    network = MODEL.bundle.model
    handle = network.register_forward_hook(lambda *call: seen.append(call[1][0].shape[0]))
    try:
        found = MODEL.score_sentences(["abc", "d", "abc", "abc"])
    finally:
        handle.remove()
    assert sum(seen) == 2
    assert found[0] == found[2] == found[3]
    assert MODEL.score_sentences([]).shape == (0,)


@pytest.mark.parametrize("context", [1, 2, 5, 6])
def test_a_long_text_is_seen_through_half_a_context_at_least(context: int) -> None:
    bundle = small_language_model(context=context)
    model = NeuralModel(bundle)
    text = "abc abd cab e d " * 4
    tokens = [START_ID, *bundle.pieces.encode(text), END_ID]
    step = max(1, context // 2)
    expected = []
    for place in range(1, len(tokens)):
        # The first stretch that reaches so far: stretches begin every `step` tokens.
        start = 0
        while start + context < place:
            start += step
        with torch.inference_mode():
            logits = bundle.model(torch.tensor([tokens[start:place]]))[0, -1].double()
        expected.append(float(logits.log_softmax(dim=0)[tokens[place]]))
    np.testing.assert_allclose(model.score_units([text])[0], expected, atol=1e-4)


def test_a_stored_model_scores_the_same(tmp_path: Path) -> None:
    save_language_model(MODEL.bundle, tmp_path / "lm")
    loaded = NeuralModel.load(tmp_path / "lm")
    assert loaded.score_sentences(TEXTS).tolist() == MODEL.score_sentences(TEXTS).tolist()
