"""The CTC loss by enumerating every path: Graves et al. 2006, eqs. 2 and 3."""

import itertools
import math


def ctc_loss(log_probs: list[list[float]], target: list[int], *, blank: int) -> float:
    """Return -log of the summed probability of all paths that collapse to the target [nats].

    Args:
        log_probs: (frames, vocab).
        target: token numbers, without blanks.
        blank: number of the blank.
    """
    total = 0.0
    vocab = len(log_probs[0])
    for path in itertools.product(range(vocab), repeat=len(log_probs)):
        if collapse(path, blank=blank) == target:
            total += math.exp(sum(log_probs[t][token] for t, token in enumerate(path)))
    return -math.log(total) if total else math.inf


def collapse(path: tuple[int, ...], *, blank: int) -> list[int]:
    """Merge equal neighbours, then remove blanks."""
    result: list[int] = []
    before = None
    for token in path:
        if token not in (before, blank):
            result.append(token)
        before = token
    return result
