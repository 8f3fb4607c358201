"""One-dimensional convolution on (batch, time, channels) as plain matrix products.

The feature encoder's convolutions have kernels of one to two strides. Written on channels-last
frames, the first `stride` taps of all output frames are one matrix product on a reshaped view of
the input, and the remaining taps one more on every `stride`-th row: no patches are copied, the
norm that follows sees its channels side by side, and no transposition is ever made.
"""

from typing import Any

import torch
from torch import Tensor


def strided_conv(frames: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int) -> Tensor:
    """Convolve without padding.

    Args:
        frames: (batch, time, in_channels).
        weight: (out_channels, in_channels, kernel), as `torch.nn.Conv1d` stores it.
        bias: (out_channels,) or None.
        stride: step between output frames.

    Returns:
        (batch, (time - kernel) // stride + 1, out_channels), in the dtype of `frames`; equal to
        `torch.nn.functional.conv1d` on transposed frames up to rounding.
    """
    weight = weight.to(frames.dtype)
    product = _StridedProduct.apply(frames, weight, stride)
    return product if bias is None else product + bias.to(frames.dtype)


class _StridedProduct(torch.autograd.Function):
    """The convolution without bias, with its gradients written as matrix products too."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, stride: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        frames = frames.contiguous()
        ctx.save_for_backward(frames, weight)
        ctx.stride = stride
        out_channels, in_channels, kernel = weight.shape
        steps = (frames.shape[1] - kernel) // stride + 1
        taps = weight.permute(2, 1, 0)  # (out, in, kernel) -> (kernel, in, out)
        output = None
        for first, count in _tap_groups(kernel, stride):
            rows = _rows(frames, first, count, stride, steps)
            matrix = taps[first : first + count].reshape(count * in_channels, out_channels)
            if output is None:
                output = torch.matmul(rows, matrix)
            else:
                output += torch.matmul(rows, matrix)
        if output is None:
            raise AssertionError("a kernel has at least one tap")
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        frames, weight = ctx.saved_tensors
        stride = ctx.stride
        out_channels, in_channels, kernel = weight.shape
        steps = grad.shape[1]
        grad = grad.contiguous()
        flat_grad = grad.view(-1, out_channels)
        taps = weight.permute(2, 1, 0)  # (out, in, kernel) -> (kernel, in, out)
        needs_frames, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_frames = torch.zeros_like(frames) if needs_frames else None
        grad_taps = torch.empty_like(taps) if needs_weight else None
        for first, count in _tap_groups(kernel, stride):
            if grad_taps is not None:
                rows = _rows(frames, first, count, stride, steps).reshape(-1, count * in_channels)
                grad_taps[first : first + count] = torch.matmul(rows.t(), flat_grad).view(
                    count, in_channels, out_channels
                )
            if grad_frames is not None:
                matrix = taps[first : first + count].reshape(count * in_channels, out_channels)
                _rows(grad_frames, first, count, stride, steps).add_(torch.matmul(grad, matrix.t()))
        grad_weight = None if grad_taps is None else grad_taps.permute(2, 1, 0)
        return grad_frames, grad_weight, None


def _tap_groups(kernel: int, stride: int) -> list[tuple[int, int]]:
    """Cut the taps into groups of at most one stride: [(first tap, number of taps), ...]."""
    return [(first, min(stride, kernel - first)) for first in range(0, kernel, stride)]


def _rows(frames: Tensor, first: int, count: int, stride: int, steps: int) -> Tensor:
    """View taps `first .. first + count` of every output frame as rows, without a copy.

    Returns:
        (batch, steps, count * channels), a view into `frames`; rows do not overlap as long as
        `count <= stride`.
    """
    batch, time, channels = frames.shape
    return frames.as_strided(
        (batch, steps, count * channels),
        (time * channels, stride * channels, 1),
        frames.storage_offset() + first * channels,
    )
