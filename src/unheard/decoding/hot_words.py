"""Hot words: words and phrases that the user expects, each with a bonus for being written.

They are found by a matcher that reads a text symbol by symbol, so that a search can follow it. The
bonus is added when the word is whole; until then its written share only ranks the text in the
beam, and is taken back if the text turns out otherwise.

Source: Aho and Corasick 1975, "Efficient string matching".
"""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unheard.decoding.prefix_kernel import HotTables
from unheard.errors import AlphabetError
from unheard.lm.trie import read_only
from unheard.text.alphabet import Alphabet


def spell(phrase: str, alphabet: Alphabet, *, boundary: int | None) -> list[int]:
    """Return the symbols of a word or phrase, boundaries between its words.

    Raises:
        AlphabetError: if it is empty or cannot be spelt.
    """
    words = phrase.split()
    if not words:
        raise AlphabetError(f"a hot word is empty: found {phrase!r}. Remove it.")
    symbols: list[int] = []
    for word in words:
        if symbols and boundary is not None:
            symbols.append(boundary)
        symbols.extend(alphabet.encode(word))
    return symbols


def build_matcher(
    spellings: Sequence[tuple[Sequence[int], float]], *, vocab: int, boundary: int | None
) -> HotTables:
    """Make the matcher of hot words.

    Args:
        spellings: symbols and bonus [nats] of each hot word.
        vocab: symbols of the alphabet.
        boundary: with one, only whole words count: a boundary, or an end of the text, must stand
            on both sides. None for scripts without: then they count wherever they stand.
    """
    edge = [] if boundary is None else [boundary]
    patterns = [([*edge, *symbols, *edge], bonus) for symbols, bonus in spellings]
    used = sorted({symbol for pattern, _ in patterns for symbol in pattern} | set(edge))
    kind = np.zeros(vocab, np.int32)
    kind[used] = np.arange(1, len(used) + 1)
    children: list[dict[int, int]] = [{}]
    gain, ahead = [0.0], [0.0]
    for pattern, bonus in patterns:
        state = 0
        for place, symbol in enumerate(pattern):
            # At a boundary before the word nothing is written of it yet.
            share = (place + 1 - len(edge)) / (len(pattern) - 2 * len(edge))
            if symbol not in children[state]:
                children[state][symbol] = len(children)
                children.append({})
                gain.append(0.0)
                ahead.append(0.0)
            state = children[state][symbol]
            if place + 1 < len(pattern):
                ahead[state] = max(ahead[state], bonus * share)
        gain[state] += bonus
    following = _link(children, gain, ahead, kind, kinds=len(used) + 1)
    gains, shares = np.array(gain), np.array(ahead)
    return HotTables(
        kind=read_only(kind),
        following=read_only(following),
        gain=read_only(gains),
        ahead=read_only(shares),
        start=0 if boundary is None else int(following[0, kind[boundary]]),
        most=max(0.0, float((gains + shares).max())),
    )


def _link(
    children: Sequence[Mapping[int, int]],
    gain: list[float],
    ahead: list[float],
    kind: NDArray[np.int32],
    *,
    kinds: int,
) -> NDArray[np.int32]:
    """Return the next state for every state and kind of symbol; let suffixes count as well."""
    following = np.zeros((len(children), kinds), np.int32)
    suffix = [0] * len(children)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        if state:
            gain[state] += gain[suffix[state]]
            ahead[state] = max(ahead[state], ahead[suffix[state]])
            following[state] = following[suffix[state]]
        for symbol, child in children[state].items():
            suffix[child] = int(following[state, kind[symbol]]) if state else 0
            following[state, kind[symbol]] = child
            queue.append(child)
    return following
