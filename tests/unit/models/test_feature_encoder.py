from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.closeness import FLOAT64, assert_close
from tests.tiny_models import tiny_encoder

from unheard.models.feature_encoder import ChannelNorm, FeatureEncoder, TimeNorm


def redrawn(norm: Any) -> Any:
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    return norm.double()


def test_time_norm_is_a_group_norm_of_one_channel_a_group() -> None:
    torch.manual_seed(0)
    norm = redrawn(TimeNorm(6, epsilon=1e-5))
    frames = torch.randn(3, 40, 6, dtype=torch.float64) * 3 + 1
    expected = F.group_norm(frames.transpose(1, 2), 6, norm.weight, norm.bias, 1e-5)
    assert_close("all frames", norm(frames, None), expected.transpose(1, 2), FLOAT64)
    lengths = torch.tensor([40, 17, 1])
    result = norm(frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = norm(frames[row : row + 1, :length], None)[0]
        assert_close(f"row {row}", result[row, :length], alone, FLOAT64)


def test_channel_norm_is_a_layer_norm() -> None:
    torch.manual_seed(0)
    norm = redrawn(ChannelNorm(6, epsilon=1e-5))
    frames = torch.randn(3, 40, 6, dtype=torch.float64) * 3 + 1
    expected = F.layer_norm(frames, (6,), norm.weight, norm.bias, 1e-5)
    assert_close("frames", norm(frames), expected, FLOAT64)


@pytest.mark.parametrize("kind", ["group", "layer"])
@pytest.mark.parametrize("padding", ["masked", "zeros"])
def test_inference_gives_what_training_gives(kind: Any, padding: Any) -> None:
    torch.manual_seed(0)
    encoder = FeatureEncoder(tiny_encoder(kind)).double()
    samples, lengths = torch.randn(2, 600, dtype=torch.float64), torch.tensor([600, 333])
    before = samples.clone()
    expected, _ = encoder(samples, lengths, padding=padding)
    with torch.inference_mode():
        result, _ = encoder(samples, lengths, padding=padding)
    assert_close("frames", result, expected, FLOAT64)
    assert torch.equal(samples, before)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_content_of_padding_does_not_matter(kind: Any) -> None:
    torch.manual_seed(0)
    encoder = FeatureEncoder(tiny_encoder(kind)).double()
    samples, lengths = torch.randn(2, 600, dtype=torch.float64), torch.tensor([600, 333])
    with torch.no_grad():
        expected, frames = encoder(samples, lengths)
        samples[1, 333:] = 1e3
        result, _ = encoder(samples, lengths)
    assert frames is not None
    real = int(frames[1])
    assert_close("row 0", result[0], expected[0], FLOAT64)
    assert_close("row 1", result[1, :real], expected[1, :real], FLOAT64)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_half_precision_stays_near_and_finite(kind: Any) -> None:
    torch.manual_seed(0)
    encoder = FeatureEncoder(tiny_encoder(kind))
    samples = torch.randn(2, 600)
    with torch.no_grad():
        expected, _ = encoder(samples, None)
        with torch.autocast("cpu", torch.bfloat16):
            result, _ = encoder(samples, None)
    assert result.dtype == torch.bfloat16
    assert float((result.float() - expected).abs().mean()) < 0.02


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_gradients_reach_every_weight(kind: Any) -> None:
    torch.manual_seed(0)
    encoder = FeatureEncoder(tiny_encoder(kind))
    frames, _ = encoder(torch.randn(2, 600), torch.tensor([600, 333]))
    frames.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
