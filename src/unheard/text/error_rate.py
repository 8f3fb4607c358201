"""Word and character error rates, with counts, intervals and rows for each speaker.

The edit distance is rapidfuzz's; counts and rates are those of jiwer 4:

- **Words** are what lies between white space.
- **Characters** are the code points of the text without white space at its ends; a space inside
  counts as a character, and so does a combining mark.
- A rate is errors over reference length, both summed over all utterances: (S + D + I) / N with
  N = S + D + hits. It can exceed 1. With N = 0, it is the number of insertions, as in jiwer.

Texts are compared as they are given: normalise both sides first (`unheard.text.normalize`), or
name a normaliser in `score`.
"""

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from unheard.errors import ConfigError, ShapeError, shorten
from unheard.text import normalize

Resample = Literal["utterances", "speakers"]
"""What a bootstrap draws with replacement."""

MIN_SPEAKERS = 5
"""Fewest speakers that a bootstrap over speakers accepts."""

_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True, kw_only=True)
class EditCounts:
    """The edits that turn references into hypotheses.

    Attributes:
        substitutions: units of the reference written as another.
        deletions: units of the reference not written.
        insertions: units written that are not in the reference.
        hits: units written as they are in the reference.
        reference_length: units of the reference.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference length; over 1 where the reference is empty."""
        return self.errors / max(self.reference_length, 1)

    def __add__(self, other: "EditCounts") -> "EditCounts":
        """Return the counts of both together."""
        return EditCounts(
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
            hits=self.hits + other.hits,
            reference_length=self.reference_length + other.reference_length,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and their rate as plain JSON data."""
        return {**asdict(self), "rate": self.rate}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An error rate over a whole set, with its 95 % bootstrap interval.

    Attributes:
        value: errors over reference length of the whole set, as a fraction.
        low: 2.5th percentile of the resampled rates.
        high: 97.5th percentile of the resampled rates.
        counts: the sums that `value` is made of.
    """

    value: float
    low: float
    high: float
    counts: EditCounts

    def __str__(self) -> str:
        """Write as percentages: 12.3 % (11.0 - 13.7)."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} - {100 * self.high:.1f})"

    def to_dict(self) -> dict[str, Any]:
        """Return the rate as plain JSON data."""
        counts = asdict(self.counts)
        return {"value": self.value, "low": self.low, "high": self.high, "counts": counts}


@dataclass(frozen=True, kw_only=True)
class UtteranceErrors:
    """The errors of one utterance.

    Attributes:
        id: as given to `score`, or its place in the list.
        speaker: as given to `score`, or None.
        reference: the right text, normalised if `score` was told to.
        hypothesis: the text that was written, likewise.
        words: word edits.
        characters: character edits.
    """

    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    words: EditCounts
    characters: EditCounts

    def to_dict(self) -> dict[str, Any]:
        """Return the utterance as plain JSON data."""
        return {
            "id": self.id,
            "speaker": self.speaker,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class SpeakerErrors:
    """The errors of all utterances of one speaker.

    Attributes:
        speaker: name, or None for utterances whose speaker is not known.
        utterances: how many there are.
        words: summed word edits.
        characters: summed character edits.
    """

    speaker: str | None
    utterances: int
    words: EditCounts
    characters: EditCounts

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON data."""
        return {
            "speaker": self.speaker,
            "utterances": self.utterances,
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """How well a set of utterances was written.

    Attributes:
        wer: word error rate.
        cer: character error rate.
        utterances: each utterance, in the order given.
        by_speaker: a row for each speaker, highest character error rate first; empty when no
            speakers were given.
        resamples: how many bootstrap resamples the intervals come from.
        seed: of the bootstrap.
        resample: what was drawn: "utterances" or "speakers".
        normalizer: name of the normaliser that `score` applied to both sides, or None.
        warnings: what makes the figures doubtful, as sentences.
    """

    wer: Rate
    cer: Rate
    utterances: tuple[UtteranceErrors, ...]
    by_speaker: tuple[SpeakerErrors, ...] = ()
    resamples: int
    seed: int
    resample: Resample = "utterances"
    normalizer: str | None = None
    warnings: tuple[str, ...] = ()

    def worst(self, count: int = 20) -> tuple[UtteranceErrors, ...]:
        """Return the utterances with the highest character error rates, worst first.

        Among equal rates, more errors come first, then the order given.
        """
        ranked = sorted(self.utterances, key=lambda u: (-u.characters.rate, -u.characters.errors))
        return tuple(ranked[:count])

    def typical(self, count: int = 20) -> tuple[UtteranceErrors, ...]:
        """Return the utterances whose character error rates are nearest to the set's own."""
        ranked = sorted(self.utterances, key=lambda u: abs(u.characters.rate - self.cer.value))
        return tuple(ranked[:count])

    def to_dict(self, *, utterances: bool = False) -> dict[str, Any]:
        """Return the report as plain JSON data.

        Args:
            utterances: whether to hold a row for each utterance; their number is always there.
        """
        data: dict[str, Any] = {
            "wer": self.wer.to_dict(),
            "cer": self.cer.to_dict(),
            "num_utterances": len(self.utterances),
            "by_speaker": [row.to_dict() for row in self.by_speaker],
            "resamples": self.resamples,
            "seed": self.seed,
            "resample": self.resample,
            "normalizer": self.normalizer,
            "warnings": list(self.warnings),
        }
        if utterances:
            data["utterances"] = [utterance.to_dict() for utterance in self.utterances]
        return data


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two error rates on the same utterances, with its 95 % interval.

    Attributes:
        value: rate of the first minus rate of the second, as a fraction: below zero when the
            first is better.
        low: 2.5th percentile of the resampled differences.
        high: 97.5th percentile of the resampled differences.
        first_better: share of resamples in which the first has the lower rate.
    """

    value: float
    low: float
    high: float
    first_better: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Two reports on the same utterances compared.

    Attributes:
        wer: difference of the word error rates.
        cer: difference of the character error rates.
        num_utterances: utterances compared.
        resamples: how many bootstrap resamples the intervals come from.
        seed: of the bootstrap.
        resample: what was drawn: "utterances" or "speakers".
    """

    wer: Difference
    cer: Difference
    num_utterances: int
    resamples: int
    seed: int
    resample: Resample = "utterances"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON data."""
        return asdict(self)


def word_errors(reference: str, hypothesis: str) -> EditCounts:
    """Count the word edits from one text to another."""
    numbers: dict[str, int] = {}  # rapidfuzz compares hashes: small integers have their own
    words = [
        [numbers.setdefault(word, len(numbers)) for word in text.split()]
        for text in (reference, hypothesis)
    ]
    return _count(words[0], words[1])


def char_errors(reference: str, hypothesis: str) -> EditCounts:
    """Count the character edits from one text to another, spaces inside included."""
    return _count(reference.strip(), hypothesis.strip())


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    speakers: Sequence[str | None] | None = None,
    ids: Sequence[str] | None = None,
    normalizer: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    resample: Resample = "utterances",
) -> ErrorReport:
    """Compare what was written with what should have been.

    The interval is a percentile bootstrap: utterances are drawn with replacement, and the rate of
    each draw is the sum of its errors over the sum of its reference lengths. It says how much the
    rate could differ on other utterances of the same speakers. Utterances of one speaker are
    alike, so for a claim about speakers who are not in the set it is too narrow: `resample`
    "speakers" draws whole speakers instead, which needs at least `MIN_SPEAKERS` of them, and some
    twenty to be steady.

    Args:
        references: (utterances,) the right texts.
        hypotheses: (utterances,) the texts to judge.
        speakers: (utterances,) who speaks; None where not known.
        ids: (utterances,) names of the utterances; their places when not given.
        normalizer: name of the normaliser to apply to both sides; None compares them as they are.
        resamples: bootstrap draws.
        seed: of the bootstrap.
        resample: what to draw.

    Raises:
        ShapeError: if the lists differ in length, or are empty.
        ConfigError: if there is no such normaliser, `resamples` is below 1, or speakers are to be
            drawn and too few are known.

    Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance
        evaluation".
    """
    _check_lengths(
        {"references": references, "hypotheses": hypotheses, "speakers": speakers, "ids": ids}
    )
    if normalizer is not None:
        function = normalize.get(normalizer)
        references = [function(text) for text in references]
        hypotheses = [function(text) for text in hypotheses]
    utterances = tuple(
        UtteranceErrors(
            id=str(place) if ids is None else ids[place],
            speaker=None if speakers is None else speakers[place],
            reference=reference,
            hypothesis=hypothesis,
            words=word_errors(reference, hypothesis),
            characters=char_errors(reference, hypothesis),
        )
        for place, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True))
    )
    sums = _resampled_sums(
        _sums(utterances),
        resamples=resamples,
        seed=seed,
        resample=resample,
        speakers=[utterance.speaker for utterance in utterances],
    )
    return ErrorReport(
        wer=_rate([utterance.words for utterance in utterances], _ratio(sums[:, 0], sums[:, 1])),
        cer=_rate(
            [utterance.characters for utterance in utterances], _ratio(sums[:, 2], sums[:, 3])
        ),
        utterances=utterances,
        by_speaker=() if speakers is None else _speaker_rows(utterances),
        resamples=resamples,
        seed=seed,
        resample=resample,
        normalizer=normalizer,
        warnings=_composition_warnings(references, hypotheses),
    )


def paired_bootstrap(
    first: ErrorReport,
    second: ErrorReport,
    *,
    resamples: int = 1000,
    seed: int = 0,
    resample: Resample = "utterances",
) -> PairedDifference:
    """Compare two systems on the same utterances.

    Each draw takes the same utterances from both, so what makes an utterance hard for both cancels:
    the interval of the difference is narrower than the two intervals side by side.

    Args:
        first: report of one system.
        second: report of the other, over the same utterances in the same order.
        resamples: bootstrap draws.
        seed: of the bootstrap.
        resample: what to draw, as in `score`.

    Raises:
        ShapeError: if the reports are not about the same utterances.
        ConfigError: as `score`.

    Source: Bisani and Ney 2004, as `score` (their "probability of improvement" is
        `Difference.first_better`).
    """
    keys = [
        [(utterance.id, utterance.reference) for utterance in report.utterances]
        for report in (first, second)
    ]
    if keys[0] != keys[1]:
        differing = [a for a, b in zip(*keys, strict=False) if a != b]
        raise ShapeError(
            f"the reports are not about the same utterances: expected equal ids and references, "
            f"found {len(keys[0])} and {len(keys[1])} utterances, {len(differing)} in places that "
            f"differ ({shorten((repr(key) for key in differing), limit=3)}). Evaluate both on one "
            "manifest with one normaliser."
        )
    sums = _resampled_sums(
        np.concatenate([_sums(first.utterances), _sums(second.utterances)], axis=1),
        resamples=resamples,
        seed=seed,
        resample=resample,
        speakers=[utterance.speaker for utterance in first.utterances],
    )
    rates = [_ratio(sums[:, column], sums[:, column + 1]) for column in (0, 2, 4, 6)]
    return PairedDifference(
        wer=_difference(first.wer.value - second.wer.value, rates[0] - rates[2]),
        cer=_difference(first.cer.value - second.cer.value, rates[1] - rates[3]),
        num_utterances=len(first.utterances),
        resamples=resamples,
        seed=seed,
        resample=resample,
    )


def _count(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> EditCounts:
    """Count the edits of one least-cost alignment, rapidfuzz's own."""
    kinds = [edit.tag for edit in Levenshtein.editops(reference, hypothesis)]
    substitutions, deletions = kinds.count("replace"), kinds.count("delete")
    return EditCounts(
        substitutions=substitutions,
        deletions=deletions,
        insertions=len(kinds) - substitutions - deletions,
        hits=len(reference) - substitutions - deletions,
        reference_length=len(reference),
    )


def _check_lengths(lists: Mapping[str, Sequence[Any] | None]) -> None:
    """Refuse lists that are empty or differ in length."""
    lengths = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            "the lists to score differ in length: expected one entry an utterance in each, "
            f"found {lengths}."
        )
    if 0 in lengths.values():
        raise ShapeError("there is nothing to score: expected at least one utterance, found none.")


def _sums(utterances: Sequence[UtteranceErrors]) -> NDArray[np.float64]:
    """Return (utterances, 4): word errors, words, character errors, characters."""
    return np.array(
        [
            (
                u.words.errors,
                u.words.reference_length,
                u.characters.errors,
                u.characters.reference_length,
            )
            for u in utterances
        ],
        dtype=np.float64,
    )


def _resampled_sums(
    values: NDArray[np.float64],
    *,
    resamples: int,
    seed: int,
    resample: Resample,
    speakers: Sequence[str | None],
) -> NDArray[np.float64]:
    """Draw rows with replacement and sum each draw.

    Args:
        values: (utterances, columns) counts.
        resamples: draws.
        seed: of the generator.
        resample: whether a unit to draw is an utterance or a speaker.
        speakers: (utterances,) who speaks.

    Returns:
        (resamples, columns) sums.
    """
    if resamples < 1:
        raise ConfigError(f"too few resamples: expected at least 1, found {resamples}.")
    if resample not in get_args(Resample):
        raise ConfigError(
            f"no such thing to resample: expected one of {', '.join(get_args(Resample))}, "
            f"found {resample!r}."
        )
    if resample == "speakers":
        values = _speaker_sums(values, speakers)
    units = values.shape[0]
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, values.shape[1]))
    for row in range(resamples):
        drawn = generator.integers(units, size=units, dtype=np.int32)
        times = np.bincount(drawn, minlength=units).astype(np.float64)  # (units,)
        sums[row] = times @ values
    return sums


