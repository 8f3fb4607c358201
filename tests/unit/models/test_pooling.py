from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.closeness import FLOAT64, assert_close
from tests.tiny_models import tiny_encoder
from torch import nn

from unheard.errors import ConfigError
from unheard.models.config import (
    CtcConfig,
    FrameClassifierConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
    TdnnLayer,
)
from unheard.models.ctc import CtcModel
from unheard.models.frame_classifier import FrameClassifierModel
from unheard.models.pooling import deviation_over_time, mean_over_time
from unheard.models.sequence_classifier import SequenceClassifierModel
from unheard.models.speaker import SpeakerModel

DELAYS = (TdnnLayer(channels=6, kernel=3, dilation=2), TdnnLayer(channels=9, kernel=1, dilation=1))


def speaker(*, weighted: bool = True) -> SpeakerModel:
    config = SpeakerConfig(
        encoder=tiny_encoder("layer"),
        classes=4,
        layers=DELAYS,
        embedding_dim=7,
        weighted_layers=weighted,
    )
    return SpeakerModel(config)


def sequence() -> SequenceClassifierModel:
    return SequenceClassifierModel(
        SequenceClassifierConfig(
            encoder=tiny_encoder("layer"), classes=4, projection_dim=6, weighted_layers=True
        )
    )


def frame() -> FrameClassifierModel:
    return FrameClassifierModel(
        FrameClassifierConfig(encoder=tiny_encoder("layer"), classes=4, weighted_layers=True)
    )


def adapted() -> CtcModel:
    encoder = replace(tiny_encoder("layer"), adapter_dim=3)
    model = CtcModel(CtcConfig(encoder=encoder, vocab=5))
    for layer in model.encoder.transformer.layers:
        nn.init.normal_(layer.adapter.up.weight)
    return model


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "speaker": speaker,
    "sequence": sequence,
    "frame": frame,
    "adapted": adapted,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_weight_learns(kind: str) -> None:
    torch.manual_seed(0)
    model = MAKERS[kind]().train()
    output = model(torch.randn(2, 1500), torch.tensor([1500, 1200]))
    scores = output.cosines if kind == "speaker" else output.logits
    scores.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name == "encoder.mask_embedding":
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", MAKERS)
def test_a_head_can_be_made_without_memory(kind: str) -> None:
    with torch.device("meta"):
        model = MAKERS[kind]()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.state_dict().keys() == MAKERS[kind]().state_dict().keys()


def test_names_of_weights_are_those_that_are_stored() -> None:
    heads = {name for name in speaker().state_dict() if not name.startswith("encoder.")}
    assert heads == {
        "layer_weights",
        "class_vectors",
        *(f"{part}.{kind}" for part in ("project", "embed", "classify") for kind in WEIGHTS),
        *(f"tdnn.{number}.{kind}" for number in range(2) for kind in WEIGHTS),
    }
    assert "layer_weights" not in speaker(weighted=False).state_dict()


WEIGHTS = ("weight", "bias")


def test_statistics_are_those_of_the_real_frames() -> None:
    torch.manual_seed(0)
    frames = torch.randn(3, 20, 5, dtype=torch.float64)
    lengths = torch.tensor([20, 2, 11])
    mean = mean_over_time(frames, lengths)
    deviation = deviation_over_time(frames, mean, lengths)
    for row, length in enumerate(lengths.tolist()):
        own = frames[row, :length]
        assert_close("mean", mean[row], own.mean(dim=0), FLOAT64)
        assert_close("deviation", deviation[row], own.std(dim=0), FLOAT64)
    whole = mean_over_time(frames, None)
    assert_close("mean", whole, frames.mean(dim=1), FLOAT64)
    assert_close("deviation", deviation_over_time(frames, whole, None), frames.std(dim=1), FLOAT64)


@pytest.mark.parametrize("lengths", [None, torch.tensor([8, 5])])
def test_a_silent_channel_leaves_gradients_finite(lengths: torch.Tensor | None) -> None:
    frames = torch.randn(2, 8, 3)
    frames[:, :, 1] = 0
    frames.requires_grad_()
    mean = mean_over_time(frames, lengths)
    deviation_over_time(frames, mean, lengths).sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert (frames.grad[:, :, 1] == 0).all()
    assert (frames.grad[:, :5, 0] != 0).all()


def test_a_new_adapter_changes_nothing() -> None:
    torch.manual_seed(0)
    plain = CtcModel(CtcConfig(encoder=tiny_encoder("layer"), vocab=5)).eval()
    config = replace(tiny_encoder("layer"), adapter_dim=3)
    model = CtcModel(CtcConfig(encoder=config, vocab=5)).eval()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".adapter." in name for name in missing)
    samples = torch.randn(1, 900)
    with torch.no_grad():
        assert torch.equal(model(samples).logits, plain(samples).logits)


def test_odd_time_delays_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one time-delay layer"):
        SpeakerConfig(encoder=tiny_encoder(), classes=2, layers=())
    with pytest.raises(ConfigError, match=r"layers\[0\]"):
        SpeakerConfig(
            encoder=tiny_encoder(),
            classes=2,
            layers=(TdnnLayer(channels=3, kernel=0, dilation=1),),
        )
