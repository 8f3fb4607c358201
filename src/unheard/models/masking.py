"""Span masking of frames and channels, with fairseq's distribution.

Source: Baevski et al. 2020, sec. 3.1 and app. A; fairseq data/data_utils.py
`compute_mask_indices` @ 3d262bb. `time_probability` is fairseq's `mask_prob`, the paper's p times
the span length M. Other code bases mean other things by the same number
(docs/training-details.md).
"""

import torch
from torch import Tensor

from unheard.models.config import MaskingConfig

_FRACTION_BITS = 40
"""Of the fixed-point numbers of spans: they are rounded exactly, on every device."""


def span_mask(
    lengths: Tensor,
    frames: int,
    *,
    probability: float,
    span: int,
    min_spans: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw spans that may overlap, start without replacement and never reach into padding.

    A row of length L gets floor(probability * L / span + u) spans with its own u ~ U(0, 1), at
    least `min_spans`, each starting at one of the first L - span frames. Rows may differ in how
    many frames are masked; nothing is thinned to make them equal. All rows are drawn at once, and
    what a row draws depends on its number and its length, not on how far it is padded.

    Args:
        lengths: (batch,) real frames of each row, on the generator's device.
        frames: padded length.
        probability: share of frames that the spans would cover if none overlapped.
        span: frames in a span.
        min_spans: spans in a row at least.
        generator: the only source of randomness.

    Returns:
        (batch, frames) bool, True where masked. At least one real frame of each non-empty row
        stays unmasked.
    """
    batch = lengths.shape[0]
    device = lengths.device
    one = 1 << _FRACTION_BITS
    rounding = torch.randint(one, (batch,), generator=generator, device=device)
    wanted = (lengths * round(probability / span * one) + rounding) >> _FRACTION_BITS
    wanted = wanted.clamp_min(min_spans)
    # Rows too short for the usual rule may start anywhere in the first `wanted` + 1 frames.
    starts_available = torch.where(lengths - span <= wanted, wanted + 1, lengths - span)
    starts_available = torch.minimum(starts_available, lengths.clamp_min(0))
    positions = torch.arange(frames, device=device)
    seeds = torch.randint(2**62, (batch,), generator=generator, device=device)
    order = _scramble(seeds[:, None] + positions[None, :] * _GOLDEN)
    order = order.masked_fill(positions[None, :] >= starts_available[:, None], _LARGEST)
    chosen = positions[None, :] < torch.minimum(wanted, starts_available)[:, None]
    # The first of the shuffled positions start a span: (batch, place in the order) -> position.
    is_start = torch.zeros_like(chosen).scatter(1, order.argsort(dim=1), chosen)
    # A frame is masked when one of the `span` positions up to it starts a span.
    started = is_start.long().cumsum(dim=1)
    before = torch.nn.functional.pad(started, (span, 0))[:, :frames]
    mask = (started - before) > 0
    mask &= positions[None, :] < lengths[:, None]
    return _keep_one_visible(mask, lengths)


_LARGEST = 2**63 - 1
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _scramble(numbers: Tensor) -> Tensor:
    """Turn counted int64 numbers into independent ones: the mixing step of SplitMix64.

    A generator gives a whole tensor at once, and another tensor for another shape; this gives each
    place its own number whatever lies around it.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", fig. 16,
        with its constants of 64 bits; products wrap around.
    """
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        numbers = (numbers ^ _shift_right(numbers, shift)) * factor
    return numbers ^ _shift_right(numbers, 31)


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Shift int64 numbers and fill with zeros, not with the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _keep_one_visible(mask: Tensor, lengths: Tensor) -> Tensor:
    """Unmask the last real frame of rows that would be masked whole."""
    whole = (mask.sum(dim=1) >= lengths) & (lengths > 0)
    last = (lengths - 1).clamp_min(0)
    mask[torch.arange(mask.shape[0], device=mask.device), last] &= ~whole
    return mask


def time_mask(
    lengths: Tensor, frames: int, config: MaskingConfig, *, generator: torch.Generator
) -> Tensor | None:
    """Mask spans of frames; None when the config masks none. See `span_mask`."""
    if config.time_probability <= 0:
        return None
    return span_mask(
        lengths,
        frames,
        probability=config.time_probability,
        span=config.time_span_frames,
        min_spans=config.time_min_spans,
        generator=generator,
    )


def channel_mask(
    batch: int, channels: int, config: MaskingConfig, *, generator: torch.Generator
) -> Tensor | None:
    """Mask spans of channels, (batch, channels) bool; None when the config masks none."""
    if config.channel_probability <= 0:
        return None
    return span_mask(
        torch.full((batch,), channels, device=generator.device),
        channels,
        probability=config.channel_probability,
        span=min(config.channel_span, channels // 2),
        min_spans=config.channel_min_spans,
        generator=generator,
    )
