"""Matrix products and convolutions whose weights are laid out once, for many uses on a CPU.

On x86 they go through oneDNN with packed weights, which adds the bias, a residual or a GELU while
the result is still in cache, and in float32 reaches twice the speed of torch's own product on some
machines. Elsewhere they are torch's own, with the same results up to rounding.

The packed operators are those that `torch.compile` emits. They are not part of torch's documented
interface, so they are looked for, and what is missing is replaced by the documented form.
"""

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unheard.models.strided_conv import strided_conv

After = Literal["none", "gelu", "relu"]
"""What is done to a product before it is written to memory."""

LARGEST_CODE = 126
"""Steps of an 8-bit number to either side of zero; one of 127 is kept, since steps are rounded."""
BYTE_ZERO = 128
"""The byte that stands for zero."""
SMALLEST_ROW = 1e-30
"""Largest value that a row is taken to have at least."""


@functools.cache
def has_packed_products() -> bool:
    """Whether this torch and this machine have oneDNN's packed products."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and all(
            hasattr(torch.ops.mkldnn, name)
            for name in (
                "_linear_pointwise",
                "_reorder_linear_weight",
                "_convolution_pointwise",
                "_reorder_convolution_weight",
            )
        )
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


@functools.cache
def has_int8_products() -> bool:
    """Whether this torch and this processor multiply bytes faster than numbers (VNNI)."""
    return (
        has_packed_products()
        and torch.cpu._is_vnni_supported()
        and all(
            hasattr(torch.ops.onednn, name) for name in ("qlinear_prepack", "qlinear_pointwise")
        )
    )


class Linear:
    """Rows times a weight, plus bias: `torch.nn.functional.linear` with what follows it."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        dtype: torch.dtype,
        after: After = "none",
        once: bool = False,
    ) -> None:
        """Lay out the weights.

        Args:
            weight: (outputs, inputs).
            bias: (outputs,) or None.
            dtype: of rows, weights and result.
            after: what is done to the result.
            once: whether the weights are used too little for packing them to pay.
        """
        weight = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.after: After = after
        self.packed = has_packed_products()
        self.weight = _packed_linear(weight) if self.packed and not once else weight.clone()

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply (rows, inputs) -> (rows, outputs)."""
        if self.packed:
            return _mkldnn()._linear_pointwise(
                rows, self.weight, self.bias, self.after, [], "none" if self.after == "gelu" else ""
            )
        return _after(F.linear(rows, self.weight, self.bias), self.after)

    def added_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        """Multiply (rows, inputs) and add (rows, outputs); nothing is done after."""
        if self.packed and residual.dtype == rows.dtype:
            return _mkldnn()._linear_pointwise.binary(rows, residual, self.weight, self.bias, "add")
        product = self(rows)
        return residual + product


class QuantizedLinear:
    """A `Linear` whose rows and weights are rounded to 8 bits, with exact sums.

    Weights have a step for each output, rows a step for each row, found as they come: what a row
    gives does not depend on what else is in the batch, and a loud frame costs no other frame bits.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, *, dtype: torch.dtype, after: After = "none"
    ) -> None:
        """Round and lay out the weights.

        Args:
            weight: (outputs, inputs).
            bias: (outputs,).
            dtype: of rows and result, float32 or bfloat16.
            after: what is done to the result.
        """
        weight = weight.detach().float()
        step = (weight.abs().amax(dim=1) / LARGEST_CODE).clamp_min(torch.finfo(torch.float32).tiny)
        codes = torch.round(weight / step[:, None]).to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self.weight_step = step
        self.weight_zero = torch.zeros(step.shape[0], dtype=torch.int32)
        self.bias = bias.detach().to(dtype, copy=True)
        self.dtype = dtype
        self.after: After = after

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply (rows, inputs) -> (rows, outputs)."""
        step = rows.abs().amax(dim=1, keepdim=True).float()
        step = step.clamp_min_(SMALLEST_ROW).div_(LARGEST_CODE)
        codes = (rows * step.reciprocal().to(rows.dtype)).round_().to(torch.int8)
        # oneDNN's fast kernels take bytes without sign.
        codes = codes.view(torch.uint8).bitwise_xor_(BYTE_ZERO)
        sums = torch.ops.onednn.qlinear_pointwise(
            codes,
            1.0,
            BYTE_ZERO,
            self.weight,
            self.weight_step,
            self.weight_zero,
            None,
            1.0,
            0,
            self.dtype,
            "none",
            [],
            "none",
        )
        return _after(torch.addcmul(self.bias, sums, step.to(self.dtype)), self.after)

    def added_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        """Multiply (rows, inputs) and add (rows, outputs); nothing is done after."""
        return residual + self(rows)


class StridedConv:
    """A convolution over time without padding, on (time, channels)."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int,
        dtype: torch.dtype,
        after: After = "none",
    ) -> None:
        """Lay out the weights.

        Args:
            weight: (out_channels, in_channels, kernel).
            bias: (out_channels,) or None.
            stride: step between output frames.
            dtype: of frames, weights and result.
            after: what is done to the result.
        """
        weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.stride = stride
        self.after: After = after
        self.packed = has_packed_products()
        self.weight = (
            _packed_conv(weight, padding=0, stride=stride, groups=1)
            if self.packed
            else weight.clone()
        )

    def __call__(self, frames: Tensor) -> Tensor:
        """Convolve (time, in_channels) -> ((time - kernel) // stride + 1, out_channels)."""
        if self.packed:
            return _run_conv(
                frames,
                self.weight,
                self.bias,
                padding=0,
                stride=self.stride,
                groups=1,
                after=self.after,
            )
        product = strided_conv(frames[None], self.weight, self.bias, stride=self.stride)[0]
        return _after(product, self.after)


