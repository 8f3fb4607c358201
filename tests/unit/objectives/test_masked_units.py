"""Masked unit prediction: the loss by hand, its counts, and that it is learnt."""

import numpy as np
import pytest
import torch
from tests.tiny_models import tiny_encoder

from unheard.data.dataset import AudioBatch
from unheard.errors import ShapeError
from unheard.models.config import MaskedUnitConfig
from unheard.models.masked_prediction import MaskedUnitModel, MaskedUnitOutput
from unheard.objectives.masked_units import masked_unit_loss, masked_unit_objective
from unheard.tensors import derived_generator


def output(logits: torch.Tensor) -> MaskedUnitOutput:
    return MaskedUnitOutput(logits=logits, feature_power=torch.tensor(1.0))


def test_the_loss_is_what_a_loop_says() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    units = torch.randint(4, (2, 5), generator=generator)
    mask = torch.tensor([[1, 0, 0, 1, 1], [0, 0, 1, 0, 0]]).bool()
    masked = unmasked = hits = 0.0
    for row in range(2):
        for frame in range(5):
            scores = logits[row, frame].numpy()
            loss = np.log(np.exp(scores).sum()) - scores[units[row, frame]]
            if mask[row, frame]:
                masked += loss
                hits += scores.argmax() == int(units[row, frame])
            else:
                unmasked += loss
    terms = masked_unit_loss(output(logits), units, mask, unmasked_weight=0.3)
    assert float(terms.total) == pytest.approx(masked + 0.3 * unmasked, abs=1e-9)
    assert int(terms.count) == 4
    assert float(terms.parts["masked"]) == pytest.approx(masked, abs=1e-9)
    assert float(terms.parts["unmasked"]) == pytest.approx(0.3 * unmasked, abs=1e-9)
    assert float(terms.parts["accuracy"]) == hits


def test_how_varied_predictions_are_is_counted_on_masked_frames() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 1, 2], [3, 3, 0, 0, 0]]), 4) * 5.0
    units = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    means = masked_unit_loss(output(logits), units, mask, unmasked_weight=0.3).means
    assert float(means["predicted_perplexity"]) == pytest.approx(2.0)
    assert float(means["unit_perplexity"]) == pytest.approx(4.0)
    uneven = torch.tensor([[1, 0, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    means = masked_unit_loss(output(logits), units, uneven, unmasked_weight=0.3).means
    shares = torch.tensor([1 / 4, 2 / 4, 1 / 4])
    expected = float((-(shares * shares.log()).sum()).exp())
    assert float(means["predicted_perplexity"]) == pytest.approx(expected)
    nothing = masked_unit_loss(output(logits), units, mask & False, unmasked_weight=0.3).means
    assert float(nothing["predicted_perplexity"]) == 1.0


def batch_of(config: MaskedUnitConfig, *, samples: int = 1200) -> AudioBatch:
    generator = torch.Generator().manual_seed(1)
    frames = config.encoder.num_frames(samples)
    return AudioBatch(
        samples=torch.randn(4, samples, generator=generator),
        ids=("a", "b", "c", "d"),
        units=torch.randint(config.units, (4, frames), generator=generator),
    )


def test_units_must_be_one_a_frame() -> None:
    config = MaskedUnitConfig(encoder=tiny_encoder(), units=5)
    batch = batch_of(config)
    assert batch.units is not None
    short = AudioBatch(samples=batch.samples, ids=batch.ids, units=batch.units[:, 1:])
    for wrong in (short, AudioBatch(samples=batch.samples, ids=batch.ids)):
        with pytest.raises(ShapeError, match=r"one a frame: expected \(4, 58\)"):
            masked_unit_objective(
                MaskedUnitModel(config), wrong, progress=0.0, generator=derived_generator(0)
            )


def test_every_parameter_learns_and_the_loss_falls() -> None:
    torch.manual_seed(0)
    config = MaskedUnitConfig(encoder=tiny_encoder("layer"), units=5)
    model = MaskedUnitModel(config)
    batch = batch_of(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(120):
        terms = masked_unit_objective(
            model, batch, progress=0.0, generator=derived_generator(0, step)
        )
        optimizer.zero_grad()
        terms.total.backward()
        if step == 0:
            silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
            assert not silent
        optimizer.step()
        losses.append(float(terms.total.detach() / terms.count))
    assert np.mean(losses[-5:]) < 0.75 * losses[0]
