"""The compiled inner loops of forced alignment: exact Viterbi over the CTC lattice.

The lattice. A text of `tokens` tokens has `tokens` + 1 *positions*: after none of them, after the
first, and so on. A path is, at every frame, either *on token* p (the last token begun is the
p-th, and this frame carries it) or *resting* after token p (this frame carries no token). In one
frame it may

- stay on its token, or rest after it;
- stay at rest, or go on from rest to the next token;
- go from token p straight to token p + 1, unless the two are equal: CTC would write them as one.

A frame at rest carries the blank; where the text is *open* (a star stands there) it carries
whichever is better, the blank or the *wild* score: that of the frame's best symbol, whatever it
is, less a penalty. Positions may be joined by *skips*, which take no frame and cost something: a
path that rests at one end of a skip may at once rest at the other, which leaves out the tokens
between.

The best score of every position is carried from frame to frame in float64. The way back needs a
move for every position at every frame, which for an hour of audio would be ten gigabytes. So the
scores alone are kept, at one frame in `period`; the moves of a stretch between two of these are
worked out again on the way back. In `period` frames a path advances by at most `period` tokens, so
only a window of that many positions is worked out again; where skips let it advance further, the
window is doubled until the score at its end is, to the bit, the one found on the way out. The
result is exact whatever the length.

Source: Graves et al. 2006, sec. 3.1 (the paths of a text); Viterbi 1967; the stored rows follow
Grice, Hughey and Speck 1997, sec. 2, "checkpoints".
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unheard.compiled import inner, kernel

_NEVER = -math.inf

STAY, FROM_REST, FROM_TOKEN = 0, 1, 2
"""How a token was reached: lowest two bits of a move."""
REST_FROM_TOKEN = 4
"""Bit of a move: the rest was reached from the token before it."""
REST_BY_SKIP = 8
"""Bit of a move: the rest was then reached by a skip."""


class Lattice(NamedTuple):
    """A text as arrays; position p stands after p tokens.

    Attributes:
        columns: (tokens + 1,) uint32, column of the scores that each token reads; the first is
            not read.
        straight: (tokens + 1,) float64, 0 where a token may follow the one before it without a
            rest, -inf where it equals that one; the first is -inf.
        is_open: (tokens + 1,) uint8, 1 where the text is open.
        skip_ends: (skips,) int64, ascending, position at which a skip ends.
        skip_starts: (tokens + 1,) int64, position at which the skip that ends here starts; -1
            for none.
        skip_costs: (tokens + 1,) float64, its cost [nats].
    """

    columns: NDArray[np.uint32]
    straight: NDArray[np.float64]
    is_open: NDArray[np.uint8]
    skip_ends: NDArray[np.int64]
    skip_starts: NDArray[np.int64]
    skip_costs: NDArray[np.float64]


@inner
def _reach(frame, frames, tokens, skips):
    """First and last position on a path from start to end, at one frame."""
    if skips > 0:
        return 0, tokens
    # Each token still to come takes a frame; each one passed has taken one.
    return max(0, tokens - (frames - 1 - frame)), min(tokens, frame + 1)


def stored_rows(frames: int, tokens: int, period: int) -> NDArray[np.float64]:
    """Make the array that `forward` fills: (ceil(frames / period) + 1, 2, tokens + 1)."""
    return np.full((-(-frames // period) + 1, 2, tokens + 1), _NEVER)


@kernel
def forward(scores, lattice, wild_penalty, period, stored, work):
    """Find the best score of every position at one frame in `period`.

    Args:
        scores: (frames, columns) float32 or float64, natural logs; column 0 is the blank, the
            last one the best symbol of the frame.
        lattice: the text.
        wild_penalty: taken from the last column where the text is open [nats a frame].
        period: frames between two stored rows.
        stored: of `stored_rows`, written: resting after and being on each token, before the
            first frame, before frame `period`, and so on; the last row is after the last frame.
        work: (3, tokens + 1) float64, overwritten.
    """
    frames, num_columns = scores.shape
    size = lattice.columns.shape[0]
    skips = lattice.skip_ends.shape[0]
    rest, token, new_token = work[0], work[1], work[2]
    for position in range(size):
        rest[position] = token[position] = new_token[position] = _NEVER
    rest[0] = 0.0
    _skip(lattice, rest)
    _store(rest, token, 0, size - 1, stored[0])
    for frame in range(frames):
        first, last = _reach(frame, frames, size - 1, skips)
        row = scores[frame]
        blank = np.float64(row[0])
        wild = max(blank, np.float64(row[num_columns - 1]) - wild_penalty)
        if last > 0:
            _advance(lattice, rest, token, new_token, row, blank, wild, max(first, 1), last)
        if first == 0:
            rest[0] += wild if lattice.is_open[0] else blank
        _skip(lattice, rest)
        token, new_token = new_token, token
        if (frame + 1) % period == 0 or frame + 1 == frames:
            _store(rest, token, first, last, stored[frame // period + 1])


@inner
def _skip(lattice, rest):
    """Take every skip that is worth it, in the order of the text."""
    for end in lattice.skip_ends:
        reached = rest[lattice.skip_starts[end]] - lattice.skip_costs[end]
        if reached > rest[end]:
            rest[end] = reached


@inner
def _store(rest, token, first, last, row):
    """Keep the scores of positions `first` to `last` in a row (2, tokens + 1)."""
    for position in range(first, last + 1):
        row[0, position] = rest[position]
        row[1, position] = token[position]


@inner
def _advance(lattice, rest, token, new_token, row, blank, wild, first, last):
    """Carry positions `first` (at least 1) to `last` over one frame.

    Three plain loops over few arrays each, which compilers turn into vector instructions; one
    loop that does it all takes four times as long.

    Args:
        lattice: the text.
        rest: (tokens + 1,) scores of resting; overwritten.
        token: (tokens + 1,) scores of being on each token.
        new_token: (tokens + 1,) written: the same after the frame.
        row: (columns,) scores of the frame.
        blank: score of a rest.
        wild: score of a rest where the text is open.
        first: first position.
        last: last position.
    """
    stay, before, resting = token[first : last + 1], token[first - 1 : last], rest[first - 1 : last]
    straight = lattice.straight[first : last + 1]
    result = new_token[first : last + 1]
    for place in range(result.shape[0]):
        best = before[place] + straight[place]
        best = best if best > resting[place] else resting[place]
        result[place] = best if best > stay[place] else stay[place]
    columns = lattice.columns[first : last + 1]
    for place in range(result.shape[0]):
        result[place] += row[columns[place]]
    rests, is_open = rest[first : last + 1], lattice.is_open[first : last + 1]
    for place in range(result.shape[0]):
        best = rests[place] if rests[place] > stay[place] else stay[place]
        rests[place] = best + (wild if is_open[place] else blank)


@kernel
def finish(lattice, rest, token, best, origin):
    """Choose where the path ends.

    Args:
        lattice: the text.
        rest: (tokens + 1,) scores of resting after the last frame.
        token: (tokens + 1,) scores of being on each token then.
        best: (tokens + 1,) float64, overwritten.
        origin: (tokens + 1,) int64, overwritten.

    Returns:
        The last position of the path, whether it is on its token there, and its score.
    """
    size = rest.shape[0]
    for position in range(size):
        best[position] = max(rest[position], token[position])
        origin[position] = position
    for end in lattice.skip_ends:
        start = lattice.skip_starts[end]
        reached = best[start] - lattice.skip_costs[end]
        if reached > best[end]:
            best[end] = reached
            origin[end] = origin[start]
    position = origin[size - 1]
    return position, token[position] >= rest[position], best[size - 1]


@kernel
def find_moves(scores, lattice, wild_penalty, begin, start, low, moves, work):
    """Work out the moves of a stretch of frames in a window of positions.

    Args:
        scores: as in `forward`.
        lattice: the text.
        wild_penalty: as in `forward`.
        begin: first frame of the stretch.
        start: (2, tokens + 1), the stored row before that frame.
        low: first position of the window.
        moves: (frames of the stretch, width) uint8, zeros, written: how each position was
            reached at each frame.
        work: (4, width + 1) float64, overwritten.

    Returns:
        The scores of the window's last position at the end of the stretch: at rest, and on its
        token.
    """
    frames, num_columns = scores.shape
    size = lattice.columns.shape[0]
    skips = lattice.skip_ends.shape[0]
    stretch, width = moves.shape
    high = low + width - 1
    # Cell i is position low + i - 1: before the window nothing is reached.
    rest, token, new_rest, new_token = work[0], work[1], work[2], work[3]
    for cell in range(width + 1):
        rest[cell] = start[0, low + cell - 1] if cell else _NEVER
        token[cell] = start[1, low + cell - 1] if cell else _NEVER
        new_rest[cell] = new_token[cell] = _NEVER
    first_skip = 0
    while first_skip < skips and lattice.skip_ends[first_skip] < low:
        first_skip += 1
    for step in range(stretch):
        first, last = _reach(begin + step, frames, size - 1, skips)
        row = scores[begin + step]
        blank = np.float64(row[0])
        wild = max(blank, np.float64(row[num_columns - 1]) - wild_penalty)
        for position in range(max(first, low), min(last, high) + 1):
            cell = position - low + 1
            on, resting = token[cell], rest[cell]
            move = REST_FROM_TOKEN if on > resting else 0
            best = on if on > resting else resting
            new_rest[cell] = best + (wild if lattice.is_open[position] else blank)
            if position > 0:
                best = on
                before = rest[cell - 1]
                if before > best:
                    best = before
                    move |= FROM_REST
                before = token[cell - 1] + lattice.straight[position]
                if before > best:
                    best = before
                    move = (move & ~3) | FROM_TOKEN
                new_token[cell] = best + np.float64(row[lattice.columns[position]])
            moves[step, cell - 1] = move
        for place in range(first_skip, skips):
            skip_end = lattice.skip_ends[place]
            if skip_end > high:
                break
            skip_start = lattice.skip_starts[skip_end]
            if skip_start < low:
                continue
            reached = new_rest[skip_start - low + 1] - lattice.skip_costs[skip_end]
            if reached > new_rest[skip_end - low + 1]:
                new_rest[skip_end - low + 1] = reached
                moves[step, skip_end - low] |= REST_BY_SKIP
        rest, new_rest = new_rest, rest
        token, new_token = new_token, token
    return rest[width], token[width]


@kernel
def walk_back(moves, lattice, low, position, on_token, positions, on):
    """Follow the moves of a stretch from its end.

    Args:
        moves: (frames of the stretch, width) of `find_moves`.
        lattice: the text.
        low: first position of the window.
        position: where the path is at the last frame.
        on_token: whether it is on its token there.
        positions: (frames of the stretch,) int32, written: position at each frame.
        on: (frames of the stretch,) bool, written: whether the frame carries that position's
            token.

    Returns:
        Where the path is at the frame before the stretch, and whether it is on its token there.
    """
    for step in range(moves.shape[0] - 1, -1, -1):
        move = moves[step, position - low]
        if not on_token:
            while move & REST_BY_SKIP:
                position = lattice.skip_starts[position]
                move = moves[step, position - low]
        positions[step] = position
        on[step] = on_token
        if on_token:
            how = move & 3
            if how != STAY:
                position -= 1
                on_token = how == FROM_TOKEN
        else:
            on_token = (move & REST_FROM_TOKEN) != 0
    return position, on_token
