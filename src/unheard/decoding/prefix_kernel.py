"""The compiled part of the CTC prefix search: arrays in, arrays out.

A *prefix* is a sequence of written symbols: a node of a tree that grows while frames are read
(`Working.prefix_*`, one row a node, a parent always before its children). A *slot* is a prefix
that is in the beam now, with the log-probability of all its paths that end with the blank, and of
those that end with its last symbol. Boundaries between words beside each other, and at the start,
are one boundary: after one, a further boundary is just another way to pause.

Beside the sum over all paths goes the best single path, which gives the words their times. Where
it enters a symbol is a node of a second tree (`Working.entry_*`), as deep as the prefix.

Both trees are swept now and then (`sweep`): what no slot needs is dropped, so that memory follows
the length of the text and the width of the beam, not the number of frames.

Source: Graves 2012, "Supervised sequence labelling", sec. 7.5 prefix search; Hannun et al. 2014,
"First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
algorithm 1 (the beam with blank and non-blank probabilities).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unheard.compiled import inline, inner, kernel
from unheard.lm.kernel import NgramTables, ngram_step

NO_LM, WORDS, UNITS = 0, 1, 2
"""What the language model predicts: nothing, words at their ends, or every symbol."""

PARENT, SYMBOL, CHILD, SIBLING, SLOT, SPELLING, STATE, HOT = range(8)
WORD_COUNT, UNKNOWN_COUNT, END_STATE, DEPTH, JUDGED = range(8, 13)
"""Columns of `Working.prefix_numbers`; END_STATE is -1 until the word's end was scored; JUDGED is
the number by which another model knows this very prefix, 0 until it does."""

SCORE, AHEAD, LM_SCORE, HOT_SCORE, END_SCORE, GIVEN = range(6)
"""Columns of `Working.prefix_scores`: all that is not acoustic, weighted; what is expected of the
unfinished word; the language model's part, not weighted; hot words; the word's end; what another
model gave between frames, weighted, to the last prefix that it knows on the way to this one."""

BEFORE, FIRST, BEFORE_LAST, BEFORE_FRAMES = range(4)
"""Columns of `Working.entry_numbers`: entry of the symbol before, first frame of this one, last
frame and number of frames of the symbol before."""

NODE, LAST_SYMBOL, B_ENTRY, B_LAST, B_FRAMES, N_ENTRY, N_LAST, N_FRAMES = range(8)
"""Columns of `Working.slot_numbers`: B of the best path that ends with the blank, N of the best
one that ends with the symbol: entry of the symbol, its last frame, the number of its frames."""

BLANK_SUM, SYMBOL_SUM, TOTAL, B_BEST, N_BEST, B_CARRIED, N_CARRIED = range(7)
"""Columns of `Working.slot_scores`: log-probability of all paths that end with the blank, with the
symbol, with either; of the best path; of the frames that carry the last symbol on the best path."""

PREFIXES, ENTRIES, SLOTS, SIDE, FRAME, STAMP = range(6)
"""Places in `Working.counts`."""


class SpellingTables(NamedTuple):
    """A trie of spelt words. Nodes are in order of depth; node 0 is the start of a word.

    Attributes:
        symbol: int32 (nodes,), last symbol of each node.
        first_child: int32 (nodes + 1,), children of `node` are `first_child[node]` up to, not
            including, `first_child[node + 1]`, sorted by symbol.
        word: int32 (nodes,), number of the word that ends here, or -1.
    """

    symbol: npt.NDArray[np.int32]
    first_child: npt.NDArray[np.int32]
    word: npt.NDArray[np.int32]


class HotTables(NamedTuple):
    """A matcher of hot words: the state after a text tells how much of one has been written.

    Attributes:
        kind: int32 (vocab,), column of `following` for each symbol.
        following: int32 (states, kinds), the next state.
        gain: float64 (states,), bonuses of the hot words that end on entering a state [nats].
        ahead: float64 (states,), share of a bonus for the part of a hot word written so far.
        start: state in which a text begins.
        most: the most that one symbol can bring [nats].
    """

    kind: npt.NDArray[np.int32]
    following: npt.NDArray[np.int32]
    gain: npt.NDArray[np.float64]
    ahead: npt.NDArray[np.float64]
    start: int
    most: float


class Scoring(NamedTuple):
    """How texts are scored; read only.

    Attributes:
        mode: NO_LM, WORDS or UNITS.
        blank: number of the blank.
        boundary: number of the boundary between words, or -1.
        boundaries: int32, all symbols that are one.
        writable: uint8 (vocab,), 1 for symbols that a text may hold, boundaries apart.
        begins_word: uint8 (vocab,), 1 for symbols that are words by themselves, in scripts
            without a boundary.
        lm_weight: factor of the language model's score.
        word_bonus: for each word.
        unknown_score: for each unknown word.
        boundary_bonus: for each frame on a boundary.
        lm: the n-gram model.
        start_state: of the model, at the beginning of a text.
        end_id: its number for the end of a text.
        spelling: of the model's words.
        ahead: float64 (spelling nodes,), weighted score of the best word below.
        unknown_ahead: the same for what is no beginning of a word.
        unit_begin: int32 (vocab + 1,), see `unit`.
        unit: int32, the model's numbers for symbol `s` from `unit_begin[s]` to
            `unit_begin[s + 1]`.
        symbol_most: the most that one letter can bring beside hot words and spelling [nats].
        end_most: the same for a boundary.
        hot: the hot words.
    """

    mode: int
    blank: int
    boundary: int
    boundaries: npt.NDArray[np.int32]
    writable: npt.NDArray[np.uint8]
    begins_word: npt.NDArray[np.uint8]
    lm_weight: float
    word_bonus: float
    unknown_score: float
    boundary_bonus: float
    lm: NgramTables
    start_state: int
    end_id: int
    spelling: SpellingTables
    ahead: npt.NDArray[np.float64]
    unknown_ahead: float
    unit_begin: npt.NDArray[np.int32]
    unit: npt.NDArray[np.int32]
    symbol_most: float
    end_most: float
    hot: HotTables


class Limits(NamedTuple):
    """How the search prunes; see `SearchConfig`.

    Attributes:
        beam: slots.
        candidates: how many texts are looked at to fill the slots; more than the slots where texts
            with one future are dropped.
        alike: how many texts with one future are kept.
        threshold: below the best text [nats].
        symbols_per_frame: vocab for no limit.
        symbol_threshold: of a symbol's log-probability [nats].
    """

    beam: int
    candidates: int
    alike: int
    threshold: float
    symbols_per_frame: int
    symbol_threshold: float


class Working(NamedTuple):
    """The state of one search; written by the kernel.

    Attributes:
        prefix_numbers: int32 (room, 13).
        prefix_scores: float64 (room, 6).
        entry_numbers: int32 (room, 4).
        entry_carried: float64 (room,), log-probability of the frames of the symbol before.
        slot_numbers: int32 (2, beam, 8), now and next.
        slot_scores: float64 (2, beam, 7).
        sums: float64 (2, beam), the next sums of slots that stay.
        links: int32 (3, beam), slot of the parent; first of the slots that grow out of a slot;
            next of the slots that grow out of the same.
        marks: int64 (vocab,), stamp of the slot that has this symbol as a child in the beam.
        tried: int64 (vocab,), the last frame that tried each symbol, counted from 1.
        symbols: int32 (vocab,), those that a frame tries.
        symbol_scores: float64 (vocab,), their log-probabilities.
        heap_scores: float64 (candidates,).
        heap_slots: int32 (candidates,).
        heap_symbols: int32 (candidates,), -1 to stay.
        futures: int32 (power of two,), hash table of the slots by what can follow them.
        crowds: int32 (beam,), how many slots have the same future as this one, the first of them.
        counts: int64 (6,).
    """

    prefix_numbers: npt.NDArray[np.int32]
    prefix_scores: npt.NDArray[np.float64]
    entry_numbers: npt.NDArray[np.int32]
    entry_carried: npt.NDArray[np.float64]
    slot_numbers: npt.NDArray[np.int32]
    slot_scores: npt.NDArray[np.float64]
    sums: npt.NDArray[np.float64]
    links: npt.NDArray[np.int32]
    marks: npt.NDArray[np.int64]
    tried: npt.NDArray[np.int64]
    symbols: npt.NDArray[np.int32]
    symbol_scores: npt.NDArray[np.float64]
    heap_scores: npt.NDArray[np.float64]
    heap_slots: npt.NDArray[np.int32]
    heap_symbols: npt.NDArray[np.int32]
    futures: npt.NDArray[np.int32]
    crowds: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


@inner
def log_add(a, b):
    """Logarithm of the sum of two numbers given by their logarithms."""
    if a < b:
        a, b = b, a
    if a == -math.inf:
        return a
    apart = b - a
    # exp(-38) is below half a unit in the last place of 1.
    return a if apart < -38.0 else a + math.log1p(math.exp(apart))


@inner
def _spell(symbols, first_child, node, symbol):
    """Return the node below `node` for `symbol`, or -1."""
    if node < 0:
        return np.int64(-1)
    low = np.int64(first_child[node])
    end = np.int64(first_child[node + 1])
    high = end
    while low < high:
        middle = (low + high) >> 1
        if symbols[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < end and symbols[low] == symbol:
        return low
    return np.int64(-1)


@inner
def _end_word(word_of, lm, numbers, scores, node):
    """Score the end of a prefix's last word, once; return the word's number or -1."""
    spelling = numbers[node, SPELLING]
    word = np.int64(-1)
    if spelling >= 0:
        word = np.int64(word_of[spelling])
    if numbers[node, END_STATE] < 0:
        known = word if word >= 0 else np.int64(0)
        log_prob, state = ngram_step(lm, np.int64(numbers[node, STATE]), known)
        scores[node, END_SCORE] = log_prob
        numbers[node, END_STATE] = state
    return word


@inner
def _grow(scoring, numbers, scores, node, symbol):
    """Score a prefix and one more symbol.

    Returns:
        Weighted score, look-ahead, the model's score, its state, node in the spelling trie, state
        and score of hot words, number of words and of unknown ones.
    """
    mode, boundary, lm, hot_words = scoring.mode, scoring.boundary, scoring.lm, scoring.hot
    spelling_tables, word_ahead = scoring.spelling, scoring.ahead
    unknown_ahead, begins_word = scoring.unknown_ahead, scoring.begins_word
    unit_begin, units = scoring.unit_begin, scoring.unit
    lm_weight, word_bonus = scoring.lm_weight, scoring.word_bonus
    unknown_score = scoring.unknown_score
    lm_score = scores[node, LM_SCORE]
    state = np.int64(numbers[node, STATE])
    words = np.int64(numbers[node, WORD_COUNT])
    unknown = np.int64(numbers[node, UNKNOWN_COUNT])
    spelling = np.int64(0)
    hot = np.int64(hot_words.following[numbers[node, HOT], hot_words.kind[symbol]])
    hot_score = scores[node, HOT_SCORE] + hot_words.gain[hot]
    ahead = hot_words.ahead[hot]
    ends = symbol == boundary
    words += 1 if ends else begins_word[symbol]
    if mode == WORDS:
        if ends:
            if _end_word(spelling_tables.word, lm, numbers, scores, node) < 0:
                unknown += 1
            lm_score += scores[node, END_SCORE]
            state = np.int64(numbers[node, END_STATE])
        else:
            spelling = _spell(
                spelling_tables.symbol,
                spelling_tables.first_child,
                np.int64(numbers[node, SPELLING]),
                symbol,
            )
        ahead += word_ahead[spelling] if spelling >= 0 else unknown_ahead
    elif mode == UNITS:
        for place in range(unit_begin[symbol], unit_begin[symbol + 1]):
            unit = np.int64(units[place])
            log_prob, state = ngram_step(lm, state, unit)
            lm_score += log_prob
            if unit == 0:
                unknown += 1
    score = lm_weight * lm_score + word_bonus * words + hot_score + scores[node, GIVEN]
    if unknown:  # minus infinity times no unknown words is zero
        score += unknown_score * unknown
    return score, ahead, lm_score, state, spelling, hot, hot_score, words, unknown


def begin(scoring: Scoring, working: Working) -> None:
    """Put the empty text into the beam."""
    numbers, scores = working.prefix_numbers[0], working.prefix_scores[0]
    numbers[:] = 0
    numbers[[PARENT, SYMBOL, CHILD, SIBLING, END_STATE]] = -1
    numbers[STATE] = scoring.start_state
    numbers[HOT] = scoring.hot.start
    scores[:] = 0.0
    scores[AHEAD] = scoring.hot.ahead[scoring.hot.start]
    if scoring.mode == WORDS:
        scores[AHEAD] += scoring.ahead[0]
    slot, sums = working.slot_numbers[0, 0], working.slot_scores[0, 0]
    slot[:] = 0
    slot[[LAST_SYMBOL, B_ENTRY, N_ENTRY]] = -1
    sums[:] = 0.0
    sums[[SYMBOL_SUM, N_BEST]] = -math.inf
    working.marks[:] = 0
    working.tried[:] = 0
    working.counts[:] = 0
    working.counts[[PREFIXES, SLOTS]] = 1


def best_prefix(working: Working) -> int:
    """Return the prefix in the beam that is ranked first."""
    side, slots = working.counts[SIDE], working.counts[SLOTS]
    nodes = working.slot_numbers[side, :slots, NODE]
    scores = working.slot_scores[side, :slots, TOTAL] + working.prefix_scores[nodes, SCORE]
    return int(nodes[np.argmax(scores + working.prefix_scores[nodes, AHEAD])])


def common_prefix(working: Working) -> int:
    """Return the longest prefix that all slots have in common: no frame to come can change it."""
    side, slots = working.counts[SIDE], working.counts[SLOTS]
    return _meet(working.prefix_numbers, working.slot_numbers[side, :slots, NODE].copy())


@inner
def _sink(scores, slots, symbols, size, score, slot, symbol):
    """Put a candidate in place of a heap's top, and let it sink to where it belongs."""
    place = 0
    below = 1
    while below < size:
        if below + 1 < size and scores[below + 1] < scores[below]:
            below += 1
        if score <= scores[below]:
            break
        scores[place] = scores[below]
        slots[place] = slots[below]
        symbols[place] = symbols[below]
        place = below
        below = 2 * place + 1
    scores[place] = score
    slots[place] = slot
    symbols[place] = symbol


