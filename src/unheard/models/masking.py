"""Span masking of frames and channels, with fairseq's distribution.

Source: Baevski et al. 2020, sec. 3.1 and app. A; fairseq data/data_utils.py
`compute_mask_indices` @ 3d262bb. `time_probability` is fairseq's `mask_prob`, the paper's p times
the span length M. Other code bases mean other things by the same number.
"""

import torch
from torch import Tensor

from unheard.models.config import MaskingConfig


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
    many frames are masked; nothing is thinned to make them equal. All rows are drawn at once.

    Args:
        lengths: (batch,) real frames of each row, on the CPU or on the generator's device.
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
    rounding = torch.rand(batch, generator=generator, device=device)
    wanted = torch.floor(probability * lengths / span + rounding).long().clamp_min(min_spans)
    if probability <= 0 and min_spans == 0:
        wanted = torch.zeros_like(wanted)
    # Rows too short for the usual rule may start anywhere in the first `wanted` + 1 frames.
    starts_available = torch.where(lengths - span <= wanted, wanted + 1, lengths - span)
    starts_available = torch.minimum(starts_available, lengths.clamp_min(0))
    order = torch.rand(batch, frames, generator=generator, device=device)
    positions = torch.arange(frames, device=device)
    order = order.masked_fill(positions[None, :] >= starts_available[:, None], float("inf"))
    rank = order.argsort(dim=1).argsort(dim=1)  # position -> its place in a random order
    is_start = (rank < wanted[:, None]) & (positions[None, :] < starts_available[:, None])
    # A frame is masked when one of the `span` positions up to it starts a span.
    started = is_start.long().cumsum(dim=1)
    before = torch.nn.functional.pad(started, (span, 0))[:, :frames]
    mask = (started - before) > 0
    mask &= positions[None, :] < lengths[:, None]
    return _keep_one_visible(mask, lengths)


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
