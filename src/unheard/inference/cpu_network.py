"""A CTC network laid out for a CPU: the numbers of `models/`, in another order.

What differs from the plain network, and why it gives the same:

- No padding is ever computed. The convolutions and attention run on each recording by itself, the
  linear layers on the frames of all recordings below each other. So a result cannot depend on the
  batch, and `padding="zeros"` is a recording with zeros behind it.
- The convolutions run in stretches of some seconds, whose values stay in the cache of the
  processor. The group norm needs the mean and variance of the first convolution over the whole
  recording; both follow from the mean and covariance of its ten taps, before it is computed. So it
  becomes a factor on its weights (`first_conv_statistics`).
- The first convolution splits sound and weights into a bfloat16 and what that rounds away; their
  three products fit one matrix product of 30 taps, and cost what one of ten costs.
- Query, key and value are one product; the scale of attention is in the weights of the query.
- Attention takes as many frames at a time as fit into cache, in explicit matrix products.
- Biases, residuals and GELUs are added by the products themselves (`inference.products`).

In bfloat16 the values between layers are bfloat16; sums, norms' statistics, the softmax of the
output and its head are float32, and so is what the layers of a `norm_first` network add up.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unheard.inference.products import (
    GroupedConv,
    Linear,
    QuantizedLinear,
    StridedConv,
    has_packed_products,
    product,
)
from unheard.models.ctc import CtcModel
from unheard.models.feature_encoder import ChannelNorm, ConvBlock, FeatureEncoder, TimeNorm
from unheard.models.transformer import LanguageAdapter, Transformer, TransformerLayer

STRETCH_FRAMES = 96
"""Output frames of the convolutions computed at a time; their values fit the cache."""
ROOM_FRAMES = 16
"""Recordings take a multiple of so many rows. oneDNN generates code for each new shape, about a
millisecond a product: recordings of any length then share that of few shapes."""
FREE_TAPS = 32
"""Taps of a bfloat16 product that take no longer than fewer would."""
SCORE_BYTES = 1_500_000
"""Attention scores that a thread computes at a time [bytes]: what the caches of a core hold."""
SMALLEST_SUM = 2.0**-100
"""Smallest sum of attention scores, and one over the largest, that float32 and bfloat16 still
divide and multiply without loss."""


class CpuNetwork:
    """Encoder and head, ready to run; holds its own copy of the weights."""

    def __init__(self, model: CtcModel, *, dtype: torch.dtype, int8: bool = False) -> None:
        """Lay out the weights of a model.

        Args:
            model: the network; later changes to its weights are not seen.
            dtype: of the matrix products, float32 or bfloat16.
            int8: whether the linear layers of the Transformer multiply in 8 bits instead.
        """
        encoder = model.encoder
        self.config = model.config
        self.dtype = dtype
        with torch.inference_mode():
            self._features = _Features(encoder.feature_encoder, dtype=dtype)
            self._feature_norm = _Norm(encoder.feature_norm)
            self._projection = Linear(
                encoder.projection.weight, encoder.projection.bias, dtype=dtype
            )
            self._transformer = _Transformer(encoder.transformer, dtype=dtype, int8=int8)
            self._head = Linear(model.head.weight, model.head.bias, dtype=torch.float32)

    def log_probs(self, batch: list[tuple[NDArray[np.float32], int]]) -> list[Tensor]:
        """Run recordings.

        Args:
            batch: of each the samples (samples,), normalised, and how many of its frames the
                Transformer sees, at least one.

        Returns:
            Of each (frames, vocab) natural log-probabilities, float32.
        """
        places = _places([frames for _, frames in batch])
        features = [
            self._features(torch.from_numpy(samples), place.room)
            for (samples, _), place in zip(batch, places, strict=True)
        ]
        rows = features[0] if len(features) == 1 else torch.cat(features)
        del features
        rows = self._projection(self._feature_norm(rows))
        rows = self._transformer(rows, places)
        log_probs = torch.log_softmax(self._head(rows.float()), dim=-1)
        return [log_probs[place.start : place.start + place.frames] for place in places]


@dataclass(frozen=True)
class _Place:
    """Where the frames of a recording lie among the rows of a batch.

    Attributes:
        start: row of its first frame.
        frames: rows that are frames of the recording.
        room: rows that it takes, a multiple of `ROOM_FRAMES`; what is in the others never reaches
            its frames.
    """

    start: int
    frames: int
    room: int

    @property
    def rows(self) -> slice:
        """All rows that it takes."""
        return slice(self.start, self.start + self.room)

    @property
    def spare(self) -> slice:
        """The rows behind its last frame."""
        return slice(self.start + self.frames, self.start + self.room)


def _places(counts: list[int]) -> list[_Place]:
    """Lay recordings of so many frames below each other."""
    places: list[_Place] = []
    start = 0
    for frames in counts:
        room = -(-frames // ROOM_FRAMES) * ROOM_FRAMES
        places.append(_Place(start, frames, room))
        start += room
    return places


class _Features:
    """The convolutions, on one recording."""

    def __init__(self, encoder: FeatureEncoder, *, dtype: torch.dtype) -> None:
        blocks = [block for block in encoder.blocks if isinstance(block, ConvBlock)]
        self.first = _FirstConv(blocks[0], dtype=dtype)
        self.rest = [_Conv(block, dtype=dtype) for block in blocks[1:]]
        stride, field = 1, 1
        for block in blocks:
            field += (block.kernel - 1) * stride
            stride *= block.stride
        self.stride, self.field = stride, field

    def __call__(self, samples: Tensor, frames: int) -> Tensor:
        """Turn samples (samples,) into (frames, channels), where needed of zeros behind them."""
        run_first = self.first.prepare(samples, (frames - 1) * self.stride + self.field)
        stretches: list[Tensor] = []
        for start in range(0, frames, STRETCH_FRAMES):
            count = min(STRETCH_FRAMES, frames - start)
            begin = start * self.stride
            values = run_first(begin, begin + (count - 1) * self.stride + self.field)
            for conv in self.rest:
                values = conv(values)
            stretches.append(values)
        return stretches[0] if len(stretches) == 1 else torch.cat(stretches)


class _FirstConv:
    """The convolution over samples, its norm and its GELU."""

    def __init__(self, block: ConvBlock, *, dtype: torch.dtype) -> None:
        self.kernel, self.stride = block.kernel, block.stride
        self.dtype = dtype
        self.weight = block.weight.detach()[:, 0].float().clone()  # (channels, kernel)
        self.bias = None if block.bias is None else block.bias.detach().float().clone()
        self.time_norm = copy.deepcopy(block.norm) if isinstance(block.norm, TimeNorm) else None
        self.channel_norm = _Norm(block.norm) if isinstance(block.norm, ChannelNorm) else None

    def prepare(self, samples: Tensor, num_samples: int) -> "_FirstConvOf":
        """Take in all samples of a recording, for the statistics of its norm.

        Args:
            samples: (samples,) of the recording.
            num_samples: how many will be asked for, zeros behind the recording among them.
        """
        weight, bias, offset = self.weight, self.bias, 0.0
        if self.time_norm is not None:
            offset = float(samples.mean(dtype=torch.float64))
            weight, bias = fold_time_norm(
                samples, weight, self.time_norm, stride=self.stride, offset=offset
            )
        ready = torch.zeros(num_samples)
        heard = min(num_samples, samples.shape[0])
        torch.sub(samples[:heard], offset, out=ready[:heard])
        return _FirstConvOf(self, ready, weight, bias)


class _FirstConvOf:
    """The first convolution with the weights that one recording's statistics give."""

    def __init__(
        self, conv: _FirstConv, samples: Tensor, weight: Tensor, bias: Tensor | None
    ) -> None:
        self.conv = conv
        self.parts = [samples]
        dtype = torch.float32
        if conv.dtype != torch.float32 and 3 * conv.kernel <= FREE_TAPS:
            dtype = conv.dtype
            high = samples.to(dtype)
            low = (samples - high.float()).to(dtype)
            weight_high = weight.to(dtype).float()
            self.parts = [high, low, high]
            weight = torch.cat([weight_high, weight_high, weight - weight_high], dim=1)
        self.product = Linear(
            weight,
            bias,
            dtype=dtype,
            after="none" if conv.channel_norm is not None else "gelu",
            once=True,
        )

    def __call__(self, begin: int, end: int) -> Tensor:
        """Convolve samples `begin` to `end`, (time, channels)."""
        steps = (end - begin - self.conv.kernel) // self.conv.stride + 1
        shape, strides = (steps, self.conv.kernel), (self.conv.stride, 1)
        taps = [part.as_strided(shape, strides, begin) for part in self.parts]
        values = self.product(taps[0].contiguous() if len(taps) == 1 else torch.cat(taps, dim=1))
        values = values.to(self.conv.dtype)
        if self.conv.channel_norm is None:
            return values
        return F.gelu(self.conv.channel_norm(values))


