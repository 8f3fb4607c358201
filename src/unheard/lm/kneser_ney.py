"""Modified Kneser-Ney smoothing: from counts to probabilities.

The same model as KenLM's `lmplz` makes: interpolated, with discounts for adjusted counts of one,
two, and three or more, each order its own, and the vocabulary's mass of unseen words spread evenly.

Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling",
sec. 4.1.6, eq. 26 for the discounts; Heafield et al. 2013, "Scalable modified Kneser-Ney language
model estimation", sec. 3; where these leave room, lmplz as published by its author (kenlm,
lm/builder/adjust_counts.cc and initial_probabilities.cc).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unheard.errors import ConfigError
from unheard.lm.counts import CountedLevel
from unheard.lm.trie import Level
from unheard.lm.vocabulary import MARKERS

_UNKNOWN, _START, _END = range(len(MARKERS))


class Discounts(NamedTuple):
    """What is taken from counts of one, two, and three or more."""

    one: float
    two: float
    more: float


FALLBACK_DISCOUNTS = Discounts(one=0.5, two=1.0, more=1.5)
"""For a text too small or too regular to tell; those of lmplz's --discount_fallback."""


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """A model's n-grams with their probabilities.

    Attributes:
        levels: shortest n-grams first.
        discounts: of each order.
        fallbacks: orders whose discounts could not be estimated, each with the reason.
    """

    levels: tuple[Level, ...]
    discounts: tuple[Discounts, ...]
    fallbacks: dict[int, str]


def smooth(counted: Sequence[CountedLevel], *, prune: Sequence[int] = ()) -> Smoothed:
    """Estimate a model.

    Args:
        counted: all n-grams of each order.
        prune: for each order from one on, n-grams that occur at most so often are left out; the
            last number holds for all higher orders. Single words are always kept. Their mass
            goes to the shorter n-grams.

    Raises:
        ConfigError: if `prune` is not usable.
    """
    thresholds = check_prune(prune, order=len(counted))
    discounts: list[Discounts] = []
    fallbacks: dict[int, str] = {}
    for order, level in enumerate(counted, start=1):
        # <unk> and <s> have an adjusted count of zero, which no discount looks at.
        found = estimate_discounts(level.adjusted)
        if isinstance(found, str):
            fallbacks[order] = found
            found = FALLBACK_DISCOUNTS
        discounts.append(found)

    kept = [level.occurrences > least for level, least in zip(counted, thresholds, strict=True)]
    kept[0][:] = True
    probabilities = [np.array([1.0 / (len(counted[0].word) - 1)])]  # <s> is never predicted
    backoffs: list[npt.NDArray[np.float64]] = []  # of each context of a level
    for order, (level, is_kept) in enumerate(zip(counted, kept, strict=True), start=1):
        shorter = probabilities[-1]
        own, backoff = _share(level, is_kept, discounts[order - 1], contexts=len(shorter))
        if not backoff.all():
            # A discount of zero, which lmplz lets pass: unseen words would be impossible here.
            fallbacks[order] = "some words leave nothing for words not seen after them"
            discounts[order - 1] = FALLBACK_DISCOUNTS
            own, backoff = _share(level, is_kept, discounts[order - 1], contexts=len(shorter))
        probabilities.append(own + backoff[level.context] * shorter[level.suffix])
        backoffs.append(backoff)
    probabilities[1][_START] = 1.0
    backoffs.append(np.ones(len(probabilities[-1])))

    levels = []
    place = np.zeros(1, dtype=np.int64)  # among what is kept of the level before
    for level, is_kept, probability, backoff in zip(
        counted, kept, probabilities[1:], backoffs[1:], strict=True
    ):
        levels.append(
            Level(
                context=place[level.context[is_kept]],
                word=level.word[is_kept],
                log_prob=_log(np.minimum(probability[is_kept], 1.0)),
                backoff=_log(backoff[is_kept]),
            )
        )
        place = np.cumsum(is_kept) - 1
    return Smoothed(levels=tuple(levels), discounts=tuple(discounts), fallbacks=fallbacks)


def estimate_discounts(adjusted: npt.NDArray[np.int64]) -> Discounts | str:
    """Estimate discounts from adjusted counts, or say why they cannot be.

    Source: Chen and Goodman 1998, eq. 26.
    """
    times = np.bincount(np.minimum(adjusted, 5), minlength=6)[:5].astype(np.float64)
    missing = [str(number) for number in (1, 2, 3) if times[number] == 0]
    if missing:
        return f"no n-gram has an adjusted count of {' or '.join(missing)}"
    share = times[1] / (times[1] + 2 * times[2])
    found = Discounts(*(float(k - (k + 1) * share * times[k + 1] / times[k]) for k in (1, 2, 3)))
    for k, discount in enumerate(found, start=1):
        if not 0 <= discount <= k:
            return f"the discount of a count of {k} would be {discount:.3g}"
    return found


def _share(
    level: CountedLevel, kept: npt.NDArray[np.bool_], discounts: Discounts, *, contexts: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Divide the mass of each context among its words and the words that never follow it.

    Returns:
        Probability of each n-gram before interpolation, zero if it is not kept, and for each
        context what is left for shorter n-grams, one where no word follows.
    """
    taken = np.array([0.0, *discounts])[np.minimum(level.adjusted, 3)]
    given = np.where(kept, level.adjusted - taken, 0.0)
    total = np.bincount(level.context, weights=level.adjusted, minlength=contexts)
    left = np.bincount(level.context, weights=level.adjusted - given, minlength=contexts)
    backoff = np.divide(left, total, out=np.ones(contexts), where=total > 0)
    return given / total[level.context], backoff


def check_prune(prune: Sequence[int], *, order: int) -> tuple[int, ...]:
    """Return a threshold for each order.

    Raises:
        ConfigError: if single words would be pruned, a threshold is negative or smaller than that
            of a shorter order, or there are more thresholds than orders.
    """
    given = tuple(prune) or (0,)
    if given[0] != 0 or list(given) != sorted(given) or len(given) > order:
        raise ConfigError(
            f"prune does not fit: expected at most {order} numbers that begin with 0 and do not "
            f'fall, such as "0 0 1", found "{" ".join(map(str, given))}".'
        )
    return given + (given[-1],) * (order - len(given))


def _log(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.log(values).astype(np.float32)
