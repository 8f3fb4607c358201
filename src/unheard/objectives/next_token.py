"""Next-token prediction: how surprising is each piece of a text, given those before it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unheard.data.texts import TextBatch
from unheard.models.language_model import LanguageModel
from unheard.objectives.base import LossTerms
from unheard.tensors import padding_mask


def next_token_objective(
    model: LanguageModel,
    batch: TextBatch,
    *,
    progress: float,  # noqa: ARG001 - every objective is told
    generator: torch.Generator,  # noqa: ARG001
) -> LossTerms:
    """Predict every piece of a batch from those before it.

    Args:
        model: in training mode for dropout, in evaluation mode without.
        batch: texts.
        progress: not used.
        generator: not used: dropout draws from torch's default generator.

    Returns:
        total [nats]; count: predicted pieces; parts: "accuracy" (pieces that were the most
        probable ones).
    """
    logits = model(batch.tokens[:, :-1])
    targets = batch.tokens[:, 1:]
    scores = token_log_probs(logits, targets)
    predicted = ~padding_mask(batch.lengths, targets.shape[1])
    with torch.no_grad():
        hits = ((logits.argmax(dim=-1) == targets) & predicted).sum()
    return LossTerms(
        total=-torch.where(predicted, scores, 0).sum(),
        count=batch.lengths.sum(),
        parts={"accuracy": hits},
    )


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Natural log-probability of each target, in float32 or wider.

    Args:
        logits: (batch, length, vocab).
        targets: (batch, length) int64.

    Returns:
        (batch, length).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none")
    return -losses.view(targets.shape)
