"""Encoder, pre-training model and CTC model as wholes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.closeness import FLOAT64, assert_close
from tests.tiny_models import tiny_ctc, tiny_encoder, tiny_pretraining

from unheard.models.config import CtcConfig
from unheard.models.ctc import CtcModel
from unheard.models.encoder import Encoder
from unheard.objectives.contrastive import sample_distractors, wav2vec2_loss

KINDS = ["group", "layer"]


def masked(frames: list[int], width: int) -> torch.Tensor:
    mask = torch.zeros(len(frames), width, dtype=torch.bool)
    for row, length in enumerate(frames):
        mask[row, 2 : length // 2] = True
    return mask


def pretraining_loss(model: Any, samples: torch.Tensor, lengths: torch.Tensor) -> Any:
    encoder = model.config.encoder
    frames = [encoder.num_frames(int(length)) for length in lengths]
    output = model(
        samples,
        lengths,
        time_mask=masked(frames, encoder.num_frames(samples.shape[1])),
        generator=torch.Generator().manual_seed(0),
    )
    distractors = sample_distractors(
        output.masked_counts, distractors=5, generator=torch.Generator().manual_seed(0)
    )
    return wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.1, feature_penalty_weight=10.0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_moves_every_weight(kind: Any) -> None:
    model = tiny_pretraining(kind).model.train()
    torch.manual_seed(0)
    loss = pretraining_loss(model, torch.randn(3, 1500), torch.tensor([1500, 1200, 900]))
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_moves_every_weight(kind: Any) -> None:
    model = tiny_ctc(kind).model.train()
    assert isinstance(model, CtcModel)
    torch.manual_seed(0)
    lengths = torch.tensor([1500, 1200])
    frames = model.config.encoder.num_frames(1500)
    output = model(torch.randn(2, 1500), lengths, time_mask=masked([frames, 20], frames))
    output.logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_utterance_is_masked_and_batched_with_does_not_matter(kind: Any) -> None:
    model = tiny_pretraining(kind).model.double().eval()
    torch.manual_seed(0)
    samples = torch.randn(3, 1500, dtype=torch.float64)
    lengths = torch.tensor([1500, 1200, 900])
    for row, length in enumerate(lengths.tolist()):
        samples[row, length:] = 0
    encoder = model.config.encoder
    frames = [encoder.num_frames(length) for length in lengths.tolist()]
    mask = masked(frames, max(frames))
    with torch.no_grad():
        batch = model(samples, lengths, time_mask=mask)
        powers = []
        for row in range(3):
            length, count = int(lengths[row]), frames[row]
            alone = model(
                samples[row : row + 1, :length],
                lengths[row : row + 1],
                time_mask=mask[row : row + 1, :count],
            )
            own = slice(
                int(batch.masked_counts[:row].sum()), int(batch.masked_counts[: row + 1].sum())
            )
            assert_close("predictions", batch.predictions[own], alone.predictions, FLOAT64)
            assert_close("targets", batch.targets[own], alone.targets, FLOAT64)
            powers.append(float(alone.feature_power) * count)
    assert float(batch.feature_power) == pytest.approx(sum(powers) / sum(frames), rel=FLOAT64)


def test_masked_frames_are_replaced_and_targets_are_not() -> None:
    encoder = Encoder(tiny_encoder()).eval()
    samples = torch.randn(1, 1000)
    width = encoder.config.num_frames(1000)
    mask = torch.zeros(1, width, dtype=torch.bool)
    mask[0, 5:9] = True
    inputs: list[torch.Tensor] = []
    encoder.transformer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        plain = encoder(samples)
        hidden = encoder(samples, time_mask=mask)
        channels = torch.zeros(1, 16, dtype=torch.bool)
        channels[0, 3:7] = True
        encoder(samples, channel_mask=channels)
    assert torch.equal(inputs[1][0, 5:9], encoder.mask_embedding.expand(4, 16))
    assert torch.equal(inputs[1][~mask], inputs[0][~mask])
    assert torch.equal(plain.normed_features, hidden.normed_features)
    assert (inputs[2][0, :, 3:7] == 0).all()
    assert torch.equal(inputs[2][0, :, 7:], inputs[0][0, :, 7:])


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_gradients_of_the_convolutions_are_scaled(scale: float) -> None:
    grads = {}
    for factor in (1.0, scale):
        torch.manual_seed(0)
        encoder = Encoder(replace(tiny_encoder(), feature_grad_scale=factor)).double()
        torch.manual_seed(1)
        encoder(torch.randn(2, 900, dtype=torch.float64)).frames.square().sum().backward()
        grads[factor] = {name: p.grad for name, p in encoder.named_parameters()}
    for name, grad in grads[1.0].items():
        if grad is None:
            assert name == "mask_embedding"
            continue
        wanted = grad * scale if name.startswith("feature_encoder") else grad
        assert_close(name, grads[scale][name], wanted, FLOAT64)


def test_convolutions_can_be_frozen() -> None:
    encoder = Encoder(replace(tiny_encoder(), feature_grad_scale=0.0))
    encoder(torch.randn(1, 900)).frames.sum().backward()
    for name, parameter in encoder.named_parameters():
        if name.startswith("feature_encoder"):
            assert parameter.grad is None, name
    assert encoder.projection.weight.grad is not None


def test_dropout_is_off_in_evaluation() -> None:
    config = CtcConfig(
        encoder=replace(
            tiny_encoder(),
            dropout=0.5,
            attention_dropout=0.5,
            activation_dropout=0.5,
            input_dropout=0.5,
            layer_drop=0.5,
        ),
        vocab=5,
        head_dropout=0.5,
    )
    torch.manual_seed(0)
    model, samples = CtcModel(config), torch.randn(1, 900)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(samples).logits, model(samples).logits)
        model.train()
        assert not torch.equal(model(samples).logits, model(samples).logits)


@pytest.mark.parametrize("make", [tiny_ctc, tiny_pretraining])
def test_a_network_can_be_made_without_memory(make: Callable[..., Any]) -> None:
    bundle = make()
    with torch.device("meta"):
        model = type(bundle.model)(bundle.config)
    assert model.state_dict().keys() == bundle.model.state_dict().keys()
    assert all(parameter.is_meta for parameter in model.parameters())
