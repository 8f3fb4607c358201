"""The wav2vec 2.0 objective: contrastive, diversity and feature penalty.

Source: Baevski et al. 2020, sec. 3.2, eqs. 2 to 4; fairseq criterions/wav2vec_criterion.py and
models/wav2vec/wav2vec2.py (`compute_preds`, `sample_negatives`, `get_extra_losses`) @ 3d262bb.
The feature penalty is in the released code, not in the paper.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unheard.data.dataset import AudioBatch
from unheard.errors import ShapeError
from unheard.models import masking
from unheard.models.pretraining import PretrainingModel, PretrainingOutput
from unheard.objectives.base import LossTerms


def contrastive_objective(
    model: PretrainingModel, batch: AudioBatch, *, progress: float, generator: torch.Generator
) -> LossTerms:
    """Mask a batch, predict what was masked, compare with distractors.

    Args:
        model: in training mode for Gumbel noise and dropout, in evaluation mode without.
        batch: crops of one length.
        progress: share of the run that is done; sets the Gumbel temperature.
        generator: draws masks, distractors, Gumbel noise and skipped layers.

    Returns:
        See `wav2vec2_loss`; `means` holds "temperature" too.
    """
    config = model.config
    rows, samples = batch.samples.shape
    frames = config.encoder.num_frames(samples)
    device = generator.device
    time_mask = masking.span_mask(
        torch.full((rows,), frames, device=device),
        frames,
        probability=config.masking.time_probability,
        span=config.masking.time_span_frames,
        min_spans=config.masking.time_min_spans,
        generator=generator,
    )
    temperature = model.quantizer.temperature(progress)
    output = model(
        batch.samples,
        time_mask=time_mask,
        channel_mask=masking.channel_mask(
            rows, config.encoder.dim, config.masking, generator=generator
        ),
        temperature=temperature,
        generator=generator,
    )
    distractors = sample_distractors(
        output.masked_counts, distractors=config.distractors, generator=generator
    )
    terms = wav2vec2_loss(
        output,
        distractors,
        temperature=config.contrastive_temperature,
        diversity_weight=config.diversity_weight,
        feature_penalty_weight=config.feature_penalty_weight,
    )
    shown = torch.tensor(temperature, device=device)
    return replace(terms, means={**terms.means, "temperature": shown})


def sample_distractors(
    masked_counts: Tensor, *, distractors: int, generator: torch.Generator
) -> Tensor:
    """Draw distractors uniformly from the other masked frames of the same utterance.

    With replacement, as fairseq; never the frame itself.

    Args:
        masked_counts: (batch,) masked frames of each row; all rows' frames follow each other.
        distractors: how many for each frame.
        generator: the only source of randomness, on the device of `masked_counts`.

    Returns:
        (masked, distractors) int64, each the place of a masked frame within its own row. Frames
        of a row with a single masked frame have no other frame and point at themselves; the loss
        leaves them out.
    """
    device = masked_counts.device
    total = int(masked_counts.sum())
    counts = torch.repeat_interleave(masked_counts, masked_counts, output_size=total)
    own = _place_in_row(masked_counts, total)
    draws = torch.rand(total, distractors, generator=generator, device=device, dtype=torch.float64)
    others = torch.floor(draws * (counts - 1).clamp_min(1)[:, None]).long()
    others = others + (others >= own[:, None])
    return torch.where(counts[:, None] > 1, others, own[:, None])


def contrastive_logits(
    output: PretrainingOutput, distractors: Tensor, *, temperature: float
) -> Tensor:
    """Score each masked frame's own target and its distractors by cosine similarity.

    Similarities within an utterance are one small matrix product; the distractors are then looked
    up in it, so that no distractor vector is ever copied.

    Args:
        output: predictions and targets (masked, proj).
        distractors: (masked, distractors) places within the frame's own row.
        temperature: kappa of the paper.

    Returns:
        (masked, 1 + distractors) float32 or wider; column 0 is the true target. A distractor
        with the codes of the true target is -inf, out of the softmax.

    Raises:
        ShapeError: if `distractors` does not have one row a masked frame.

    Source: eq. 3.
    """
    total = output.predictions.shape[0]
    if distractors.shape[0] != total:
        raise ShapeError(
            f"distractors must have one row a masked frame: expected {total}, "
            f"got {distractors.shape[0]}."
        )
    with torch.autocast(output.predictions.device.type, enabled=False):
        return _cosine_logits(output, distractors, temperature=temperature)


def _cosine_logits(output: PretrainingOutput, distractors: Tensor, *, temperature: float) -> Tensor:
    total = output.predictions.shape[0]
    wide = torch.promote_types(output.predictions.dtype, torch.float32)
    predictions = F.normalize(output.predictions.to(wide), dim=-1, eps=1e-8)
    targets = F.normalize(output.targets.to(wide), dim=-1, eps=1e-8)
    counts = output.masked_counts
    row = torch.repeat_interleave(
        torch.arange(counts.shape[0], device=counts.device), counts, output_size=total
    )
    own = _place_in_row(counts, total)
    longest = int(counts.max()) if total else 0
    # (masked, proj) -> (batch, longest, proj), zero where a row has fewer masked frames
    padded_predictions = _scatter_rows(predictions, row, own, counts.shape[0], longest)
    padded_targets = _scatter_rows(targets, row, own, counts.shape[0], longest)
    similar = torch.bmm(padded_predictions, padded_targets.transpose(1, 2)) / temperature
    similar = similar[row, own]  # -> (masked, longest): each frame against its row's targets
    candidates = torch.cat([own[:, None], distractors], dim=1)
    logits = similar.gather(1, candidates)

    codes = _code_numbers(output.quantized.codes, output.quantized.logits.shape[-1])
    padded_codes = codes.new_full((counts.shape[0], longest), -1)
    padded_codes[row, own] = codes
    same = padded_codes[row].gather(1, candidates) == codes[:, None]
    same[:, 0] = False
    return logits.masked_fill(same, float("-inf"))


def wav2vec2_loss(
    output: PretrainingOutput,
    distractors: Tensor,
    *,
    temperature: float,
    diversity_weight: float,
    feature_penalty_weight: float,
) -> LossTerms:
    """Sum the three parts of the objective over masked frames.

    total = sum of -log p(true target) + N (w_d (GV - soft perplexity) / GV + w_f mean square),
    with N masked frames. Divide by the global N for a mean.

    Returns:
        `parts`: "contrastive", "diversity", "feature_penalty" (weighted as they enter the total)
        and "accuracy" (frames whose true target wins, all equal not counted).
        `means`: "code_perplexity", "soft_perplexity", "feature_power".
    """
    logits = contrastive_logits(output, distractors, temperature=temperature)
    has_others = torch.repeat_interleave(
        output.masked_counts > 1, output.masked_counts, output_size=logits.shape[0]
    )
    losses = torch.logsumexp(logits, dim=1) - logits[:, 0]
    contrastive = torch.where(has_others, losses, 0).sum()
    count = has_others.sum()
    quantized = output.quantized
    codes_total = quantized.logits.shape[1] * quantized.logits.shape[2]
    soft_perplexity = quantized.soft_perplexity()
    # The integer count comes last: times a Python number it would be float32.
    diversity = diversity_weight * (codes_total - soft_perplexity) / codes_total * count
    feature_penalty = feature_penalty_weight * output.feature_power * count
    with torch.no_grad():
        best = logits.argmax(dim=1) == 0
        all_equal = logits.argmin(dim=1) == 0
        accuracy = (best & ~all_equal & has_others).sum()
        code_perplexity = quantized.code_perplexity()
    return LossTerms(
        total=contrastive + diversity + feature_penalty,
        count=count,
        parts={
            "contrastive": contrastive.detach(),
            "diversity": diversity.detach(),
            "feature_penalty": feature_penalty.detach(),
            "accuracy": accuracy,
        },
        means={
            "code_perplexity": code_perplexity,
            "soft_perplexity": soft_perplexity.detach(),
            "feature_power": output.feature_power.detach(),
        },
    )


def _place_in_row(counts: Tensor, total: int) -> Tensor:
    """Number the frames of each row from zero: counts (2, 3) -> 0 1 0 1 2."""
    first = torch.cumsum(counts, dim=0) - counts
    starts = torch.repeat_interleave(first, counts, output_size=total)
    return torch.arange(total, device=counts.device) - starts


def _scatter_rows(values: Tensor, row: Tensor, place: Tensor, rows: int, longest: int) -> Tensor:
    """Lay (masked, size) out as (rows, longest, size), zero padded."""
    padded = values.new_zeros(rows, longest, values.shape[-1])
    return padded.index_put((row, place), values)


def _code_numbers(codes: Tensor, entries: int) -> Tensor:
    """Write the codes of all groups as one number: (masked, groups) -> (masked,)."""
    number = torch.zeros_like(codes[:, 0])
    for group in range(codes.shape[1]):
        number = number * entries + codes[:, group]
    return number
