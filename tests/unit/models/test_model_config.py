from dataclasses import replace

import pytest
import torch

from unheard.errors import ConfigError
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.encoder import Encoder
from unheard.models.pretraining import PretrainingModel

BASE = EncoderConfig()
LARGE = EncoderConfig(dim=1024, ffn_dim=4096, layers=24, heads=16)
LARGE_LV60 = replace(LARGE, conv_norm="layer", conv_bias=True, norm_first=True)

WIDE_QUANTIZER = QuantizerConfig(dim=768)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("encoder", "pretraining", "expected"),
    [
        (BASE, PretrainingConfig(encoder=BASE), (94_371_712, 95_044_608)),
        (
            LARGE,
            PretrainingConfig(encoder=LARGE, quantizer=WIDE_QUANTIZER, projection_dim=768),
            (315_428_992, 317_380_864),
        ),
        (
            LARGE_LV60,
            PretrainingConfig(encoder=LARGE_LV60, quantizer=WIDE_QUANTIZER, projection_dim=768),
            (315_438_720, 317_390_592),
        ),
    ],
    ids=["base", "large", "large-lv60"],
)
def test_numbers_of_parameters_are_those_of_the_originals(
    encoder: EncoderConfig, pretraining: PretrainingConfig, expected: tuple[int, int]
) -> None:
    with torch.device("meta"):
        assert (count(Encoder(encoder)), count(PretrainingModel(pretraining))) == expected


def test_number_of_parameters_of_a_ctc_model() -> None:
    with torch.device("meta"):
        assert count(CtcModel(CtcConfig(encoder=BASE, vocab=32))) == 94_396_320


def test_stride_and_receptive_field_of_the_originals() -> None:
    assert BASE.stride_samples == 320
    assert BASE.receptive_field_samples == 400


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (0, 0),
        (399, 0),
        (400, 1),
        (719, 1),
        (720, 2),
        (16_000, 49),
        (160_000, 499),
        (250_000, 781),
        (320_000, 999),
    ],
)
def test_number_of_frames(samples: int, frames: int) -> None:
    assert BASE.num_frames(samples) == frames


@pytest.mark.parametrize(
    "layers",
    [
        ((7, 3),),
        ((3, 4), (9, 2)),
        ((10, 5), (3, 2), (3, 2), (2, 2)),
        ((1, 1), (2, 3)),
    ],
)
def test_number_of_frames_is_what_the_network_gives(layers: tuple[tuple[int, int], ...]) -> None:
    config = EncoderConfig(
        conv_layers=tuple(ConvLayer(channels=4, kernel=k, stride=s) for k, s in layers),
        dim=8,
        ffn_dim=8,
        layers=1,
        heads=2,
        positional_kernel=4,
        positional_groups=1,
    )
    encoder = Encoder(config).eval()
    shortest = config.receptive_field_samples
    assert config.num_frames(shortest) == 1
    assert config.num_frames(shortest - 1) == 0
    assert config.num_frames(shortest + config.stride_samples) == 2
    for samples in (shortest, shortest + 1, shortest + config.stride_samples, 200):
        lengths = torch.tensor([samples, samples // 2])
        with torch.no_grad():
            output = encoder.feature_encoder(torch.randn(2, samples), lengths)
        assert output[0].shape == (2, config.num_frames(samples), 4)
        assert output[1].tolist() == [config.num_frames(samples), config.num_frames(samples // 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"positional_groups": 7},
        {"conv_layers": ()},
        {"conv_layers": (ConvLayer(channels=4, kernel=3, stride=0),)},
        {"layers": 0},
        {"positional_kernel": 0},
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        replace(BASE, **change)


def test_quantizer_groups_must_share_the_vector() -> None:
    with pytest.raises(ConfigError, match="multiple of groups"):
        QuantizerConfig(groups=3, dim=256)
