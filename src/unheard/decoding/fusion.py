"""A second language model inside the beam: it judges words soon after they are written.

An n-gram model can be asked at every frame; a Transformer cannot, it would read the same words over
and over. But it need not be: a search goes on for a block of frames (`SearchConfig.fuse_frames`)
with what it has, then the second model reads the words that the readings in the beam have ended
since, all at once, and the search goes on with the new scores. At the end come the last words and
the end of the sentence, so that the score of a reading is always

    what the search gives it + `fuse_weight` x log-probability of its text.

Until a word is judged, the search's own language model, if it has one, stands in for the second: it
counts `lm_weight` + `fuse_weight`, also in looking ahead, and `lm_weight` again from then on. Else
readings that end a word would compete with readings that only put it off.

What is approximate, then, is the pruning alone: within a block readings compete without the second
model's opinion of their newest words. With nothing pruned the result is exact, whatever the block.
Readings are never recombined, each text is followed by itself. But a full beam still keeps only
`alike` of those that the n-gram model cannot tell apart, though the second model can: the best by
the scores of both. To keep more of them made the best reading worse, since the beam then holds
fewer different ends (benchmarks/fusion.py).

A text of more than `WINDOW_WORDS` words is judged in stretches that overlap by half.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.histories import Ending, JudgedStream, NewHistory, Verdict
from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.decoding.search import Partial, SearchConfig, count_threads
from unheard.errors import ConfigError, ShapeError
from unheard.lm.scorer import BeginningScorer

WINDOW_WORDS = 128
"""The longest stretch of words that the second model reads at once."""
TOGETHER = 16
"""Recordings whose words it reads together."""
_SPARE_RECORDS = 4096


class JudgedDecoder(Protocol):
    """A search that another model can be fused with."""

    @property
    def config(self) -> SearchConfig:
        """The settings."""
        ...

    def with_config(self, config: SearchConfig) -> "JudgedDecoder":
        """Return the same decoder with other settings."""
        ...

    def stream(self, timing: FrameTiming) -> JudgedStream:
        """Begin a search."""
        ...


class FusedDecoder:
    """A search with a second language model in its beam; see `search.SearchDecoder`.

    Threads may share one.
    """

    def __init__(self, search: JudgedDecoder, scorer: BeginningScorer) -> None:
        """Put them together; the settings are those of the search.

        Args:
            search: `PrefixDecoder` or `LexiconDecoder`.
            scorer: the second language model, such as `inference.neural_reader.NeuralReader`.
        """
        self._config = config = search.config
        self.scorer = scorer
        self.search = search.with_config(
            replace(config, lm_weight=config.lm_weight + config.fuse_weight)
        )

    @property
    def config(self) -> SearchConfig:
        """The settings."""
        return self._config

    def with_config(self, config: SearchConfig) -> "FusedDecoder":
        """Return the same decoder with other settings, at little cost."""
        return FusedDecoder(self.search.with_config(config), self.scorer)

    def stream(self, timing: FrameTiming) -> "FusedStream":
        """Begin a search whose frames come piece by piece."""
        return FusedStream(self.search.stream(timing), self.scorer, self._config)

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Return the n-best readings, best first; at least one, which may be empty."""
        stream = self.stream(FrameTiming.of(emissions))
        stream.feed(emissions.log_probs)
        return stream.finish(num_samples=emissions.num_samples)

    def decode_many(
        self, emissions: Sequence[Emissions], *, threads: int | None = None
    ) -> list[list[Hypothesis]]:
        """Decode many recordings, on `threads` cores at once (None for all).

        Several go side by side, a block at a time, so that the second model reads the words of
        all of them at once.
        """
        order = sorted(range(len(emissions)), key=lambda i: -emissions[i].log_probs.shape[0])
        results: list[list[Hypothesis]] = [[] for _ in emissions]
        with ThreadPoolExecutor(max(1, min(count_threads(threads), len(emissions)))) as pool:
            for first in range(0, len(order), TOGETHER):
                group = order[first : first + TOGETHER]
                found = self._decode_together([emissions[index] for index in group], pool)
                for index, hypotheses in zip(group, found, strict=True):
                    results[index] = hypotheses
        return results

    def _decode_together(
        self, emissions: Sequence[Emissions], pool: ThreadPoolExecutor
    ) -> list[list[Hypothesis]]:
        """Decode some recordings side by side."""
        streams = [self.stream(FrameTiming.of(one)) for one in emissions]
        block = self._config.fuse_frames
        for start in range(0, max(one.log_probs.shape[0] for one in emissions), block):
            going = [
                (stream, one.log_probs[start : start + block])
                for stream, one in zip(streams, emissions, strict=True)
                if start < one.log_probs.shape[0]
            ]
            list(pool.map(lambda pair: pair[0].search(pair[1]), going))
            asking = [stream for stream, frames in going if frames.shape[0] == block]
            tell(self.scorer, asking)
        ends = [one.num_samples for one in emissions]
        return list(pool.map(lambda s, end: s.finish(num_samples=end), streams, ends))


