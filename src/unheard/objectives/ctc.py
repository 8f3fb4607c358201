"""Connectionist temporal classification: Graves et al. 2006.

Source: fairseq criterions/ctc.py @ 3d262bb: summed over the batch, infinite losses zeroed,
divided by the number of utterances.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unheard.data.dataset import LabelledBatch
from unheard.models import masking
from unheard.models.ctc import CtcModel, CtcOutput
from unheard.objectives.base import LossTerms
from unheard.tensors import conv_lengths


def ctc_objective(
    model: CtcModel,
    batch: LabelledBatch,
    *,
    progress: float,  # noqa: ARG001 - every objective is told
    generator: torch.Generator,
    blank: int,
) -> LossTerms:
    """Mask frames and channels as in fine-tuning, score, compare with the transcripts.

    Args:
        model: in training mode.
        batch: padded utterances and their targets.
        progress: not used.
        generator: draws masks and skipped layers.
        blank: index of the blank.

    Source: Baevski et al. 2020, sec. 3.3 and 4.3.
    """
    config = model.config
    lengths = batch.lengths
    for layer in config.encoder.conv_layers:
        lengths = conv_lengths(lengths, kernel=layer.kernel, stride=layer.stride)
    rows = batch.samples.shape[0]
    frames = config.encoder.num_frames(batch.samples.shape[1])
    output = model(
        batch.samples,
        batch.lengths,
        time_mask=masking.time_mask(lengths, frames, config.masking, generator=generator),
        channel_mask=masking.channel_mask(
            rows, config.encoder.dim, config.masking, generator=generator
        ),
        generator=generator,
    )
    return ctc_loss(output, batch.targets, batch.target_lengths, blank=blank)


def ctc_loss(
    output: CtcOutput, targets: Tensor, target_lengths: Tensor, *, blank: int
) -> LossTerms:
    """Sum the CTC loss of a batch, in float32 or wider.

    Args:
        output: logits (batch, frames, vocab) and lengths.
        targets: (batch, tokens) int64, anything beyond `target_lengths`.
        target_lengths: (batch,).
        blank: index of the blank.

    Returns:
        total [nats]; count: number of utterances; parts: "ctc"; means: "blank_ratio" (share of
        frames whose best symbol is the blank) and "impossible" (targets that do not fit into
        their frames, whose loss was set to zero).
    """
    logits = output.logits
    batch, frames, _ = logits.shape
    lengths = output.lengths
    if lengths is None:
        lengths = torch.full((batch,), frames, device=logits.device)
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_probs = torch.log_softmax(logits.to(wide), dim=-1)
    losses = F.ctc_loss(
        log_probs.transpose(0, 1),  # -> (frames, batch, vocab), CTC's own layout
        targets,
        lengths,
        target_lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    total = losses.sum()
    with torch.no_grad():
        impossible = frames_needed(targets, target_lengths) > lengths
        real = torch.arange(frames, device=logits.device)[None, :] < lengths[:, None]
        blanks = (logits.argmax(dim=-1) == blank) & real
        blank_ratio = blanks.sum() / real.sum().clamp_min(1)
    return LossTerms(
        total=total,
        count=torch.tensor(batch, device=logits.device),
        parts={"ctc": total.detach()},
        means={"blank_ratio": blank_ratio, "impossible": impossible.sum()},
    )


def frames_needed(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Count the frames a target takes at least: a label each, a blank between equal neighbours.

    Args:
        targets: (batch, tokens).
        target_lengths: (batch,).

    Returns:
        (batch,) int64.
    """
    pairs = torch.arange(1, targets.shape[1], device=targets.device)
    inside = pairs[None, :] < target_lengths[:, None]
    repeats = ((targets[:, 1:] == targets[:, :-1]) & inside).sum(dim=1)
    return target_lengths + repeats
