"""Rescoring: the parts add up to the score, and the order is that of the scores."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from unheard.decoding.hypothesis import Hypothesis, ScoreParts, Word
from unheard.decoding.rescore import RescoreConfig, mix, rescore, rescore_many, sentence_scores
from unheard.errors import ConfigError, ShapeError
from unheard.lm.ngram import train_ngram


class Scorer:
    """Gives a text minus its length, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def score_sentences(self, texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked.append(list(texts))
        return np.asarray([-float(len(text)) for text in texts])


def reading(text: str, **parts: float) -> Hypothesis:
    words = tuple(
        Word(text=word, start_seconds=0.0, end_seconds=1.0, confidence=1.0) for word in text.split()
    )
    made = ScoreParts(**parts)
    return Hypothesis(text=text, words=words, confidence=0.5, score=made.total, parts=made)


NBEST = [
    reading("a long one", acoustic=-10.0, lm=-4.0, words=3.0, unknown_words=-2.0, hot_words=1.0),
    reading("short", acoustic=-11.25, lm=-2.0, words=1.0),
    reading("", acoustic=-20.0),
]


def test_parts_add_up_and_order_by_score() -> None:
    config = RescoreConfig(weight=0.5, lm_scale=0.25, word_bonus=-0.5)
    found = rescore(NBEST, Scorer(), config)
    assert [one.text for one in found] == ["short", "a long one", ""]
    long = found[1]
    assert long.parts == ScoreParts(
        acoustic=-10.0,
        lm=-1.0,
        words=1.5,
        unknown_words=-0.5,
        hot_words=1.0,
        rescoring=-5.0,
    )
    for one in found:
        assert one.parts is not None
        assert one.score == one.parts.total
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert long.words == NBEST[0].words
    assert long.confidence == 0.5


def test_without_weight_nothing_changes() -> None:
    assert rescore(NBEST, Scorer(), RescoreConfig(weight=0.0)) == NBEST


def test_the_second_model_can_turn_the_order() -> None:
    assert rescore(NBEST, Scorer(), RescoreConfig(weight=0.04))[0].text == "a long one"
    assert rescore(NBEST, Scorer(), RescoreConfig(weight=1.0))[0].text == "short"


def test_two_models_in_turn_add_up() -> None:
    config = RescoreConfig(weight=0.5)
    twice = rescore(rescore(NBEST, Scorer(), config), Scorer(), config)
    once = rescore(NBEST, Scorer(), RescoreConfig(weight=1.0))
    assert twice == once


def test_greedy_readings_have_their_score_as_acoustic_part() -> None:
    greedy = replace(NBEST[1], parts=None, score=-3.0)
    found = rescore([greedy], Scorer(), RescoreConfig(weight=1.0))[0]
    assert found.parts == ScoreParts(acoustic=-3.0, rescoring=-5.0)
    assert found.score == -8.0


def test_many_recordings_are_asked_about_at_once() -> None:
    scorer = Scorer()
    many = [NBEST, [], NBEST[1:]]
    found = rescore_many(many, scorer, RescoreConfig(weight=1.0))
    assert [len(one) for one in found] == [3, 0, 2]
    assert found[0] == rescore(NBEST, Scorer(), RescoreConfig(weight=1.0))
    assert scorer.asked == [["a long one", "short", "", "short", ""]]
    scores = sentence_scores(many, Scorer())
    assert [one.tolist() for one in scores] == [[-10.0, -5.0, 0.0], [], [-5.0, 0.0]]


def test_an_ngram_model_can_be_the_second_one() -> None:
    lines = ["a long one"] * 5 + ["a short one"]
    model = train_ngram(lines, order=2).model
    found = rescore(NBEST, model, RescoreConfig(weight=2.0))
    by_text = {one.text: one for one in found}
    for before in NBEST:
        assert before.parts is not None
        expected = before.score + 2 * model.score_sentence(before.text)
        assert by_text[before.text].score == pytest.approx(expected)
    assert found[0].text == "a long one"


def test_an_impossible_text_comes_last_and_counts_nothing_without_weight() -> None:
    scores = [-math.inf, -1.0, -1.0]
    assert mix(NBEST, scores, RescoreConfig(weight=1.0))[-1].text == "a long one"
    assert mix(NBEST, scores, RescoreConfig(weight=0.0)) == NBEST


def test_equal_scores_keep_their_order() -> None:
    same = [replace(NBEST[1], text=text) for text in "ba"]
    assert [one.text for one in mix(same, [-1.0, -1.0], RescoreConfig())] == ["b", "a"]


@pytest.mark.parametrize("scores", [[-1.0], [-1.0, math.nan, -1.0]])
def test_scores_that_do_not_fit_are_refused(scores: list[float]) -> None:
    with pytest.raises(ShapeError, match="expected 3"):
        mix(NBEST, scores, RescoreConfig())


@pytest.mark.parametrize(
    "setting", [{"weight": -0.1}, {"lm_scale": math.inf}, {"word_bonus": math.nan}]
)
def test_weights_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        RescoreConfig(**setting)
