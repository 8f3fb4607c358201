"""From n-grams with their numbers to the arrays that are searched."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unheard.errors import FormatError
from unheard.lm.kernel import NgramTables, link_suffixes, predict_filled

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


@dataclass(frozen=True, kw_only=True)
class Ngrams:
    """N-grams of one order in any order.

    Attributes:
        words: int32 (ngrams, order).
        log_prob: float32 (ngrams,) [nats].
        backoff: float32 (ngrams,) [nats].
    """

    words: npt.NDArray[np.int32]
    log_prob: npt.NDArray[np.float32]
    backoff: npt.NDArray[np.float32]


class DuplicateNgram(Exception):
    """An n-gram is there twice.

    Attributes:
        words: numbers of its words.
    """

    def __init__(self, words: Iterable[int]) -> None:
        super().__init__("an n-gram is there twice")
        self.words = tuple(map(int, words))


def sort_ngrams(ngrams: Sequence[Ngrams]) -> tuple[list[Level], int]:
    """Sort n-grams of all orders, shortest first, into levels.

    Pruned models of other tools may hold an n-gram without its context. Such contexts are added,
    with a back-off of zero and what backing off gives as their probability, which changes no
    score; `build_tables` computes the latter, it is not a number here.

    Args:
        ngrams: of each order; the first holds each word once, in order of its number.

    Returns:
        The levels, and the number of added n-grams.

    Raises:
        DuplicateNgram: if an n-gram is there twice.
    """
    size = len(ngrams[0].words)
    levels = _sort(ngrams, size)
    if levels is not None:
        return levels, 0
    complete, added = _add_contexts(ngrams)
    levels = _sort(complete, size)
    assert levels is not None
    return levels, added


def _sort(ngrams: Sequence[Ngrams], size: int) -> list[Level] | None:
    """Sort as `sort_ngrams` does, or return None at a context that is not there."""
    first = ngrams[0]
    levels = [
        Level(
            context=np.zeros(size, dtype=np.int64),
            word=np.ascontiguousarray(first.words[:, 0]),
            log_prob=first.log_prob,
            backoff=first.backoff,
        )
    ]
    known: list[npt.NDArray[np.int64]] = []  # sorted keys of each level from two words on
    for level in ngrams[1:]:
        place = level.words[:, 0].astype(np.int64)
        for depth, keys in enumerate(known, start=1):
            wanted = place * size + level.words[:, depth]
            place = np.searchsorted(keys, wanted)
            found = place < len(keys)
            found[found] = keys[place[found]] == wanted[found]
            if not found.all():
                return None
        keys = place * size + level.words[:, -1]
        order = slice(None)
        if not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys)
            keys = keys[order]
            twice = np.flatnonzero(keys[1:] == keys[:-1])
            if len(twice):
                raise DuplicateNgram(level.words[order][twice[0]])
        context, word = np.divmod(keys, size)
        levels.append(
            Level(
                context=context,
                word=word.astype(np.int32),
                log_prob=level.log_prob[order],
                backoff=level.backoff[order],
            )
        )
        known.append(keys)
    return levels


def _add_contexts(ngrams: Sequence[Ngrams]) -> tuple[list[Ngrams], int]:
    """Add all contexts that are not there, from long to short."""
    complete = list(ngrams)
    total = 0
    for index in range(len(ngrams) - 1, 1, -1):
        level = complete[index - 1]
        contexts = np.unique(complete[index].words[:, :-1], axis=0)
        both = np.concatenate([np.unique(level.words, axis=0), contexts])
        distinct, first = np.unique(both, axis=0, return_index=True)
        added = distinct[first >= len(both) - len(contexts)]
        total += len(added)
        complete[index - 1] = Ngrams(
            words=np.concatenate([level.words, added]),
            log_prob=np.concatenate([level.log_prob, np.full(len(added), np.nan, np.float32)]),
            backoff=np.concatenate([level.backoff, np.zeros(len(added), np.float32)]),
        )
    return complete, total


def build_tables(levels: Sequence[Level]) -> NgramTables:
    """Join levels, shortest n-grams first, to the tables of a model.

    The first level holds every word once, in order of its number. A log-probability that is not a
    number becomes what backing off gives.

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
    zero = np.zeros(1, dtype=np.float32)
    word = np.concatenate([np.array([-1], dtype=np.int32), *(level.word for level in levels)])
    log_prob = np.concatenate([zero, *(level.log_prob for level in levels)])
    backoff = np.concatenate([zero, *(level.backoff for level in levels[:-1])])
    children = np.zeros(inner + 1, dtype=np.int64)
    children[0] = 1
    start = 0  # node of the first context of a level
    for level, size in zip(levels, [1, *sizes], strict=False):
        children[start + 1 : start + size + 1] = np.bincount(level.context, minlength=size)
        start += size
    suffix = np.zeros(len(word), dtype=np.int32)
    tables = NgramTables(
        word=read_only(word),
        log_prob=read_only(log_prob),
        suffix=read_only(suffix),
        backoff=read_only(backoff),
        first_child=read_only(np.cumsum(children)),
        order=len(levels),
    )
    link_suffixes(tables, suffix)
    if np.isnan(log_prob).any():
        predict_filled(tables, log_prob)
    return tables


def count_levels(tables: NgramTables) -> tuple[int, ...]:
    """Number of n-grams of each order, shortest first."""
    bounds = [0, 1]
    for _ in range(tables.order - 1):
        bounds.append(int(tables.first_child[bounds[-1]]))
    bounds.append(len(tables.word))
    return tuple(int(size) for size in np.diff(bounds[1:]))


def read_only(array: npt.NDArray) -> npt.NDArray:
    """Return a view that cannot be written through.

    Compiled functions tell writable arrays from others; one kind means one compilation, also for
    models that are mapped from a file.
    """
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view