@inner
def _push(scores, slots, symbols, size, room, score, slot, symbol):
    """Put a candidate into the heap of the best `room` ones, the least on top; return its size.

    A full heap loses its top; the caller has seen that the candidate is better.
    """
    if size < room:
        place = size
        size += 1
        while place > 0:
            above = (place - 1) >> 1
            if scores[above] <= score:
                break
            scores[place] = scores[above]
            slots[place] = slots[above]
            symbols[place] = symbols[above]
            place = above
        scores[place] = score
        slots[place] = slot
        symbols[place] = symbol
        return size
    _sink(scores, slots, symbols, size, score, slot, symbol)
    return size


@inner
def _stay(scoring, working, row, boundary_sum):
    """Give every slot its sums after this frame if its text does not grow.

    What flows in from a shorter text in the beam is in it. Returns the number of candidates in
    the heap, which are the slots that are possible, and the best one's score.
    """
    counts, sums, links = working.counts, working.sums, working.links
    prefix_numbers, prefix_scores = working.prefix_numbers, working.prefix_scores
    heap_scores, heap_slots = working.heap_scores, working.heap_slots
    heap_symbols = working.heap_symbols
    boundary = scoring.boundary
    blank = row[scoring.blank]
    side = counts[SIDE]
    numbers, scores = working.slot_numbers[side], working.slot_scores[side]
    parents, children, siblings = links[0], links[1], links[2]
    pause = log_add(blank, boundary_sum)
    slots = counts[SLOTS]
    children[:slots] = -1
    size = np.int64(0)
    best = -math.inf
    for slot in range(slots):
        node = numbers[slot, NODE]
        symbol = numbers[slot, LAST_SYMBOL]
        above = prefix_numbers[node, PARENT]
        parent = prefix_numbers[above, SLOT] if above >= 0 else -1
        parents[slot] = parent
        if parent >= 0:
            siblings[slot] = children[parent]
            children[parent] = slot
        if symbol < 0 or symbol == boundary:
            with_blank = scores[slot, TOTAL] + pause
            with_symbol = -math.inf
            if parent >= 0:
                with_blank = log_add(with_blank, scores[parent, TOTAL] + boundary_sum)
        else:
            with_blank = scores[slot, TOTAL] + blank
            with_symbol = scores[slot, SYMBOL_SUM] + row[symbol]
            if parent >= 0:
                # A repeated symbol needs a blank between.
                repeated = numbers[parent, LAST_SYMBOL] == symbol
                coming = scores[parent, BLANK_SUM if repeated else TOTAL] + row[symbol]
                with_symbol = log_add(with_symbol, coming)
        sums[0, slot] = with_blank
        sums[1, slot] = with_symbol
        score = log_add(with_blank, with_symbol)
        score += prefix_scores[node, SCORE] + prefix_scores[node, AHEAD]
        if score > -math.inf:
            size = _push(
                heap_scores, heap_slots, heap_symbols, size, slots, score, slot, np.int64(-1)
            )
            if score > best:
                best = score
    return size, best


