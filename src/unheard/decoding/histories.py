"""What a search tells another model about its histories, and what it hears of them.

A *history* is what a hypothesis has written up to the end of a word. The other model judges each
one once, in the order in which words came, and knows it by a number from then on; number 0 is the
empty text.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unheard.decoding.hypothesis import Hypothesis
from unheard.decoding.search import SearchStream


class NewHistory(NamedTuple):
    """A history that is one word longer than another.

    Attributes:
        number: by which it will be known.
        parent: number of the history before its last word; judged before, or earlier in a list.
        word: the last word; empty where the search wrote nothing that is read.
    """

    number: int
    parent: int
    word: str


class Ending(NamedTuple):
    """What a reading would be if it ended here.

    Attributes:
        number: of the longest history on the way that is judged.
        words: those after it.
    """

    number: int
    words: tuple[str, ...]


class Verdict(NamedTuple):
    """What another model thinks of a reading that ends, weighted [nats].

    Attributes:
        given: what it has given before, to the history of the ending.
        total: what it gives to the whole.
    """

    given: float
    total: float


Judge = Callable[[Sequence[Ending]], Sequence[Verdict]]
"""Another model's opinion about readings that end."""


class JudgedStream(SearchStream, Protocol):
    """A search under way to which another model adds scores between frames."""

    def fork(self) -> "JudgedStream":
        """Return a search of its own that goes on from here; this one does not notice."""
        ...

    def expect_judge(self, stand_in: float) -> None:
        """Prepare, before the first frame, for another model.

        No word is handed out (`settle`) that was not judged.

        Args:
            stand_in: part of the search's `lm_weight` by which its own language model stands in
                for the other one. It is taken back from what is judged, and from every end.
        """
        ...

    def unjudged(self, first: int) -> list[NewHistory]:
        """Name the histories in the beam that were not judged, and number them from `first` on."""
        ...

    def judge(self, added: NDArray[np.float64]) -> None:
        """Add, for each history of the last `unjudged`, what its last word is worth [nats]."""
        ...

    def known(self) -> NDArray[np.int32]:
        """Return the numbers of the histories to which hypotheses in the beam go back."""
        ...

    def conclude(self, judge: Judge | None, *, num_samples: int | None) -> list[Hypothesis]:
        """End the stream as `finish` does, with another model's last word if there is a judge."""
        ...
