"""The verb `lm`: train an n-gram language model from text, measure one on other text."""

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unheard.errors import ConfigError
from unheard.lm.kneser_ney import FALLBACK_DISCOUNTS
from unheard.lm.ngram import NgramModel, TrainedNgram, check_name, train_ngram
from unheard.lm.pieces import Pieces
from unheard.lm.units import Units
from unheard.tasks.texts import read_texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NgramTraining:
    """A language model that was made.

    Attributes:
        path: where it is.
        units: what it calls a word.
        sentences: it was made from.
        tokens: units in them, sentence ends among them.
        vocabulary: different units, sentence marks and the unknown word among them.
        ngrams: of each order, single words first.
        fallbacks: orders with discounts that were not told from the text, and why.
    """

    path: str
    units: Units
    sentences: int
    tokens: int
    vocabulary: int
    ngrams: tuple[int, ...]
    fallbacks: dict[int, str]

    def table(self) -> str:
        """Lay the numbers out for a person at a terminal."""
        rows = [
            ("model", self.path),
            ("sentences", f"{self.sentences:,}"),
            (f"{self.units}s", f"{self.tokens:,} with sentence ends"),
            ("vocabulary", f"{self.vocabulary:,}"),
            *((f"{order}-grams", f"{count:,}") for order, count in enumerate(self.ngrams, start=1)),
        ]
        return _rows(rows)


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well a language model foretells a text.

    Attributes:
        perplexity: of the model's units, sentence ends among them; unknown ones count with the
            probability that the model gives to any unknown word.
        perplexity_known: the same without unknown units.
        bits_per_character: of the text with its spaces and sentence ends: for models with
            different units.
        sentences: measured.
        tokens: units in them, sentence ends among them.
        unknown: units that are not in the vocabulary.
        log_prob: of the whole text [nats].
        empty: lines without a word, passed over.
    """

    perplexity: float
    perplexity_known: float
    bits_per_character: float
    sentences: int
    tokens: int
    unknown: int
    log_prob: float
    empty: int

    def table(self) -> str:
        """Lay the numbers out for a person at a terminal."""
        share = self.unknown / max(self.tokens - self.sentences, 1)
        return _rows(
            [
                ("perplexity", f"{self.perplexity:,.2f}"),
                ("without unknown", f"{self.perplexity_known:,.2f}"),
                ("bits per character", f"{self.bits_per_character:.3f}"),
                ("sentences", f"{self.sentences:,}"),
                ("tokens", f"{self.tokens:,} with sentence ends"),
                ("unknown", f"{self.unknown:,} ({share:.1%} of words)"),
            ]
        )


def train(
    text: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    order: int = 4,
    prune: Sequence[int] = (),
    units: Units = "word",
    pieces: int = 1000,
    normalizer: str = "none-1",
) -> NgramTraining:
    """Train an n-gram language model: modified Kneser-Ney, the same as KenLM's lmplz makes.

    The text must be written as the recogniser writes: same case, same punctuation (mostly none).
    For text as it is found, give --normalizer basic-1.

    Args:
        text: files with a sentence on each line, packed with gzip or not, or manifests (.jsonl).
        out: the model: .arpa or .arpa.gz, which other tools read too, or .unheard-lm, which loads
            at once, whatever its size.
        order: length of the longest n-grams.
        prune: leave out n-grams that occur at most so often, a number for each order, the last
            for all higher ones, the first always 0: "0 0 1" keeps all pairs, and longer n-grams
            that occur twice.
        units: what the model calls a word; a model of characters or pieces can write any word.
        pieces: how many word pieces, with --units piece.
        normalizer: applied to each sentence: none-1 (composition and white space only) or
            basic-1 (lower case, no punctuation).

    Returns:
        What was made.

    Raises:
        ConfigError: if a setting is out of range or there is no sentence.
        FormatError: if a file is not text in UTF-8.
    """
    target = check_name(out)
    paths = [text] if isinstance(text, (str, os.PathLike)) else list(text)
    split_into = None
    if units == "piece":
        split_into = Pieces.train(read_texts(paths, normalizer=normalizer), size=pieces)
    trained = train_ngram(
        read_texts(paths, normalizer=normalizer),
        order=order,
        prune=prune,
        units=units,
        pieces=split_into,
    )
    _say(trained)
    trained.model.save(target)
    return NgramTraining(
        path=str(target),
        units=units,
        sentences=trained.sentences,
        tokens=trained.tokens,
        vocabulary=len(trained.model.vocabulary),
        ngrams=trained.model.counts,
        fallbacks=trained.fallbacks,
    )


def perplexity(
    model: str | os.PathLike[str] | NgramModel,
    text: Sequence[str | os.PathLike[str]],
    *,
    normalizer: str = "none-1",
) -> Perplexity:
    """Measure how well a language model foretells a text it has not seen: less is better.

    Args:
        model: the model: .arpa, .arpa.gz or .unheard-lm.
        text: files with a sentence on each line, packed with gzip or not, or manifests (.jsonl).
        normalizer: applied to each sentence, as for training.

    Returns:
        The measures.

    Raises:
        ConfigError: if there is no sentence.
        FormatError: if the model or a text file is malformed.
    """
    loaded = model if isinstance(model, NgramModel) else NgramModel.load(model)
    paths = [text] if isinstance(text, (str, os.PathLike)) else list(text)
    return measure(loaded, read_texts(paths, normalizer=normalizer))


def measure(model: NgramModel, texts: Iterable[str]) -> Perplexity:
    """Measure a model on sentences; see `perplexity`.

    Raises:
        ConfigError: if there is no sentence.
    """
    sentences = tokens = unknown = characters = empty = 0
    log_prob = unknown_log_prob = 0.0
    for one in texts:
        words = model.split(one)
        if not words:
            empty += 1
            continue
        scores = model.score_words(words)
        is_unknown = np.array([model.word_id(word) == model.unknown_id for word in words])
        sentences += 1
        tokens += len(scores)
        unknown += int(is_unknown.sum())
        characters += len(one) + 1
        log_prob += float(scores.sum())
        unknown_log_prob += float(scores[:-1][is_unknown].sum())
    if not sentences:
        raise ConfigError(
            "there is nothing to measure: expected sentences, one a line, found none."
        )
    return Perplexity(
        perplexity=math.exp(-log_prob / tokens),
        perplexity_known=math.exp(-(log_prob - unknown_log_prob) / (tokens - unknown)),
        bits_per_character=-log_prob / math.log(2) / characters,
        sentences=sentences,
        tokens=tokens,
        unknown=unknown,
        log_prob=log_prob,
        empty=empty,
    )


def _say(trained: TrainedNgram) -> None:
    """Log what a reader of the model should know about its text."""
    if trained.empty:
        logger.info("%d empty lines passed over.", trained.empty)
    if trained.markers:
        logger.info(
            'The text holds %d words such as "<s>", which mark sentences and are not learnt: '
            "passed over.",
            trained.markers,
        )
    for order, reason in trained.fallbacks.items():
        logger.info(
            "The text is too small or too regular to tell how far to trust %d-grams (%s): "
            "discounts are %g, %g and %g instead.",
            order,
            reason,
            *FALLBACK_DISCOUNTS,
        )


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    """Write two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
