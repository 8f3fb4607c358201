"""Best-path CTC decoding: the most probable symbol of each frame, repeats and blanks removed.

Source: Graves et al. 2006, sec. 3.2 "best path decoding".
"""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding.emissions import Emissions
from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.text.alphabet import Alphabet


@dataclass(frozen=True, kw_only=True)
class BestPath:
    """Emissions reduced to their winner: 8 bytes a frame, whatever the vocabulary.

    Attributes:
        token_ids: (frames,) int32, the most probable symbol of each frame.
        log_probs: (frames,) float32, its natural log-probability.
        frame_stride_samples: samples from one frame to the next.
        frame_offset_samples: samples from the start to the centre of the first frame.
        num_samples: length of the recording.
        sample_rate: [Hz].
    """

    token_ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    frame_stride_samples: int
    frame_offset_samples: int
    num_samples: int
    sample_rate: int


def decode(emissions: Emissions, alphabet: Alphabet) -> Hypothesis:
    """Read the most probable path.

    A word runs from its first to its last frame that is not blank, half a stride to either side,
    clipped to the recording.

    Args:
        emissions: log-probabilities (frames, vocab), vocab in the alphabet's order.
        alphabet: symbols of the model. Without a word boundary in it, every symbol (with the
            combining marks that follow) is a word of its own, as in scripts that write no spaces.

    Returns:
        Text, words with times and confidence, and the path's score.
    """
    token_ids, log_probs = best_frames(emissions.log_probs)
    return decode_path(
        BestPath(
            token_ids=token_ids,
            log_probs=log_probs,
            frame_stride_samples=emissions.frame_stride_samples,
            frame_offset_samples=emissions.frame_offset_samples,
            num_samples=emissions.num_samples,
            sample_rate=emissions.sample_rate,
        ),
        alphabet,
    )


def best_frames(log_probs: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the winner of each frame of (frames, vocab): its id and its log-probability."""
    if log_probs.shape[0] == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    best = log_probs.max(dim=-1)
    return (
        best.indices.cpu().numpy().astype(np.int32),
        best.values.float().cpu().numpy(),
    )


def decode_path(path: BestPath, alphabet: Alphabet) -> Hypothesis:
    """Turn the winners of all frames into text and timed words; see `decode`."""
    runs = _runs(path, blank_id=alphabet.blank_id)
    groups = _word_groups(runs, alphabet)
    words: list[Word] = []
    for group in groups:
        text = alphabet.decode([int(runs.token_ids[index]) for index in group])
        # Symbols such as "<s>" have no written form.
        if not text.strip():
            continue
        first, last = group[0], group[-1]
        frames = int(runs.frames[first : last + 1].sum())
        words.append(
            Word(
                text=text.strip(),
                start_seconds=_edge_seconds(path, int(runs.first_frames[first]) - 0.5),
                end_seconds=_edge_seconds(path, int(runs.last_frames[last]) + 0.5),
                confidence=_probability(float(runs.log_probs[first : last + 1].sum()), frames),
            )
        )
    separator = " " if _has_boundary(alphabet) else ""
    carried = int(runs.frames.sum())
    if carried:
        confidence = _probability(float(runs.log_probs.sum()), carried)
    else:
        confidence = _probability(float(path.log_probs.sum()), path.log_probs.shape[0])
    return Hypothesis(
        text=separator.join(word.text for word in words),
        words=tuple(words),
        confidence=confidence,
        score=float(path.log_probs.sum(dtype=np.float64)),
    )


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """Stretches of one repeated symbol, blanks left out; arrays (runs,)."""

    token_ids: NDArray[np.int32]
    first_frames: NDArray[np.int64]
    last_frames: NDArray[np.int64]
    frames: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    """Summed over the run's frames."""


def _runs(path: BestPath, *, blank_id: int) -> _Runs:
    """Find the runs of equal symbols."""
    ids = path.token_ids
    if ids.shape[0] == 0:
        empty = np.zeros(0, np.int64)
        return _Runs(
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
    return _Runs(
        token_ids=ids[starts][kept],
        first_frames=starts[kept],
        last_frames=stops[kept] - 1,
        frames=(stops - starts)[kept],
        log_probs=sums[kept],
    )


def _word_groups(runs: _Runs, alphabet: Alphabet) -> Iterable[list[int]]:
    """Gather the run numbers of each word."""
    boundaries = _boundary_ids(alphabet)
    group: list[int] = []
    for index, token_id in enumerate(runs.token_ids.tolist()):
        if token_id in boundaries:
            if group:
                yield group
            group = []
            continue
        starts_symbol = not boundaries and not _is_mark(alphabet.tokens[token_id])
        if starts_symbol and group:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _boundary_ids(alphabet: Alphabet) -> frozenset[int]:
    """Ids of the symbols that stand between words."""
    return frozenset(
        index
        for index, token in enumerate(alphabet.tokens)
        if token == alphabet.word_boundary or (token and token.isspace())
    )


def _has_boundary(alphabet: Alphabet) -> bool:
    """Whether the alphabet separates words."""
    return bool(_boundary_ids(alphabet))


def _is_mark(token: str) -> bool:
    """Whether a symbol only modifies the one before it."""
    return bool(token) and unicodedata.category(token[0]).startswith("M")


def _edge_seconds(path: BestPath, frame: float) -> float:
    """Time of a point on the frame axis, clipped to the recording [seconds]."""
    samples = path.frame_offset_samples + frame * path.frame_stride_samples
    return min(max(samples, 0.0), float(path.num_samples)) / path.sample_rate


def _probability(log_prob: float, frames: int) -> float:
    """Geometric mean of the probabilities of `frames` frames; 0 for none."""
    return min(math.exp(log_prob / frames), 1.0) if frames else 0.0
