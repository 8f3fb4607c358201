"""How many weights the networks of the family have, to the last one.

The counts of the encoders with pre-training heads are those that their publishers print (Large
LV-60k, 1B, 3B and 7B: README of omnilingual-asr); the others follow from the same formulas.
Nothing here takes memory for weights.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unheard.models.config import (
    CtcConfig,
    EncoderConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.encoder import Encoder
from unheard.models.pretraining import PretrainingModel

BASE = EncoderConfig()
LARGE = replace(BASE, dim=1024, ffn_dim=4096, layers=24, heads=16)
LARGE_LV60 = replace(LARGE, conv_norm="layer", conv_bias=True, norm_first=True)
ONE_BILLION = replace(LARGE_LV60, dim=1280, ffn_dim=5120, layers=48)
TWO_BILLION = replace(ONE_BILLION, dim=1920, ffn_dim=7680)
THREE_BILLION = replace(ONE_BILLION, dim=2048, ffn_dim=8192, layers=60)
SEVEN_BILLION = replace(THREE_BILLION, layers=128)

FAMILY = {
    # encoder, width of quantiser and projections, weights of the encoder, and with the heads
    "base": (BASE, 256, 94_371_712, 95_044_608),
    "large": (LARGE, 768, 315_428_992, 317_380_864),
    "large-lv60": (LARGE_LV60, 768, 315_438_720, 317_390_592),
    "1b": (ONE_BILLION, 1024, 962_497_408, 965_514_752),
    "2b": (TWO_BILLION, 1024, 2_159_259_648, 2_162_932_352),
    "3b": (THREE_BILLION, 1024, 3_060_320_896, 3_064_124_672),
    "7b": (SEVEN_BILLION, 1024, 6_484_683_392, 6_488_487_168),
}


def count(network: nn.Module) -> int:
    """Count weights; fails if any of them took memory."""
    parameters = list(network.parameters())
    assert all(parameter.is_meta for parameter in parameters)
    assert sum(v.numel() for v in network.state_dict().values()) == sum(
        parameter.numel() for parameter in parameters
    )
    return sum(parameter.numel() for parameter in parameters)


@pytest.fixture(autouse=True)
def _without_memory():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("name", FAMILY)
def test_encoders(name: str) -> None:
    encoder, _, expected, _ = FAMILY[name]
    assert count(Encoder(encoder)) == expected


@pytest.mark.parametrize("name", FAMILY)
def test_encoders_with_pretraining_heads(name: str) -> None:
    encoder, width, _, expected = FAMILY[name]
    config = PretrainingConfig(
        encoder=encoder, quantizer=QuantizerConfig(dim=width), projection_dim=width
    )
    assert count(PretrainingModel(config)) == expected


def test_base_with_a_head_for_32_letters() -> None:
    assert count(CtcModel(CtcConfig(encoder=BASE, vocab=32))) == 94_396_320


@pytest.mark.parametrize(
    ("encoder", "expected"), [(LARGE_LV60, 325_494_996), (ONE_BILLION, 975_065_300)]
)
def test_omnilingual_recognisers_have_no_mask_embedding(
    encoder: EncoderConfig, expected: int
) -> None:
    # A vocabulary of 9,812 symbols; those files hold no mask embedding, our network has one.
    assert count(CtcModel(CtcConfig(encoder=encoder, vocab=9_812))) == expected + encoder.dim


def test_language_adapters_of_the_1b_model() -> None:
    adapted = replace(ONE_BILLION, adapter_dim=16)
    encoder = Encoder(adapted)
    of_adapters = {
        name: parameter.numel()
        for name, parameter in encoder.named_parameters()
        if ".adapter." in name
    }
    assert sum(of_adapters.values()) == 2_151_168
    assert len(of_adapters) == 48 * 6
    assert count(encoder) == 962_497_408 + 2_151_168


def test_the_english_head_of_the_1b_model() -> None:
    # 154 symbols: the vocabulary of English among the adapters of MMS.
    config = CtcConfig(encoder=replace(ONE_BILLION, adapter_dim=16), vocab=154)
    network = CtcModel(config)
    head = sum(p.numel() for n, p in network.named_parameters() if n.startswith("head."))
    assert head == 197_274
    assert count(network) == 962_497_408 + 2_151_168 + 197_274


@pytest.mark.parametrize(
    "wrong",
    [{"conv_bias": True}, {"conv_norm": "layer"}, {"positional_groups": 8}, {"ffn_dim": 3071}],
)
def test_another_shape_has_another_count(wrong: dict[str, object]) -> None:
    assert count(Encoder(replace(BASE, **wrong))) != FAMILY["base"][2]


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (399, 0),
        (400, 1),
        (16_000, 49),
        (160_000, 499),
        (250_000, 781),
        (320_000, 999),
    ],
)
def test_frames_of_the_shared_front_end(samples: int, frames: int) -> None:
    assert BASE.num_frames(samples) == frames
    assert (BASE.stride_samples, BASE.receptive_field_samples) == (320, 400)
