"""Masked unit prediction: name the sound of frames that were hidden.

It learns from the first minute, where the contrastive objective has to invent its own units
first: docs/small-compute.md has both at equal cost.

Source: Hsu et al. 2021 (HuBERT), sec. III-B, eqs. 1 to 3. The loss on frames that were not hidden
has a small weight here (alpha there is 1 or less): it teaches the convolutions early.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unheard.data.dataset import AudioBatch
from unheard.errors import ShapeError
from unheard.models import masking
from unheard.models.masked_prediction import MaskedUnitModel, MaskedUnitOutput
from unheard.objectives.base import LossTerms


def masked_unit_objective(
    model: MaskedUnitModel,
    batch: AudioBatch,
    *,
    progress: float,  # noqa: ARG001 - every objective is told
    generator: torch.Generator,
) -> LossTerms:
    """Mask a batch and predict its units.

    Args:
        model: in training mode for dropout, in evaluation mode without.
        batch: crops of one length, with units.
        progress: not used.
        generator: draws masks and skipped layers.

    Raises:
        ShapeError: if the batch has no units, or not one a frame.
    """
    config = model.config
    rows, samples = batch.samples.shape
    frames = config.encoder.num_frames(samples)
    if batch.units is None or batch.units.shape != (rows, frames):
        found = None if batch.units is None else tuple(batch.units.shape)
        raise ShapeError(f"units must be one a frame: expected {(rows, frames)}, got {found}.")
    time_mask = masking.span_mask(
        torch.full((rows,), frames, device=generator.device),
        frames,
        probability=config.masking.time_probability,
        span=config.masking.time_span_frames,
        min_spans=config.masking.time_min_spans,
        generator=generator,
    )
    output = model(
        batch.samples,
        time_mask=time_mask,
        channel_mask=masking.channel_mask(
            rows, config.encoder.dim, config.masking, generator=generator
        ),
        generator=generator,
    )
    return masked_unit_loss(output, batch.units, time_mask, unmasked_weight=config.unmasked_weight)


def masked_unit_loss(
    output: MaskedUnitOutput, units: Tensor, time_mask: Tensor, *, unmasked_weight: float
) -> LossTerms:
    """Sum the cross-entropies, in float32 or wider.

    Args:
        output: logits (batch, frames, units).
        units: (batch, frames) int64.
        time_mask: (batch, frames) bool, True where masked.
        unmasked_weight: of frames that were not masked, against 1 of those that were.

    Returns:
        total [nats]; count: masked frames; parts: "masked", "unmasked" (weighted, as it enters
        the total) and "accuracy" (masked frames named right); means: "unmasked_accuracy",
        "feature_power", and how many equally frequent units would be as varied as those predicted
        for the masked frames ("predicted_perplexity") and as the true ones ("unit_perplexity").
    """
    logits = output.logits
    wide = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits.to(wide).flatten(0, 1), units.flatten(), reduction="none").view(
        units.shape
    )
    masked = torch.where(time_mask, losses, 0).sum()
    unmasked = unmasked_weight * torch.where(time_mask, 0, losses).sum()
    with torch.no_grad():
        predicted = logits.argmax(dim=-1)
        hits = predicted == units
        visible = ~time_mask
        unmasked_accuracy = (hits & visible).sum() / visible.sum().clamp_min(1)
    return LossTerms(
        total=masked + unmasked,
        count=time_mask.sum(),
        parts={
            "masked": masked.detach(),
            "unmasked": unmasked.detach(),
            "accuracy": (hits & time_mask).sum(),
        },
        means={
            "unmasked_accuracy": unmasked_accuracy,
            "feature_power": output.feature_power,
            "predicted_perplexity": _perplexity(predicted, time_mask, logits.shape[-1]),
            "unit_perplexity": _perplexity(units, time_mask, logits.shape[-1]),
        },
    )


def _perplexity(units: Tensor, counted: Tensor, outputs: int) -> Tensor:
    """exp(entropy) of the units (batch, frames) where `counted`; 1 where nothing is."""
    present = F.one_hot(units, outputs) * counted[..., None]
    shares = present.sum(dim=(0, 1)) / counted.sum().clamp_min(1)
    return torch.special.entr(shares).sum().exp()