class GroupedConv:
    """A grouped convolution over time that keeps the number of frames, on (time, channels)."""

    def __init__(
        self, weight: Tensor, bias: Tensor, *, groups: int, dtype: torch.dtype, after: After
    ) -> None:
        """Lay out the weights.

        Args:
            weight: (channels, channels / groups, kernel).
            bias: (channels,).
            groups: groups of channels.
            dtype: of frames, weights and result.
            after: what is done to the result.
        """
        self.padding = weight.shape[2] // 2
        self.groups = groups
        self.after: After = after
        self.bias = bias.detach().to(dtype, copy=True)
        self.packed = has_packed_products()
        weight = weight.detach().to(dtype)
        self.weight = (
            _packed_conv(weight, padding=self.padding, stride=1, groups=groups)
            if self.packed
            else weight.clone()
        )

    def __call__(self, frames: Tensor) -> Tensor:
        """Convolve (time, channels) with zeros around; an even kernel's last frame is dropped."""
        time = frames.shape[0]
        if self.packed:
            return _run_conv(
                frames,
                self.weight,
                self.bias,
                padding=self.padding,
                stride=1,
                groups=self.groups,
                after=self.after,
            )[:time]
        signal = F.conv1d(
            frames.t()[None], self.weight, self.bias, padding=self.padding, groups=self.groups
        )
        return _after(signal[0].t()[:time], self.after)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply (rows, inputs) by the transpose of (outputs, inputs), through oneDNN."""
    return _mkldnn()._linear_pointwise(rows, matrix, None, "none", [], "")


def _mkldnn() -> Any:
    """Give the operators; they exist only in torch's own registry, unknown to type checkers."""
    return torch.ops.mkldnn


def _packed_linear(weight: Tensor) -> Tensor:
    with torch.inference_mode():
        return _mkldnn()._reorder_linear_weight(weight)


def _packed_conv(weight: Tensor, *, padding: int, stride: int, groups: int) -> Tensor:
    with torch.inference_mode():
        return _mkldnn()._reorder_convolution_weight(
            weight[:, :, None, :].contiguous(), [0, padding], [1, stride], [1, 1], groups
        )


def _run_conv(
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    padding: int,
    stride: int,
    groups: int,
    after: After,
) -> Tensor:
    """Convolve as an image of height 1 with its channels last, (time, channels) all along."""
    # (time, channels) -> (1, channels, 1, time) without a copy
    image = frames.t()[None, :, None, :]
    result = _mkldnn()._convolution_pointwise(
        image,
        weight,
        bias,
        [0, padding],
        [1, stride],
        [1, 1],
        groups,
        after,
        [],
        "none" if after == "gelu" else "",
    )
    return result[0, :, 0, :].t()


def _after(values: Tensor, after: After) -> Tensor:
    if after == "gelu":
        return F.gelu(values)
    return F.relu(values) if after == "relu" else values