@inner
def _choose_symbols(scoring, limits, working, row, boundary_sum, least):
    """List the letters that a frame may add, best first.

    `least` is a log-probability below which no letter can get into the beam.

    Returns:
        How many letters there are, and whether the frame may add a boundary.
    """
    symbols, scores, tried = working.symbols, working.symbol_scores, working.tried
    stamp = working.counts[FRAME] + 1
    writable, most = scoring.writable, limits.symbols_per_frame
    wanted = -limits.symbol_threshold
    top = -math.inf
    for symbol in range(row.shape[0]):
        if row[symbol] > top:
            top = row[symbol]
    if top < wanted:
        wanted = top
    count = 0
    louder = 0  # letters that are more probable than the boundary
    for symbol in range(row.shape[0]):
        log_prob = row[symbol]
        if writable[symbol] and log_prob >= wanted:
            if log_prob > boundary_sum:
                louder += 1
            if log_prob >= least:
                symbols[count] = symbol
                scores[count] = log_prob
                count += 1
    bounded = boundary_sum >= wanted and louder < most
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:  # Shell's sort
        for place in range(gap, count):
            symbol, score = symbols[place], scores[place]
            lower = place
            while lower >= gap and scores[lower - gap] < score:
                symbols[lower] = symbols[lower - gap]
                scores[lower] = scores[lower - gap]
                lower -= gap
            symbols[lower] = symbol
            scores[lower] = score
        gap //= 3
    if bounded:
        most -= 1
    if count > most:
        count = most
    for place in range(count):
        tried[symbols[place]] = stamp
    return count, bounded