def fold_time_norm(
    samples: Tensor, weight: Tensor, norm: TimeNorm, *, stride: int, offset: float
) -> tuple[Tensor, Tensor]:
    """Make a norm over time part of the weights of the convolution over samples before it.

    A channel's value is its weights times the taps under it. So its mean over time is its weights
    times the mean of the taps, and its variance is the weights on both sides of their covariance.
    A bias of the convolution shifts value and mean alike, and is not needed.

    Args:
        samples: (samples,) of the recording.
        weight: (channels, kernel).
        norm: the norm.
        stride: step of the convolution.
        offset: what is subtracted from the samples before they are convolved.

    Returns:
        weight (channels, kernel) and bias (channels,) with which the convolution gives normed
        values, float32.
    """
    channels, kernel = weight.shape
    steps = (samples.shape[0] - kernel) // stride + 1
    shape, strides = (steps, kernel), (stride, 1)
    wide = weight.double()
    if kernel * 4 <= channels:
        taps = (samples.double() - offset).as_strided(shape, strides)
        tap_mean = taps.mean(dim=0)
        covariance = taps.t() @ taps / steps - torch.outer(tap_mean, tap_mean)
        mean = wide @ tap_mean
        variance = ((wide @ covariance) * wide).sum(dim=1).clamp_min(0)
    else:  # the taps outnumber the values that they make
        values = ((samples - offset).as_strided(shape, strides) @ weight.t()).double()
        mean = values.mean(dim=0)
        variance = (values - mean).square_().mean(dim=0)
    scale = norm.weight.double() * torch.rsqrt(variance + norm.epsilon)
    return (wide * scale[:, None]).float(), (norm.bias.double() - scale * mean).float()


