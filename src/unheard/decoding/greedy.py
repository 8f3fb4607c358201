"""Best-path CTC decoding: the most probable symbol of each frame, repeats and blanks removed.

Source: Graves et al. 2006, sec. 3.2 "best path decoding".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.hypothesis import Hypothesis
from unheard.decoding.runs import Runs, probability, read_runs
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
    timing = FrameTiming(
        frame_stride_samples=path.frame_stride_samples,
        frame_offset_samples=path.frame_offset_samples,
        sample_rate=path.sample_rate,
    )
    runs = _runs(path, blank_id=alphabet.blank_id)
    reading = read_runs(runs, alphabet, timing, num_samples=path.num_samples)
    score = float(path.log_probs.sum(dtype=np.float64))
    confidence = reading.confidence
    if confidence is None:
        confidence = probability(float(path.log_probs.sum()), path.log_probs.shape[0])
    return Hypothesis(text=reading.text, words=reading.words, confidence=confidence, score=score)


def _runs(path: BestPath, *, blank_id: int) -> Runs:
    """Find the runs of equal symbols."""
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
        first_frames=starts[kept],
        last_frames=stops[kept] - 1,
        frames=(stops - starts)[kept],
        log_probs=sums[kept],
    )
