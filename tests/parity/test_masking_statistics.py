"""Span masks against statistics of fairseq's own, and against what combinatorics says."""

import json
import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.parity.fairseq_models import ASSETS
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from unheard.models.config import MaskingConfig
from unheard.models.masking import channel_mask, span_mask

Masks = NDArray[np.bool_]
STATED = json.loads((ASSETS / "masking_stats.json").read_text())
LENGTHS = sorted(map(int, STATED["by_length"]))
PROBABILITY: float = STATED["settings"]["mask_prob"]
SPAN: int = STATED["settings"]["mask_length"]
MIN_SPANS: int = STATED["settings"]["min_masks"]
SIGMAS = 3.0
ALMOST_NEVER = 2 * 0.00135
"""Chance of lying more than three standard errors off."""


def ours(length: int, draws: int = 12_000, *, batch: int = 1000) -> Masks:
    generator = torch.Generator().manual_seed(length)
    parts = [
        span_mask(
            torch.full((batch,), length),
            length,
            probability=PROBABILITY,
            span=SPAN,
            min_spans=MIN_SPANS,
            generator=generator,
        )
        for _ in range(draws // batch)
    ]
    return torch.cat(parts).numpy()


def by_loops(
    length: int,
    draws: int,
    *,
    rng: np.random.Generator,
    starts: int | None = None,
    replace: bool = False,
    rounding: float | None = None,
    probability: float = PROBABILITY,
    span: int = SPAN,
    min_spans: int = MIN_SPANS,
) -> Masks:
    """Draw row by row, in plain words; the options make the rule another one."""
    mask = np.zeros((draws, length), dtype=bool)
    for row in mask:
        part = rng.random() if rounding is None else rounding
        count = max(min_spans, math.floor(probability * length / span + part))
        for start in rng.choice(starts or length - span, count, replace=replace):
            row[start : start + span] = True
    return mask


def disagreements(mask: Masks, stated: dict[str, Any]) -> list[str]:
    """Name every statistic in the file that is off by more than three standard errors."""
    draws, length = mask.shape
    found: list[str] = []

    def check(name: str, value: float, deviation: float, reference: float) -> None:
        """Compare means of rows that deviate by `deviation` each."""
        error = deviation * math.sqrt(1 / draws + 1 / stated["draws"])
        if not abs(value - reference) <= SIGMAS * error:
            found.append(f"{name}: {value:.5g}, not {reference:.5g} +- {error:.2g}")

    def check_mean_and_std(name: str, values: NDArray[np.float64], reference: Any) -> None:
        centred = values - values.mean()
        variance, fourth = (centred**2).mean(), (centred**4).mean()
        check(f"{name} mean", values.mean(), math.sqrt(variance), reference["mean"])
        if "std" in reference:
            # The deviation of a variance's estimate, to first order that of its root's.
            wobble = math.sqrt(max(fourth - variance**2, 0) / (4 * variance))
            check(f"{name} std", math.sqrt(variance), wobble, reference["std"])

    def check_extremes(name: str, values: NDArray[np.float64], reference: Any) -> None:
        """The extremes of so many draws should be neither too far out nor too far in."""
        for side, sign in (("min", -1), ("max", 1)):
            beyond = float((sign * values > sign * reference[side]).mean())
            reached = float((sign * values >= sign * reference[side] - 1e-9).mean())
            too_far_in = (1 - beyond) ** stated["draws"] < ALMOST_NEVER / 2
            # One of our own draws may be lacking where theirs reached just as far out.
            too_far_out = 1 - (1 - max(reached, 1 / draws)) ** stated["draws"] < ALMOST_NEVER / 2
            if too_far_in or too_far_out:
                found.append(f"{name} {side}: {reference[side]}, beyond it {beyond:.5f} of ours")

    masked = mask.sum(axis=1).astype(np.float64)
    check_mean_and_std("masked_fraction", masked / length, stated["masked_fraction"])
    check_extremes("masked_fraction", masked / length, stated["masked_fraction"])
    check_mean_and_std("masked_frames", masked, stated["masked_frames"])
    check_extremes("masked_frames", masked, stated["masked_frames"])

    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, begins = np.nonzero(edges == 1)
    spans = (np.nonzero(edges == -1)[1] - begins).astype(np.float64)
    per_row = np.bincount(rows, minlength=draws).astype(np.float64)
    check_mean_and_std("spans_per_row", per_row, stated["spans_per_row"])
    check_extremes("spans_per_row", per_row, stated["spans_per_row"])

    reference = stated["contiguous_span"]
    mean = masked.sum() / per_row.sum()
    # A ratio of two sums over rows: its deviation is that of the residuals (delta method).
    wobble = (masked - mean * per_row).std() / per_row.mean()
    check("span mean", mean, wobble, reference["mean_over_all_spans"])
    of_rows = masked / per_row
    check("span mean of rows", of_rows.mean(), of_rows.std(), reference["mean_of_row_means"])
    if spans.min() != reference["min"]:
        found.append(f"span min: {spans.min()}, not {reference['min']}")
    longest = np.zeros(draws)
    np.maximum.at(longest, rows, spans)
    check_extremes("span", longest, {"min": longest.min(), "max": reference["max"]})
    for name, below in (("<", spans < reference["median"]), (">", spans > reference["median"])):
        counts = np.bincount(rows, weights=below, minlength=draws)
        share = counts.sum() / per_row.sum()
        wobble = (counts - share * per_row).std() / per_row.mean()
        error = wobble * math.sqrt(1 / draws + 1 / stated["draws"])
        if share > 0.5 + SIGMAS * error:
            found.append(f"span median: {share:.3f} of the spans {name} {reference['median']}")

    places = {"first": 0, "tenth": 9, "middle": length // 2, "second_last": -2, "last": -1}
    assert set(places) == set(stated["frame_mask_rate"])
    for name, place in places.items():
        rate = stated["frame_mask_rate"][name]
        value = float(mask[:, place].mean())
        check(f"rate {name}", value, math.sqrt(value * (1 - value)), rate)
    return found


@pytest.mark.parametrize("length", LENGTHS)
def test_every_statistic_is_fairseqs(length: int) -> None:
    assert disagreements(ours(length), STATED["by_length"][str(length)]) == []


def test_loops_over_the_rule_give_these_statistics_too() -> None:
    mask = by_loops(150, 4000, rng=np.random.default_rng(1))
    assert disagreements(mask, STATED["by_length"]["150"]) == []


def transformers_masks(length: int, seed: int) -> Masks:
    """One batch: all its rows share the number that decides how the count is rounded."""
    np.random.seed(seed)
    return _compute_mask_indices((2000, length), PROBABILITY, SPAN, min_masks=MIN_SPANS)


@pytest.mark.parametrize("length", LENGTHS)
def test_masks_of_transformers_are_noticed(length: int) -> None:
    found = disagreements(transformers_masks(length, seed=0), STATED["by_length"][str(length)])
    assert any(name.startswith("masked_fraction mean") for name in found), found
    # Its spans may end with the row; fairseq's never do.
    assert any(name.startswith("rate last") for name in found), found


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("spans_per_row", {"probability": 0.70}),
        ("rate last", {"starts": 150 - SPAN + 1}),
        ("masked_fraction mean", {"replace": True}),
        ("masked_fraction mean", {"rounding": 0.0}),
        ("span mean", {"span": 9, "probability": 0.65 * 0.9}),
    ],
)
def test_other_rules_are_noticed(name: str, variant: dict[str, Any]) -> None:
    mask = by_loops(150, 4000, rng=np.random.default_rng(2), **variant)
    found = disagreements(mask, STATED["by_length"]["150"])
    assert any(line.startswith(name) for line in found), found


