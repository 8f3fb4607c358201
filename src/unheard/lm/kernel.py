"""The arrays of an n-gram model and the compiled steps over them.

One forward trie holds all n-grams: a node is an n-gram, its children are the n-grams that are one
word longer. Nodes are numbered by order, then by context, then by word, so that the children of a
node are neighbours sorted by word, and node 0 is the empty context. The children of node 0 are all
words in order of their numbers: word `w` alone is node `1 + w`.

A state is the node of the longest known context. A node that no n-gram extends and whose back-off
is zero is never a state: the longest of its proper suffixes that is one predicts just the same.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unheard.compiled import kernel


class NgramTables(NamedTuple):
    """A model as the compiled functions take it: C-ordered, read-only arrays.

    `inner` counts the nodes shorter than the longest n-grams; only these have a back-off and
    children.

    Attributes:
        word: int32 (nodes,), last word of each n-gram; -1 for node 0.
        log_prob: float32 (nodes,), of that word after the words before it [nats].
        suffix: int32 (nodes,), the longest proper suffix that is a state.
        backoff: float32 (inner,), added when a word is looked up in the suffix instead [nats].
        first_child: int64 (inner + 1,), children of `node` are `first_child[node]` up to, not
            including, `first_child[node + 1]`.
        order: length of the longest n-grams [words].
    """

    word: npt.NDArray[np.int32]
    log_prob: npt.NDArray[np.float32]
    suffix: npt.NDArray[np.int32]
    backoff: npt.NDArray[np.float32]
    first_child: npt.NDArray[np.int64]
    order: int


@kernel
def find_child(tables, node, word):
    """Return the node that extends `node` by `word`, or -1 where there is none."""
    if node == 0:
        return np.int64(1) + word
    if node >= tables.backoff.shape[0]:
        return np.int64(-1)
    low = tables.first_child[node]
    end = tables.first_child[node + 1]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if tables.word[middle] < word:
            low = middle + 1
        else:
            high = middle
    if low < end and tables.word[low] == word:
        return low
    return np.int64(-1)


@kernel
def as_state(tables, node):
    """Return `node` if it is a state, else the longest of its suffixes that is one."""
    if node == 0:
        return np.int64(0)
    if node < tables.backoff.shape[0] and (
        tables.backoff[node] != 0.0 or tables.first_child[node] < tables.first_child[node + 1]
    ):
        return np.int64(node)
    return np.int64(tables.suffix[node])


@kernel
def ngram_step(tables, state, word):
    """Predict one word and go on to the state after it.

    Args:
        tables: of the model.
        state: what was heard so far, as `start_state`, `empty_state` or an earlier step gave it.
        word: number of the next word; 0 is the unknown word. Must be one of the model's.

    Returns:
        Log-probability of the word, float64 [nats], and the next state, int64.
    """
    node = np.int64(state)
    backed_off = 0.0
    child = find_child(tables, node, word)
    while child < 0:
        backed_off += tables.backoff[node]
        node = np.int64(tables.suffix[node])
        child = find_child(tables, node, word)
    return backed_off + tables.log_prob[child], as_state(tables, child)


@kernel
def score_ids(tables, state, words, log_probs):
    """Fill `log_probs` float64 with the score of each of `words` int32; return the last state."""
    for place in range(words.shape[0]):
        log_probs[place], state = ngram_step(tables, state, np.int64(words[place]))
    return state


@kernel
def link_suffixes(tables, suffix):
    """Fill `suffix` of every node, from short n-grams to long ones.

    `tables.suffix` must be `suffix` itself, seen through the table. It is the failure function of
    a dictionary matcher (Aho and Corasick 1975) that skips nodes which are no states.
    """
    inner = tables.backoff.shape[0]
    suffix[0] = 0
    for node in range(inner):
        for child in range(tables.first_child[node], tables.first_child[node + 1]):
            if node == 0:
                suffix[child] = 0
                continue
            word = np.int64(tables.word[child])
            shorter = np.int64(tables.suffix[node])
            found = find_child(tables, shorter, word)
            while found < 0:
                shorter = np.int64(tables.suffix[shorter])
                found = find_child(tables, shorter, word)
            suffix[child] = as_state(tables, found)


@kernel
def predict_filled(tables, log_prob):
    """Give n-grams whose `log_prob` is not a number what backing off gives.

    `tables.log_prob` must be `log_prob` itself, seen through the table.
    """
    for node in range(1, tables.backoff.shape[0]):
        for child in range(tables.first_child[node], tables.first_child[node + 1]):
            if np.isnan(log_prob[child]):
                word = np.int64(tables.word[child])
                rest, _ = ngram_step(tables, np.int64(tables.suffix[node]), word)
                log_prob[child] = tables.backoff[node] + rest


@kernel
def find_fault(tables, words):
    """Return the first node whose entries would lead a search astray, or -1 if all are sound.

    After this, no step over the tables reads outside them or goes on for ever. Sizes of the
    arrays must have been checked.

    Args:
        tables: of a model from a file nobody vouches for.
        words: size of the vocabulary.
    """
    nodes = tables.word.shape[0]
    inner = tables.backoff.shape[0]
    first_child = tables.first_child
    if first_child[0] != 1 or first_child[1] != words + 1 or first_child[inner] != nodes:
        return np.int64(0)
    for node in range(inner):
        first, end = first_child[node], first_child[node + 1]
        if first <= node or end < first or end > nodes or not np.isfinite(tables.backoff[node]):
            return np.int64(node)
        before = np.int64(-1)
        for child in range(first, end):
            word = np.int64(tables.word[child])
            suffix = np.int64(tables.suffix[child])
            log_prob = tables.log_prob[child]
            sound = before < word < words and 0 <= suffix < inner and suffix < child
            if not sound or not -np.inf < log_prob <= 0.0:
                return np.int64(child)
            before = word
    return np.int64(-1)
