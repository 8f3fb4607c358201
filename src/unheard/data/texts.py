"""Batches of texts for language models: rows of piece numbers, the same on every machine."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unheard.data.batching import BatchPlan, Position
from unheard.errors import ConfigError
from unheard.tensors import derive_seed


class Encoder(Protocol):
    """Turns a text into the numbers of its pieces, without beginning and end."""

    def encode(
        self, text: str, *, dropout: float = ..., generator: np.random.Generator | None = ...
    ) -> list[int]:
        """Return the numbers; with dropout, words may be split otherwise each time."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Stretches of texts, padded to the longest.

    Attributes:
        tokens: (batch, length + 1) int64; each row begins with what is given, its other tokens
            are to be predicted; padded with zeros.
        lengths: (batch,) int64, how many tokens of each row are to be predicted.
        ids: which texts, in order.
        audio: (), as texts lie in no recording.
    """

    tokens: Tensor
    lengths: Tensor
    ids: tuple[str, ...]
    audio: tuple[str, ...] = ()

    @property
    def audio_seconds(self) -> float:
        """Sound in the batch: none."""
        return 0.0

    def to(self, device: torch.device) -> "TextBatch":
        """Copy to a device."""
        return TextBatch(
            tokens=self.tokens.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
            ids=self.ids,
            audio=self.audio,
        )


class TextSource:
    """Texts by position, each a row with its beginning and its end.

    A text that is longer than the context is cut into stretches, each beginning with the last
    token of the one before, so that every token is predicted once. Which batches there are is
    decided by the pieces without dropout.
    """

    def __init__(
        self,
        texts: Sequence[str],
        encoder: Encoder,
        *,
        start: int,
        end: int,
        context: int,
        batch_tokens: int,
        seed: int,
        dropout: float = 0.0,
    ) -> None:
        """Encode the texts and plan the batches.

        Args:
            texts: none of them empty.
            encoder: splits them into pieces.
            start: number of the beginning of a text.
            end: number of its end.
            context: most tokens of a row that are predicted.
            batch_tokens: tokens in a batch, padding counted.
            seed: of the order and of the dropout.
            dropout: of merges of pieces (BPE-dropout).

        Raises:
            ConfigError: if there are no texts.
        """
        if not texts:
            raise ConfigError("There is nothing to learn from: expected texts, got none.")
        self._texts = texts
        self._encoder = encoder
        self._start = start
        self._end = end
        self._context = context
        self._seed = seed
        self._dropout = dropout
        lengths = np.fromiter((len(encoder.encode(text)) + 1 for text in texts), dtype=np.int64)
        self.tokens = int(lengths.sum())
        # Of each row the text, the first of its tokens to predict, and how many.
        stretches = -(-lengths // context)
        self._text = np.repeat(np.arange(len(texts)), stretches)
        before = np.repeat(np.cumsum(stretches) - stretches, stretches)
        self._first = (np.arange(len(self._text)) - before) * context
        self._count = np.minimum(context, lengths[self._text] - self._first)
        self.plan = BatchPlan(
            self._count,
            batch_samples=batch_tokens,
            fit="pad",
            max_samples=context,
            seed=seed,
        )

    @property
    def batches(self) -> int:
        """How many batches there are in the first pass over the texts."""
        return self.plan.batches(epoch=0)

    def load(self, position: Position) -> TextBatch:
        """Encode and stack the texts of the batch at a position."""
        rows = self.plan.batch(position).tolist()
        return stack_rows(
            [self._row(row, epoch=position.epoch) for row in rows],
            ids=[f"text {self._text[row] + 1}" for row in rows],
        )

    def _row(self, row: int, *, epoch: int) -> list[int]:
        """Tokens of a stretch, with the one before it."""
        number, first, count = int(self._text[row]), int(self._first[row]), int(self._count[row])
        text = self._texts[number]
        # A text that is cut is always split alike, so that its stretches fit together.
        whole = first == 0 and count < self._context
        if self._dropout > 0 and whole:
            generator = np.random.default_rng(derive_seed(self._seed, "pieces", epoch, number))
            numbers = self._encoder.encode(text, dropout=self._dropout, generator=generator)
            count = min(len(numbers) + 1, self._context)
        else:
            numbers = self._encoder.encode(text)
        tokens = [self._start, *numbers, self._end]
        return tokens[first : first + count + 1]


def stack_rows(rows: Sequence[Sequence[int]], *, ids: Iterable[str] = ()) -> TextBatch:
    """Pad rows of tokens to the longest; the first token of each is given, not predicted."""
    longest = max(map(len, rows))
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    lengths = torch.tensor([len(row) - 1 for row in rows], dtype=torch.int64)
    return TextBatch(tokens=tokens, lengths=lengths, ids=tuple(ids))
