"""How often training hears each language and each corpus: sampling with a temperature.

As the sound lies, a language with a hundred times the hours is heard a hundred times as often. With
an exponent below one it is not: of the languages in a corpus each is heard in proportion to
(n_l / N)^alpha, n_l its hours and N those of all, and of the corpora each likewise with an exponent
of its own. 1 leaves the proportions as they are, 0 makes all equal.

Source: Conneau et al. 2020 (XLSR, arXiv 2006.13979): by language, by repeating files in the list of
recordings; Babu et al. 2021 (XLS-R, arXiv 2111.09296): by language within each corpus, then by
corpus. The same rule is fairseq's data/audio/speech_to_text_dataset.py `get_size_ratios` @ 3d262bb.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unheard.data.batching import BatchPlan, EpochPlan, Fit, plan_epoch
from unheard.errors import ConfigError
from unheard.tensors import derive_seed


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Exponents of the proportions in which languages and corpora are heard.

    Attributes:
        language: of the languages within a corpus.
        corpus: of the corpora; None looks at languages over all corpora together.
    """

    language: float = 1.0
    corpus: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("language", self.language), ("corpus", self.corpus)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(
                    f"sampling.{name} must be from 0 (all the same) to 1 (as the sound lies), got "
                    f"{value:g}."
                )


