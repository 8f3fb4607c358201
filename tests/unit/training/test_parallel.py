import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import tones
from torch import Tensor

from unheard.models.transformer import Transformer
from unheard.training.config import Execution
from unheard.training.distributed import ALONE
from unheard.training.parallel import hold, prepared_layers, skip_same_layers

FRAMES = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([20, 13, 7])


def network(**more: Any) -> Transformer:
    torch.manual_seed(2)
    config = replace(
        tones.tiny_network().encoder,
        layers=4,
        dropout=0.2,
        attention_dropout=0.2,
        activation_dropout=0.2,
        **more,
    )
    return Transformer(config).train()


def learn(transformer: Transformer) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradients of one pass, with dropout."""
    transformer.zero_grad()
    torch.manual_seed(7)
    frames = FRAMES.clone().requires_grad_()
    generator = torch.Generator().manual_seed(8)
    loss = transformer(frames, LENGTHS, generator=generator)[0].square().sum()
    loss.backward()
    gradients = {name: each.grad for name, each in transformer.named_parameters()}
    return loss.detach(), {**gradients, "frames": frames.grad}


def same(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> bool:
    return all(
        (value is None and other[name] is None)
        or (value is not None and other[name] is not None and torch.equal(value, other[name]))  # pyright: ignore[reportArgumentType]
        for name, value in one.items()
    )


def test_layers_computed_again_give_the_same_gradients_with_dropout() -> None:
    transformer = network(layer_drop=0.5)
    loss, gradients = learn(transformer)
    assert any(value is None for value in gradients.values()), "no layer was skipped"
    saved: list[int] = []
    with (
        prepared_layers(transformer, Execution(recompute=True)),
        torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, id_),
    ):
        again, again_gradients = learn(transformer)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, id_):
        learn(transformer)
    assert torch.equal(loss, again)
    assert same(gradients, again_gradients)
    assert sum(saved) < sum(kept) / 2
    assert not transformer.recompute


def id_(value: Tensor) -> Tensor:
    return value


def test_all_passes_of_an_update_skip_the_same_layers() -> None:
    transformer = network(layer_drop=0.5)
    skipped = []
    for step in range(20):
        skip_same_layers(transformer, torch.Generator().manual_seed(step))
        draws = [transformer._draw_skipped(torch.Generator().manual_seed(n)) for n in range(3)]
        assert draws[0] == draws[1] == draws[2]
        skipped.append(sum(draws[0]))
    assert 20 < sum(skipped) < 60
    assert len(set(skipped)) > 1
    transformer.eval()
    assert transformer._draw_skipped(None) == [False] * 4
    transformer.train()
    skip_same_layers(transformer, None)
    draws = [transformer._draw_skipped(torch.Generator().manual_seed(n)) for n in range(8)]
    assert any(draw != draws[0] for draw in draws)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(function: object, **_: object) -> Any:
        def call(*_: object) -> Any:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    return


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_training_goes_on_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    transformer = network()
    expected, gradients = learn(transformer)
    with (
        caplog.at_level(logging.WARNING),
        prepared_layers(transformer, Execution(compile=True)),
    ):
        loss, found = learn(transformer)
    assert torch.equal(loss, expected)
    assert same(gradients, found)
    assert "No working C++ compiler found): training goes on without" in caplog.text


def test_layers_are_compiled_for_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def mark(function: Any, **_: object) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", mark)
    transformer = network()
    with prepared_layers(transformer, Execution(compile=True)):
        learn(transformer)
        assert all("forward" in vars(layer) for layer in transformer.layers)
    assert len(compiled) == 1 + len(transformer.layers)
    assert not any("forward" in vars(layer) for layer in transformer.layers)


def test_one_process_holds_the_network_itself() -> None:
    transformer = network()
    for way in ("ddp", "fsdp"):
        held = hold(transformer, Execution(parallel=way), ALONE)
        assert held.learner is held.stored is transformer
        assert not held.sharded
