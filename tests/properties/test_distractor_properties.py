"""Distractors of any batch: drawn evenly from the other masked frames, and again by seed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unheard.objectives.contrastive import sample_distractors
from unheard.tensors import derived_generator

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(lambda counts: max(counts) > 1)
DRAWS = 600


def draw(counts: list[int], *, distractors: int, generator: torch.Generator) -> Tensor:
    return sample_distractors(torch.tensor(counts), distractors=distractors, generator=generator)


def table(drawn: Tensor, counts: list[int]) -> list[Tensor]:
    """How often each masked frame of a row (down) got each of its row (across)."""
    return [
        torch.stack([torch.bincount(frame, minlength=len(row)) for frame in row])
        for row in drawn.split(counts)
        if len(row) > 1
    ]


def check_even(drawn: Tensor, counts: list[int]) -> None:
    """Chi-square of all rows together, against a bound passed once in ten thousand million."""
    total, freedom = 0.0, 0
    for found in table(drawn, counts):
        size = len(found)
        assert not found.diagonal().any()
        expected = drawn.shape[1] / (size - 1)
        others = found[~torch.eye(size, dtype=torch.bool)].double()
        total += float(((others - expected) ** 2 / expected).sum())
        freedom += size * (size - 2)
    # Laurent and Massart 2000, lemma 1: chi-square beyond it has a probability of at most e^-x.
    x = math.log(1e10)
    assert total <= freedom + 2 * math.sqrt(freedom * x) + 2 * x


@given(counts=COUNTS, seed=st.integers(0, 2**32))
def test_every_other_frame_of_the_row_is_as_likely(counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    check_even(draw(counts, distractors=DRAWS, generator=generator), counts)


@pytest.mark.parametrize("fault", ["itself", "modulo", "neighbour"])
def test_uneven_draws_are_noticed(fault: str) -> None:
    counts = [7, 7]
    generator = torch.Generator().manual_seed(0)
    drawn = draw(counts, distractors=DRAWS, generator=generator)
    if fault == "itself":
        drawn[2, 5] = 2
    elif fault == "modulo":  # a bias towards the first frames
        drawn = torch.where(drawn == 5, 0, drawn)
        drawn[0] = 1
    else:  # shifted, without keeping out of the frame's own place
        drawn = drawn.roll(1, dims=0)
    with pytest.raises(AssertionError):
        check_even(drawn, counts)


@given(counts=COUNTS, seed=st.integers(0, 2**32), step=st.integers(0, 10**7))
def test_seed_and_step_decide(counts: list[int], seed: int, step: int) -> None:
    def of(seed: int, step: int) -> Tensor:
        generator = derived_generator(seed, "step", step, 0)
        return draw(counts, distractors=60, generator=generator)

    assert torch.equal(of(seed, step), of(seed, step))
    if max(counts) > 2:  # with two masked frames there is nothing to choose
        assert not torch.equal(of(seed, step), of(seed, step + 1))
        assert not torch.equal(of(seed, step), of(seed + 1, step))


@given(counts=COUNTS, seed=st.integers(0, 2**32))
def test_draws_of_a_frame_are_independent(counts: list[int], seed: int) -> None:
    """With replacement: the second distractor equals the first once in as many as there are."""
    drawn = draw(counts, distractors=DRAWS, generator=torch.Generator().manual_seed(seed))
    own = torch.repeat_interleave(torch.tensor(counts), torch.tensor(counts))
    chances = 1 / (own[own > 1] - 1).double()
    pairs = drawn[own > 1].view(len(chances), -1, 2)
    equal = (pairs[..., 0] == pairs[..., 1]).double().sum(dim=1)
    tries = pairs.shape[1]
    deviation = math.sqrt(float((tries * chances * (1 - chances)).sum()))
    assert abs(float((equal - tries * chances).sum())) <= 7 * deviation + 1e-9