@inner
def _offer(scores, slots, symbols, size, best, floor, threshold, score, slot, symbol):
    """Put a candidate that is above the floor into the heap; return size, best and floor."""
    room = scores.shape[0]
    size = _push(scores, slots, symbols, size, room, score, slot, symbol)
    if score > best:
        best = score
        if best - threshold > floor:
            floor = best - threshold
    if size == room and scores[0] > floor:
        floor = scores[0]
    return size, best, floor


@inner
def _extend(scoring, limits, working, row, boundary_sum, size, best):
    """Offer each slot's text with one more symbol; return size of the heap and the best score."""
    counts, links, marks, tried = working.counts, working.links, working.marks, working.tried
    prefixes, prefix_scores = working.prefix_numbers, working.prefix_scores
    heap_scores, heap_slots = working.heap_scores, working.heap_slots
    heap_symbols, symbols = working.heap_symbols, working.symbols
    symbol_scores = working.symbol_scores
    side = counts[SIDE]
    numbers, scores = working.slot_numbers[side], working.slot_scores[side]
    of_words, of_units = scoring.mode == WORDS, scoring.mode == UNITS
    spelling, ahead, hot = scoring.spelling, scoring.ahead, scoring.hot
    begins_word, word_bonus = scoring.begins_word, scoring.word_bonus
    boundary = np.int64(scoring.boundary)
    beyond = scoring.unknown_ahead if of_words else 0.0  # what is ahead of no beginning of a word
    end_most = scoring.end_most + hot.most + (ahead[0] if of_words else 0.0)
    symbol_most = scoring.symbol_most + hot.most
    threshold = limits.threshold
    first_child, spelt, kind = spelling.first_child, spelling.symbol, hot.kind
    following, gain, hot_ahead = hot.following, hot.gain, hot.ahead
    frame = counts[FRAME] + 1
    slots = counts[SLOTS]
    floor = best - threshold
    if size == heap_scores.shape[0] and heap_scores[0] > floor:
        floor = heap_scores[0]
    reach = -math.inf
    for slot in range(slots):
        node = np.int64(numbers[slot, NODE])
        hope = beyond
        if of_words:
            begun = prefixes[node, SPELLING]
            if begun >= 0 and ahead[begun] > hope:
                hope = ahead[begun]
        hope += scores[slot, TOTAL] + prefix_scores[node, SCORE]
        if hope > reach:
            reach = hope
    count, bounded = _choose_symbols(
        scoring, limits, working, row, boundary_sum, floor - reach - symbol_most
    )
    loudest = symbol_scores[0] if count else -math.inf
    for slot in range(slots):
        node = np.int64(numbers[slot, NODE])
        last = numbers[slot, LAST_SYMBOL]
        total = scores[slot, TOTAL]
        so_far = prefix_scores[node, SCORE]
        begun = np.int64(prefixes[node, SPELLING] if of_words else -1)
        known = -math.inf
        if begun >= 0:
            known = total + so_far + symbol_most + ahead[begun]
        unknown = total + so_far + symbol_most + beyond
        ending = (
            bounded
            and last >= 0
            and last != boundary
            and total + so_far + end_most + boundary_sum > floor
        )
        if not ending and known + loudest <= floor and unknown + loudest <= floor:
            continue
        stamp = counts[STAMP] + 1
        counts[STAMP] = stamp
        child = links[1, slot]
        while child >= 0:
            marks[numbers[child, LAST_SYMBOL]] = stamp
            child = links[2, child]
        if ending and marks[boundary] != stamp:
            grown = _grow(scoring, prefixes, prefix_scores, node, boundary)
            score = total + boundary_sum + grown[0] + grown[1]
            if score > floor:
                size, best, floor = _offer(
                    heap_scores,
                    heap_slots,
                    heap_symbols,
                    size,
                    best,
                    floor,
                    threshold,
                    score,
                    slot,
                    boundary,
                )
        repeated = scores[slot, BLANK_SUM]  # a repeated symbol needs a blank between
        heard = prefixes[node, HOT]
        if known + loudest > floor:  # letters on the way to a word of the vocabulary
            for child in range(first_child[begun], first_child[begun + 1]):
                symbol = np.int64(spelt[child])
                if tried[symbol] != frame or marks[symbol] == stamp:
                    continue
                score = (repeated if symbol == last else total) + row[symbol] + so_far
                state = following[heard, kind[symbol]]
                score += gain[state] + hot_ahead[state] + ahead[child]
                if score > floor:
                    size, best, floor = _offer(
                        heap_scores,
                        heap_slots,
                        heap_symbols,
                        size,
                        best,
                        floor,
                        threshold,
                        score,
                        slot,
                        symbol,
                    )
        for place in range(count):  # all others, or all
            symbol = np.int64(symbols[place])
            log_prob = symbol_scores[place]
            if unknown + log_prob <= floor:
                break
            if marks[symbol] == stamp:
                continue
            score = (repeated if symbol == last else total) + log_prob
            if of_units:
                grown = _grow(scoring, prefixes, prefix_scores, node, symbol)
                score += grown[0] + grown[1]
            else:
                state = following[heard, kind[symbol]]
                score += so_far + word_bonus * begins_word[symbol]
                score += gain[state] + hot_ahead[state] + beyond
                if score <= floor or (
                    begun >= 0 and _spell(spelt, first_child, begun, symbol) >= 0
                ):
                    continue
            if score > floor:
                size, best, floor = _offer(
                    heap_scores,
                    heap_slots,
                    heap_symbols,
                    size,
                    best,
                    floor,
                    threshold,
                    score,
                    slot,
                    symbol,
                )
    return size, best


