"""A Transformer language model so small that making it takes no time."""

import torch

from unheard.interop.language_model import LanguageModelBundle
from unheard.lm.pieces import Pieces
from unheard.models.language_model import LanguageModel, LanguageModelConfig

TEXTS = ["abc abd abe", "abc d", "e abd cab"] * 3


def small_language_model(*, context: int = 6, seed: int = 0) -> LanguageModelBundle:
    """Random weights, far from uniform probabilities, and pieces of a few texts."""
    pieces = Pieces.train(TEXTS, size=14)
    torch.manual_seed(seed)
    model = LanguageModel(
        LanguageModelConfig(
            vocab=len(pieces), context=context, dim=8, ffn_dim=16, layers=2, heads=2
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10.0)
    return LanguageModelBundle(
        model=model.eval(),
        pieces=pieces,
        units="piece",
        normalizer="none-1",
        provenance={"task": "test"},
    )
