"""Best-path CTC decoding: the most probable symbol of each frame, repeats and blanks removed.

Source: Graves et al. 2006, sec. 3.2 "best path decoding".
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.decoding.runs import (
    Runs,
    boundary_ids,
    probability,
    read_runs,
    separator,
    text_of,
    word_groups,
)
from unheard.decoding.search import Partial
from unheard.errors import ConfigError, ShapeError
from unheard.text.alphabet import Alphabet


class GreedyDecoder:
    """Reads the most probable path: a decoder with no search and no settings.

    A word runs from its first to its last frame that is not blank, half a stride to either side,
    clipped to the recording.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        """Read with an alphabet.

        Args:
            alphabet: symbols of the model. Without a word boundary in it, every symbol (with the
                combining marks that follow) is a word of its own, as in scripts that write no
                spaces.
        """
        self.alphabet = alphabet

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Return the one reading: text, words with times and confidence, and the path's score."""
        stream = self.stream(FrameTiming.of(emissions))
        stream.feed(emissions.log_probs)
        return stream.finish(num_samples=emissions.num_samples)

    def decode_many(
        self,
        emissions: Sequence[Emissions],
        *,
        threads: int | None = None,  # noqa: ARG002 - too little work to share
    ) -> list[list[Hypothesis]]:
        """Read many recordings."""
        return [self.decode(one) for one in emissions]

    def stream(self, timing: FrameTiming) -> "GreedyStream":
        """Begin a reading whose frames come piece by piece."""
        return GreedyStream(self.alphabet, timing)


@dataclass(frozen=True, kw_only=True)
class _BestFrames:
    """The winner of each frame: 8 bytes a frame, whatever the vocabulary.

    Attributes:
        token_ids: (frames,) int32, the most probable symbol of each frame.
        log_probs: (frames,) float32, its natural log-probability.
    """

    token_ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """What is left of the frames of words that were handed out.

    Attributes:
        frames: how many they were.
        log_prob: of the path over them [nats].
        carried_frames: how many of them carried a symbol.
        carried_log_prob: of those [nats].
    """

    frames: int = 0
    log_prob: float = 0.0
    carried_frames: int = 0
    carried_log_prob: float = 0.0