@inner
def _sort(scores, slots, symbols, size):
    """Put the heap in order, best first."""
    for last in range(size - 1, 0, -1):
        score, slot, symbol = scores[last], np.int64(slots[last]), np.int64(symbols[last])
        scores[last] = scores[0]
        slots[last] = slots[0]
        symbols[last] = symbols[0]
        _sink(scores, slots, symbols, last, score, slot, symbol)


@inner
def _is_crowded(futures, crowds, alike, numbers, new, node, target):
    """Tell whether enough better texts have the same future as `node`; count it if not.

    What follows is scored alike after the same state of the model and of the hot words, the same
    beginning of a word, and the same last symbol. All unknown words are alike.
    """
    state, spelling = np.int64(numbers[node, STATE]), np.int64(numbers[node, SPELLING])
    hot, symbol = np.int64(numbers[node, HOT]), np.int64(numbers[node, SYMBOL])
    mixed = state * 0x9E3779B1 + spelling * 0x85EBCA6B + hot * 0xC2B2AE35 + symbol * 0x27D4EB2F
    mask = futures.shape[0] - 1
    place = (mixed ^ (mixed >> 29)) & mask
    while futures[place] >= 0:
        first = futures[place]
        other = new[first, NODE]
        if (
            numbers[other, STATE] == state
            and numbers[other, SPELLING] == spelling
            and numbers[other, HOT] == hot
            and numbers[other, SYMBOL] == symbol
        ):
            if crowds[first] == alike:
                return True
            crowds[first] += 1
            return False
        place = (place + 1) & mask
    futures[place] = target
    crowds[target] = 1
    return False


@inner
def _child(scoring, numbers, scores, counts, node, symbol):
    """Return the node of a prefix and one more symbol; make it if it is new."""
    child = np.int64(numbers[node, CHILD])
    while child >= 0:
        if numbers[child, SYMBOL] == symbol:
            return child
        child = np.int64(numbers[child, SIBLING])
    grown = _grow(scoring, numbers, scores, node, symbol)
    child = counts[PREFIXES]
    counts[PREFIXES] = child + 1
    numbers[child, PARENT] = node
    numbers[child, SYMBOL] = symbol
    numbers[child, CHILD] = -1
    numbers[child, SIBLING] = numbers[node, CHILD]
    numbers[node, CHILD] = child
    numbers[child, SPELLING] = grown[4]
    numbers[child, STATE] = grown[3]
    numbers[child, HOT] = grown[5]
    numbers[child, WORD_COUNT] = grown[7]
    numbers[child, UNKNOWN_COUNT] = grown[8]
    numbers[child, END_STATE] = -1
    numbers[child, DEPTH] = numbers[node, DEPTH] + 1
    numbers[child, JUDGED] = 0
    scores[child, SCORE] = grown[0]
    scores[child, AHEAD] = grown[1]
    scores[child, LM_SCORE] = grown[2]
    scores[child, HOT_SCORE] = grown[6]
    scores[child, GIVEN] = scores[node, GIVEN]
    return child


