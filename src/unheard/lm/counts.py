"""How often each n-gram occurs in a text, and after how many different words."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from unheard.errors import ConfigError
from unheard.lm.vocabulary import MARKERS, Vocabulary

_UNKNOWN, _START, _END = range(len(MARKERS))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Sentences as one row of numbers.

    Attributes:
        tokens: int32 (tokens,); each sentence begins with `<s>` and ends with `</s>`.
        vocabulary: markers first, then words in order of first appearance.
        sentences: how many there are.
        empty: sentences without a word, which were passed over.
        markers: words of the text that are markers, such as "<s>", which were passed over.
    """

    tokens: npt.NDArray[np.int32]
    vocabulary: Vocabulary
    sentences: int
    empty: int
    markers: int


@dataclass(frozen=True, kw_only=True)
class CountedLevel:
    """All n-grams of one order that occur, sorted by context, then by word.

    Attributes:
        context: int64 (ngrams,), place of the n-gram without its last word in the level before;
            0 for single words.
        word: int32 (ngrams,), last word.
        suffix: int64 (ngrams,), place of the n-gram without its first word in the level before;
            0 for single words.
        occurrences: int64 (ngrams,), in the text.
        adjusted: int64 (ngrams,), what Kneser-Ney counts: occurrences of the longest n-grams and
            of those that begin a sentence; of the others, the number of different words that
            stand before them.
    """

    context: npt.NDArray[np.int64]
    word: npt.NDArray[np.int32]
    suffix: npt.NDArray[np.int64]
    occurrences: npt.NDArray[np.int64]
    adjusted: npt.NDArray[np.int64]


def number_words(sentences: Iterable[Sequence[str]]) -> Corpus:
    """Number the words of sentences as they come.

    Raises:
        ConfigError: if there is no word at all.
    """
    fresh = count()
    numbers: defaultdict[str, int] = defaultdict(lambda: next(fresh))
    for marker in MARKERS:
        _ = numbers[marker]
    tokens = array("i")
    kept = empty = markers = 0
    for words in sentences:
        start = len(tokens)
        tokens.append(_START)
        tokens.extend(map(numbers.__getitem__, words))
        if min(tokens[start + 1 :], default=_END + 1) <= _END:
            plain = [number for number in tokens[start + 1 :] if number > _END]
            markers += len(tokens) - start - 1 - len(plain)
            tokens[start + 1 :] = array("i", plain)
        if len(tokens) == start + 1:
            tokens.pop()
            empty += 1
            continue
        tokens.append(_END)
        kept += 1
    if not kept:
        raise ConfigError(
            "there is nothing to learn a language model from: expected sentences, one a line, "
            f"found {empty} empty ones."
        )
    return Corpus(
        tokens=np.frombuffer(tokens, dtype=np.int32),
        vocabulary=Vocabulary(numbers),
        sentences=kept,
        empty=empty,
        markers=markers,
    )


def count_ngrams(corpus: Corpus, order: int) -> list[CountedLevel]:
    """Count all n-grams up to `order`, shortest first.

    The first level holds every word of the vocabulary, `<unk>` and `<s>` with a count of zero.
    An n-gram is numbered by the pair of its context's place and its last word, so each level
    takes one sort of whole numbers, whatever its order. Takes about 50 bytes a word of text.
    """
    tokens = corpus.tokens
    size = len(corpus.vocabulary)
    starts = np.flatnonzero(tokens == _START)
    since_start = np.arange(len(tokens)) - np.repeat(starts, np.diff(starts, append=len(tokens)))
    occurrences = np.bincount(tokens, minlength=size).astype(np.int64)
    occurrences[_START] = 0
    zeros = np.zeros(size, dtype=np.int64)
    words = np.arange(size, dtype=np.int32)
    context, suffix = zeros, zeros
    place = tokens.astype(np.int64)  # of the n-gram that ends at each token, in its level
    begins_sentence = words == _START
    levels = []
    for length in range(2, order + 1):
        ends = np.flatnonzero(since_start >= length - 1)
        keys = place[ends - 1] * size + tokens[ends]
        by_key = np.argsort(keys)
        keys = keys[by_key]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        long_suffix = place[ends[by_key[first]]]
        before = np.bincount(long_suffix, minlength=len(words))
        levels.append(
            CountedLevel(
                context=context,
                word=words,
                suffix=suffix,
                occurrences=occurrences,
                adjusted=np.where(begins_sentence, occurrences, before),
            )
        )
        occurrences = np.diff(first, append=len(keys))
        place[ends[by_key]] = np.repeat(np.arange(len(first)), occurrences)
        context, words = np.divmod(keys[first], size)
        words = words.astype(np.int32)
        suffix = long_suffix
        begins_sentence = begins_sentence[context]
    levels.append(
        CountedLevel(
            context=context,
            word=words,
            suffix=suffix,
            occurrences=occurrences,
            adjusted=occurrences,
        )
    )
    return levels
