"""Where the words of a reading lie in the frames: the best path through their spellings.

The states of the path are the symbols of all spellings of all words, word after word, and the
pauses before, between and after them, where boundaries may be written. This is the lattice that a
lexicon search goes through, with the words known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unheard.compiled import kernel
from unheard.decoding.emissions import FrameTiming
from unheard.decoding.hypothesis import Word
from unheard.decoding.lexicon import Lexicon, word_boundary_id
from unheard.decoding.runs import probability

_MARGIN_NATS = 100.0
"""States so far behind the best one of a frame are not followed, so that hours take linear time."""


class Work(NamedTuple):
    """Room that `best_path` works in.

    Attributes:
        furthest: int64 (states,).
        resting: float64 (states,); so the next three.
        on: float64 (states,).
        new_resting: float64 (states,).
        new_on: float64 (states,).
        window_start: int64 (frames,).
        moves: int16, as many as there are states in the windows of all frames.
    """

    furthest: NDArray[np.int64]
    resting: NDArray[np.float64]
    on: NDArray[np.float64]
    new_resting: NDArray[np.float64]
    new_on: NDArray[np.float64]
    window_start: NDArray[np.int64]
    moves: NDArray[np.int16]


class States(NamedTuple):
    """What a path goes through, in order.

    Attributes:
        symbol: int32 (states,); -1 at a pause without a boundary.
        pause: bool (states,), whether its symbol may come again after a blank.
        word: int32 (states,), place of the word in the reading; -1 for pauses.
        first_source: int32 (states + 1,), where `source` holds those from which each is entered.
        source: int32, earlier states.
        last: int32, states in which a path may end.
    """

    symbol: NDArray[np.int32]
    pause: NDArray[np.bool_]
    word: NDArray[np.int32]
    first_source: NDArray[np.int32]
    source: NDArray[np.int32]
    last: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class WordPath:
    """The best path of a reading.

    Attributes:
        words: with times and confidence.
        confidence: of all symbols; of the blanks where there are none; 0 without frames.
        log_prob: of the path [nats]; minus infinity where there is none.
        last_frames: where each word ends, that frame included; none without a path.
        carried: bool (frames,), whether the frame carries a symbol.
        frame_log_probs: float64 (frames,), log-probability of what the path writes there [nats].
    """

    words: tuple[Word, ...]
    confidence: float
    log_prob: float
    last_frames: tuple[int, ...]
    carried: NDArray[np.bool_]
    frame_log_probs: NDArray[np.float64]


def trace_words(
    words: Sequence[int],
    lexicon: Lexicon,
    log_probs: NDArray[np.float32],
    timing: FrameTiming,
    *,
    num_samples: int | None,
    boundary_bonus: float = 0.0,
) -> WordPath:
    """Find when the words of a reading were said.

    A word runs from its first to its last frame that is not blank, half a stride to either side,
    clipped to the recording.

    Args:
        words: numbers in the lexicon.
        lexicon: with the spellings.
        log_probs: float32 (frames, vocab), C-ordered [nats].
        timing: of the frames.
        num_samples: length of the recording, or None when it is not known.
        boundary_bonus: added to the boundary's log-probability when paths are compared [nats].

    Returns:
        A word that no path reaches, where frames are fewer than symbols, has no length and no
        confidence and stands at the end.
    """
    states = _lay_out(words, lexicon)
    frames = len(log_probs)
    blank = lexicon.alphabet.blank_id
    compared = log_probs
    boundary = word_boundary_id(lexicon.alphabet)
    if boundary_bonus and boundary is not None:
        compared = log_probs.copy()
        compared[:, boundary] += boundary_bonus
    score, state, carries = _search(compared, blank, states, _MARGIN_NATS)
    if score == -np.inf:
        score, state, carries = _search(compared, blank, states, np.inf)
    end = timing.edge_seconds(frames - 0.5, num_samples=num_samples)
    if score == -np.inf:
        nowhere = tuple(
            Word(text=lexicon.words[word], start_seconds=end, end_seconds=end, confidence=0.0)
            for word in words
        )
        return WordPath(
            words=nowhere,
            confidence=0.0,
            log_prob=score,
            last_frames=(),
            carried=np.zeros(frames, np.bool_),
            frame_log_probs=np.zeros(frames),
        )
    symbols = np.where(carries, states.symbol[state], blank)
    chosen = log_probs[np.arange(frames), symbols].astype(np.float64)
    said = np.flatnonzero(carries & (states.word[state] >= 0))
    place = states.word[state[said]]
    frame = said.tolist()
    firsts = np.searchsorted(place, np.arange(len(words)), side="left")
    stops = np.searchsorted(place, np.arange(len(words)), side="right")
    timed = tuple(
        Word(
            text=lexicon.words[word],
            start_seconds=timing.edge_seconds(frame[first] - 0.5, num_samples=num_samples),
            end_seconds=timing.edge_seconds(frame[stop - 1] + 0.5, num_samples=num_samples),
            confidence=probability(float(chosen[said[first:stop]].sum()), int(stop - first)),
        )
        for word, first, stop in zip(words, firsts, stops, strict=True)
    )
    counted = chosen[carries] if carries.any() else chosen
    return WordPath(
        words=timed,
        confidence=probability(float(counted.sum()), len(counted)),
        log_prob=score,
        last_frames=tuple(frame[stop - 1] for stop in stops),
        carried=carries,
        frame_log_probs=chosen,
    )


def _search(
    log_probs: NDArray[np.float32], blank: int, states: States, margin: float
) -> tuple[float, NDArray[np.int32], NDArray[np.bool_]]:
    """Return the best path's score, its state at each frame, and whether the frame carries it."""
    frames, count = len(log_probs), len(states.symbol)
    state, carries = np.empty(frames, np.int32), np.empty(frames, np.bool_)
    room = 32 * frames + count
    while True:
        work = Work(
            furthest=np.empty(count, np.int64),
            resting=np.empty(count),
            on=np.empty(count),
            new_resting=np.empty(count),
            new_on=np.empty(count),
            window_start=np.empty(frames, np.int64),
            moves=np.empty(room, np.int16),
        )
        score = float(best_path(log_probs, blank, states, margin, work, state, carries))
        if not math.isnan(score):
            return score, state, carries
        room *= 2


