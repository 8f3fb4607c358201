"""Back-off n-gram models: train one, load one, score text with it."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unheard.errors import ConfigError
from unheard.files import read_json, write_json_atomic
from unheard.lm.arpa import read_arpa, write_arpa
from unheard.lm.binary import StoredModel, is_binary, read_binary, write_binary
from unheard.lm.counts import count_ngrams, number_words
from unheard.lm.kernel import NgramTables, as_state, score_ids
from unheard.lm.kneser_ney import Discounts, check_prune, smooth
from unheard.lm.pieces import Pieces
from unheard.lm.trie import build_tables, count_levels
from unheard.lm.units import Units, guess_units, split_text
from unheard.lm.vocabulary import SENTENCE_END, SENTENCE_START, Vocabulary

MOST_ORDERS = 20
"""Longest n-grams that are trained; models of characters profit from more than words do."""

_ARPA = (".arpa", ".arpa.gz")
_BINARY = ".unheard-lm"


class NgramModel:
    """A back-off n-gram model. All scores are natural logarithms.

    Attributes:
        tables: what compiled functions work on; see `unheard.lm.kernel.ngram_step`.
        vocabulary: words and their numbers.
        units: what the model calls a word: "word", "character" or "piece".
        pieces: how text is split into word pieces; None for other units, and where it is not
            known.
        order: length of the longest n-grams [words].
        unknown_id: number of the unknown word, always 0.
        end_id: number of the word that ends a sentence.
        empty_state: nothing was heard.
        start_state: a sentence begins.
    """

    def __init__(
        self,
        tables: NgramTables,
        vocabulary: Vocabulary,
        *,
        units: Units,
        pieces: Pieces | None = None,
    ) -> None:
        self.tables = tables
        self.vocabulary = vocabulary
        self.units: Units = units
        self.pieces = pieces
        self.order = int(tables.order)
        self.unknown_id = 0
        self.end_id = vocabulary.id_of(SENTENCE_END)
        self.empty_state = 0
        start = vocabulary.id_of(SENTENCE_START)
        self.start_state = int(as_state(tables, 1 + start)) if start else 0

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, units: Units | None = None) -> "NgramModel":
        """Read a model: an ARPA file, plain or packed with gzip, or one in our own format.

        Args:
            path: the file; its content tells the format.
            units: what the model calls a word. An ARPA file does not say so; by default it is
                told from the vocabulary (see `unheard.lm.units.guess_units`). Word pieces are
                read from beside an ARPA file, where `save` puts them.

        Raises:
            FormatError: if the file is not a whole, sound model.
            OSError: if it cannot be read.
        """
        if is_binary(path):
            stored = read_binary(path)
            return cls(
                stored.tables,
                stored.vocabulary,
                units=units or stored.units,
                pieces=stored.pieces,
            )
        vocabulary, tables = read_arpa(path)
        units = units or guess_units(vocabulary.words)
        beside = _pieces_path(Path(path))
        pieces = None
        if units == "piece" and beside.exists():
            pieces = Pieces.from_dict(read_json(beside))
        return cls(tables, vocabulary, units=units, pieces=pieces)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, whole or not at all.

        Args:
            path: ends in ".arpa", ".arpa.gz", or ".unheard-lm" for our own format, which is
                mapped into memory when it is loaded. Beside an ARPA file of word pieces, the
                pieces are put in a file that ends in ".pieces.json".

        Raises:
            ConfigError: if the name ends in something else.
        """
        target = check_name(path)
        if target.name.endswith(_BINARY):
            stored = StoredModel(
                tables=self.tables,
                vocabulary=self.vocabulary,
                units=self.units,
                pieces=self.pieces,
            )
            write_binary(target, stored)
            return
        if self.pieces is not None:
            write_json_atomic(_pieces_path(target), self.pieces.to_dict())
        write_arpa(target, self.vocabulary, self.tables)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of n-grams of each order, single words first."""
        return count_levels(self.tables)

    def word_id(self, word: str) -> int:
        """Number of a word; 0, the unknown word, if it is not in the vocabulary."""
        return self.vocabulary.id_of(word)

    def split(self, text: str) -> list[str]:
        """Split a sentence into the model's units; see `unheard.lm.units.split_text`."""
        return split_text(text, self.units, self.pieces)

    def score_sentence(self, text: str) -> float:
        """Return the log-probability of a sentence, its end included [nats].

        Args:
            text: as the training text was written: case and punctuation count.
        """
        return float(self.score_words(self.split(text)).sum())

    def score_sentences(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the log-probability of each sentence, its end included, float64 (texts,)."""
        return np.asarray([self.score_sentence(text) for text in texts], dtype=np.float64)

    def score_units(self, texts: Sequence[str]) -> list[npt.NDArray[np.float64]]:
        """Return, for each sentence, the log-probability of each unit and of the end [nats]."""
        return [self.score_words(self.split(text)) for text in texts]

    def unknown_units(self, text: str) -> npt.NDArray[np.bool_]:
        """Tell which units of a sentence the model does not know."""
        ids = [self.vocabulary.id_of(word) for word in self.split(text)]
        return np.asarray(ids, dtype=np.int64) == self.unknown_id

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


@dataclass(frozen=True, kw_only=True)
class TrainedNgram:
    """A model made from text, and what became of the text.

    Attributes:
        model: the model.
        sentences: that were learnt from.
        tokens: units in them, sentence ends among them.
        empty: sentences without a word, passed over.
        markers: words such as "<s>", which mark sentences and cannot be learnt, passed over.
        discounts: of each order.
        fallbacks: orders for which the text was too small or too regular to tell discounts from,
            each with the reason; they have those of `kneser_ney.FALLBACK_DISCOUNTS`.
    """

    model: NgramModel
    sentences: int
    tokens: int
    empty: int
    markers: int
    discounts: tuple[Discounts, ...]
    fallbacks: dict[int, str]


def train_ngram(
    texts: Iterable[str],
    *,
    order: int,
    prune: Sequence[int] = (),
    units: Units = "word",
    pieces: Pieces | None = None,
) -> TrainedNgram:
    """Train a model by interpolated modified Kneser-Ney smoothing, as KenLM's lmplz does.

    Args:
        texts: sentences. Empty ones are passed over.
        order: length of the longest n-grams.
        prune: n-grams that occur at most so often are left out, a number for each order from one
            on; the last holds for all higher orders, the first must be 0.
        units: what is to be a word.
        pieces: for units "piece".

    Raises:
        ConfigError: if a setting is out of range, or there is no text.
    """
    if not 1 <= order <= MOST_ORDERS:
        raise ConfigError(f"order is out of range: expected 1 to {MOST_ORDERS}, found {order}.")
    check_prune(prune, order=order)
    corpus = number_words(split_text(text, units, pieces) for text in texts)
    smoothed = smooth(count_ngrams(corpus, order), prune=prune)
    model = NgramModel(build_tables(smoothed.levels), corpus.vocabulary, units=units, pieces=pieces)
    return TrainedNgram(
        model=model,
        sentences=corpus.sentences,
        tokens=len(corpus.tokens) - corpus.sentences,
        empty=corpus.empty,
        markers=corpus.markers,
        discounts=smoothed.discounts,
        fallbacks=smoothed.fallbacks,
    )


def check_name(path: str | os.PathLike[str]) -> Path:
    """Return a path that a model can be written to.

    Raises:
        ConfigError: if its name does not tell the format.
    """
    target = Path(path)
    if not target.name.endswith((*_ARPA, _BINARY)):
        raise ConfigError(
            f"the name of a model tells its format: expected {', '.join(_ARPA)} or {_BINARY} at "
            f"the end, found {target.name!r}."
        )
    return target


def _pieces_path(path: Path) -> Path:
    """Where the word pieces of an ARPA file are."""
    name = path.name.removesuffix(".gz").removesuffix(".arpa")
    return path.with_name(f"{name}.pieces.json")
