"""A causal Transformer looks back only, and padding behind a text is nothing to it."""

from typing import Any

import pytest
import torch

from unheard.errors import ConfigError
from unheard.models.language_model import (
    LanguageModel,
    LanguageModelConfig,
    rotary_positions,
    rotate,
)


def tiny(**more: Any) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"vocab": 11, "dim": 16, "ffn_dim": 24, "layers": 2, "heads": 2, **more}
    model = LanguageModel(LanguageModelConfig(**shape)).double().eval()
    with torch.no_grad():  # far from the start, where everything is nearly linear
        for weight in model.parameters():
            weight.mul_(8.0)
    return model


@torch.inference_mode()
def test_what_follows_changes_nothing_before_it() -> None:
    model = tiny()
    tokens = torch.randint(0, 11, (3, 12), generator=torch.Generator().manual_seed(1))
    whole = model(tokens)
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 11
    found = model(changed)
    torch.testing.assert_close(found[:, :7], whole[:, :7], rtol=1e-12, atol=1e-12)
    assert (found[:, 7:] - whole[:, 7:]).abs().amax(dim=-1).min() > 1e-3
    torch.testing.assert_close(model(tokens[:, :5]), whole[:, :5], rtol=1e-12, atol=1e-12)


@torch.inference_mode()
def test_every_place_before_counts() -> None:
    model = tiny()
    tokens = torch.randint(0, 11, (1, 9), generator=torch.Generator().manual_seed(2))
    last = model(tokens)[0, -1]
    for place in range(9):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 11
        assert (model(changed)[0, -1] - last).abs().max() > 1e-8  # rounding is 1e-14


def test_dropout_works_in_training_only() -> None:
    model = tiny(dropout=0.5)
    tokens = torch.zeros(1, 6, dtype=torch.int64)
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_positions_are_relative() -> None:
    rotation = rotary_positions(20, 8, base=100.0, like=torch.zeros((), dtype=torch.float64))
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(3)).double()

    def product(one: int, other: int) -> float:
        return float(rotate(query, rotation[:, one]) @ rotate(key, rotation[:, other]))

    assert product(5, 2) == pytest.approx(product(18, 15), abs=1e-12)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-3)


@pytest.mark.parametrize(
    "shape",
    [
        {"vocab": 0},
        {"layers": 0},
        {"dim": 10, "heads": 4},
        {"dim": 6, "heads": 2},
        {"dropout": 1.0},
        {"attention_dropout": -0.1},
        {"rotary_base": 1.0},
        {"norm_epsilon": 0.0},
    ],
)
def test_shapes_that_no_network_can_have_are_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LanguageModelConfig(**{"vocab": 5, **shape})
