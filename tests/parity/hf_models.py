"""Random transformers models for parity tests, saved as folders and read by us."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, logging

from unheard.interop import load

logging.disable_progress_bar()
logging.set_verbosity_error()

SMALL: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "conv_dim": (24, 24, 20, 24, 24, 24, 16),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 8,
    "num_codevector_groups": 2,
    "codevector_dim": 16,
    "proj_codevector_dim": 12,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "feat_quantizer_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
}

BASE_WIDTH: dict[str, Any] = {"vocab_size": 32, "num_hidden_layers": 1}
"""Every width as in the original Base model, one layer of it."""

KINDS: dict[str, dict[str, Any]] = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "large-lv60": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same weights in both implementations, float64, evaluation mode."""

    theirs: Any
    ours: Any
    folder: Path


def make_pair(
    folder: Path, settings: dict[str, Any], *, seed: int, pretraining: bool = False
) -> Pair:
    """Make a random model of transformers, save it with its own writer, read it with ours."""
    torch.manual_seed(seed)
    cls = Wav2Vec2ForPreTraining if pretraining else Wav2Vec2ForCTC
    theirs = cls(Wav2Vec2Config(**settings))
    redraw(theirs, seed=seed)
    theirs.save_pretrained(folder)
    ours = load.load_model(folder).model
    return Pair(theirs=theirs.double().eval(), ours=ours.double().eval(), folder=folder)


def redraw(model: nn.Module, *, seed: int) -> None:
    """Draw weights such that no norm and no bias is trivial and every stage matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("layer_norm.weight", "original0", "weight_g")):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1.5 * noise / parameter[0].numel() ** 0.5)


def make_samples(lengths: tuple[int, ...], *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a zero-padded batch: samples, lengths, and transformers' attention mask."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.zeros(len(lengths), max(lengths), dtype=torch.float64)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        noise = torch.randn(length, generator=generator, dtype=torch.float64)
        samples[row, :length] = noise * (0.5 + row)
        mask[row, :length] = 1
    return samples, torch.tensor(lengths), mask
