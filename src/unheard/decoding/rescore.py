"""Readings of a search, put into a new order by what a second language model says of them.

A search keeps what an n-gram model finds probable; a Transformer reads whole sentences, but is too
slow to be asked at every frame. Rescoring the n-best of a wide beam gave its authors about the
error rate of a search with the Transformer in it (facebookresearch/fairseq#3080).

Source: wav2letter recipes/sota/2019, "rescoring": a linear mix of scores with weights of their own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unheard.decoding.hypothesis import Hypothesis, ScoreParts
from unheard.errors import ConfigError, ShapeError
from unheard.lm.scorer import SentenceScorer


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """How a second language model's opinion is mixed in. Everything is in nats.

    The new score of a reading is the old one, with its language-model part times `lm_scale`, plus
    `weight` times the natural log-probability of its text, plus `word_bonus` for each word.

    Published weights of Transformer models (0.87 to 1.47, see docs/language-models.md) are of
    natural logarithms already, and were used without an n-gram: give them with an `lm_scale` of 0,
    and the word score as the search's `word_bonus`.

    Attributes:
        weight: of the second model's natural log-probability; 0 or more.
        lm_scale: factor on what the search's own language model said, unknown words among it: 1
            keeps it, 0 forgets it.
        word_bonus: added for each word, besides that of the search.

    Raises:
        ConfigError: if a setting is out of its range.
    """

    weight: float = 0.5
    lm_scale: float = 1.0
    word_bonus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what makes no order."""
        for name in ("weight", "lm_scale", "word_bonus"):
            value = getattr(self, name)
            if not math.isfinite(value) or (value < 0 and name != "word_bonus"):
                raise ConfigError(
                    f"{name} of rescoring is out of range: expected a finite number"
                    f"{'' if name == 'word_bonus' else ', 0 or more'}, found {value!r}."
                )


def rescore(
    hypotheses: Sequence[Hypothesis], scorer: SentenceScorer, config: RescoreConfig | None = None
) -> list[Hypothesis]:
    """Put the readings of one recording into a new order.

    Several models can be asked in turn: what each adds is summed in `parts.rescoring`.

    Args:
        hypotheses: n-best readings of a search, or of anything that scores in nats.
        scorer: the second language model: a `NeuralModel`, an `NgramModel` or the like.
        config: weights.

    Returns:
        The same readings, best first, with new scores that are the sums of their new parts. Equal
        scores keep their order.
    """
    return rescore_many([hypotheses], scorer, config)[0]


def rescore_many(
    nbest: Sequence[Sequence[Hypothesis]],
    scorer: SentenceScorer,
    config: RescoreConfig | None = None,
) -> list[list[Hypothesis]]:
    """Put the readings of many recordings into a new order; the model sees them all at once."""
    scores = sentence_scores(nbest, scorer)
    config = config or RescoreConfig()
    return [mix(one, found, config) for one, found in zip(nbest, scores, strict=True)]


def sentence_scores(
    nbest: Sequence[Sequence[Hypothesis]], scorer: SentenceScorer
) -> list[NDArray[np.float64]]:
    """Ask a language model about all readings, once, before weights are tried with `mix`.

    Returns:
        For each recording the natural log-probabilities of its readings' texts, float64
        (readings,).
    """
    found = scorer.score_sentences([one.text for hypotheses in nbest for one in hypotheses])
    ends = np.cumsum([len(hypotheses) for hypotheses in nbest])[:-1]
    return np.split(np.asarray(found, dtype=np.float64), ends)


def mix(
    hypotheses: Sequence[Hypothesis], scores: Iterable[float], config: RescoreConfig
) -> list[Hypothesis]:
    """Mix known scores of texts into those of readings, and sort.

    Args:
        hypotheses: readings of one recording.
        scores: natural log-probability of each of their texts.
        config: weights.

    Raises:
        ShapeError: if there is not one score for each reading, or one is no number.
    """
    known = [float(score) for score in scores]
    if len(known) != len(hypotheses) or any(math.isnan(score) for score in known):
        raise ShapeError(
            f"rescoring needs a score for each reading: expected {len(hypotheses)} numbers, found "
            f"{known}."
        )
    mixed = [
        _mixed(hypothesis, score, config)
        for hypothesis, score in zip(hypotheses, known, strict=True)
    ]
    return sorted(mixed, key=lambda hypothesis: -hypothesis.score)


def _mixed(hypothesis: Hypothesis, score: float, config: RescoreConfig) -> Hypothesis:
    """Give one reading its new parts."""
    before = hypothesis.parts or ScoreParts(acoustic=hypothesis.score)
    parts = replace(
        before,
        lm=_times(config.lm_scale, before.lm),
        unknown_words=_times(config.lm_scale, before.unknown_words),
        words=before.words + config.word_bonus * len(hypothesis.words),
        rescoring=before.rescoring + _times(config.weight, score),
    )
    return replace(hypothesis, parts=parts, score=parts.total)


def _times(weight: float, score: float) -> float:
    """Multiply; what has no weight counts nothing, even if it is impossible."""
    return weight * score if weight else 0.0
