"""The head-only phase: what moves, what does not, and what stays switched on meanwhile."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_models import tiny_encoder
from torch import Tensor

from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import LabelledBatch
from unheard.models.config import CtcConfig, MaskingConfig
from unheard.models.ctc import CtcModel
from unheard.objectives.base import LossTerms
from unheard.objectives.ctc import ctc_objective
from unheard.training.config import TrainingConfig
from unheard.training.loop import Validation, train
from unheard.training.schedule import Budget, ScheduleConfig

STEPS = 6


class OneBatch:
    """A source that always gives the same two utterances."""

    def __init__(self) -> None:
        lengths = np.full(2, 800, dtype=np.int64)
        self.plan = BatchPlan(lengths, batch_samples=1600, fit="pad", max_samples=800, seed=0)

    def load(self, position: Position) -> LabelledBatch:
        return LabelledBatch(
            samples=torch.randn(2, 800, generator=torch.Generator().manual_seed(0)),
            lengths=torch.tensor([800, 800]),
            targets=torch.tensor([[5, 6], [6, 7]]),
            target_lengths=torch.tensor([2, 2]),
            ids=("a", "b"),
        )


def make_model() -> CtcModel:
    torch.manual_seed(0)
    return CtcModel(CtcConfig(encoder=tiny_encoder("layer"), vocab=8, masking=MaskingConfig()))


def weights_of_each_update(folder: Path, head_only: float) -> list[dict[str, Tensor]]:
    """Train with heavy weight decay; returns the weights before each update and at the end."""
    model = make_model()
    kept: list[dict[str, Tensor]] = []

    def watched(model: Any, batch: Any, **more: Any) -> LossTerms:
        kept.append({name: value.detach().clone() for name, value in model.named_parameters()})
        assert model.training
        return ctc_objective(model, batch, blank=0, **more)

    train(
        model,
        watched,
        OneBatch(),
        TrainingConfig(
            budget=Budget(max_steps=STEPS),
            schedule=ScheduleConfig(warmup=0.0, final_scale=1.0),
            learning_rate=1e-2,
            weight_decay=0.1,
            head_only=head_only,
            precision="float32",
        ),
        folder=folder,
        name="finetune",
        validate=lambda: Validation(metric=0.0, values={}),
        head=model.head,
        quiet=True,
    )
    kept.append({name: value.detach().clone() for name, value in model.named_parameters()})
    return kept


@pytest.mark.parametrize(("head_only", "alone"), [(0.0, 0), (0.5, 3), (0.4, 3), (1.0, STEPS)])
def test_the_network_rests_for_exactly_its_share_of_the_updates(
    tmp_path: Path, head_only: float, alone: int
) -> None:
    """fairseq: `freeze_finetune_updates <= num_updates` lets the network learn."""
    kept = weights_of_each_update(tmp_path, head_only)
    for update, (before, after) in enumerate(itertools.pairwise(kept)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert "head.weight" in moved
        trunk = {name for name in moved if not name.startswith("head.")}
        # Not even by weight decay, and from the first update after it all layers.
        assert bool(trunk) == (update >= alone), update
        if trunk:
            assert {"encoder.transformer.layers.0.inner.weight", "encoder.mask_embedding"} <= trunk


def test_frames_are_masked_while_the_head_learns_alone() -> None:
    model = make_model().train()
    seen: list[Tensor] = []
    transformer = model.encoder.transformer
    transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = OneBatch().load(Position())
    objective = partial(ctc_objective, blank=0)
    with torch.no_grad():
        model.encoder(batch.samples, batch.lengths)
        objective(model, batch, progress=0.0, generator=torch.Generator().manual_seed(0))
    plain, masked = seen
    replaced = (masked == model.encoder.mask_embedding).all(dim=-1)
    assert 0.2 < float(replaced.float().mean()) < 0.8
    assert torch.equal(masked[~replaced], plain[~replaced])