@inner
def _enter(entry_numbers, entry_carried, counts, old, old_scores, slot, after_symbol):
    """Note that the best path of `slot` enters a further symbol; return the entry.

    `after_symbol` tells whether it leaves the symbol itself or the blank behind it.
    """
    first = N_ENTRY if after_symbol else B_ENTRY
    entry = counts[ENTRIES]
    counts[ENTRIES] = entry + 1
    entry_numbers[entry, BEFORE] = old[slot, first]
    entry_numbers[entry, FIRST] = counts[FRAME]
    entry_numbers[entry, BEFORE_LAST] = old[slot, first + 1]
    entry_numbers[entry, BEFORE_FRAMES] = old[slot, first + 2]
    entry_carried[entry] = old_scores[slot, N_CARRIED if after_symbol else B_CARRIED]
    return entry


@inline
def _step_path(
    counts,
    parents,
    entries,
    carries,
    old,
    old_scores,
    new,
    new_scores,
    slot,
    target,
    row,
    blank,
    boundary,
    pause,
    boundary_bonus,
):
    """Take the best path of a slot whose text stays over one frame, into slot `target`.

    `pause` is the log-probability of the most probable boundary. For the arrays see `_settle`.
    """
    frame = counts[FRAME]
    symbol = old[slot, LAST_SYMBOL]
    parent = np.int64(parents[slot])
    by_blank, by_symbol = old_scores[slot, B_BEST], old_scores[slot, N_BEST]
    if symbol < 0 or symbol == boundary:
        # Blank and boundary alike, in the place of the blank.
        first, best, sum_of = B_ENTRY, B_BEST, B_CARRIED
        carried = pause
        sounding = pause + boundary_bonus
        sounds = sounding > blank
        staying = by_blank + (sounding if sounds else blank)
        new_scores[target, N_BEST] = -math.inf
        new[target, N_ENTRY] = -1  # `sweep` follows it
    else:
        first, best, sum_of = N_ENTRY, N_BEST, N_CARRIED
        carried = sounding = row[symbol]
        sounds = True
        staying = by_symbol + sounding
        after_symbol = by_symbol > by_blank
        before = N_ENTRY if after_symbol else B_ENTRY
        for column in range(3):
            new[target, B_ENTRY + column] = old[slot, before + column]
        new_scores[target, B_CARRIED] = old_scores[slot, N_CARRIED if after_symbol else B_CARRIED]
        new_scores[target, B_BEST] = (by_symbol if after_symbol else by_blank) + blank
    coming = -math.inf
    leaves_symbol = False
    if parent >= 0:
        repeated = old[parent, LAST_SYMBOL] == symbol
        above = old_scores[parent, B_BEST]
        leaves_symbol = old_scores[parent, N_BEST] > above and not repeated
        if leaves_symbol:
            above = old_scores[parent, N_BEST]
        coming = above + sounding
    if coming > staying:
        new[target, first] = _enter(
            entries, carries, counts, old, old_scores, parent, leaves_symbol
        )
        new[target, first + 1] = frame
        new[target, first + 2] = 1
        new_scores[target, sum_of] = carried
        new_scores[target, best] = coming
    else:
        for column in range(3):
            new[target, first + column] = old[slot, first + column]
        new_scores[target, sum_of] = old_scores[slot, sum_of]
        new_scores[target, best] = staying
        if sounds:
            new[target, first + 1] = frame
            new[target, first + 2] += 1
            new_scores[target, sum_of] += carried


@inline
def _open_path(
    counts,
    entries,
    carries,
    old,
    old_scores,
    new,
    new_scores,
    slot,
    target,
    symbol,
    row,
    boundary,
    pause,
    boundary_bonus,
):
    """Take the best path of a slot into `target`, whose text is longer by `symbol`.

    `pause` is the log-probability of the most probable boundary. For the arrays see `_settle`.
    """
    frame = counts[FRAME]
    repeated = old[slot, LAST_SYMBOL] == symbol
    before = old_scores[slot, B_BEST]
    leaves_symbol = old_scores[slot, N_BEST] > before and not repeated
    if leaves_symbol:
        before = old_scores[slot, N_BEST]
    entry = _enter(entries, carries, counts, old, old_scores, slot, leaves_symbol)
    new[target, B_ENTRY] = new[target, N_ENTRY] = entry
    new[target, B_LAST] = new[target, N_LAST] = frame
    new[target, B_FRAMES] = new[target, N_FRAMES] = 1
    new_scores[target, B_BEST] = new_scores[target, N_BEST] = -math.inf
    if symbol == boundary:
        new_scores[target, B_CARRIED] = pause
        new_scores[target, B_BEST] = before + pause + boundary_bonus
    else:
        new_scores[target, N_CARRIED] = row[symbol]
        new_scores[target, N_BEST] = before + row[symbol]


