"""Dropout (Srivastava et al. 2014) whose mask costs little on a CPU.

torch draws one Bernoulli variable after the other there, which took a quarter of a fine-tuning
step of the recipe `mini`. Sixteen random bits for each value, drawn 64 at a time, are twelve times
faster.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 1 << 16
"""Different probabilities that sixteen bits can tell apart."""


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Set values to zero at random and scale the rest, so that the expectation stays.

    Args:
        values: of any shape.
        probability: of zero, at least 0 and at most 1; on a CPU rounded to a multiple of 2^-16,
            and the scale follows the rounded one.
        training: whether to do anything at all.

    Returns:
        The same shape and dtype. Draws come from torch's default generator of the device, which
        training seeds anew for each step.
    """
    if not training or probability == 0:
        return values
    zeroed = round(probability * _STEPS)
    if values.device.type != "cpu" or zeroed in (0, _STEPS):
        return F.dropout(values, probability, training=True)
    return _BitDropout.apply(values, zeroed)


class _BitDropout(torch.autograd.Function):
    """Keep a value if its sixteen bits, read as a number, are not among the `zeroed` lowest."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, zeroed: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = values.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
        kept = words.view(torch.int16)[:count] >= zeroed - _STEPS // 2
        kept = kept.view(values.shape)
        scale = _STEPS / (_STEPS - zeroed)
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _scaled(values, kept, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (kept,) = ctx.saved_tensors
        return _scaled(grad, kept, ctx.scale), None


def _scaled(values: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Keep and scale; bytes become numbers eight times faster than truth values do."""
    return kept.view(torch.uint8).to(values.dtype).mul_(values).mul_(scale)
