"""The compiled search through a lexicon.

A hypothesis is a history of whole words and a node of the lexicon's tree. It holds two masses, of
its paths that end in blank and of those that end in the node's symbol; a mass is a probability
relative to the best hypothesis of the frame before, with the language model, the bonuses and the
look-ahead multiplied in. So a frame costs multiplications and comparisons and no logarithm, and
the scale is kept beside them. What is more than some 700 nats behind the best counts as zero.

Histories are nodes of a tree, too: a history, one more word. Each is made once, when a hypothesis
first ends that word, and remembers what the language model said; so the language model is asked
once for each pair of history and word, however many frames the end of the word takes.

In each frame:

1. every hypothesis stays where it is, through blank or its own symbol;
2. it grows by each symbol below its node, or ends its word at the boundary. What grows into a
   hypothesis that exists is found through a hash table; the rest are candidates. What cannot
   become as good as the worst of a full beam is left at once;
3. the best are selected by partial sorting;
4. where the language model cannot tell histories apart, those are dropped which enough others
   beat in both masses: nothing that follows can bring them back.

The root is reached through a boundary only, or at the start. Without a boundary between words
(`Rules.boundary_after`), the end of a word and the first symbol of the next are one step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unheard.compiled import inner, kernel
from unheard.lm.kernel import ngram_step

_HASH_A = 0x1E3779B97F4A7C15
_HASH_B = 0x42B2AE3D27D4EB4F
_LM_STATE = (1 << 40) - 1

DONE = 0
HISTORIES_FULL = 1
NO_LOG_PROBS = 2


class Tree(NamedTuple):
    """The lexicon's tree with what the settings make of it.

    Attributes:
        symbol: int32 (nodes,), see `unheard.decoding.trie.Trie`; so the next three.
        first_child: int32 (nodes + 1,).
        first_label: int32 (nodes + 1,).
        label: int32 (spellings,).
        hope: float64 (nodes,), best score of the words below [nats]; 0 at the root.
        edge: float64 (nodes,), factor from the parent to the node: e to the change of hope.
        reach: float64 (spellings,), factor of the end of a word, were the language model certain.
        lm_word: int32 (words,), number of each word in the language model.
        word_score: float64 (words,), what a word adds besides the language model [nats].
        hot_word: int32 (words,), number of each word among those of hot phrases; 0 for others.
    """

    symbol: NDArray[np.int32]
    first_child: NDArray[np.int32]
    first_label: NDArray[np.int32]
    label: NDArray[np.int32]
    hope: NDArray[np.float64]
    edge: NDArray[np.float64]
    reach: NDArray[np.float64]
    lm_word: NDArray[np.int32]
    word_score: NDArray[np.float64]
    hot_word: NDArray[np.int32]


class HotPhrases(NamedTuple):
    """Phrases of several words as a matching automaton; state 0 has matched nothing.

    Attributes:
        next_state: int32 (states, words + 1), after each word that occurs in a phrase; column 0
            is for all other words.
        bonus: float64 (states,), for the phrases that end on arriving there [nats].
    """

    next_state: NDArray[np.int32]
    bonus: NDArray[np.float64]


class Rules(NamedTuple):
    """Settings as the kernel takes them."""

    blank: int
    boundary: int
    """-1 where the alphabet has none."""
    boundary_after: bool
    beam: int
    threshold: float
    """A factor of the best hypothesis: e to minus the threshold in nats."""
    symbols_per_frame: int
    symbol_threshold: float
    lm_weight: float
    has_lm: bool
    boundary_bonus: float
    histories: int
    """How many histories are kept that the language model cannot tell apart."""


class Histories(NamedTuple):
    """Histories of words, each one word longer than another; number 0 is the empty one.

    Attributes:
        parent: int32 (capacity,).
        word: int32 (capacity,), the last word.
        depth: int32 (capacity,), how many words.
        state: int64 (capacity,), of the language model, and above it that of the hot phrases.
        step: float64 (capacity,), what the last word added, the look-ahead apart [nats].
        judged: int32 (capacity,), the number by which another model knows the history, -1 until
            it does; what that model gave is then in `step` and in the masses.
        table: int32 (power of two,), hash table of (parent, word); -1 where free.
        used: int64 (1,), how many there are.
    """

    parent: NDArray[np.int32]
    word: NDArray[np.int32]
    depth: NDArray[np.int32]
    state: NDArray[np.int64]
    step: NDArray[np.float64]
    judged: NDArray[np.int32]
    table: NDArray[np.int32]
    used: NDArray[np.int64]


class Hypotheses(NamedTuple):
    """Hypotheses of one frame; arrays, as many as the beam holds and some more.

    Attributes:
        history: int32, the words before.
        node: int32, of the lexicon's tree.
        blank_mass: float64, of paths that end in blank.
        symbol_mass: float64, of paths that end in the node's symbol, at the root in a boundary.
    """

    history: NDArray[np.int32]
    node: NDArray[np.int32]
    blank_mass: NDArray[np.float64]
    symbol_mass: NDArray[np.float64]


class Candidates(NamedTuple):
    """What hypotheses grow into and is none of them yet.

    Attributes:
        history: int32 (room,).
        node: int32 (room,).
        mass: float64 (room,), of paths that end in the node's symbol.
        head: int32 (power of two,), chained hash table of the candidates that two hypotheses may
            grow into; -1 where a chain is empty.
        following: int32 (room,), the next in the chain.
    """

    history: NDArray[np.int32]
    node: NDArray[np.int32]
    mass: NDArray[np.float64]
    head: NDArray[np.int32]
    following: NDArray[np.int32]


class Lookup(NamedTuple):
    """A chained hash table of the hypotheses.

    Attributes:
        head: int32 (power of two,), -1 where a chain is empty.
        following: int32, the next in the chain.
    """

    head: NDArray[np.int32]
    following: NDArray[np.int32]


class Frame(NamedTuple):
    """A frame of emissions as factors, relative to the best hypothesis before it.

    Attributes:
        stay: float64 (vocab,), of every symbol.
        grow: float64 (vocab,), of the symbols that hypotheses may grow by; 0 for others.
        active: int32 (vocab,), those symbols.
        numbers: int64 (2,), how many they are; whether candidates are chained.
        reals: float64 (4,), the largest of `grow`; the best score so far; the lowest that may
            survive; the largest factor of look-ahead from the root.
    """

    stay: NDArray[np.float64]
    grow: NDArray[np.float64]
    active: NDArray[np.int32]
    numbers: NDArray[np.int64]
    reals: NDArray[np.float64]


class Beam(NamedTuple):
    """A search under way, and room to work in.

    Attributes:
        now: the hypotheses.
        spare: room for those of the next frame.
        size: int64 (1,), how many hypotheses there are.
        scale: float64 (2,), log of what the masses were relative to before the last frame; score
            of the best hypothesis after it.
        lookup: of the hypotheses.
        candidates: of the frame.
        frame: the frame.
        scores: float64, room for those of hypotheses and candidates.
        ranked: float64, the same.
        dropped: bool, of each hypothesis.
    """

    now: Hypotheses
    spare: Hypotheses
    size: NDArray[np.int64]
    scale: NDArray[np.float64]
    lookup: Lookup
    candidates: Candidates
    frame: Frame
    scores: NDArray[np.float64]
    ranked: NDArray[np.float64]
    dropped: NDArray[np.bool_]


def new_beam(width: int, vocab: int) -> Beam:
    """Return the beam of a search that begins: one hypothesis, at the root, in blank."""
    most = width + width // 2 + 8  # some of which are then dropped as beaten

    def hypotheses() -> Hypotheses:
        return Hypotheses(
            history=np.zeros(most, np.int32),
            node=np.zeros(most, np.int32),
            blank_mass=np.zeros(most),
            symbol_mass=np.zeros(most),
        )

    room = 4 * width + 64  # thinned out to the beam when full
    now = hypotheses()
    now.blank_mass[0] = 1.0
    return Beam(
        now=now,
        spare=hypotheses(),
        size=np.ones(1, np.int64),
        scale=np.array([0.0, 1.0]),
        lookup=Lookup(
            head=np.full(_table_size(most), -1, np.int32),
            following=np.zeros(most, np.int32),
        ),
        candidates=Candidates(
            history=np.zeros(room, np.int32),
            node=np.zeros(room, np.int32),
            mass=np.zeros(room),
            head=np.full(_table_size(width), -1, np.int32),
            following=np.zeros(room, np.int32),
        ),
        frame=Frame(
            stay=np.zeros(vocab),
            grow=np.zeros(vocab),
            active=np.zeros(vocab, np.int32),
            numbers=np.zeros(2, np.int64),
            reals=np.zeros(4),
        ),
        scores=np.zeros(most + room),
        ranked=np.zeros(most + room),
        dropped=np.zeros(most, np.bool_),
    )


def new_histories(capacity: int) -> Histories:
    """Return room for histories, with the empty one in it; its state is for the caller to set."""
    return Histories(
        parent=np.full(capacity, -1, np.int32),
        word=np.full(capacity, -1, np.int32),
        depth=np.zeros(capacity, np.int32),
        state=np.zeros(capacity, np.int64),
        step=np.zeros(capacity),
        judged=np.zeros(capacity, np.int32),
        table=np.full(_table_size(capacity), -1, np.int32),
        used=np.ones(1, np.int64),
    )


def more_room(histories: Histories, capacity: int) -> Histories:
    """Copy histories to where there is room for `capacity` of them."""
    larger = new_histories(capacity)
    used = int(histories.used[0])
    for name in ("parent", "word", "depth", "state", "step", "judged"):
        getattr(larger, name)[:used] = getattr(histories, name)[:used]
    larger.used[0] = used
    index_histories(larger)
    return larger


def _table_size(entries: int) -> int:
    """Size of a hash table that is at most half full: a power of two."""
    return 1 << max(4, (2 * entries - 1).bit_length())


@inner
def _mix(a, b):
    """Hash two numbers."""
    mixed = np.int64(a) * _HASH_A + np.int64(b) * _HASH_B
    return mixed ^ (mixed >> np.int64(31))


@inner
def extend(histories, tree, lm, hot, rules, history, word):
    """Return the history that is one word longer, or -1 when there is no room for it."""
    mask = histories.table.shape[0] - 1
    place = _mix(np.int64(history), np.int64(word)) & mask
    while True:
        found = histories.table[place]
        if found < 0:
            break
        if histories.parent[found] == history and histories.word[found] == word:
            return found
        place = (place + 1) & mask
    made = histories.used[0]
    if made == histories.parent.shape[0]:
        return np.int32(-1)
    state = histories.state[history]
    step = tree.word_score[word]
    next_state = np.int64(0)
    if rules.has_lm:
        log_prob, next_state = ngram_step(lm, state & _LM_STATE, np.int64(tree.lm_word[word]))
        step += rules.lm_weight * log_prob
    hot_state = hot.next_state[state >> 40, tree.hot_word[word]]
    step += hot.bonus[hot_state]
    histories.parent[made] = history
    histories.word[made] = word
    histories.depth[made] = histories.depth[history] + 1
    histories.state[made] = next_state | (np.int64(hot_state) << 40)
    histories.step[made] = step
    histories.judged[made] = -1
    histories.table[place] = made
    histories.used[0] = made + 1
    return np.int32(made)


@kernel
def index_histories(histories):
    """Fill the hash table anew."""
    mask = histories.table.shape[0] - 1
    histories.table[:] = -1
    for number in range(1, histories.used[0]):
        place = _mix(np.int64(histories.parent[number]), np.int64(histories.word[number])) & mask
        while histories.table[place] >= 0:
            place = (place + 1) & mask
        histories.table[place] = number


@kernel
def collect(histories, beam, number):
    """Forget the histories that no hypothesis goes back to, and number the rest anew.

    Args:
        histories: `Histories`.
        beam: `Beam`.
        number: int32, room to work in, as much as for histories.
    """
    count = histories.used[0]
    for old in range(count):
        number[old] = -1
    number[0] = 0
    for i in range(beam.size[0]):
        history = beam.now.history[i]
        while number[history] < 0:
            number[history] = 0
            history = histories.parent[history]
    kept = 1
    for old in range(1, count):
        if number[old] < 0:
            continue
        # A history comes after its parent, so the parent has its new number.
        number[old] = kept
        histories.parent[kept] = number[histories.parent[old]]
        histories.word[kept] = histories.word[old]
        histories.depth[kept] = histories.depth[old]
        histories.state[kept] = histories.state[old]
        histories.step[kept] = histories.step[old]
        histories.judged[kept] = histories.judged[old]
        kept += 1
    histories.used[0] = kept
    for i in range(beam.size[0]):
        beam.now.history[i] = number[beam.now.history[i]]
    index_histories(histories)


@kernel
def common_history(histories, beam):
    """Return the longest history that all hypotheses have in common."""
    common = beam.now.history[0]
    for i in range(1, beam.size[0]):
        other = beam.now.history[i]
        while other != common:
            if histories.depth[other] > histories.depth[common]:
                other = histories.parent[other]
            else:
                common = histories.parent[common]
    return common


@kernel
def nth_largest(values, count, n):
    """Return the n-th largest of the first `count` values, n from 1; reorders them."""
    low = 0
    high = count - 1
    wanted = n - 1
    while low < high:
        middle = (low + high) >> 1
        a, b, c = values[low], values[middle], values[high]
        if a > b:
            a, b = b, a
        pivot = b if b < c else (c if c > a else a)
        i = low
        j = high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            return values[wanted]
    return values[wanted]


@inner
def _prepare(row, rules, scale, frame):
    """Turn a frame's log-probabilities into factors, relative to the best hypothesis.

    Returns:
        Log of the new scale; NaN for a frame that holds NaN or plus infinity.
    """
    stay, grow = frame.stay, frame.grow
    vocab = row.shape[0]
    top = -np.inf
    best = 0
    for v in range(vocab):
        if not row[v] < np.inf:
            return np.nan
        if row[v] > top:
            top = np.float64(row[v])
            best = v
    floor = -rules.symbol_threshold
    if rules.symbols_per_frame < vocab - 1:
        others = np.int64(0)
        for v in range(vocab):
            if v != rules.blank:
                stay[others] = row[v]
                others += 1
        rank = nth_largest(stay, others, rules.symbols_per_frame)
        if rank > floor:
            floor = rank
    if top == -np.inf:
        top = 0.0
    inverse = 1.0 / scale[1]
    largest = 0.0
    count = 0
    for v in range(vocab):
        raised = row[v] - top
        if v == rules.boundary:
            raised += rules.boundary_bonus
        factor = np.exp(raised) * inverse
        stay[v] = factor
        grow[v] = 0.0
        if v != rules.blank and (row[v] >= floor or v == best) and factor > 0.0:
            grow[v] = factor
            if factor > largest:
                largest = factor
            frame.active[count] = v
            count += 1
    frame.numbers[0] = count
    frame.reals[0] = largest
    return scale[0] + top + np.log(scale[1])


@inner
def _child(symbols, low, end, symbol):
    """Return which of the nodes from `low` up to `end` is entered by a symbol, or -1."""
    high = end
    while low < high:
        middle = (low + high) >> 1
        if symbols[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < end and symbols[low] == symbol:
        return low
    return np.int32(-1)


@inner
def _chain(head, following, size, of_history, of_node):
    """Make a chained hash table of pairs."""
    head[:] = -1
    mask = head.shape[0] - 1
    for i in range(size):
        place = _mix(np.int64(of_history[i]), np.int64(of_node[i])) & mask
        following[i] = head[place]
        head[place] = i


@inner
def _stay(now, spare, size, tree, rules, frame):
    """Leave every hypothesis where it is for one frame: fills the masses of `spare`.

    Sets the bounds: what survives is not below the threshold, nor worse than a full beam.
    """
    stay = frame.stay
    blank = stay[rules.blank]
    best = 0.0
    least = np.inf
    for i in range(size):
        either = now.blank_mass[i] + now.symbol_mass[i]
        by_blank = either * blank
        by_symbol = 0.0
        if now.node[i] > 0:
            by_symbol = now.symbol_mass[i] * stay[tree.symbol[now.node[i]]]
        elif rules.boundary >= 0:
            # Several boundaries in a row, with or without blank between them, are one.
            by_symbol = either * stay[rules.boundary]
        spare.blank_mass[i] = by_blank
        spare.symbol_mass[i] = by_symbol
        score = by_blank + by_symbol
        if score > best:
            best = score
        if score < least:
            least = score
    lowest = best * rules.threshold
    if size >= rules.beam and least > lowest:
        lowest = least
    frame.reals[1] = best
    frame.reals[2] = lowest


@inner
def _thin(candidates, count, width, ranked):
    """Keep the best `width` of `count` candidates; what is worse cannot survive.

    Returns:
        How many are left, and the lowest mass among them.
    """
    for i in range(count):
        ranked[i] = candidates.mass[i]
    limit = nth_largest(ranked, count, width)
    ties = width
    for i in range(count):
        if candidates.mass[i] > limit:
            ties -= 1
    kept = np.int64(0)
    for i in range(count):
        mass = candidates.mass[i]
        if mass == limit:
            ties -= 1
        if mass > limit or (mass == limit and ties >= 0):
            candidates.history[kept] = candidates.history[i]
            candidates.node[kept] = candidates.node[i]
            candidates.mass[kept] = mass
            kept += 1
    _chain(candidates.head, candidates.following, kept, candidates.history, candidates.node)
    return kept, limit


@inner
def _grow(now, spare, size, candidates, lookup, tree, lm, hot, rules, histories, frame, ranked):
    """Grow every hypothesis by each symbol below its node, and end its word.

    Mass that goes into a hypothesis which exists is added to `spare`; the rest is candidates.
    Arrays are bound to names of their own, and no tuple is handed on in the inner loops: that
    costs more than the work.

    Returns:
        How many candidates there are, or -1 when there is no room for histories.
    """
    now_history, now_node = now.history, now.node
    now_blank, now_symbol = now.blank_mass, now.symbol_mass
    next_symbol = spare.symbol_mass
    new_history, new_node, new_mass = candidates.history, candidates.node, candidates.mass
    shared_head, shared_following = candidates.head, candidates.following
    head, following = lookup.head, lookup.following
    tree_symbol, tree_edge, tree_hope = tree.symbol, tree.edge, tree.hope
    first_child, first_label = tree.first_child, tree.first_label
    label, reach = tree.label, tree.reach
    table, of_parent, of_word = histories.table, histories.parent, histories.word
    steps = histories.step
    grow, active = frame.grow, frame.active
    mask = head.shape[0] - 1
    shared_mask = shared_head.shape[0] - 1
    table_mask = table.shape[0] - 1
    apart, threshold = rules.boundary_after, rules.threshold
    width = rules.beam
    room = new_mass.shape[0]
    symbols = frame.numbers[0]
    largest, best, lowest = frame.reals[0], frame.reals[1], frame.reals[2]
    # The most that a symbol can bring at the root, where the look-ahead begins.
    at_root = largest * frame.reals[3]
    end_factor = grow[rules.boundary] if rules.boundary >= 0 else 0.0
    leap = end_factor if apart or end_factor > at_root else at_root
    chained = frame.numbers[1] > 0
    if chained:
        shared_head[:] = -1
        chained = False
    count = np.int64(0)
    for i in range(size):
        at = now_node[i]
        by_blank = now_blank[i]
        either = by_blank + now_symbol[i]
        own_symbol = tree_symbol[at]
        begin = first_label[at]
        # On within the word, then from the end of each word at this node.
        for ending in range(-1, first_label[at + 1] - begin):
            if ending < 0:
                if either * (at_root if at == 0 else largest) <= lowest:
                    continue
                history = now_history[i]
                source = at
                factor = 1.0
                shared = at == 0 and not apart
                first = 0
            else:
                if not either * leap * reach[begin + ending] > lowest:
                    continue
                word = label[begin + ending]
                parent = now_history[i]
                place = _mix(np.int64(parent), np.int64(word)) & table_mask
                history = table[place]
                while history >= 0 and (of_parent[history] != parent or of_word[history] != word):
                    place = (place + 1) & table_mask
                    history = table[place]
                if history < 0:
                    history = extend(histories, tree, lm, hot, rules, parent, word)
                    if history < 0:
                        frame.numbers[1] = 1
                        return -1
                source = np.int32(0)
                factor = np.exp(steps[history] - tree_hope[at])
                shared = True
                first = -1
            low = first_child[source]
            children = np.int64(first_child[source + 1] - low)
            by_symbol = children > 8 and children > 4 * symbols
            if by_symbol:
                children = symbols
            if ending >= 0 and (apart or either * factor * at_root <= lowest):
                children = np.int64(0)
            for c in range(first, children):
                if c < 0:
                    # The boundary, which leads to the root.
                    child = np.int32(0)
                    mass = either * factor * end_factor
                else:
                    child = np.int32(low + c)
                    if by_symbol:
                        child = _child(tree_symbol, low, first_child[source + 1], active[c])
                        if child < 0:
                            continue
                    symbol = tree_symbol[child]
                    # The same symbol once more needs a blank between.
                    mass = by_blank if symbol == own_symbol else either
                    mass *= grow[symbol] * tree_edge[child] * factor
                if mass <= lowest:
                    continue
                place = _mix(np.int64(history), np.int64(child))
                found = head[place & mask]
                while found >= 0 and (now_history[found] != history or now_node[found] != child):
                    found = following[found]
                if found >= 0:
                    next_symbol[found] += mass
                    continue
                slot = place & shared_mask
                if shared:
                    found = shared_head[slot]
                    while found >= 0 and (
                        new_history[found] != history or new_node[found] != child
                    ):
                        found = shared_following[found]
                    if found >= 0:
                        new_mass[found] += mass
                        continue
                if count == room:
                    count, limit = _thin(candidates, count, width, ranked)
                    if limit > lowest:
                        lowest = limit
                    chained = True
                if shared:
                    shared_following[count] = shared_head[slot]
                    shared_head[slot] = count
                    chained = True
                new_history[count] = history
                new_node[count] = child
                new_mass[count] = mass
                count += 1
                if mass > best:
                    best = mass
                    if best * threshold > lowest:
                        lowest = best * threshold
    frame.numbers[1] = 1 if chained else 0
    return count


@inner
def _select(now, spare, size, candidates, count, rules, scores, ranked, scale):
    """Gather in `spare` the best of the hypotheses that stay and of the candidates.

    Those beyond the beam are some more than it holds, for `_drop_beaten`.

    Returns:
        How many there are; whether there were more than the beam holds.
    """
    total = size + count
    best = 0.0
    for i in range(size):
        scores[i] = spare.blank_mass[i] + spare.symbol_mass[i]
        if scores[i] > best:
            best = scores[i]
    for i in range(size, total):
        scores[i] = candidates.mass[i - size]
        if scores[i] > best:
            best = scores[i]
    scale[1] = best if best > 0.0 else 1.0
    limit = best * rules.threshold
    above = np.int64(0)
    for i in range(total):
        if scores[i] > 0.0 and scores[i] >= limit:
            ranked[above] = scores[i]
            above += 1
    room = spare.node.shape[0]
    ties = above
    if above > room:
        limit = nth_largest(ranked, above, room)
        ties = room
        for i in range(total):
            if scores[i] > limit:
                ties -= 1
    kept = 0
    for i in range(total):
        score = scores[i]
        if score <= 0.0 or score < limit:
            continue
        if score == limit:
            if ties == 0:
                continue
            ties -= 1
        if i < size:
            spare.history[kept] = now.history[i]
            spare.node[kept] = now.node[i]
            spare.blank_mass[kept] = spare.blank_mass[i]
            spare.symbol_mass[kept] = spare.symbol_mass[i]
        else:
            spare.history[kept] = candidates.history[i - size]
            spare.node[kept] = candidates.node[i - size]
            spare.blank_mass[kept] = 0.0
            spare.symbol_mass[kept] = candidates.mass[i - size]
        kept += 1
    return kept, above > rules.beam


@inner
def _trim(spare, size, width, ranked):
    """Keep the best `width` of more hypotheses."""
    for i in range(size):
        ranked[i] = spare.blank_mass[i] + spare.symbol_mass[i]
    limit = nth_largest(ranked, size, width)
    ties = width
    for i in range(size):
        if spare.blank_mass[i] + spare.symbol_mass[i] > limit:
            ties -= 1
    kept = 0
    for i in range(size):
        score = spare.blank_mass[i] + spare.symbol_mass[i]
        if score < limit or (score == limit and ties == 0):
            continue
        if score == limit:
            ties -= 1
        spare.history[kept] = spare.history[i]
        spare.node[kept] = spare.node[i]
        spare.blank_mass[kept] = spare.blank_mass[i]
        spare.symbol_mass[kept] = spare.symbol_mass[i]
        kept += 1


@inner
def _drop_beaten(spare, size, lookup, rules, histories, dropped):
    """Drop hypotheses that enough others beat in both masses and that have the same future.

    Returns:
        How many are left.
    """
    head, following = lookup.head, lookup.following
    head[:] = -1
    mask = head.shape[0] - 1
    for i in range(size):
        place = _mix(np.int64(histories.state[spare.history[i]]), np.int64(spare.node[i])) & mask
        following[i] = head[place]
        head[place] = i
    for i in range(size):
        state = histories.state[spare.history[i]]
        node = spare.node[i]
        by_blank, by_symbol = spare.blank_mass[i], spare.symbol_mass[i]
        beaten = 0
        other = head[_mix(np.int64(state), np.int64(node)) & mask]
        while other >= 0 and beaten < rules.histories:
            if (
                other != i
                and spare.node[other] == node
                and histories.state[spare.history[other]] == state
                and spare.blank_mass[other] >= by_blank
                and spare.symbol_mass[other] >= by_symbol
            ):
                equal = (
                    spare.blank_mass[other] == by_blank and spare.symbol_mass[other] == by_symbol
                )
                if not equal or other < i:
                    beaten += 1
            other = following[other]
        dropped[i] = beaten >= rules.histories
    kept = 0
    for i in range(size):
        if not dropped[i]:
            spare.history[kept] = spare.history[i]
            spare.node[kept] = spare.node[i]
            spare.blank_mass[kept] = spare.blank_mass[i]
            spare.symbol_mass[kept] = spare.symbol_mass[i]
            kept += 1
    return kept


@kernel
def search(log_probs, first, tree, lm, hot, rules, histories, beam):
    """Take frames from `first` on into the beam.

    Args:
        log_probs: float32 (frames, vocab), C-ordered [nats].
        first: the frame to begin with.
        tree: `Tree` of the lexicon.
        lm: `NgramTables`; not looked at where `rules.has_lm` is false.
        hot: `HotPhrases`.
        rules: `Rules`.
        histories: `Histories`, grows.
        beam: `Beam`, changes.

    Returns:
        The first frame that was not taken, and why: DONE (none is left), HISTORIES_FULL (make
        room and call again; the frame left no trace but histories) or NO_LOG_PROBS (no
        log-probabilities).
    """
    candidates, lookup, frame, scale = beam.candidates, beam.lookup, beam.frame, beam.scale
    now, spare = beam.now, beam.spare
    size = beam.size[0]
    swapped = False
    outcome = DONE
    taken = log_probs.shape[0]
    root_gain = 0.0
    for child in range(tree.first_child[0], tree.first_child[1]):
        if tree.edge[child] > root_gain:
            root_gain = tree.edge[child]
    frame.reals[3] = root_gain
    _chain(lookup.head, lookup.following, size, now.history, now.node)
    for t in range(first, log_probs.shape[0]):
        log_scale = _prepare(log_probs[t], rules, scale, frame)
        if np.isnan(log_scale):
            outcome, taken = NO_LOG_PROBS, t
            break
        if size == 0:
            continue
        _stay(now, spare, size, tree, rules, frame)
        count = _grow(
            now,
            spare,
            size,
            candidates,
            lookup,
            tree,
            lm,
            hot,
            rules,
            histories,
            frame,
            beam.ranked,
        )
        if count < 0:
            outcome, taken = HISTORIES_FULL, t
            break
        size, full = _select(
            now, spare, size, candidates, count, rules, beam.scores, beam.ranked, scale
        )
        scale[0] = log_scale
        if full:
            size = _drop_beaten(spare, size, lookup, rules, histories, beam.dropped)
            if size > rules.beam:
                _trim(spare, size, rules.beam, beam.ranked)
                size = rules.beam
        now, spare = spare, now
        swapped = not swapped
        _chain(lookup.head, lookup.following, size, now.history, now.node)
    beam.size[0] = size
    if swapped:
        for i in range(size):
            beam.now.history[i] = now.history[i]
            beam.now.node[i] = now.node[i]
            beam.now.blank_mass[i] = now.blank_mass[i]
            beam.now.symbol_mass[i] = now.symbol_mass[i]
    return taken, outcome


@kernel
def close(tree, lm, hot, rules, histories, beam, end_word, ended, score, whole):
    """Say what each hypothesis would be if no frame came any more.

    Fills, for each ending, `ended` int32 with its history, `score` float64 with its score [nats]
    without look-ahead, the end of the sentence included, and `whole` bool: false where the last
    word is not finished and therefore not in the history.

    Returns:
        How many endings there are, or -1 when there is no room for histories.
    """
    count = 0
    # The masses are relative to the frame before the last, and bear its best one.
    base = beam.scale[0]
    for i in range(beam.size[0]):
        node = beam.now.node[i]
        either = beam.now.blank_mass[i] + beam.now.symbol_mass[i]
        log_mass = base + np.log(either) - tree.hope[node]
        words = tree.first_label[node + 1] - tree.first_label[node]
        for ending in range(words if words > 0 else 1):
            history = beam.now.history[i]
            reached = log_mass
            if words:
                word = tree.label[tree.first_label[node] + ending]
                history = extend(histories, tree, lm, hot, rules, history, word)
                if history < 0:
                    return -1
                reached += histories.step[history]
            if rules.has_lm:
                log_prob, _ = ngram_step(
                    lm, histories.state[history] & _LM_STATE, np.int64(end_word)
                )
                reached += rules.lm_weight * log_prob
            ended[count] = history
            score[count] = reached
            whole[count] = node == 0 or words > 0
            count += 1
    return count