@inner
def _settle(scoring, limits, working, row, boundary_sum, loudest, size, best):
    """Make the candidates in the heap the slots of the next frame.

    `loudest` is the most probable boundary of the frame, or -1.
    """
    counts, sums, parents = working.counts, working.sums, working.links[0]
    prefix_numbers, prefix_scores = working.prefix_numbers, working.prefix_scores
    entry_numbers, entry_carried = working.entry_numbers, working.entry_carried
    heap_scores, heap_slots = working.heap_scores, working.heap_slots
    heap_symbols, futures, crowds = working.heap_symbols, working.futures, working.crowds
    side = counts[SIDE]
    old, old_scores = working.slot_numbers[side], working.slot_scores[side]
    new, new_scores = working.slot_numbers[1 - side], working.slot_scores[1 - side]
    beam, alike, least = limits.beam, limits.alike, best - limits.threshold
    boundary, blank = scoring.boundary, row[scoring.blank]
    boundary_bonus = scoring.boundary_bonus
    pause = row[loudest] if loudest >= 0 else -math.inf
    for slot in range(counts[SLOTS]):
        prefix_numbers[old[slot, NODE], SLOT] = -1
    if size == 0:
        # Nothing is possible any more: the empty text stands for that.
        new[0, :] = 0
        new[0, LAST_SYMBOL] = new[0, B_ENTRY] = new[0, N_ENTRY] = -1
        new_scores[0, :] = -math.inf
        new_scores[0, B_CARRIED] = new_scores[0, N_CARRIED] = 0.0
        prefix_numbers[0, SLOT] = 0
        counts[SLOTS] = 1
        counts[SIDE] = 1 - side
        return
    full = size > beam
    if full:
        _sort(heap_scores, heap_slots, heap_symbols, size)
        futures[:] = -1
    target = np.int64(0)
    for place in range(size):
        if heap_scores[place] < least:
            continue
        slot = np.int64(heap_slots[place])
        symbol = np.int64(heap_symbols[place])
        stays = symbol < 0
        node = np.int64(old[slot, NODE])
        if not stays:
            node = _child(scoring, prefix_numbers, prefix_scores, counts, node, symbol)
        if full:
            if target == beam:
                break
            if _is_crowded(futures, crowds, alike, prefix_numbers, new, node, target):
                continue
        if stays:
            new[target, LAST_SYMBOL] = old[slot, LAST_SYMBOL]
            by_blank, by_symbol = sums[0, slot], sums[1, slot]
            _step_path(
                counts,
                parents,
                entry_numbers,
                entry_carried,
                old,
                old_scores,
                new,
                new_scores,
                slot,
                target,
                row,
                blank,
                boundary,
                pause,
                boundary_bonus,
            )
        else:
            repeated = old[slot, LAST_SYMBOL] == symbol
            before = old_scores[slot, BLANK_SUM if repeated else TOTAL]
            new[target, LAST_SYMBOL] = symbol
            by_blank = by_symbol = -math.inf
            if symbol == boundary:
                by_blank = before + boundary_sum
            else:
                by_symbol = before + row[symbol]
            _open_path(
                counts,
                entry_numbers,
                entry_carried,
                old,
                old_scores,
                new,
                new_scores,
                slot,
                target,
                symbol,
                row,
                boundary,
                pause,
                boundary_bonus,
            )
        new_scores[target, BLANK_SUM] = by_blank
        new_scores[target, SYMBOL_SUM] = by_symbol
        new_scores[target, TOTAL] = log_add(by_blank, by_symbol)
        new[target, NODE] = node
        prefix_numbers[node, SLOT] = target
        target += 1
    counts[SLOTS] = target
    counts[SIDE] = 1 - side


@kernel
def advance(scoring, limits, working, log_probs):
    """Read frames (frames, vocab) float64 until they end, or the room for prefixes does.

    Returns:
        How many frames were read. After fewer than there are, the caller makes room.
    """
    counts, boundaries = working.counts, scoring.boundaries
    boundary_bonus = scoring.boundary_bonus
    most_prefixes = working.prefix_numbers.shape[0] - limits.candidates
    most_entries = working.entry_numbers.shape[0] - limits.beam
    for done in range(log_probs.shape[0]):
        if counts[PREFIXES] > most_prefixes or counts[ENTRIES] > most_entries:
            return done
        row = log_probs[done]
        boundary_sum = -math.inf
        loudest = np.int64(-1)
        for place in range(boundaries.shape[0]):
            symbol = np.int64(boundaries[place])
            boundary_sum = log_add(boundary_sum, row[symbol])
            if loudest < 0 or row[symbol] > row[loudest]:
                loudest = symbol
        boundary_sum += boundary_bonus
        size, best = _stay(scoring, working, row, boundary_sum)
        size, best = _extend(scoring, limits, working, row, boundary_sum, size, best)
        _settle(scoring, limits, working, row, boundary_sum, loudest, size, best)
        counts[FRAME] += 1
    return log_probs.shape[0]


@kernel
def sweep(working, kept, entries):
    """Drop the prefixes and entries that no slot needs, and number the rest anew, in order.

    `kept` int32 (prefixes,) and `entries` int32 (entries,) hold -1, and are written.
    """
    side = working.counts[SIDE]
    slots = working.slot_numbers[side]
    numbers, scores = working.prefix_numbers, working.prefix_scores
    kept[0] = 0
    for slot in range(working.counts[SLOTS]):
        node = slots[slot, NODE]
        while kept[node] < 0:
            kept[node] = 0
            node = numbers[node, PARENT]
    count = np.int32(0)
    for node in range(kept.shape[0]):
        if kept[node] < 0:
            continue
        kept[node] = count
        for column in range(numbers.shape[1]):
            numbers[count, column] = numbers[node, column]
        for column in range(scores.shape[1]):
            scores[count, column] = scores[node, column]
        numbers[count, CHILD] = -1
        if count > 0:
            parent = kept[numbers[count, PARENT]]
            numbers[count, PARENT] = parent
            numbers[count, SIBLING] = numbers[parent, CHILD]
            numbers[parent, CHILD] = count
        count += 1
    working.counts[PREFIXES] = count
    for slot in range(working.counts[SLOTS]):
        slots[slot, NODE] = kept[slots[slot, NODE]]
        for column in (B_ENTRY, N_ENTRY):
            entry = slots[slot, column]
            while entry >= 0 and entries[entry] < 0:
                entries[entry] = 0
                entry = working.entry_numbers[entry, BEFORE]
    count = np.int32(0)
    for entry in range(entries.shape[0]):
        if entries[entry] < 0:
            continue
        entries[entry] = count
        for column in range(working.entry_numbers.shape[1]):
            working.entry_numbers[count, column] = working.entry_numbers[entry, column]
        working.entry_carried[count] = working.entry_carried[entry]
        before = working.entry_numbers[count, BEFORE]
        if before >= 0:
            working.entry_numbers[count, BEFORE] = entries[before]
        count += 1
    working.counts[ENTRIES] = count
    for slot in range(working.counts[SLOTS]):
        for column in (B_ENTRY, N_ENTRY):
            if slots[slot, column] >= 0:
                slots[slot, column] = entries[slots[slot, column]]


