"""The numbered words of a language model."""

from collections.abc import Iterable
from functools import cached_property

from unheard.errors import FormatError

UNKNOWN = "<unk>"
SENTENCE_START = "<s>"
SENTENCE_END = "</s>"
MARKERS = (UNKNOWN, SENTENCE_START, SENTENCE_END)
"""Words that no text holds; a trained model numbers them first, in this order."""


class Vocabulary:
    """Words and their numbers. Number 0 is the unknown word.

    Attributes:
        words: in order of their numbers, `<unk>` first.
    """

    words: tuple[str, ...]

    def __init__(self, words: Iterable[str]) -> None:
        """Number words as they come.

        Raises:
            FormatError: if the first is not `<unk>`, or one is empty, twice there, or holds white
                space of ASCII, which separates words.
        """
        self.words = tuple(words)
        if not self.words or self.words[0] != UNKNOWN:
            raise FormatError(
                f"the vocabulary does not begin with the unknown word: expected {UNKNOWN}, found "
                f"{self.words[:1]}."
            )
        if len(self.ids) != len(self.words):
            seen: set[str] = set()
            twice = next(word for word in self.words if word in seen or seen.add(word))
            raise FormatError(f"a word is in the vocabulary twice: found {twice!r}.")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Word -> number."""
        return {word: number for number, word in enumerate(self.words)}

    def id_of(self, word: str) -> int:
        """Number of a word; 0 if it is not known."""
        return self.ids.get(word, 0)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.ids