def test_thinning_to_the_fewest_is_noticed() -> None:
    rng = np.random.default_rng(3)
    mask = by_loops(150, 4000, rng=rng).reshape(-1, 8, 150)
    for batch in mask:
        fewest = batch.sum(axis=1).min()
        for row in batch:
            places = np.flatnonzero(row)
            row[rng.choice(places, len(places) - fewest, replace=False)] = False
    found = disagreements(mask.reshape(-1, 150), STATED["by_length"]["150"])
    assert any(line.startswith("span min") for line in found), found
    assert any(line.startswith("masked_fraction mean") for line in found), found


def spread_between_batches(mask: Masks) -> float:
    """Variance of the batches' means over what independent rows would give; (batches, 8, T)."""
    counts = mask.sum(axis=2)
    return float(counts.mean(axis=1).var() * counts.shape[1] / counts.var())


def test_rows_of_a_batch_round_their_counts_apart() -> None:
    # A ratio of variances over n batches deviates by sqrt(2 / n) from one.
    batches = 2000
    bound = 1 + SIGMAS * math.sqrt(2 / batches)
    generator = torch.Generator().manual_seed(0)

    def batch() -> Masks:
        return span_mask(
            torch.full((8,), 50),
            50,
            probability=PROBABILITY,
            span=SPAN,
            min_spans=MIN_SPANS,
            generator=generator,
        ).numpy()

    assert spread_between_batches(np.stack([batch() for _ in range(batches)])) < bound
    np.random.seed(0)
    theirs = [
        _compute_mask_indices((8, 50), PROBABILITY, SPAN, min_masks=MIN_SPANS)
        for _ in range(batches)
    ]
    assert spread_between_batches(np.stack(theirs)) > 1.5 * bound