@kernel
def _meet(numbers, nodes):
    """Return the last prefix on the way to all of `nodes`."""
    common = np.int64(nodes[0])
    for place in range(1, nodes.shape[0]):
        node = np.int64(nodes[place])
        while numbers[node, DEPTH] > numbers[common, DEPTH]:
            node = np.int64(numbers[node, PARENT])
        while numbers[common, DEPTH] > numbers[node, DEPTH]:
            common = np.int64(numbers[common, PARENT])
        while node != common:
            node = np.int64(numbers[node, PARENT])
            common = np.int64(numbers[common, PARENT])
    return common


@kernel
def finish(scoring, working, numbers, scores):
    """Score the texts in the beam as whole ones. The search cannot go on afterwards.

    A text and the same text with a boundary at its end are one.

    Args:
        scoring: how.
        working: state of the search.
        numbers: int32 (beam, 6), filled: prefix that the best path wrote, its entry, last frame
            and number of frames; words; unknown words.
        scores: float64 (beam, 5), filled: acoustic; the model's, not weighted; hot words; best
            path; log-probability of the frames of its last symbol.

    Returns:
        How many texts there are.
    """
    counts, prefixes, prefix_scores = working.counts, working.prefix_numbers, working.prefix_scores
    side, used = counts[SIDE], counts[SLOTS]
    slots, sums = working.slot_numbers[side], working.slot_scores[side]
    boundary = scoring.boundary
    for slot in range(used):
        prefixes[slots[slot, NODE], SLOT] = -1
    count = 0
    for slot in range(used):
        node = np.int64(slots[slot, NODE])
        text = node
        if node > 0 and prefixes[node, SYMBOL] == boundary:
            text = np.int64(prefixes[node, PARENT])
        place = prefixes[text, SLOT]
        if place < 0:
            place = np.int32(count)
            count += 1
            prefixes[text, SLOT] = place
            _end_text(scoring, prefixes, prefix_scores, text, numbers, scores, place)
            scores[place, 0] = scores[place, 3] = -math.inf
        scores[place, 0] = log_add(scores[place, 0], sums[slot, TOTAL])
        after_symbol = sums[slot, N_BEST] > sums[slot, B_BEST]
        path = sums[slot, N_BEST if after_symbol else B_BEST]
        if path > scores[place, 3] or scores[place, 3] == -math.inf:
            first = N_ENTRY if after_symbol else B_ENTRY
            numbers[place, 0] = node
            for column in range(3):
                numbers[place, 1 + column] = slots[slot, first + column]
            scores[place, 3] = path
            scores[place, 4] = sums[slot, N_CARRIED if after_symbol else B_CARRIED]
    return count


@inner
def _end_text(scoring, prefixes, prefix_scores, text, numbers, scores, place):
    """Score the end of a text: of its last word, then of the whole."""
    mode, boundary, lm, hot_words = scoring.mode, scoring.boundary, scoring.lm, scoring.hot
    word_of, end_id = scoring.spelling.word, np.int64(scoring.end_id)
    words = prefixes[text, WORD_COUNT]
    unknown = prefixes[text, UNKNOWN_COUNT]
    lm_score = prefix_scores[text, LM_SCORE]
    hot_score = prefix_scores[text, HOT_SCORE]
    state = np.int64(prefixes[text, STATE])
    if text > 0 and boundary >= 0:
        words += 1
        hot = hot_words.following[prefixes[text, HOT], hot_words.kind[boundary]]
        hot_score += hot_words.gain[hot]
        if mode == WORDS:
            if _end_word(word_of, lm, prefixes, prefix_scores, text) < 0:
                unknown += 1
            lm_score += prefix_scores[text, END_SCORE]
            state = np.int64(prefixes[text, END_STATE])
    if mode != NO_LM:
        lm_score += ngram_step(lm, state, end_id)[0]
    numbers[place, 4] = words
    numbers[place, 5] = unknown
    scores[place, 1] = lm_score
    scores[place, 2] = hot_score


@kernel
def write_symbols(prefix_numbers, node, symbols):
    """Fill `symbols` int32 (depth of the prefix,) with those of prefix `node`."""
    for place in range(symbols.shape[0] - 1, -1, -1):
        symbols[place] = prefix_numbers[node, SYMBOL]
        node = np.int64(prefix_numbers[node, PARENT])


@kernel
def write_runs(entry_numbers, entry_carried, entry, runs, log_probs):
    """Follow a path back from its last symbol, whose row is filled, to its start.

    Row 0 is for boundaries before the first symbol, which are no part of the text.

    Args:
        entry_numbers: of the search.
        entry_carried: of the search.
        entry: of the last symbol.
        runs: int32 (1 + symbols, 3), filled: first frame, last frame, frames that carry the symbol.
        log_probs: float64 (1 + symbols,), filled: log-probability of those frames.
    """
    runs[0, 0] = 0
    for place in range(runs.shape[0] - 1, 0, -1):
        runs[place, 0] = entry_numbers[entry, FIRST]
        runs[place - 1, 1] = entry_numbers[entry, BEFORE_LAST]
        runs[place - 1, 2] = entry_numbers[entry, BEFORE_FRAMES]
        log_probs[place - 1] = entry_carried[entry]
        entry = np.int64(entry_numbers[entry, BEFORE])
