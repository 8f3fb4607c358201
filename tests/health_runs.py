"""Very small runs that go well or ill on purpose, with a watch over them."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests import tones, training_runs
from torch import nn

from unheard.data.pcm import PcmStore
from unheard.models.config import CtcConfig, EncoderConfig, MaskingConfig, PretrainingConfig
from unheard.models.ctc import CtcModel
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import contrastive_objective
from unheard.objectives.ctc import ctc_objective
from unheard.tasks.health import pretraining_watch, writing_watch
from unheard.text.alphabet import Alphabet
from unheard.training.config import Execution, TrainingConfig
from unheard.training.health.detector import Detector
from unheard.training.health.findings import HealthFinding, Nature, OnCollapse, Row
from unheard.training.health.watch import HealthWatch
from unheard.training.loop import TrainingResult, Validation, train
from unheard.training.schedule import Budget, ScheduleConfig

UPDATES = 200
ALPHABET = Alphabet(tokens=("<blank>", "|", *tones.TONES_HZ), blank="<blank>", word_boundary="|")


@dataclass(kw_only=True)
class Sitting:
    """One sitting of a run: what learns, from what, and who watches."""

    model: nn.Module
    objective: Any
    source: Any
    config: TrainingConfig
    watch: HealthWatch
    validate: Callable[[], Validation] = field(
        default_factory=lambda: lambda: Validation(metric=0.0, values={})
    )

    def go(
        self, folder: Path, *, on_collapse: OnCollapse = "warn", stop_at_call: int | None = None
    ) -> TrainingResult:
        """Train; in update number `stop_at_call` of this sitting the process gets a SIGINT."""
        calls = 0

        def objective(model: nn.Module, batch: Any, **more: Any) -> LossTerms:
            nonlocal calls
            calls += 1
            if calls == stop_at_call:
                os.kill(os.getpid(), signal.SIGINT)
            return self.objective(model, batch, **more)

        return train(
            self.model,
            objective,
            self.source,
            self.config,
            folder=folder,
            name="run",
            validate=self.validate,
            quiet=True,
            execution=Execution(on_collapse=on_collapse),
            watch=self.watch,
        )


class RateTooHigh(Detector):
    """Calls a run lost at step 8 if the learning rate is above a limit; ill from step 6 on."""

    limit = 3e-3

    def observe(self, row: Row) -> list[HealthFinding]:
        if row.kind != "train":
            return []
        ill = row.values["learning_rate"] > self.limit and row.step > 5
        if not ill:
            self.clean_step = row.step
        elif row.step >= 8:
            return self._tell("too_fast", "error", row, "The rate is too high.", "Lower it.")
        return []


class Scripted(HealthWatch):
    """Watches with one detector only."""

    def __init__(self, nature: Nature, *, detector: type[Detector] = RateTooHigh) -> None:
        self._detector = detector
        super().__init__(nature)

    def recall(self, rows: Any) -> None:
        self._found = []
        self._detectors = [self._detector(self.nature)]
        for row in rows:
            self.observe(row["kind"], row["step"], row)


def smaller(encoder: EncoderConfig) -> EncoderConfig:
    """Make the network of the tones smaller still."""
    convolutions = tuple(replace(layer, channels=24) for layer in encoder.conv_layers)
    return replace(
        encoder,
        conv_layers=convolutions,
        dim=24,
        ffn_dim=32,
        layers=1,
        positional_kernel=4,
        positional_groups=2,
    )


def listener(data: Path, *, seed: int, learning_rate: float, diversity_weight: float) -> Sitting:
    """Pre-train by the contrastive objective, whatever comes of it."""
    network = tones.tiny_network()
    network: PretrainingConfig = replace(
        network, encoder=smaller(network.encoder), diversity_weight=diversity_weight
    )
    config = _config(seed=seed, learning_rate=learning_rate, batch_seconds=5.0, warmup=0.08)
    torch.manual_seed(seed)
    return Sitting(
        model=PretrainingModel(network),
        objective=contrastive_objective,
        source=training_runs.make_source("pretrain", PcmStore(data), config),
        config=config,
        watch=pretraining_watch(network, config, pretrained=False),
    )


def writer(data: Path, *, seed: int, mixed_up: bool = False, **more: Any) -> Sitting:
    """Learn to write, from the right transcripts or from those of other recordings."""
    config = _config(seed=seed, learning_rate=1e-2, batch_seconds=6.0, warmup=0.1, **more)
    encoder = smaller(tones.tiny_network().encoder)
    masking = MaskingConfig(time_probability=0.05, time_span_frames=4)
    network = CtcConfig(encoder=encoder, vocab=len(ALPHABET), masking=masking)
    store = PcmStore(data)
    targets = [ALPHABET.encode(name[3:]) for name in store.ids]
    if mixed_up:
        targets = targets[7:] + targets[:7]
    source = training_runs.LabelledSource(
        store,
        targets,
        input_spec=training_runs.InputSpec(),
        batch_seconds=config.batch_seconds,
        seed=seed,
    )
    torch.manual_seed(seed)
    return Sitting(
        model=CtcModel(network),
        objective=partial(ctc_objective, blank=ALPHABET.blank_id),
        source=source,
        config=config,
        watch=writing_watch(
            {"training": store},
            {"training": targets},
            {"training": []},
            alphabet=ALPHABET,
            encoder=encoder,
            config=config,
            pretrained=False,
        ),
    )


def _config(*, warmup: float, **more: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "budget": Budget(max_steps=UPDATES),
        "accumulation": 1,
        "log_every_steps": 10,
        "validate_every_steps": UPDATES,
        "schedule": ScheduleConfig(shape="linear", warmup=warmup),
    }
    return training_runs.settings(**{**settings, **more})