class _Record(NamedTuple):
    """A history that was judged.

    Attributes:
        window: its last words, those that are read together.
        score: log-probability that a text begins with them [nats].
        total: sum of what all words of the history are worth, not weighted [nats].
    """

    window: tuple[str, ...]
    score: float
    total: float


class FusedStream:
    """A search under way with a second model; see `search.SearchStream`."""

    def __init__(self, stream: JudgedStream, scorer: BeginningScorer, config: SearchConfig) -> None:
        self._stream = stream
        self._scorer = scorer
        self._weight, self._block = config.fuse_weight, config.fuse_frames
        self._in_block = 0  # frames since words were judged
        self._records = {0: _Record(window=(), score=0.0, total=0.0)}
        self._next = 1
        self._new: list[NewHistory] = []
        self._settles = False
        self._settled: list[Word] = []  # words that were not asked for yet
        self._finished = False
        stream.expect_judge(config.fuse_weight)

    @property
    def separator(self) -> str:
        """What is written between two words."""
        return self._stream.separator

    def feed(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take further frames (frames, vocab), natural log-probabilities; any number, even 0.

        Raises:
            ShapeError: see the search's own stream.
            ConfigError: if the stream is finished.
        """
        if log_probs.ndim != 2 or not log_probs.shape[0]:
            self._stream.feed(log_probs)
            return
        start = 0
        while start < log_probs.shape[0]:
            part = log_probs[start : start + self._block - self._in_block]
            self.search(part)
            start += part.shape[0]
            if self._in_block == self._block:
                tell(self._scorer, [self])

    def search(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take frames up to the end of a block at most; then `tell` is due."""
        self._stream.feed(log_probs)
        self._in_block += log_probs.shape[0]

    def ask(self) -> list[str]:
        """Return the beginnings of texts that must be scored before the next block."""
        self._new = self._stream.unjudged(self._next)
        self._next += len(self._new)
        windows: dict[int, tuple[str, ...]] = {}
        texts: list[str] = []
        for number, parent, word in self._new:
            before = windows[parent] if parent in windows else self._records[parent].window
            windows[number], asked = self._grow(before, word)
            texts += asked
        return texts

    def answer(self, scores: Mapping[str, float]) -> None:
        """Take the scores of those texts, and whatever others."""
        added = np.zeros(len(self._new))
        for place, (number, parent, word) in enumerate(self._new):
            before = self._records[parent]
            self._records[number] = record = self._judged(before, word, scores)
            added[place] = self._weight * (record.total - before.total)
        self._stream.judge(added)
        self._new = []
        self._in_block = 0
        if self._settles:
            self._settled += self._stream.settle()
        if len(self._records) > 2 * _SPARE_RECORDS:
            known = {0, *self._stream.known().tolist()}
            self._records = {number: self._records[number] for number in known}

    def partial(self) -> Partial:
        """Return the best reading so far, and its part that is certain to stay."""
        return self._stream.partial()

    def fork(self) -> "FusedStream":
        """Return a search of its own that goes on from here; this one does not notice."""
        other = copy.copy(self)
        other._stream = self._stream.fork()
        other._records = dict(self._records)
        other._settled = list(self._settled)
        return other

    def settle(self) -> tuple[Word, ...]:
        """Hand out words that no frame to come can change, and that the second model has judged.

        They are taken out of the search where a block ends: within one that could change what
        the search prunes.

        Raises:
            ConfigError: if the stream is finished.
        """
        if self._finished:
            raise ConfigError("the stream is finished: begin another one with Decoder.stream.")
        if not self._settles and self._in_block == 0:
            self._settled += self._stream.settle()
        self._settles = True
        words, self._settled = tuple(self._settled), []
        return words

    def finish(self, *, num_samples: int | None = None) -> list[Hypothesis]:
        """End the stream and return the n-best readings of all its frames, best first.

        Args:
            num_samples: length of the recording, to which word times are clipped.

        Raises:
            ConfigError: if the stream is finished.
        """
        found = self._stream.conclude(self._conclude, num_samples=num_samples)
        self._finished = True
        if not self._settled:
            return found
        words = tuple(self._settled)
        return [
            replace(
                one,
                words=(*words, *one.words),
                text=self.separator.join(
                    [*(word.text for word in words), *([one.text] if one.text else [])]
                ),
            )
            for one in found
        ]

    def _conclude(self, endings: Sequence[Ending]) -> list[Verdict]:
        """Judge the words that were not judged yet, and the end of each reading."""
        texts: list[str] = []
        whole: list[str] = []
        for ending in endings:
            window = self._records[ending.number].window
            for word in ending.words:
                window, asked = self._grow(window, word)
                texts += asked
            whole.append(self._text(window))
        scores = _ask(self._scorer.score_beginnings, [*texts, *whole])
        ends = _ask(self._scorer.score_sentences, whole)
        verdicts: list[Verdict] = []
        for ending, text in zip(endings, whole, strict=True):
            record = given = self._records[ending.number]
            for word in ending.words:
                record = self._judged(record, word, scores)
            total = record.total + ends[text] - scores[text]
            verdicts.append(Verdict(given=self._weight * given.total, total=self._weight * total))
        return verdicts

    def _judged(self, before: _Record, word: str, scores: Mapping[str, float]) -> _Record:
        """Add a word to a history."""
        window, (whole, *without) = self._grow(before.window, word)
        score = scores[whole]
        base = scores[without[0]] if without else before.score
        return _Record(window=window, score=score, total=before.total + score - base)

    def _grow(self, window: tuple[str, ...], word: str) -> tuple[tuple[str, ...], list[str]]:
        """Add a word to the last ones of a history; a full window is left by half.

        Returns:
            The window, and the texts whose scores say what the word is worth: the window, and,
            where that was not asked before, the window without it.
        """
        if not word:
            return window, [self._text(window)]
        if len(window) < WINDOW_WORDS:
            return (*window, word), [self._text((*window, word))]
        kept = window[-(WINDOW_WORDS // 2) :]
        return (*kept, word), [self._text((*kept, word)), self._text(kept)]

    def _text(self, window: tuple[str, ...]) -> str:
        """Write words as the script joins them."""
        return self._stream.separator.join(window)


def tell(scorer: BeginningScorer, streams: Sequence[FusedStream]) -> None:
    """Let a model judge what several searches have written since it did so last."""
    asked = [stream.ask() for stream in streams]
    scores = _ask(scorer.score_beginnings, [text for texts in asked for text in texts])
    for stream in streams:
        stream.answer(scores)


def _ask(
    score: Callable[[Sequence[str]], NDArray[np.float64]], texts: Iterable[str]
) -> dict[str, float]:
    """Ask a model about texts, about each once; what it says must be numbers."""
    different = list(dict.fromkeys(texts))
    if not different:
        return {}
    found = dict(zip(different, np.asarray(score(different)).tolist(), strict=True))
    for text, value in found.items():
        if not math.isfinite(value):
            raise ShapeError(
                "the model in the beam gave no log-probability: expected a finite number, found "
                f"{value} (of {text!r})."
            )
    return found