@lru_cache
def exact_rates(length: int, *, probability: float, span: int, min_spans: int) -> NDArray[Any]:
    """Chance of each place to be masked: 1 - (ways to miss it) / (ways to place n starts)."""
    starts = length - span
    wanted = probability * length / span
    low = math.floor(wanted)
    rates = np.zeros(length)
    for count, weight in ((low, 1 - (wanted - low)), (low + 1, wanted - low)):
        count = max(count, min_spans)
        ways = math.comb(starts, count)
        missed = [math.comb(starts - covering, count) / ways for covering in range(span + 1)]
        for place in range(length):
            covering = min(place, starts - 1) - max(0, place - span + 1) + 1
            rates[place] += weight * (1 - missed[covering])
    return rates


def check_against_exact(mask: Masks, rates: NDArray[Any]) -> None:
    draws = len(mask)
    share = mask.mean(axis=1)
    assert abs(share.mean() - rates.mean()) < SIGMAS * share.std() / math.sqrt(draws)
    found = mask.mean(axis=0)
    errors = np.sqrt(np.maximum(rates * (1 - rates), 1e-12) / draws)
    assert np.abs(found - rates)[rates == 0].sum() == 0
    # The most of some hundred neighbours, which move together: beyond 4.5 once in a thousand.
    assert (np.abs(found - rates) < 4.5 * errors)[rates > 0].all()


@pytest.mark.parametrize("length", LENGTHS)
def test_every_frame_is_masked_as_often_as_combinatorics_says(length: int) -> None:
    rates = exact_rates(length, probability=PROBABILITY, span=SPAN, min_spans=MIN_SPANS)
    check_against_exact(ours(length), rates)
    stated = STATED["by_length"][str(length)]
    drawn = stated["spans_drawn_before_overlap"]
    assert drawn["expected"] == pytest.approx(PROBABILITY * length / SPAN)
    assert [drawn["low"], drawn["high"]] == [math.floor(drawn["expected"] + u) for u in (0, 1)]
    one_more = exact_rates(length, probability=PROBABILITY * 1.03, span=SPAN, min_spans=MIN_SPANS)
    with pytest.raises(AssertionError):
        check_against_exact(ours(length), one_more)


def channel_masks(channels: int, probability: float, span: int) -> Masks:
    config = MaskingConfig(channel_probability=probability, channel_span=span)
    generator = torch.Generator().manual_seed(7)
    mask = channel_mask(4000, channels, config, generator=generator)
    assert mask is not None
    return mask.numpy()


@pytest.mark.parametrize(
    ("channels", "probability"), [(768, 0.1), (768, 0.25), (768, 0.5), (1024, 0.25)]
)
def test_channels_are_masked_as_often_as_combinatorics_says(
    channels: int, probability: float
) -> None:
    """The shares and the span of 64 of fairseq's fine-tuning recipes, without a smallest number."""
    mask = channel_masks(channels, probability, 64)
    rates = exact_rates(channels, probability=probability, span=64, min_spans=0)
    check_against_exact(mask, rates)
    more = exact_rates(channels, probability=probability + 0.05, span=64, min_spans=0)
    with pytest.raises(AssertionError):
        check_against_exact(mask, more)


def test_some_rows_have_no_channel_masked() -> None:
    mask = channel_masks(768, 0.05, 64)  # 0.6 spans a row
    rate = float((~mask.any(axis=1)).mean())
    assert rate == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / len(mask)))
    assert set(mask.sum(axis=1)) == {0, 64}
