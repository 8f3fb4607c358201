"""What a language model of any kind can be asked: how probable texts are, unit by unit."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SentenceScorer(Protocol):
    """A language model that scores whole sentences."""

    def score_sentences(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the natural log-probability of each text, its end included, (texts,)."""
        ...


class UnitScorer(SentenceScorer, Protocol):
    """A language model that says how each unit of a text adds to its score."""

    def score_units(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return, for each text, the log-probability of each unit and of the end [nats]."""
        ...

    def unknown_units(self, text: str) -> NDArray[np.bool_]:
        """Tell which units of a text the model does not know, (units,)."""
        ...


class BeginningScorer(SentenceScorer, Protocol):
    """A language model that can be asked before a text is whole; threads may share it."""

    def score_beginnings(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the natural log-probability that a text begins with each of these, (texts,).

        They are whole words, and nothing is said of what follows: the empty text scores 0. A
        text's sentence score is that of its beginning and what its end adds.
        """
        ...
