"""How probable a Transformer language model finds texts."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unheard.data.texts import stack_rows
from unheard.interop.language_model import LanguageModelBundle, load_language_model
from unheard.lm.pieces import END_ID, START_ID, UNKNOWN_ID
from unheard.objectives.next_token import token_log_probs

BATCH_TOKENS = 8192
"""Tokens that go through the network at once, padding counted."""
BATCH_SCORES = 1 << 24
"""Scores of tokens that are held at once: 64 MiB."""


@dataclass(frozen=True, kw_only=True)
class PieceScore:
    """A piece of a text and how probable it was.

    Attributes:
        piece: as written, "</s>" for the end; "<unk>" for a character that is not known.
        log_prob: given everything before it [nats].
    """

    piece: str
    log_prob: float


class NeuralModel:
    """A Transformer language model that scores texts. All scores are natural logarithms.

    A text longer than the model's context is read in stretches that overlap by half, so that every
    piece but the first ones is seen after at least half a context.

    Attributes:
        bundle: network, pieces and provenance.
    """

    def __init__(self, bundle: LanguageModelBundle) -> None:
        self.bundle = bundle
        bundle.model.eval()

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> "NeuralModel":
        """Read a model that `unheard lm train --kind transformer` wrote.

        Raises:
            CheckpointError: if a file is missing or damaged.
            FormatError: if it is not the folder of such a model.
        """
        return cls(load_language_model(os.fspath(folder), device=device))

    def score_sentence(self, text: str) -> float:
        """Return the log-probability of a text, its end included [nats]."""
        return float(self.score_sentences([text])[0])

    def score_sentences(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-probabilities of texts, their ends included [nats].

        Equal texts are scored once. What a text is scored together with may change the last
        digits that float32 has.

        Returns:
            (texts,) float64.
        """
        different = list(dict.fromkeys(texts))
        totals = dict(
            zip(
                different,
                (float(found.sum()) for found in self.score_units(different)),
                strict=True,
            )
        )
        return np.asarray([totals[text] for text in texts], dtype=np.float64)

    def score_pieces(self, text: str) -> list[PieceScore]:
        """Return every piece of a text, and its end, with its log-probability."""
        pieces = self.bundle.pieces
        numbers = [*pieces.encode(text), END_ID]
        return [
            PieceScore(piece=pieces.symbols[number], log_prob=float(score))
            for number, score in zip(numbers, self.score_units([text])[0], strict=True)
        ]

    def unknown_units(self, text: str) -> NDArray[np.bool_]:
        """Tell which pieces of a text stand for a character that the model does not know."""
        return np.asarray(self.bundle.pieces.encode(text), dtype=np.int64) == UNKNOWN_ID

    @torch.inference_mode()
    def score_units(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return, for each text, the log-probability of each piece and of the end [nats]."""
        model = self.bundle.model
        device = model.embedding.weight.device
        encoded = [[START_ID, *self.bundle.pieces.encode(text), END_ID] for text in texts]
        results = [np.zeros(len(tokens) - 1, dtype=np.float64) for tokens in encoded]
        stretches = [
            (number, first, tokens[first : first + model.config.context + 1])
            for number, tokens in enumerate(encoded)
            for first in stretch_starts(len(tokens) - 1, model.config.context)
        ]
        for batch in self._batches(stretches):
            tokens = stack_rows([row for _, _, row in batch]).tokens.to(device)
            scores = token_log_probs(model(tokens[:, :-1]), tokens[:, 1:]).cpu().double().numpy()
            for (number, first, row), found in zip(batch, scores, strict=True):
                # Only the first stretch of a text is new in its first half.
                new = 0 if first == 0 else model.config.context - overlap_step(model.config.context)
                results[number][first + new : first + len(row) - 1] = found[new : len(row) - 1]
        return results

    def _batches(
        self, stretches: list[tuple[int, int, list[int]]]
    ) -> Iterator[list[tuple[int, int, list[int]]]]:
        """Cut stretches into batches of about one length, within bounds."""
        tokens = max(1, min(BATCH_TOKENS, BATCH_SCORES // self.bundle.model.config.vocab))
        ordered = sorted(stretches, key=lambda stretch: len(stretch[2]))
        batch: list[tuple[int, int, list[int]]] = []
        for stretch in ordered:
            if batch and len(stretch[2]) * (len(batch) + 1) > tokens:
                yield batch
                batch = []
            batch.append(stretch)
        if batch:
            yield batch


def overlap_step(context: int) -> int:
    """How much further each stretch of a long text begins."""
    return max(1, context // 2)


def stretch_starts(count: int, context: int) -> list[int]:
    """Where stretches of at most `context` tokens begin, so that the last one ends at `count`."""
    step = overlap_step(context)
    starts = [0]
    while starts[-1] + context < count:
        starts.append(starts[-1] + step)
    return starts
