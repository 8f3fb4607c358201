"""Random alignments whose numbers are the same on every machine.

Scores are whole multiples of 2**-16 in float32, so sums of them are exact, and the best path does
not depend on the order of additions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_CASES = 1000


class Case(NamedTuple):
    """One alignment.

    Attributes:
        log_probs: (frames, vocab) float32; not normalised, which no aligner asks for.
        tokens: (tokens,) of 1 .. vocab - 1; 0 is the blank.
    """

    log_probs: NDArray[np.float32]
    tokens: tuple[int, ...]


def make_cases(count: int = NUM_CASES) -> list[Case]:
    """Make short and long texts, small and large alphabets, tight and loose recordings."""
    generator = np.random.default_rng(20_261_120)
    cases = []
    for _ in range(count):
        vocab = int(generator.integers(2, 40))
        length = int(generator.integers(1, 40))
        # A small range makes many equal neighbours.
        tokens = 1 + generator.integers(0, min(vocab - 1, int(generator.integers(1, 40))), length)
        repeats = int((tokens[1:] == tokens[:-1]).sum())
        frames = length + repeats + int(generator.integers(0, 80))
        steps = generator.integers(0, 1 << 20, (frames, vocab))
        log_probs = (-steps / (1 << 16)).astype(np.float32)
        cases.append(Case(log_probs=log_probs, tokens=tuple(tokens.tolist())))
    return cases
