"""From n-grams with their numbers to the arrays that are searched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unheard.errors import FormatError
from unheard.lm.kernel import NgramTables, link_suffixes

_MOST_INNER = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Level:
    """All n-grams of one order, sorted by context, then by word, none twice.

    Attributes:
        context: int64 (ngrams,), place of the n-gram without its last word in the level before;
            0 for single words.
        word: int32 (ngrams,), last word.
        log_prob: float32 (ngrams,) [nats].
        backoff: float32 (ngrams,) [nats]; not read for the longest.
    """

    context: npt.NDArray[np.int64]
    word: npt.NDArray[np.int32]
    log_prob: npt.NDArray[np.float32]
    backoff: npt.NDArray[np.float32]


def build_tables(levels: Sequence[Level]) -> NgramTables:
    """Join levels, shortest n-grams first, to the tables of a model.

    The first level holds every word once, in order of its number.

    Raises:
        FormatError: if there are too many n-grams.
    """
    sizes = [len(level.word) for level in levels]
    inner = 1 + sum(sizes[:-1])
    if inner > _MOST_INNER:
        raise FormatError(
            f"the model is too large: expected at most {_MOST_INNER:,} n-grams below the longest, "
            f"found {inner:,}. Prune it."
        )
    root_word = np.array([-1], dtype=np.int32)
    zero = np.zeros(1, dtype=np.float32)
    word = np.concatenate([root_word, *(level.word for level in levels)])
    log_prob = np.concatenate([zero, *(level.log_prob for level in levels)])
    backoff = np.concatenate([zero, *(level.backoff for level in levels[:-1])])
    children = np.zeros(inner + 1, dtype=np.int64)
    children[0] = 1
    start = 0  # node of the first context of a level
    for level, size in zip(levels, [1, *sizes], strict=False):
        children[start + 1 : start + size + 1] = np.bincount(level.context, minlength=size)
        start += size
    first_child = np.cumsum(children)
    suffix = np.zeros(len(word), dtype=np.int32)
    tables = NgramTables(
        word=read_only(word),
        log_prob=read_only(log_prob),
        suffix=read_only(suffix),
        backoff=read_only(backoff),
        first_child=read_only(first_child),
        order=len(levels),
    )
    link_suffixes(tables, suffix)
    return tables


def read_only(array: npt.NDArray) -> npt.NDArray:
    """Return a view that cannot be written through.

    Compiled functions tell writable arrays from others; one kind means one compilation, also for
    models that are mapped from a file.
    """
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view
