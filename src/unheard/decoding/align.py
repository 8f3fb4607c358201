"""Forced alignment: the most probable place of every token of a known text, exactly.

A path gives every frame to a token of the text, in order, or to a rest between two of them (the
blank). A token may stay for several frames; two equal neighbours need a rest between, as CTC
has it. Of all such paths, `align` finds the most probable: no beam, no band, whatever the length.

Text and sound need not agree everywhere. A *star* at a place of the text stands for any sound
there, or none; a *skip* allows some tokens to be left out at a cost. See `Target`.

Memory. Beside the scores of the frames (4 bytes for each frame and distinct token), `align` takes
at most 13 (frames x tokens) ** (2/3) bytes, and some 50 bytes a token and 20 a frame: 70 MB for an
hour (180,000 frames, 54,000 tokens), half a gigabyte for five. Skips add at most
1.6 (frames x tokens) ** (1/3) x tokens bytes, 190 MB for that hour, and only where a long stretch
of text is left out. Time grows with frames x tokens.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding import align_kernel
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.errors import AlignmentError, ConfigError, ShapeError, shorten

STAR_PENALTY = 0.5
"""What a star pays for a frame, compared with the frame's best symbol [nats]."""
SKIP_PENALTY = 2.0
"""What leaving out one token costs [nats]."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A text to lay over a recording.

    A *position* p of the text is the place after its first p tokens: 0 before all of them.

    Attributes:
        tokens: numbers in the model's alphabet, none of them the blank.
        stars: positions at which any sound may stand, or none.
        skips: (start, end): all tokens between the two positions may be left out together; no
            two skips with one end.

    Raises:
        ConfigError: if a position is outside the text, a skip leaves out nothing, or two of them
            end at one position.
    """

    tokens: tuple[int, ...]
    stars: frozenset[int] = frozenset()
    skips: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse places that are not in the text."""
        length = len(self.tokens)
        outside = sorted(place for place in self.stars if not 0 <= place <= length)
        wrong = [(a, b) for a, b in self.skips if not 0 <= a < b <= length]
        if outside or wrong:
            raise ConfigError(
                f"a star or skip is outside the text: expected positions 0 to {length} and skips "
                f"that go forward, found {shorten(map(str, [*outside, *wrong]))}."
            )
        if len({end for _, end in self.skips}) < len(self.skips):
            raise ConfigError("two skips end at one position: expected at most one, found more.")

    @property
    def frames_needed(self) -> int:
        """Fewest frames that can carry every token [frames]."""
        repeats = sum(a == b for a, b in zip(self.tokens, self.tokens[1:], strict=False))
        return len(self.tokens) + repeats


@dataclass(frozen=True, kw_only=True)
class FrameScores:
    """Of what a model says about a recording, the part that matters to one text.

    Attributes:
        values: (frames, distinct tokens + 2) float32 or float64, natural logs, C-contiguous: the
            blank, the distinct tokens, the best of all symbols.
        token_ids: (distinct tokens,) ascending, whose columns these are.
        timing: of the frames.
        num_samples: length of the recording.
    """

    values: NDArray[np.floating]
    token_ids: tuple[int, ...]
    timing: FrameTiming
    num_samples: int

    @classmethod
    def of(cls, emissions: Emissions, target: Target, *, blank_id: int) -> "FrameScores":
        """Take what matters to a text from the log-probabilities of all symbols.

        Raises:
            ShapeError: as `select_columns`.
        """
        token_ids = distinct_tokens(target)
        return cls(
            values=select_columns(emissions.log_probs, token_ids, blank_id=blank_id),
            token_ids=token_ids,
            timing=FrameTiming.of(emissions),
            num_samples=emissions.num_samples,
        )


@dataclass(frozen=True, kw_only=True)
class AlignedPath:
    """The most probable path of a text through a recording.

    Attributes:
        positions: (frames,) int32, never falling: tokens of the text begun or left out so far.
        on_token: (frames,) bool, whether the frame carries the last of these.
        on_star: (frames,) bool, whether the frame carries sound that a star stands for.
        log_probs: (frames,) float64, natural log of the probability of what the path has there;
            for a star, of the frame's best symbol.
        score: natural log of the path's probability, less the penalties of stars and skips.
        timing: of the frames.
        num_samples: length of the recording.
    """

    positions: NDArray[np.int32]
    on_token: NDArray[np.bool_]
    on_star: NDArray[np.bool_]
    log_probs: NDArray[np.float64]
    score: float
    timing: FrameTiming
    num_samples: int

    def edge_seconds(self, frame: float) -> float:
        """Time of a point on the frame axis, clipped to the recording [seconds]."""
        return self.timing.edge_seconds(frame, num_samples=self.num_samples)


def distinct_tokens(target: Target) -> tuple[int, ...]:
    """List the tokens of a text, each once, ascending."""
    return tuple(sorted(set(target.tokens)))


def select_columns(
    log_probs: Tensor, token_ids: Sequence[int], *, blank_id: int
) -> NDArray[np.floating]:
    """Keep the columns of (frames, vocab) log-probabilities that an alignment reads.

    Works on any consecutive stretch, so a recording of any length needs never be there whole.

    Returns:
        (frames, tokens + 2) float32, or float64 from float64: the blank, `token_ids`, the best
        of all symbols.

    Raises:
        ShapeError: if `log_probs` is not a matrix, or a token is outside it or is the blank.
    """
    if log_probs.ndim != 2:
        raise ShapeError(
            f"log-probabilities must be (frames, vocab), found {tuple(log_probs.shape)}."
        )
    vocab = log_probs.shape[1]
    wrong = [token for token in token_ids if not 0 <= token < vocab or token == blank_id]
    if wrong or not 0 <= blank_id < vocab:
        raise ShapeError(
            f"a text cannot be aligned with these emissions: expected tokens 0 to {vocab - 1} "
            f"other than the blank ({blank_id}), found {shorten(map(str, wrong)) or 'none'}. "
            "Text and emissions come from different models."
        )
    kind = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
    columns = log_probs[:, [blank_id, *token_ids]].to("cpu", kind).numpy()
    best = log_probs.amax(dim=1, keepdim=True).to("cpu", kind).numpy()
    return np.ascontiguousarray(np.concatenate((columns, best), axis=1))


def align(
    scores: FrameScores,
    target: Target,
    *,
    star_penalty: float = STAR_PENALTY,
    skip_penalty: float = SKIP_PENALTY,
) -> AlignedPath:
    """Find the most probable path of a text through a recording.

    Exact: among all paths of the lattice (see `unheard.decoding.align_kernel`), one with the
    highest sum of log-probabilities, added in float64. Of equal paths, the same one every time.

    Args:
        scores: of this text's tokens at least.
        target: the text.
        star_penalty: a frame of sound that a star stands for scores as the frame's best symbol
            less this [nats], or as the blank where that is better.
        skip_penalty: leaving out a token costs this [nats].

    Returns:
        The path, one entry a frame.

    Raises:
        AlignmentError: if the recording has too few frames for the text, or no path of the text
            has a probability above zero.
        ConfigError: if a penalty is below zero or not finite.
        ShapeError: if the scores lack a token of the text or are not numbers.
    """
    for name, value in (("star_penalty", star_penalty), ("skip_penalty", skip_penalty)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} is out of range: expected 0 or more, found {value}.")
    values = _checked(scores)
    frames = values.shape[0]
    if not target.skips and frames < target.frames_needed:
        raise AlignmentError(
            f"the text is too long for the recording: its {len(target.tokens)} tokens need "
            f"{target.frames_needed} frames, and the recording has {frames}. Does the text "
            "belong to this recording? If it holds more than is said there, align it as rough."
        )
    lattice = _lattice(scores, target, skip_penalty)
    period = _period(frames, len(target.tokens), has_skips=bool(target.skips))
    positions, on_token, score = _best_path(values, lattice, star_penalty, period)
    if not score > -math.inf:
        raise AlignmentError(
            "the model gives this text no probability at all: every path of it passes through a "
            "symbol of probability zero. Does the text belong to this recording?"
        )
    on_star = ~on_token & (values[:, -1].astype(np.float64) - star_penalty > values[:, 0])
    on_star &= lattice.is_open[positions] != 0
    columns = np.where(on_token, lattice.columns[positions].astype(np.int64), 0)
    columns[on_star] = values.shape[1] - 1
    return AlignedPath(
        positions=positions,
        on_token=on_token,
        on_star=on_star,
        log_probs=values[np.arange(frames), columns].astype(np.float64),
        score=score,
        timing=scores.timing,
        num_samples=scores.num_samples,
    )


def align_many(
    pairs: Iterable[tuple[FrameScores, Target]],
    *,
    threads: int = 1,
    star_penalty: float = STAR_PENALTY,
    skip_penalty: float = SKIP_PENALTY,
) -> list[AlignedPath]:
    """Align many texts, each with its recording, of any lengths.

    Nothing is padded: the results are those of `align`, one by one, to the bit.

    Args:
        pairs: scores and text of each recording.
        threads: recordings at a time; the work itself holds no lock of the interpreter.
        star_penalty: as in `align`.
        skip_penalty: as in `align`.

    Returns:
        The paths, in the order of the pairs.

    Raises:
        ConfigError: if there is no thread, or as `align`.
        AlignmentError, ShapeError: as `align`, for the first pair that cannot be aligned.
    """
    if threads < 1:
        raise ConfigError(f"threads is out of range: expected at least 1, found {threads}.")

    def one(pair: tuple[FrameScores, Target]) -> AlignedPath:
        return align(*pair, star_penalty=star_penalty, skip_penalty=skip_penalty)

    if threads == 1:
        return [one(pair) for pair in pairs]
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="align") as pool:
        return list(pool.map(one, pairs))


def _best_path(
    values: NDArray[np.floating], lattice: align_kernel.Lattice, star_penalty: float, period: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_], float]:
    """Find the best path: forward for the scores, then back stretch by stretch.

    Returns:
        Position at each frame, whether the frame carries its token, and the score; the path means
        nothing if the score is -inf.
    """
    frames, size = values.shape[0], lattice.columns.shape[0]
    stored = align_kernel.stored_rows(frames, size - 1, period)
    align_kernel.forward(
        values, lattice, star_penalty, period, stored, np.empty((3, size), np.float64)
    )
    place, is_on, score = align_kernel.finish(
        lattice, stored[-1, 0], stored[-1, 1], np.empty(size), np.empty(size, np.int64)
    )
    positions, on_token = np.zeros(frames, np.int32), np.zeros(frames, np.bool_)
    if not score > -math.inf:
        return positions, on_token, float(score)
    for stretch in range(stored.shape[0] - 2, -1, -1):
        begin, end = stretch * period, min((stretch + 1) * period, frames)
        truth = stored[stretch + 1, int(is_on), place]
        # Without skips a path advances by at most a token a frame; with them, it is tried.
        reach = end - begin + 1
        while True:
            low = max(0, place - reach)
            width = place - low + 1
            moves = np.zeros((end - begin, width), np.uint8)
            work = np.empty((4, width + 1))
            found = align_kernel.find_moves(
                values, lattice, star_penalty, begin, stored[stretch], low, moves, work
            )
            if found[int(is_on)] == truth or low == 0:
                break
            reach *= 2
        place, is_on = align_kernel.walk_back(
            moves, lattice, low, place, is_on, positions[begin:end], on_token[begin:end]
        )
    return positions, on_token, float(score)


def _checked(scores: FrameScores) -> NDArray[np.floating]:
    """Return the values, or refuse what the kernel must not see."""
    values = scores.values
    if values.ndim != 2 or values.shape[1] != len(scores.token_ids) + 2:
        raise ShapeError(
            f"frame scores must be (frames, {len(scores.token_ids) + 2}) for "
            f"{len(scores.token_ids)} distinct tokens, found {values.shape}."
        )
    if values.dtype not in (np.float32, np.float64):
        raise ShapeError(f"frame scores must be float32 or float64, found {values.dtype}.")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ShapeError(
            "frame scores hold NaN or infinity: expected natural logs of probabilities. The model "
            "or the recording is broken."
        )
    return np.ascontiguousarray(values)


def _lattice(scores: FrameScores, target: Target, skip_penalty: float) -> align_kernel.Lattice:
    """Write a text as the kernel's arrays."""
    tokens = np.asarray(target.tokens, np.int64)
    size = tokens.shape[0] + 1
    known = np.asarray(scores.token_ids, np.int64)
    places = np.searchsorted(known, tokens)
    if tokens.size and not (known.size and np.isin(tokens, known).all()):
        absent = sorted(set(target.tokens) - set(scores.token_ids))
        raise ShapeError(
            f"frame scores lack {len(absent)} of the text's tokens: {shorten(map(str, absent))}. "
            "Make them with FrameScores.of for this text."
        )
    columns = np.zeros(size, np.uint32)
    columns[1:] = places + 1
    straight = np.zeros(size)
    straight[0] = -math.inf
    straight[2:][tokens[1:] == tokens[:-1]] = -math.inf
    is_open = np.zeros(size, np.uint8)
    is_open[_sorted(target.stars)] = 1
    skips = np.asarray(sorted(target.skips, key=lambda skip: skip[1]), np.int64).reshape(-1, 2)
    starts, costs = np.full(size, -1, np.int64), np.zeros(size)
    starts[skips[:, 1]] = skips[:, 0]
    costs[skips[:, 1]] = (skips[:, 1] - skips[:, 0]) * skip_penalty
    return align_kernel.Lattice(
        columns=columns,
        straight=straight,
        is_open=is_open,
        skip_ends=np.ascontiguousarray(skips[:, 1]),
        skip_starts=starts,
        skip_costs=costs,
    )


def _sorted(places: Collection[int]) -> NDArray[np.int64]:
    """Put positions in order, as an index."""
    return np.asarray(sorted(places), np.int64)


def _period(frames: int, tokens: int, *, has_skips: bool) -> int:
    """Choose how often scores are stored, for the least memory [frames].

    Stored rows take 16 (tokens + 1) frames / period bytes, the moves of one stretch period squared
    (with skips, at least twice that): the sum is least at the cube root.
    """
    weight = 4 if has_skips else 8
    best = round((weight * (tokens + 1) * max(frames, 1)) ** (1 / 3))
    return max(1, min(best, frames))