def _speaker_sums(
    values: NDArray[np.float64], speakers: Sequence[str | None]
) -> NDArray[np.float64]:
    """Return (speakers, columns): the counts of each speaker together."""
    unknown = sum(speaker is None for speaker in speakers)
    names, places = np.unique([str(speaker) for speaker in speakers], return_inverse=True)
    if unknown or len(names) < MIN_SPEAKERS:
        raise ConfigError(
            f"speakers cannot be resampled: expected at least {MIN_SPEAKERS} speakers and all "
            f"known, found {len(names) - bool(unknown)} and {unknown} utterances of unknown "
            'speakers. Resample "utterances".'
        )
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, places, values)
    return sums


def _ratio(errors: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (resamples,) error rates, by the rule of `EditCounts.rate`."""
    return errors / np.maximum(lengths, 1)


def _rate(counts: Sequence[EditCounts], resampled: NDArray[np.float64]) -> Rate:
    """Sum counts over the set and put the interval beside their rate."""
    total = sum(counts, start=EditCounts())
    low, high = np.quantile(resampled, (_LOW, _HIGH))
    return Rate(value=total.rate, low=float(low), high=float(high), counts=total)


def _difference(value: float, resampled: NDArray[np.float64]) -> Difference:
    """Put the interval beside a difference."""
    low, high = np.quantile(resampled, (_LOW, _HIGH))
    return Difference(
        value=value, low=float(low), high=float(high), first_better=float(np.mean(resampled < 0))
    )


def _speaker_rows(utterances: Sequence[UtteranceErrors]) -> tuple[SpeakerErrors, ...]:
    """Sum the counts of each speaker, worst first."""
    grouped: dict[str | None, list[UtteranceErrors]] = {}
    for utterance in utterances:
        grouped.setdefault(utterance.speaker, []).append(utterance)
    rows = [
        SpeakerErrors(
            speaker=speaker,
            utterances=len(group),
            words=sum((utterance.words for utterance in group), start=EditCounts()),
            characters=sum((utterance.characters for utterance in group), start=EditCounts()),
        )
        for speaker, group in grouped.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.characters.rate, row.speaker or "")))


def _composition_warnings(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[str, ...]:
    """Say so when composed and decomposed letters meet, which count as different characters."""
    texts = [*references, *hypotheses]
    composed = sum(not unicodedata.is_normalized("NFD", text) for text in texts)
    decomposed = sum(not unicodedata.is_normalized("NFC", text) for text in texts)
    if not (composed and decomposed):
        return ()
    return (
        f"{decomposed} of {len(texts)} texts hold decomposed letters (not NFC) and {composed} hold "
        "composed ones: equal letters in different composition count as errors. Normalise both "
        'sides, for example with "none-1".',
    )