class _Conv:
    """A later convolution with its norm and GELU."""

    def __init__(self, block: ConvBlock, *, dtype: torch.dtype) -> None:
        self.norm = _Norm(block.norm) if isinstance(block.norm, ChannelNorm) else None
        self.conv = StridedConv(
            block.weight,
            block.bias,
            stride=block.stride,
            dtype=dtype,
            after="gelu" if self.norm is None else "none",
        )

    def __call__(self, frames: Tensor) -> Tensor:
        values = self.conv(frames)
        return values if self.norm is None else F.gelu(self.norm(values))


class _Norm:
    """A layer norm over channels: statistics in float32, result in the type of what comes in."""

    def __init__(self, norm: torch.nn.LayerNorm | ChannelNorm) -> None:
        self.weight = norm.weight.detach().float().clone()
        self.bias = norm.bias.detach().float().clone()
        self.epsilon = norm.eps if isinstance(norm, torch.nn.LayerNorm) else norm.epsilon

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, (rows.shape[-1],), self.weight, self.bias, self.epsilon)


class _Transformer:
    """Positional convolution and layers, on the frames of all recordings below each other."""

    def __init__(self, transformer: Transformer, *, dtype: torch.dtype, int8: bool) -> None:
        positional = transformer.positional
        self.dtype = dtype
        self.norm_first = transformer.norm_first
        self.positional = GroupedConv(
            positional.kernel_weight(),
            positional.bias,
            groups=positional.groups,
            dtype=dtype,
            after="gelu",
        )
        self.norm = _Norm(transformer.norm)
        self.layers = [
            _Layer(layer, dtype=dtype, int8=int8)
            for layer in transformer.layers
            if isinstance(layer, TransformerLayer)
        ]

    def __call__(self, rows: Tensor, places: list[_Place]) -> Tensor:
        """Put frames (rows, dim) into context."""
        for place in places:
            rows[place.spare] = 0
        position = [self.positional(rows[place.rows]) for place in places]
        rows = rows + (position[0] if len(position) == 1 else torch.cat(position))
        if self.norm_first:
            rows = rows.float()
        else:
            rows = self.norm(rows)
        for layer in self.layers:
            rows = layer(rows, places)
        return self.norm(rows) if self.norm_first else rows


