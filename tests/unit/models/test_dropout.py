"""Dropout with sixteen random bits a value: how often, what stays, what it leaves alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unheard.models.dropout import dropout


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_zeroes_as_often_as_asked(probability: float) -> None:
    torch.manual_seed(0)
    count = 400_000

    zeros = int((dropout(torch.ones(count), probability, True) == 0).sum())

    deviation = math.sqrt(count * probability * (1 - probability))
    assert abs(zeros - count * probability) < 4 * deviation + count / 65_536


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5, 4), (0, 4)])
def test_keeps_or_zeroes_and_passes_the_same_on(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    values = (torch.arange(math.prod(shape), dtype=dtype) + 1).view(shape).requires_grad_()

    out = dropout(values, 0.25, True)
    out.backward(torch.ones_like(out))

    assert values.grad is not None
    kept = out != 0
    torch.testing.assert_close(out[kept], values.detach()[kept] / 0.75)
    torch.testing.assert_close(values.grad, kept.to(dtype) / 0.75)


def test_neighbours_are_independent() -> None:
    """Four values share a random word: none of them may tell anything about another."""
    torch.manual_seed(2)
    kept = (dropout(torch.ones(200_000, 4), 0.5, True) != 0).double()
    centred = kept - kept.mean(dim=0)

    correlation = centred.t() @ centred / kept.shape[0] / 0.25

    assert torch.allclose(correlation, torch.eye(4, dtype=torch.float64), atol=0.012)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), probability=st.floats(0.01, 0.99))
def test_the_seed_decides(seed: int, probability: float) -> None:
    values = torch.ones(333)
    torch.manual_seed(seed)
    first = dropout(values, probability, True)
    torch.manual_seed(seed)

    assert torch.equal(first, dropout(values, probability, True))


def test_leaves_evaluation_alone() -> None:
    values = torch.ones(5)

    assert dropout(values, 0.5, False) is values
    assert dropout(values, 0.0, True) is values
    assert torch.equal(dropout(values, 1.0, True), torch.zeros(5))


def test_does_not_hide_what_is_not_finite() -> None:
    """A step whose values overflowed must be seen, whatever dropout drew."""
    values = torch.full((64,), math.inf)

    assert not torch.isfinite(dropout(values, 0.5, True)).any()
