"""Tiny networks and bundles for tests that need a model and not its quality."""

from typing import Literal

import torch

from unheard.audio.signal import InputSpec
from unheard.interop.bundle import ModelBundle
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    MaskedUnitConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.text.alphabet import Alphabet

LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "ñ")


def tiny_encoder(conv_norm: Literal["group", "layer"] = "group") -> EncoderConfig:
    """Three convolutions, stride 20, receptive field 50 samples."""
    return EncoderConfig(
        conv_layers=(
            ConvLayer(channels=8, kernel=10, stride=5),
            ConvLayer(channels=12, kernel=3, stride=2),
            ConvLayer(channels=8, kernel=4, stride=2),
        ),
        conv_norm=conv_norm,
        conv_bias=conv_norm == "layer",
        norm_first=conv_norm == "layer",
        dim=16,
        ffn_dim=24,
        layers=2,
        heads=4,
        positional_kernel=8,
        positional_groups=2,
        dropout=0.0,
        attention_dropout=0.0,
    )


def tiny_alphabet() -> Alphabet:
    return Alphabet(
        tokens=LETTERS,
        blank="<pad>",
        word_boundary="|",
        unknown="<unk>",
        special=("</s>", "<s>"),
        case="lower",
    )


def tiny_ctc(conv_norm: Literal["group", "layer"] = "group", *, seed: int = 0) -> ModelBundle:
    torch.manual_seed(seed)
    return ModelBundle(
        model=CtcModel(CtcConfig(encoder=tiny_encoder(conv_norm), vocab=len(LETTERS))).eval(),
        alphabet=tiny_alphabet(),
        input_spec=InputSpec(normalize=False, attention_mask=conv_norm == "layer"),
        provenance={"recipe": "tests", "licence": "CC0-1.0"},
    )


def tiny_pretraining(
    conv_norm: Literal["group", "layer"] = "group", *, seed: int = 0
) -> ModelBundle:
    torch.manual_seed(seed)
    config = PretrainingConfig(
        encoder=tiny_encoder(conv_norm),
        quantizer=QuantizerConfig(groups=2, entries=6, dim=8),
        projection_dim=10,
    )
    return ModelBundle(
        model=PretrainingModel(config).eval(), alphabet=None, input_spec=InputSpec(), provenance={}
    )


def tiny_masked_units(
    conv_norm: Literal["group", "layer"] = "group", *, seed: int = 0
) -> ModelBundle:
    torch.manual_seed(seed)
    config = MaskedUnitConfig(encoder=tiny_encoder(conv_norm), units=9)
    return ModelBundle(
        model=MaskedUnitModel(config).eval(), alphabet=None, input_spec=InputSpec(), provenance={}
    )