class _Layer:
    """Self-attention and feed-forward, each with a residual and a norm."""

    def __init__(self, layer: TransformerLayer, *, dtype: torch.dtype, int8: bool) -> None:
        linear = QuantizedLinear if int8 else Linear
        attention = layer.attention
        self.dtype = dtype
        self.norm_first = layer.norm_first
        self.heads = attention.heads
        # Powers of two in place of e (see `attend`), and the usual scale of attention.
        scale = math.log2(math.e) * (attention.query.in_features // attention.heads) ** -0.5
        self.joined = linear(
            torch.cat(
                [attention.query.weight * scale, attention.key.weight, attention.value.weight]
            ),
            torch.cat([attention.query.bias * scale, attention.key.bias, attention.value.bias]),
            dtype=dtype,
        )
        self.output = linear(attention.output.weight, attention.output.bias, dtype=dtype)
        self.attention_norm = _Norm(layer.attention_norm)
        self.inner = linear(layer.inner.weight, layer.inner.bias, dtype=dtype, after="gelu")
        self.outer = linear(layer.outer.weight, layer.outer.bias, dtype=dtype)
        self.ffn_norm = _Norm(layer.ffn_norm)
        self.adapter = None if layer.adapter is None else _Adapter(layer.adapter, dtype=dtype)

    def __call__(self, rows: Tensor, places: list[_Place]) -> Tensor:
        if not self.norm_first:
            heard = self._attend(rows, places)
            rows = self.attention_norm(self.output.added_to(rows, heard))
            return self.ffn_norm(self.outer.added_to(rows, self.inner(rows)))
        heard = self._attend(self.attention_norm(rows).to(self.dtype), places)
        rows = self.output.added_to(rows, heard)
        hidden = self.inner(self.ffn_norm(rows).to(self.dtype))
        rows = self.outer.added_to(rows, hidden)
        return rows if self.adapter is None else self.adapter(rows)

    def _attend(self, rows: Tensor, places: list[_Place]) -> Tensor:
        """Self-attention within each recording, before the output product: (rows, dim)."""
        joined = self.joined(rows)
        heard = torch.empty_like(rows)
        for place in places:
            joined[place.spare] = 0
            attend(joined[place.rows], heard[place.rows], frames=place.frames, heads=self.heads)
        return heard


class _Adapter:
    """A language adapter."""

    def __init__(self, adapter: LanguageAdapter, *, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.norm = _Norm(adapter.norm)
        self.down = Linear(adapter.down.weight, adapter.down.bias, dtype=dtype, after="relu")
        self.up = Linear(adapter.up.weight, adapter.up.bias, dtype=dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        return self.up.added_to(rows, self.down(self.norm(rows).to(self.dtype)))


def attend(joined: Tensor, heard: Tensor, *, frames: int, heads: int) -> None:
    """Self-attention over the frames of one recording, in stretches that fit into cache.

    The scores are powers of two of what query and key give, divided by their sum at the end,
    where a softmax would take the largest away first. That takes half the time, and gives the same
    as long as no sum leaves the range of the type; where one does, all is done again as a softmax.

    Args:
        joined: (rows, 3 * dim), query (scaled, see `_Layer`), key and value side by side.
        heard: (rows, dim), written to.
        frames: how many rows are heard; those behind them are zeros.
        heads: of the attention; head h owns the h-th stretch of each dim.
    """
    length = joined.shape[0]
    # (rows, 3 * dim) -> (3, heads, rows, head_dim)
    query, key, value = joined.view(length, 3, heads, -1).permute(1, 2, 0, 3)
    result = heard.view(length, heads, -1).transpose(0, 1)
    head_bytes = length * length * joined.element_size()
    room = SCORE_BYTES * torch.get_num_threads()
    together = max(1, min(heads, room // head_bytes))
    step = max(1, min(length, room // (length * joined.element_size())))
    sums = torch.empty(heads, length, 1)
    if together > 1:
        for head in range(0, heads, together):
            several = slice(head, head + together)
            scores = torch.bmm(query[several], key[several].transpose(1, 2))
            mixed = torch.bmm(_powers(scores, sums[several], frames), value[several])
            torch.mul(mixed, _reciprocal(sums[several], mixed), out=result[several])
    else:
        scores = torch.empty(step, length, dtype=joined.dtype)
        for head in range(heads):
            attend_head = _HeadAttention(key[head], value[head], scores=scores, frames=frames)
            for row in range(0, length, step):
                rows = slice(row, row + step)
                attend_head(query[head, rows], sums[head, rows], result[head, rows])
    smallest, largest = torch.aminmax(sums)
    if float(smallest) > SMALLEST_SUM and float(largest) < 1 / SMALLEST_SUM:
        return
    for head in range(heads):
        for row in range(0, length, step):
            rows = slice(row, row + step)
            scores = torch.mm(query[head, rows], key[head, :frames].t()).float()
            weights = torch.softmax(scores.mul_(math.log(2)), dim=-1).to(value.dtype)
            result[head, rows] = torch.mm(weights, value[head, :frames])


class _HeadAttention:
    """Attention of one head over many frames."""

    def __init__(self, key: Tensor, value: Tensor, *, scores: Tensor, frames: int) -> None:
        """Take keys and values (rows, head_dim), and room for scores to work in."""
        self.scores, self.frames = scores, frames
        # torch's float32 product, of MKL, is half as fast as oneDNN's on some processors.
        self.by_onednn = has_packed_products() and key.dtype == torch.float32
        self.key = key.contiguous() if self.by_onednn else key.t()
        self.value = value.t().contiguous() if self.by_onednn else value

    def __call__(self, query: Tensor, sums: Tensor, result: Tensor) -> None:
        """Attend from `query` (some rows, head_dim); writes their sums and results."""
        if self.by_onednn:
            scores = product(query, self.key)
            mixed = product(_powers(scores, sums, self.frames), self.value)
        else:
            scores = torch.mm(query, self.key, out=self.scores[: query.shape[0]])
            mixed = torch.mm(_powers(scores, sums, self.frames), self.value)
        torch.mul(mixed, _reciprocal(sums, mixed), out=result)


def _powers(scores: Tensor, sums: Tensor, frames: int) -> Tensor:
    """Raise two to the scores, in place, and sum rows over `frames` keys."""
    torch.exp2(scores, out=scores)
    torch.sum(scores[..., :frames], dim=-1, keepdim=True, dtype=torch.float32, out=sums)
    return scores


def _reciprocal(sums: Tensor, values: Tensor) -> Tensor:
    """One over the sums, in the type of what they divide."""
    return sums.reciprocal().to(values.dtype)