@dataclass(frozen=True, kw_only=True)
class Group:
    """The utterances of one language in one corpus.

    Attributes:
        corpus: its name; "" where corpora are not told apart, or not known.
        language: its tag; "" where not known.
        seconds: of sound.
        utterances: how many.
        share: of what is heard.
        passes: how often an epoch goes through it.
    """

    corpus: str
    language: str
    seconds: float
    utterances: int
    share: float
    passes: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Groups of utterances, and how often an epoch goes through each.

    Attributes:
        groups: in order of corpus and language.
        group_of: (utterances,) int64, number of the group of each.
    """

    groups: tuple[Group, ...]
    group_of: NDArray[np.int64]


def weigh(
    config: SamplingConfig,
    *,
    num_samples: NDArray[np.int64],
    languages: Sequence[str],
    corpora: Sequence[str],
    sample_rate: int,
) -> Sampling:
    """Find out how often each utterance is to be heard.

    An epoch holds as much sound as there is, in other proportions: groups with a share above their
    part of the sound are gone through more than once, the others less.

    Args:
        config: exponents.
        num_samples: (utterances,) lengths, as they count: crops count as crops.
        languages: tag of each, "" where not known; that counts as one more language.
        corpora: name of each.
        sample_rate: of the lengths [Hz].

    Raises:
        ConfigError: if there are not as many languages and corpora as utterances, or no sound.
    """
    if not len(languages) == len(corpora) == len(num_samples):
        raise ConfigError(
            f"Expected a language and a corpus for each of {len(num_samples)} utterances, got "
            f"{len(languages)} and {len(corpora)}."
        )
    if not int(num_samples.sum()):
        raise ConfigError("There is nothing to sample: expected utterances with sound, got none.")
    apart = corpora if config.corpus is not None else [""] * len(corpora)
    names = sorted(set(zip(apart, languages, strict=True)))
    numbers = {name: number for number, name in enumerate(names)}
    group_of = np.fromiter(
        (numbers[name] for name in zip(apart, languages, strict=True)),
        dtype=np.int64,
        count=len(num_samples),
    )
    sizes = _sums(num_samples, group_of, len(names))
    counts = np.bincount(group_of, minlength=len(names))
    shares = _shares(sizes, [corpus for corpus, _ in names], config)
    passes = np.divide(shares * sizes.sum(), sizes, out=np.zeros_like(sizes), where=sizes > 0)
    groups = tuple(
        Group(
            corpus=corpus,
            language=language,
            seconds=float(sizes[number]) / sample_rate,
            utterances=int(counts[number]),
            share=float(shares[number]),
            passes=float(passes[number]),
        )
        for number, (corpus, language) in enumerate(names)
    )
    return Sampling(groups=groups, group_of=group_of)


def _shares(
    sizes: NDArray[np.float64], corpora: Sequence[str], config: SamplingConfig
) -> NDArray[np.float64]:
    """Share of each group: that of its corpus times that of its language within the corpus."""
    shares = np.zeros_like(sizes)
    names = sorted(set(corpora))
    of_corpus = np.array([names.index(corpus) for corpus in corpora])
    totals = _sums(sizes, of_corpus, len(names))
    weights = _tempered(totals, 1.0 if config.corpus is None else config.corpus)
    for number, weight in enumerate(weights):
        members = of_corpus == number
        shares[members] = weight * _tempered(sizes[members], config.language)
    return shares


def _sums(
    values: NDArray[np.int64] | NDArray[np.float64], group_of: NDArray[np.int64], groups: int
) -> NDArray[np.float64]:
    """Add up values by group."""
    return np.bincount(group_of, weights=values, minlength=groups).astype(np.float64)


def _tempered(sizes: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """(n / N)^exponent, scaled to a sum of one; what has no sound gets nothing."""
    if not sizes.sum():
        return np.zeros_like(sizes)
    parts = sizes / sizes.sum()
    powers = np.where(parts > 0, parts**exponent, 0.0)
    return powers / powers.sum()


class SampledPlan(BatchPlan):
    """A batch plan whose epochs hold each utterance as often as its group is to be heard.

    Nothing is drawn with replacement. Each group is an endless row of passes through it, every pass
    in another order, and an epoch takes the next stretch of that row. So after any number of epochs
    each utterance of a group has been taken as often as every other, give or take one, and what an
    epoch holds depends on the seed and its number alone.
    """

    def __init__(
        self,
        num_samples: NDArray[np.int64],
        sampling: Sampling,
        *,
        batch_samples: int,
        fit: Fit,
        max_samples: int,
        seed: int,
    ) -> None:
        """Keep what makes a plan; arguments as for `BatchPlan`, and `sampling` of `weigh`."""
        super().__init__(
            num_samples, batch_samples=batch_samples, fit=fit, max_samples=max_samples, seed=seed
        )
        self._members = [
            np.flatnonzero(sampling.group_of == number) for number in range(len(sampling.groups))
        ]
        self._passes = [group.passes for group in sampling.groups]

    def _make(self, epoch: int) -> EpochPlan:
        """Draw the utterances of an epoch, then batch them as any others."""
        chosen = self.utterances(epoch)
        plan = plan_epoch(
            self._num_samples[chosen],
            batch_samples=self._batch_samples,
            fit=self._fit,
            max_samples=self._max_samples,
            seed=self._seed,
            epoch=epoch,
        )
        return plan.of(chosen)

    def utterances(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the utterances that an epoch holds, some of them more than once."""
        stretches = [
            self._stretch(group, *self._ends(group, epoch)) for group in range(len(self._members))
        ]
        chosen = np.concatenate(stretches)
        if len(chosen):
            return chosen
        # So little of everything that rounding leaves nothing: take the first of the largest.
        return self._members[int(np.argmax([len(members) for members in self._members]))][:1]

    def _ends(self, group: int, epoch: int) -> tuple[int, int]:
        """Where the stretch of an epoch begins and ends in a group's row of passes."""
        a_epoch = self._passes[group] * len(self._members[group])
        return round(epoch * a_epoch), round((epoch + 1) * a_epoch)

    def _stretch(self, group: int, first: int, last: int) -> NDArray[np.int64]:
        """Take a stretch of a group's row of passes."""
        members = self._members[group]
        pieces = [np.zeros(0, dtype=np.int64)]
        while first < last:
            turn, skipped = divmod(first, len(members))
            count = min(last - first, len(members) - skipped)
            generator = np.random.default_rng(derive_seed(self._seed, "pass", group, turn))
            pieces.append(members[generator.permutation(len(members))[skipped : skipped + count]])
            first += count
        return np.concatenate(pieces)
