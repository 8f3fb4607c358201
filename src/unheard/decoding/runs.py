"""From the symbols of a path and the frames that carry them to words with times."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unheard.decoding.emissions import FrameTiming
from unheard.decoding.hypothesis import Word
from unheard.text.alphabet import Alphabet


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Stretches of one symbol on a path, blanks left out; arrays (runs,).

    Attributes:
        token_ids: the symbols.
        first_frames: where each begins.
        last_frames: where each ends, that frame included.
        frames: how many frames carry the symbol.
        log_probs: natural log-probability of the symbol, summed over those frames.
    """

    token_ids: NDArray[np.integer]
    first_frames: NDArray[np.integer]
    last_frames: NDArray[np.integer]
    frames: NDArray[np.integer]
    log_probs: NDArray[np.float64]

    def head(self, count: int) -> Self:
        """Return the first `count` of them."""
        return self._part(slice(count))

    def tail(self, start: int) -> Self:
        """Return all from number `start` on."""
        return self._part(slice(start, None))

    def _part(self, part: slice) -> Self:
        return replace(
            self,
            token_ids=self.token_ids[part],
            first_frames=self.first_frames[part],
            last_frames=self.last_frames[part],
            frames=self.frames[part],
            log_probs=self.log_probs[part],
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Text and words of a path.

    Attributes:
        text: words joined as the script joins them.
        words: in order of time.
        confidence: of all symbols, or None when no frame carries one.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float | None


def read_runs(
    runs: Runs, alphabet: Alphabet, timing: FrameTiming, *, num_samples: int | None
) -> Reading:
    """Write a path's symbols as text, and time its words.

    A word runs from its first to its last frame that is not blank, half a stride to either side,
    clipped to the recording.

    Args:
        runs: of the path.
        alphabet: of the symbols. Without a word boundary in it, every symbol (with the combining
            marks that follow) is a word of its own, as in scripts that write no spaces.
        timing: of the frames.
        num_samples: length of the recording, or None when it is not known.
    """
    words: list[Word] = []
    for group in word_groups(runs.token_ids.tolist(), alphabet):
        text = alphabet.decode([int(runs.token_ids[index]) for index in group])
        # Symbols such as "<s>" have no written form.
        if not text.strip():
            continue
        first, last = group[0], group[-1]
        frames = int(runs.frames[first : last + 1].sum())
        start = timing.edge_seconds(int(runs.first_frames[first]) - 0.5, num_samples=num_samples)
        end = timing.edge_seconds(int(runs.last_frames[last]) + 0.5, num_samples=num_samples)
        words.append(
            Word(
                text=text.strip(),
                start_seconds=start,
                end_seconds=end,
                confidence=probability(float(runs.log_probs[first : last + 1].sum()), frames),
            )
        )
    carried = int(runs.frames.sum())
    return Reading(
        text=separator(alphabet).join(word.text for word in words),
        words=tuple(words),
        confidence=probability(float(runs.log_probs.sum()), carried) if carried else None,
    )


def text_of(token_ids: Sequence[int], alphabet: Alphabet) -> str:
    """Write collapsed symbols as text, as `read_runs` does."""
    groups = word_groups(token_ids, alphabet)
    words = (alphabet.decode([token_ids[index] for index in group]).strip() for group in groups)
    return separator(alphabet).join(word for word in words if word)


def word_groups(token_ids: Sequence[int], alphabet: Alphabet) -> Iterator[list[int]]:
    """Gather the places of each word's symbols."""
    boundaries = boundary_ids(alphabet)
    group: list[int] = []
    for index, token_id in enumerate(token_ids):
        if token_id in boundaries:
            if group:
                yield group
            group = []
            continue
        starts_symbol = not boundaries and not is_mark(alphabet.tokens[token_id])
        if starts_symbol and group:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def boundary_ids(alphabet: Alphabet) -> frozenset[int]:
    """Ids of the symbols that stand between words."""
    return frozenset(
        index
        for index, token in enumerate(alphabet.tokens)
        if token == alphabet.word_boundary or (token and token.isspace())
    )


def separator(alphabet: Alphabet) -> str:
    """What stands between two words of a text: a space, or nothing in scripts without."""
    return " " if boundary_ids(alphabet) else ""


def is_mark(token: str) -> bool:
    """Whether a symbol only modifies the one before it."""
    return bool(token) and unicodedata.category(token[0]).startswith("M")


def probability(log_prob: float, frames: int) -> float:
    """Geometric mean of the probabilities of `frames` frames; 0 for none."""
    return min(math.exp(log_prob / frames), 1.0) if frames else 0.0
