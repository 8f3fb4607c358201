"""The optimiser: AdamW, with weight decay on matrices and kernels only.

Source: Baevski et al. 2020, sec. 4.2 (Adam, betas 0.9 and 0.98, epsilon 1e-6, decay 0.01);
fairseq's `adam` decouples the decay. fairseq decays biases and norms too; leaving them out
follows later practice (He et al. 2019, "Bag of tricks", sec. 3.1).
"""

import math

import torch
from torch import nn

from unheard.training.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW over the parameters that learn.

    The parameters' order, and with it the stored optimiser state, is that of the model.
    """
    decayed, free = [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        (decayed if parameter.ndim > 1 else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True
    )


def finish_gradient(
    parameters: list[nn.Parameter], *, count: float, clip_norm: float, norm: float | None = None
) -> float:
    """Divide summed gradients by the count, clip their norm, in one pass over memory.

    Args:
        parameters: with summed gradients.
        count: what the loss was summed over, all micro-batches together.
        clip_norm: largest norm after the division.
        norm: of the summed gradients, where it is known; processes that share the gradients find
            it together.

    Returns:
        The norm after the division and before clipping; not finite when a gradient is not, and
        the gradients are then left as they are.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if norm is None:
        norm = float(nn.utils.get_total_norm(gradients))
    norm = norm / count
    if math.isfinite(norm):
        factor = 1 / count if norm <= clip_norm else clip_norm / (norm * count)
        for gradient in gradients:
            gradient.mul_(factor)
    return norm
