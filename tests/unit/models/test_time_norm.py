"""The hand-written gradient of the norm over time, and the noise of the quantiser."""

import math

import pytest
import torch
from torch import Tensor

from unheard.models.feature_encoder import TimeNorm
from unheard.models.quantizer import _gumbel_noise

EULER_GAMMA = 0.5772156649


def norm(channels: int) -> TimeNorm:
    made = TimeNorm(channels, epsilon=1e-3).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.weight.copy_(1 + 0.3 * torch.randn(channels, generator=generator))
        made.bias.copy_(torch.randn(channels, generator=generator))
    return made


@pytest.mark.parametrize("lengths", [None, (7, 4), (1, 6)], ids=["whole", "padded", "one frame"])
def test_the_gradient_is_that_of_the_formula(lengths: tuple[int, ...] | None) -> None:
    made = norm(3)
    frames = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    counts = None if lengths is None else torch.tensor(lengths)

    def run(frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(made, {"weight": weight, "bias": bias}, (frames, counts))

    inputs = (frames, made.weight, made.bias)
    assert torch.autograd.gradcheck(run, inputs)
    # The negative control: without the padding's lengths, the gradient is another.
    if lengths is not None:
        wrong = torch.autograd.grad(made(frames, None).pow(3).sum(), frames)[0]
        right = torch.autograd.grad(made(frames, counts).pow(3).sum(), frames)[0]
        assert not torch.allclose(wrong, right, rtol=1e-3)


def test_in_half_precision_the_gradient_stays_near() -> None:
    made = norm(8).float()
    frames = torch.randn(2, 50, 8)
    wide, half = frames.clone().requires_grad_(), frames.bfloat16().requires_grad_()
    upstream = torch.randn(2, 50, 8)
    made(wide, None).backward(upstream)
    output = made(half, None)
    output.backward(upstream.bfloat16())
    assert output.dtype == torch.bfloat16
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), wide.grad, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gumbel_noise_has_its_mean_spread_and_median_and_is_finite(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = _gumbel_noise(torch.empty(200, 10, 200, dtype=dtype), generator)
    assert noise.dtype == dtype
    assert bool(noise.isfinite().all())
    assert float(noise.mean()) == pytest.approx(EULER_GAMMA, abs=0.01)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    assert float(noise.median()) == pytest.approx(-math.log(math.log(2)), abs=0.01)


def test_gumbel_noise_is_finite_when_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform number may be zero, once in sixteen million."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert bool(_gumbel_noise(torch.empty(3, 2), None).isfinite().all())
