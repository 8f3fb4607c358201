"""Back-off n-gram models: load one, score text with it."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unheard.lm import arpa
from unheard.lm.kernel import NgramTables, as_state, score_ids
from unheard.lm.units import Units, guess_units, split_text
from unheard.lm.vocabulary import SENTENCE_END, SENTENCE_START, Vocabulary


class NgramModel:
    """A back-off n-gram model. All scores are natural logarithms.

    Attributes:
        tables: what compiled functions work on; see `unheard.lm.kernel.ngram_step`.
        vocabulary: words and their numbers.
        units: what the model calls a word: "word", "character" or "piece".
        order: length of the longest n-grams [words].
        unknown_id: number of the unknown word, always 0.
        end_id: number of the word that ends a sentence.
        empty_state: nothing was heard.
        start_state: a sentence begins.
    """

    def __init__(self, tables: NgramTables, vocabulary: Vocabulary, *, units: Units) -> None:
        self.tables = tables
        self.vocabulary = vocabulary
        self.units: Units = units
        self.order = int(tables.order)
        self.unknown_id = 0
        self.end_id = vocabulary.id_of(SENTENCE_END)
        self.empty_state = 0
        start = vocabulary.id_of(SENTENCE_START)
        self.start_state = int(as_state(tables, 1 + start)) if start else 0

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, units: Units | None = None) -> "NgramModel":
        """Read a model from an ARPA file.

        Args:
            path: the file; ARPA may be packed with gzip.
            units: what the model calls a word. An ARPA file does not say so; by default it is
                told from the vocabulary (see `unheard.lm.units.guess_units`).

        Raises:
            FormatError: if the file is not a whole, sound model.
        """
        vocabulary, tables = arpa.read_arpa(Path(path))
        return cls(tables, vocabulary, units=units or guess_units(vocabulary.words))

    def word_id(self, word: str) -> int:
        """Number of a word; 0, the unknown word, if it is not in the vocabulary."""
        return self.vocabulary.id_of(word)

    def score_sentence(self, text: str) -> float:
        """Return the log-probability of a sentence, its end included [nats].

        Args:
            text: split into the model's units at white space of ASCII; nothing else is changed.
        """
        return float(self.score_words(split_text(text, self.units)).sum())

    def score_words(
        self, words: Sequence[str], *, start: bool = True, end: bool = True
    ) -> npt.NDArray[np.float64]:
        """Return the log-probability of each word after all before it [nats].

        Args:
            words: units of the model, in order.
            start: whether a sentence begins with the first.
            end: whether it ends after the last, which adds a score.

        Returns:
            float64 (words,) or (words + 1,).
        """
        ids = [self.vocabulary.id_of(word) for word in words]
        if end:
            ids.append(self.end_id)
        log_probs = np.empty(len(ids), dtype=np.float64)
        state = self.start_state if start else self.empty_state
        score_ids(self.tables, state, np.array(ids, dtype=np.int32), log_probs)
        return log_probs
