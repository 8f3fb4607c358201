import copy

import pytest
import torch
from torch import nn

from unheard.training.config import TrainingConfig
from unheard.training.optim import finish_gradient, make_optimizer
from unheard.training.schedule import Budget


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 3))


def summed_gradient(model: nn.Module, *, scale: float, batch: int = 4) -> None:
    inputs = torch.randn(batch, 5, generator=torch.Generator().manual_seed(1))
    (scale * model(inputs).square().sum()).backward()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0], ids=["small", "near", "clipped"])
def test_the_finished_gradient_is_that_of_the_mean_clipped_by_torch(scale: float) -> None:
    ours, theirs = network(), network()
    summed_gradient(ours, scale=scale)
    summed_gradient(theirs, scale=scale / 4)
    norm = finish_gradient(list(ours.parameters()), count=4, clip_norm=1.0)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    assert norm == pytest.approx(float(expected), rel=1e-6)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=3e-6, atol=1e-8)


def test_a_clipped_gradient_has_the_norm_it_was_clipped_to() -> None:
    model = network()
    summed_gradient(model, scale=1000.0)
    finish_gradient(list(model.parameters()), count=4, clip_norm=0.5)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert float(nn.utils.get_total_norm(gradients)) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_left_alone(poison: float) -> None:
    model = network()
    summed_gradient(model, scale=1.0)
    weight = model[0].weight
    assert weight.grad is not None
    weight.grad[0, 0] = poison
    before = [copy.deepcopy(parameter.grad) for parameter in model.parameters()]
    norm = finish_gradient(list(model.parameters()), count=4, clip_norm=1.0)
    assert not torch.isfinite(torch.tensor(norm))
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, old, rtol=0, atol=0, equal_nan=True)


def test_parameters_without_a_gradient_are_passed_over() -> None:
    model = network()
    model[0].requires_grad_(False)
    summed_gradient(model, scale=1.0)
    assert finish_gradient(list(model.parameters()), count=1, clip_norm=1.0) > 0
    assert model[0].weight.grad is None


def test_weight_decay_is_on_matrices_only_and_frozen_parameters_are_left_out() -> None:
    model = network()
    model[3].bias.requires_grad_(False)
    config = TrainingConfig(budget=Budget(max_steps=1), weight_decay=0.3, learning_rate=0.01)
    optimizer = make_optimizer(model, config)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert [p.shape for p in decayed["params"]] == [model[0].weight.shape, model[3].weight.shape]
    assert all(p.ndim == 1 for p in free["params"])
    assert len(free["params"]) == 3
    assert decayed["lr"] == 0.01


def test_decay_is_decoupled_from_the_gradient() -> None:
    """AdamW shrinks a weight without gradient by lr * decay, whatever the moments say."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
    config = TrainingConfig(budget=Budget(max_steps=1), weight_decay=0.5, learning_rate=0.1)
    optimizer = make_optimizer(model, config)
    model.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
