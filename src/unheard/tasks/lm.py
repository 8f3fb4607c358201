"""The verb `lm`: train a language model from text, measure one on other text."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from unheard.errors import ConfigError
from unheard.lm.kneser_ney import FALLBACK_DISCOUNTS
from unheard.lm.ngram import NgramModel, TrainedNgram, check_name, train_ngram
from unheard.lm.pieces import Pieces, PieceUnits
from unheard.lm.scorer import UnitScorer
from unheard.lm.units import Units
from unheard.tasks.texts import read_texts

logger = logging.getLogger(__name__)

_AT_ONCE = 4096
"""Sentences that a model is asked about at once."""


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
class TransformerTraining:
    """A Transformer language model that was trained.

    Attributes:
        path: the model folder.
        units: what it calls a word: "piece" or "character".
        perplexity: of the words of sentences that were held out, their ends among them.
        bits_per_character: of these sentences.
        vocabulary: different units, sentence marks and the unknown one among them.
        parameters: weights of the network.
        sentences: it learnt from.
        valid_sentences: held out.
        steps: updates of the weights.
        best_step: after which the held-out sentences were foretold best; its weights are the model.
        minutes: spent in training, over all sittings.
    """

    path: str
    units: PieceUnits
    perplexity: float
    bits_per_character: float
    vocabulary: int
    parameters: int
    sentences: int
    valid_sentences: int
    steps: int
    best_step: int
    minutes: float

    def table(self) -> str:
        """Lay the numbers out for a person at a terminal."""
        rows = [
            ("model", self.path),
            ("held-out perplexity", f"{self.perplexity:,.1f} a word"),
            ("bits per character", f"{self.bits_per_character:.3f}"),
            ("sentences", f"{self.sentences:,} and {self.valid_sentences:,} held out"),
            (f"{self.units}s", f"{self.vocabulary:,}"),
            ("parameters", f"{self.parameters:,}"),
            ("updates", f"{self.steps:,} in {self.minutes:.1f} minutes, best {self.best_step:,}"),
        ]
        return _rows(rows)


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well a language model foretells a text.

    Attributes:
        perplexity: of the model's units, sentence ends among them; unknown ones count with the
            probability that the model gives to any unknown word.
        perplexity_known: the same without unknown units.
        word_perplexity: of words between white space, sentence ends among them, whatever the
            model's units: for models with different units, where a language writes spaces.
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
    word_perplexity: float
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
                ("perplexity of words", f"{self.word_perplexity:,.2f}"),
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
    kind: Literal["ngram", "transformer"] = "ngram",
    order: int | None = None,
    prune: Sequence[int] = (),
    units: Units | None = None,
    pieces: int | None = None,
    normalizer: str = "none-1",
    valid: Sequence[str | os.PathLike[str]] = (),
    set: Mapping[str, Any] | Sequence[str] = (),
    max_minutes: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> NgramTraining | TransformerTraining:
    """Train a language model from text.

    An n-gram model (modified Kneser-Ney, the same as KenLM's lmplz makes) takes seconds and serves
    a search; a Transformer takes minutes and puts the search's readings into a better order.
    Repeat the command of a Transformer to go on where it was stopped.

    The text must be written as the recogniser writes: same case, same punctuation (mostly none).
    For text as it is found, give --normalizer basic-1.

    Args:
        text: files with a sentence on each line, packed with gzip or not, or tables of transcripts
            (.tsv, .csv, .jsonl).
        out: the model. Of an n-gram: .arpa or .arpa.gz, which other tools read too, or
            .unheard-lm, which loads at once, whatever its size. Of a Transformer: a folder, for
            the training too; the model itself is OUT/model.
        kind: "ngram" or "transformer".
        order: length of the longest n-grams; 4 by default.
        prune: leave out n-grams that occur at most so often, a number for each order, the last
            for all higher ones, the first always 0: "0 0 1" keeps all pairs, and longer n-grams
            that occur twice.
        units: what the model calls a word: word, character or piece; a model of characters or
            pieces can write any word. By default an n-gram has words, a Transformer pieces; it
            cannot have words.
        pieces: how many word pieces, with --units piece; by default 1000, or 5000 for a
            Transformer that learns from much text.
        normalizer: applied to each sentence: none-1 (composition and white space only) or
            basic-1 (lower case, no punctuation).
        valid: files with sentences to hold out from the training of a Transformer; by default a
            twentieth of the different sentences.
        set: settings of a Transformer to change, such as network.layers=6 or
            training.learning_rate=5e-4; once for each.
        max_minutes: time to train a Transformer [minutes].
        max_steps: updates of a Transformer's weights; 5000 by default, 20000 with much text.
        seed: of everything that is drawn for a Transformer.
        device: where a Transformer is trained: "cpu", "cuda", ...; "auto" takes a graphics
            processor if there is one.
        quiet: print nothing while a Transformer learns.

    Returns:
        What was made.

    Raises:
        ConfigError: if a setting is out of range or not for this kind of model, or there is no
            sentence.
        FormatError: if a file is not text in UTF-8.
    """
    paths = [text] if isinstance(text, (str, os.PathLike)) else list(text)
    if kind == "ngram":
        _refuse(kind, valid=valid, set=set, max_minutes=max_minutes, max_steps=max_steps, seed=seed)
        return _train_ngram(
            paths,
            out=out,
            order=4 if order is None else order,
            prune=prune,
            units=units or "word",
            pieces=1000 if pieces is None else pieces,
            normalizer=normalizer,
        )
    _refuse(kind, order=order, prune=prune)
    if units == "word":
        raise ConfigError(
            "A Transformer has no words as units, which would close its vocabulary: expected "
            "piece or character."
        )
    # One second of torch that an n-gram has no use for.
    from unheard.tasks.language_model import train_transformer

    held_out = [valid] if isinstance(valid, (str, os.PathLike)) else list(valid)
    return train_transformer(
        read_texts(paths, normalizer=normalizer),
        out=out,
        units=units or "piece",
        pieces=pieces,
        valid=read_texts(held_out, normalizer=normalizer) if held_out else None,
        normalizer=normalizer,
        set=set,
        max_minutes=max_minutes,
        max_steps=max_steps,
        seed=seed,
        device=device,
        quiet=quiet,
    )


def _refuse(kind: str, **settings: object) -> None:
    """Refuse settings that the kind of model has no use for."""
    given = [name for name, value in settings.items() if value not in (None, (), 0, [], {})]
    if given:
        raise ConfigError(
            f"{' and '.join(given)} cannot be set for a model of kind {kind}. Leave it out, or "
            "choose the other kind."
        )


def _train_ngram(
    paths: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    order: int,
    prune: Sequence[int],
    units: Units,
    pieces: int,
    normalizer: str,
) -> NgramTraining:
    """Count, smooth, write."""
    target = check_name(out)
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
    model: str | os.PathLike[str] | UnitScorer,
    text: Sequence[str | os.PathLike[str]],
    *,
    normalizer: str = "none-1",
) -> Perplexity:
    """Measure how well a language model foretells a text it has not seen: less is better.

    Args:
        model: the model: .arpa, .arpa.gz, .unheard-lm, or the folder of a Transformer.
        text: files with a sentence on each line, packed with gzip or not, or tables of transcripts
            (.tsv, .csv, .jsonl).
        normalizer: applied to each sentence, as for training.

    Returns:
        The measures.

    Raises:
        ConfigError: if there is no sentence.
        FormatError: if the model or a text file is malformed.
    """
    paths = [text] if isinstance(text, (str, os.PathLike)) else list(text)
    texts = read_texts(paths, normalizer=normalizer)
    if isinstance(model, (str, os.PathLike)):
        model = _load(Path(model))
    return measure(model, texts)


def _load(path: Path) -> UnitScorer:
    """Read a model of either kind: a Transformer is a folder, an n-gram model a file."""
    if not path.is_dir():
        return NgramModel.load(path)
    from unheard.inference.neural_model import NeuralModel

    return NeuralModel.load(path)


def measure(model: UnitScorer, texts: Iterable[str]) -> Perplexity:
    """Measure a model on sentences; see `perplexity`.

    Raises:
        ConfigError: if there is no sentence.
    """
    sentences = words = tokens = unknown = characters = empty = 0
    log_prob = unknown_log_prob = 0.0
    stream = iter(texts)
    while batch := list(islice(stream, _AT_ONCE)):
        for text, scores in zip(batch, model.score_units(batch), strict=True):
            if len(scores) == 1:  # the end alone
                empty += 1
                continue
            is_unknown = model.unknown_units(text)
            sentences += 1
            words += len(text.split()) + 1
            tokens += len(scores)
            unknown += int(is_unknown.sum())
            characters += len(text) + 1
            log_prob += float(scores.sum())
            unknown_log_prob += float(scores[:-1][is_unknown].sum())
    if not sentences:
        raise ConfigError(
            "there is nothing to measure: expected sentences, one a line, found none."
        )
    return Perplexity(
        perplexity=math.exp(-log_prob / tokens),
        perplexity_known=math.exp(-(log_prob - unknown_log_prob) / (tokens - unknown)),
        word_perplexity=math.exp(-log_prob / words),
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
        logger.info("Empty lines passed over: %d.", trained.empty)
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