def _lay_out(words: Sequence[int], lexicon: Lexicon) -> States:
    """Write the states of a reading down."""
    boundary = word_boundary_id(lexicon.alphabet)
    symbol = [-1 if boundary is None else boundary]
    word_of = [-1]
    sources: list[list[int]] = [[]]
    pause: int | None = 0
    before: list[int] = []  # last symbols of the word before
    for place, word in enumerate(words):
        entered_from = [] if pause is None else [pause]
        if not lexicon.boundary_after:
            entered_from += before
        ends = []
        for spelling in lexicon.spellings_of[word]:
            source = entered_from
            for number in spelling:
                symbol.append(number)
                word_of.append(place)
                sources.append(source)
                source = [len(symbol) - 1]
            ends.append(len(symbol) - 1)
        before, pause = ends, None
        if boundary is not None:
            pause = len(symbol)
            symbol.append(boundary)
            word_of.append(-1)
            sources.append(ends)
    lengths = np.fromiter(map(len, sources), np.int64, len(sources))
    word_array = np.array(word_of, np.int32)
    return States(
        symbol=np.array(symbol, np.int32),
        pause=word_array < 0,
        word=word_array,
        first_source=np.concatenate(([0], np.cumsum(lengths))).astype(np.int32),
        source=np.array([s for several in sources for s in several], np.int32),
        last=np.array(before if pause is None else [*before, pause], np.int32),
    )


