"""The feature encoder f: X -> Z, convolutions from the waveform to one vector every 20 ms.

Source: Baevski et al. 2020, sec. 2 "Feature encoder"; fairseq models/wav2vec/wav2vec2.py
`ConvFeatureExtractionModel` @ 3d262bb.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unheard.models.config import ConvLayer, EncoderConfig
from unheard.models.strided_conv import strided_conv
from unheard.tensors import conv_lengths, padding_mask

Padding = Literal["masked", "zeros"]
"""How padding enters statistics: see `unheard.audio.signal.InputSpec`."""

CONV_NORM_EPSILON = 1e-5
"""Of the norms between the convolutions: fixed in fairseq and in transformers, where
`norm_epsilon` is that of the other norms."""


class FeatureEncoder(nn.Module):
    """Convolution blocks: convolution, norm (all or only the first), GELU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        in_channels = 1
        blocks: list[nn.Module] = []
        for number, layer in enumerate(config.conv_layers):
            norm: ChannelNorm | TimeNorm | None = None
            if config.conv_norm == "layer":
                norm = ChannelNorm(layer.channels, epsilon=CONV_NORM_EPSILON)
            elif number == 0:
                norm = TimeNorm(layer.channels, epsilon=CONV_NORM_EPSILON)
            blocks.append(ConvBlock(in_channels, layer, norm=norm, bias=config.conv_bias))
            in_channels = layer.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, samples: Tensor, lengths: Tensor | None, *, padding: Padding = "masked"
    ) -> tuple[Tensor, Tensor | None]:
        """Turn samples into frames.

        Args:
            samples: (batch, samples), padded with zeros where `lengths` is shorter.
            lengths: (batch,) [samples], or None when nothing is padded.
            padding: whether padded time enters the statistics of a group norm.

        Returns:
            frames (batch, frames, channels) and their lengths (batch,) [frames] or None.
        """
        frames = samples[:, :, None]  # (batch, samples) -> (batch, samples, 1)
        for block in self.blocks:
            frames, lengths = block(frames, lengths, padding=padding)
        return frames, lengths


class ConvBlock(nn.Module):
    """Convolution, optional norm, GELU, on (batch, time, channels)."""

    def __init__(
        self,
        in_channels: int,
        layer: ConvLayer,
        *,
        norm: "ChannelNorm | TimeNorm | None",
        bias: bool,
    ) -> None:
        super().__init__()
        self.kernel = layer.kernel
        self.stride = layer.stride
        self.weight = nn.Parameter(torch.empty(layer.channels, in_channels, layer.kernel))
        self.bias = nn.Parameter(torch.zeros(layer.channels)) if bias else None
        self.norm = norm
        nn.init.kaiming_normal_(self.weight)

    def forward(
        self, frames: Tensor, lengths: Tensor | None, *, padding: Padding
    ) -> tuple[Tensor, Tensor | None]:
        """Apply to (batch, time, in_channels); returns frames and lengths of the output rate."""
        if torch.is_autocast_enabled(frames.device.type):
            frames = frames.to(torch.get_autocast_dtype(frames.device.type))
        frames = strided_conv(frames, self.weight, self.bias, stride=self.stride)
        if lengths is not None:
            lengths = conv_lengths(lengths, kernel=self.kernel, stride=self.stride)
        if isinstance(self.norm, ChannelNorm):
            frames = self.norm(frames)
        elif isinstance(self.norm, TimeNorm):
            frames = self.norm(frames, lengths if padding == "masked" else None)
        return F.gelu(frames), lengths


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each frame (the "layer" kind)."""

    def __init__(self, channels: int, *, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise (batch, time, channels) over the last axis.

        Sums, means and deviations are float32 where the frames are bfloat16, because weight and
        bias keep their own type.
        """
        return F.layer_norm(frames, (frames.shape[-1],), self.weight, self.bias, self.epsilon)


class TimeNorm(nn.Module):
    """Group norm with one channel a group: each channel normalised over time.

    With lengths, the statistics run over real frames only. That makes an utterance's result
    independent of what it was batched with, which the original is not (docs/architecture.md).
    """

    def __init__(self, channels: int, *, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Normalise (batch, time, channels) over time, in float32 or wider.

        Args:
            frames: (batch, time, channels).
            lengths: (batch,) real frames, or None to count every frame.
        """
        is_padding = None
        if lengths is not None:
            is_padding = padding_mask(lengths, frames.shape[1])[:, :, None]
        if not torch.is_inference_mode_enabled():
            return _NormalizeOverTime.apply(
                frames, self.weight, self.bias, lengths, is_padding, self.epsilon
            )
        # In place: this is the largest tensor of the network, and nobody needs it unnormed.
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
        # torch.var_mean over an axis that is not the last takes a hundred times as long on a CPU.
        wide.sub_(_mean_over_time(wide, lengths, is_padding))
        variance = _mean_over_time(wide.square(), lengths, is_padding)
        scale = self.weight * torch.rsqrt(variance + self.epsilon)
        return wide.mul_(scale).add_(self.bias).to(frames.dtype)


class _NormalizeOverTime(torch.autograd.Function):
    """The norm with its gradient written out, which takes a third of the passes over memory.

    With x' the normalised frames, s = weight / deviation, g the gradient of the output, and sums
    over all n real frames: the gradient of a real frame is s (g - (sum g + x' sum g x') / n), that
    of padding s g.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        frames: Tensor,
        weight: Tensor,
        bias: Tensor,
        lengths: Tensor | None,
        is_padding: Tensor | None,
        epsilon: float,
    ) -> Tensor:
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
        normed = wide - _mean_over_time(wide, lengths, is_padding)
        variance = _mean_over_time(normed.square(), lengths, is_padding)
        inverse = torch.rsqrt(variance + epsilon)
        normed.mul_(inverse)
        ctx.save_for_backward(normed, weight, inverse, lengths, is_padding)
        return torch.addcmul(bias, normed, weight).to(frames.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        normed, weight, inverse, lengths, is_padding = ctx.saved_tensors
        wide = grad.to(normed.dtype)
        sums = wide.sum(dim=1, keepdim=True)
        products = (wide * normed).sum(dim=1, keepdim=True)
        scale = weight * inverse
        common = torch.addcmul(sums, normed, products)
        if lengths is None or is_padding is None:
            common.div_(normed.shape[1])
        else:
            common.div_(_counts(lengths, normed.dtype)).masked_fill_(is_padding, 0)
        grad_frames = common.neg_().add_(wide).mul_(scale).to(grad.dtype)
        return grad_frames, products.sum(dim=(0, 1)), sums.sum(dim=(0, 1)), None, None, None


def _mean_over_time(frames: Tensor, lengths: Tensor | None, is_padding: Tensor | None) -> Tensor:
    """Mean of (batch, time, channels) over real frames, (batch, 1, channels)."""
    if lengths is None or is_padding is None:
        return frames.mean(dim=1, keepdim=True)
    total = frames.masked_fill(is_padding, 0).sum(dim=1, keepdim=True)
    return total / _counts(lengths, frames.dtype)


def _counts(lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """Lengths to divide by, (batch, 1, 1)."""
    return lengths.clamp_min(1).to(dtype)[:, None, None]
