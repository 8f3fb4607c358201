"""A prefix tree of spellings in sorted arrays, and what is still to be hoped for at each node.

Nodes are numbered by depth, then in the order of their spellings; node 0 is the root, the
beginning of any word. So the children of a node are neighbours, sorted by symbol.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Trie(NamedTuple):
    """Spellings as compiled functions take them.

    Attributes:
        symbol: int32 (nodes,), the last symbol of each node's prefix; -1 for the root.
        parent: int32 (nodes,), the prefix without its last symbol; -1 for the root.
        first_child: int32 (nodes + 1,), children of `node` are `first_child[node]` up to, not
            including, `first_child[node + 1]`.
        first_label: int32 (nodes + 1,), the same for the words that end there.
        label: int32 (spellings,), words; several at one node are written alike.
        level: int32 (depths + 1,), the first node of each depth, and the number of nodes.
    """

    symbol: NDArray[np.int32]
    parent: NDArray[np.int32]
    first_child: NDArray[np.int32]
    first_label: NDArray[np.int32]
    label: NDArray[np.int32]
    level: NDArray[np.int32]


def build_trie(words: NDArray[np.int32], symbols: NDArray[np.int32], starts: NDArray[np.int64]):
    """Join spellings to a tree.

    Args:
        words: (spellings,) which word each spelling is of.
        symbols: all spellings, one after the other; none is empty.
        starts: (spellings + 1,) where each begins in `symbols`.

    Returns:
        `Trie`.
    """
    lengths = np.diff(starts)
    longest = int(lengths.max(initial=0))
    grid = np.full((len(words), longest), -1, dtype=np.int32)
    inside = np.arange(longest) < lengths[:, None]
    grid[inside] = symbols
    order = np.lexsort((words, *grid.T[::-1])) if longest else np.arange(len(words))
    grid, lengths, words = grid[order], lengths[order], words[order]

    node = np.zeros(len(words), dtype=np.int64)  # of each spelling's prefix, at the depth reached
    symbol_parts = [np.array([-1], dtype=np.int32)]
    parent_parts = [np.array([-1], dtype=np.int64)]
    level = [0, 1]
    ends = np.zeros(len(words), dtype=np.int64)
    for depth in range(longest):
        reached = lengths > depth
        before, here = node[reached], grid[reached, depth]
        new = np.ones(len(before), dtype=bool)
        new[1:] = (before[1:] != before[:-1]) | (here[1:] != here[:-1])
        node[reached] = level[-1] + np.cumsum(new) - 1
        symbol_parts.append(here[new])
        parent_parts.append(before[new])
        level.append(level[-1] + int(new.sum()))
        ended = lengths == depth + 1
        ends[ended] = node[ended]
    parent = np.concatenate(parent_parts)
    nodes = len(parent)
    by_end = np.argsort(ends, kind="stable")
    return Trie(
        symbol=np.concatenate(symbol_parts),
        parent=parent.astype(np.int32),
        first_child=(1 + _starts(parent[1:], nodes)).astype(np.int32),
        first_label=_starts(ends, nodes).astype(np.int32),
        label=words[by_end].astype(np.int32),
        level=np.array(level, dtype=np.int32),
    )


def look_ahead(trie: Trie, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best score of the words that each node can become.

    Args:
        trie: of the lexicon.
        scores: (words,) of each word, minus infinity for one that may not be written.

    Returns:
        float64 (nodes,); minus infinity where no word can be written.
    """
    best = np.full(len(trie.symbol), -np.inf)
    node_of_label = np.repeat(np.arange(len(best)), np.diff(trie.first_label))
    np.maximum.at(best, node_of_label, scores[trie.label])
    for depth in range(len(trie.level) - 2, 0, -1):
        nodes = slice(trie.level[depth], trie.level[depth + 1])
        np.maximum.at(best, trie.parent[nodes], best[nodes])
    return best


def _starts(groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where each of `count` groups begins, in what is sorted by group; and the end."""
    return np.concatenate(([0], np.cumsum(np.bincount(groups, minlength=count))))