# A move says how a state was reached: its blank from its own symbol, or else from a blank; its
# symbol from its own blank (at a pause), or from a source, counted from one, and from the
# source's symbol, not a blank after it.
_BLANK_FROM_SYMBOL = 1
_AGAIN = 2
_ENTERED = 4
_NEVER = -np.inf


@kernel
def best_path(log_probs, blank, states, margin, work, out_state, out_carries):
    """Find the best path.

    Each state is in one of two ways at a frame: on its symbol, or in a blank after it. The states
    that are followed are a window; the moves of all windows stand one after the other.

    Args:
        log_probs: float32 (frames, vocab).
        blank: its number.
        states: `States`.
        margin: what is this far behind the best state of a frame is left out at the ends of the
            window [nats].
        work: `Work`.
        out_state: int32 (frames,), written: state at each frame.
        out_carries: bool (frames,), written: whether the frame carries its symbol.

    Returns:
        The path's log-probability; -inf where there is none, NaN where `work.moves` is too short.
    """
    frames = log_probs.shape[0]
    count = states.symbol.shape[0]
    # How far a path that is at most at a state can be one frame later.
    furthest, window_start, moves = work.furthest, work.window_start, work.moves
    for target in range(count):
        furthest[target] = target
        for s in range(states.first_source[target], states.first_source[target + 1]):
            source = states.source[s]
            furthest[source] = max(furthest[source], target)
    for state in range(1, count):
        furthest[state] = max(furthest[state], furthest[state - 1])

    resting, new_resting = work.resting, work.new_resting
    on, new_on = work.on, work.new_on
    resting[0], on[0] = 0.0, _NEVER
    low, high = 0, 1
    used = 0
    for t in range(frames):
        row = log_probs[t]
        reach = furthest[high - 1] + 1
        for state in range(high, reach):
            resting[state] = _NEVER
            on[state] = _NEVER
        high = reach
        if used + high - low > moves.shape[0]:
            return np.nan
        window_start[t] = used - low
        best = _NEVER
        for state in range(low, high):
            move = 0
            rest = resting[state]
            if on[state] > rest:
                rest = on[state]
                move = _BLANK_FROM_SYMBOL
            new_resting[state] = rest + row[blank]
            symbol = states.symbol[state]
            said = _NEVER
            if symbol >= 0:
                said = on[state]
                if states.pause[state] and resting[state] > said:
                    said = resting[state]
                    move |= _AGAIN
                entered = 0
                for s in range(states.first_source[state], states.first_source[state + 1]):
                    source = states.source[s]
                    entered += _ENTERED
                    if source < low:
                        continue
                    if resting[source] > said:
                        said = resting[source]
                        move = (move & _BLANK_FROM_SYMBOL) | entered
                    if on[source] > said and states.symbol[source] != symbol:
                        said = on[source]
                        move = (move & _BLANK_FROM_SYMBOL) | entered | _AGAIN
                said += row[symbol]
            new_on[state] = said
            best = max(best, new_resting[state], said)
            moves[used] = move
            used += 1
        resting, new_resting = new_resting, resting
        on, new_on = new_on, on
        if best == _NEVER:
            return _NEVER
        while max(resting[low], on[low]) < best - margin:
            low += 1
        while max(resting[high - 1], on[high - 1]) < best - margin:
            high -= 1

    score = _NEVER
    state = 0
    carries = False
    for end in states.last:
        if low <= end < high:
            if resting[end] > score:
                score, state, carries = resting[end], end, False
            if on[end] > score:
                score, state, carries = on[end], end, True
    if score == _NEVER:
        return score
    for t in range(frames - 1, -1, -1):
        out_state[t] = state
        out_carries[t] = carries
        move = moves[window_start[t] + state]
        if not carries:
            carries = (move & _BLANK_FROM_SYMBOL) != 0
        elif move >= _ENTERED:
            carries = (move & _AGAIN) != 0
            state = states.source[states.first_source[state] + (move >> 2) - 1]
        else:
            carries = (move & _AGAIN) == 0
    return score