class GreedyStream:
    """A best path under way; keeps 8 bytes a frame that is not settled."""

    def __init__(self, alphabet: Alphabet, timing: FrameTiming) -> None:
        self._alphabet = alphabet
        self._timing = timing
        self._pieces: list[_BestFrames] = []
        self._settled = _Settled()
        self._finished = False

    @property
    def separator(self) -> str:
        """What is written between two words."""
        return separator(self._alphabet)

    def feed(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take further frames (frames, vocab), natural log-probabilities; any number, even 0.

        Raises:
            ShapeError: if the vocabulary has another size than the alphabet.
            ConfigError: if the stream is finished.
        """
        self._check_open()
        frames = log_probs if isinstance(log_probs, Tensor) else torch.from_numpy(log_probs)
        if frames.ndim != 2 or frames.shape[1] != len(self._alphabet):
            raise ShapeError(
                f"log_probs must be (frames, vocab) of the alphabet: expected (any, "
                f"{len(self._alphabet)}), got {tuple(frames.shape)}."
            )
        token_ids, scores = best_frames(frames)
        self._pieces.append(_BestFrames(token_ids=token_ids, log_probs=scores))

    def partial(self) -> Partial:
        """Return the reading so far; all its words but the last are final."""
        ids = self._alphabet.collapse(self._join().token_ids.tolist())
        whole = ids[: _whole_words(ids, self._alphabet)]
        return Partial(
            text=text_of(ids, self._alphabet), stable_text=text_of(whole, self._alphabet)
        )

    def fork(self) -> "GreedyStream":
        """Return a path of its own that goes on from here; this one does not notice."""
        other = copy.copy(self)
        other._pieces = list(self._pieces)
        return other

    def settle(self) -> tuple[Word, ...]:
        """Hand out the words that no frame to come can change, and forget their frames.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._check_open()
        path = self._join()
        runs = _runs(path, blank_id=self._alphabet.blank_id, first_frame=self._settled.frames)
        count = _whole_words(runs.token_ids.tolist(), self._alphabet)
        if not count:
            return ()
        words = runs.head(count)
        reading = read_runs(words, self._alphabet, self._timing, num_samples=None)
        frames = int(runs.first_frames[count]) - self._settled.frames
        self._settled = _Settled(
            frames=self._settled.frames + frames,
            log_prob=self._settled.log_prob + float(path.log_probs[:frames].sum(dtype=np.float64)),
            carried_frames=self._settled.carried_frames + int(words.frames.sum()),
            carried_log_prob=self._settled.carried_log_prob + float(words.log_probs.sum()),
        )
        rest = _BestFrames(
            token_ids=path.token_ids[frames:].copy(), log_probs=path.log_probs[frames:].copy()
        )
        self._pieces = [rest]
        return reading.words

    def finish(self, *, num_samples: int | None = None) -> list[Hypothesis]:
        """End the stream and return its one reading.

        Args:
            num_samples: length of the recording, to which word times are clipped.
        """
        self._finished = True
        path, settled = self._join(), self._settled
        runs = _runs(path, blank_id=self._alphabet.blank_id, first_frame=settled.frames)
        reading = read_runs(runs, self._alphabet, self._timing, num_samples=num_samples)
        score = settled.log_prob + float(path.log_probs.sum(dtype=np.float64))
        frames = settled.frames + path.log_probs.shape[0]
        carried = settled.carried_frames + int(runs.frames.sum())
        carried_log_prob = settled.carried_log_prob + float(runs.log_probs.sum())
        return [
            Hypothesis(
                text=reading.text,
                words=reading.words,
                confidence=probability(carried_log_prob, carried)
                if carried
                else probability(score, frames),
                score=score,
            )
        ]

    def _check_open(self) -> None:
        """Refuse to go on after the end."""
        if self._finished:
            raise ConfigError("This stream is finished: begin another one.")

    def _join(self) -> _BestFrames:
        """Put the pieces together."""
        if len(self._pieces) != 1:
            self._pieces = [
                _BestFrames(
                    token_ids=np.concatenate(
                        [np.zeros(0, np.int32), *(piece.token_ids for piece in self._pieces)]
                    ),
                    log_probs=np.concatenate(
                        [np.zeros(0, np.float32), *(piece.log_probs for piece in self._pieces)]
                    ),
                )
            ]
        return self._pieces[0]


def best_frames(log_probs: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the winner of each frame of (frames, vocab): its id and its log-probability."""
    if log_probs.shape[0] == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    # Not by torch: its own threads, in each thread that searches, would hold up the network's.
    rows = log_probs.detach().cpu()
    scores = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    token_ids = scores.argmax(axis=-1)
    best = np.take_along_axis(scores, token_ids[:, None], axis=-1)[:, 0]
    return token_ids.astype(np.int32), best.astype(np.float32)


def _whole_words(token_ids: Sequence[int], alphabet: Alphabet) -> int:
    """Count the symbols, from the start, of the words that are certain to be whole.

    Those before the last boundary; or, in scripts without, before the last word.
    """
    boundaries = boundary_ids(alphabet)
    if boundaries:
        stops = [place for place, token_id in enumerate(token_ids) if token_id in boundaries]
        return stops[-1] if stops else 0
    groups = list(word_groups(token_ids, alphabet))
    return groups[-1][0] if groups else 0


def _runs(path: _BestFrames, *, blank_id: int, first_frame: int = 0) -> Runs:
    """Find the runs of equal symbols; the path begins at `first_frame` of the recording."""
    ids = path.token_ids
    if ids.shape[0] == 0:
        empty = np.zeros(0, np.int64)
        return Runs(
            token_ids=ids,
            first_frames=empty,
            last_frames=empty,
            frames=empty,
            log_probs=np.zeros(0, np.float64),
        )
    starts = np.concatenate(([0], np.flatnonzero(ids[1:] != ids[:-1]) + 1))
    stops = np.append(starts[1:], ids.shape[0])
    sums = np.add.reduceat(path.log_probs.astype(np.float64), starts)
    kept = ids[starts] != blank_id
    return Runs(
        token_ids=ids[starts][kept],
        first_frames=starts[kept] + first_frame,
        last_frames=stops[kept] - 1 + first_frame,
        frames=(stops - starts)[kept],
        log_probs=sums[kept],
    )
