"""Small training runs that are stopped and gone on with."""

import json
import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tests import tones
from torch import nn

from unheard.audio.signal import InputSpec
from unheard.data.dataset import LabelledSource, UnlabelledSource
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.models.config import CtcConfig, MaskingConfig
from unheard.models.ctc import CtcModel
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import contrastive_objective
from unheard.objectives.ctc import ctc_objective
from unheard.training.config import TrainingConfig
from unheard.training.logging import Sample
from unheard.training.loop import Validation, train
from unheard.training.schedule import Budget

Kind = Literal["pretrain", "finetune"]
LETTERS = ["<blank>", " ", *tones.TONES_HZ]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sitting of a run.

    Attributes:
        kind: objective.
        data: folder with the decoded recordings.
        folder: run folder.
        config: settings.
        stop_in_step: the update in which the process sends itself `stop_signal`.
        stop_signal: which.
    """

    kind: Kind
    data: Path
    folder: Path
    config: TrainingConfig
    stop_in_step: int | None = None
    stop_signal: int = signal.SIGINT


def settings(**more: Any) -> TrainingConfig:
    """Twelve updates of two micro-batches; an epoch ends in the middle of an update."""
    config = TrainingConfig(
        budget=Budget(max_steps=12),
        learning_rate=3e-3,
        batch_seconds=4.0,
        accumulation=2,
        min_seconds=0.1,
        max_seconds=1.0,
        precision="float32",
        log_every_steps=1,
        validate_every_steps=4,
    )
    return replace(config, **more)


def decode(folder: Path, *, count: int = 23) -> PcmStore:
    """Write and decode recordings of tones; their ids are their texts."""
    generator = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        text = f"{number:02d}:{tones.draw_text(generator)}"
        path = folder / f"{number:02d}.wav"
        samples = tones.say(text[3:], pitch=1.0, generator=generator)
        tones.write_wav(path, samples)
        utterances.append(
            Utterance(id=text, audio=path.name, num_samples=len(samples), sample_rate=tones.RATE)
        )
    return open_store(utterances, folder / "store", root=folder)


def make_model(kind: Kind) -> nn.Module:
    torch.manual_seed(1)
    network = tones.tiny_network()
    if kind == "pretrain":
        return PretrainingModel(network)
    masking = MaskingConfig(time_probability=0.2, time_span_frames=3)
    encoder = replace(network.encoder, layer_drop=0.2)
    return CtcModel(CtcConfig(encoder=encoder, vocab=len(LETTERS), masking=masking))


def make_source(kind: Kind, store: PcmStore, config: TrainingConfig) -> Any:
    if kind == "pretrain":
        return UnlabelledSource(
            store,
            input_spec=InputSpec(),
            batch_seconds=config.batch_seconds,
            min_seconds=config.min_seconds,
            max_seconds=config.max_seconds,
            seed=config.seed,
        )
    return LabelledSource(
        store,
        [[LETTERS.index(letter) for letter in name[3:]] for name in store.ids],
        input_spec=InputSpec(),
        batch_seconds=config.batch_seconds,
        seed=config.seed,
    )


def do(run: Run) -> None:
    """Run a sitting in this process."""
    model = make_model(run.kind)
    objective = contrastive_objective if run.kind == "pretrain" else partial(ctc_objective, blank=0)

    signals = iter([run.stop_signal])

    def watched(model: nn.Module, batch: Any, *, progress: float, **more: Any) -> LossTerms:
        steps = run.config.budget.max_steps
        if steps is not None and round(progress * steps) == run.stop_in_step:
            # Once: a second signal ends the process at once.
            for number in signals:
                os.kill(os.getpid(), number)
        return objective(model, batch, progress=progress, **more)  # pyright: ignore

    def validate() -> Validation:
        weight = float(next(model.parameters()).detach().double().abs().sum())
        return Validation(
            metric=-weight,
            values={"cer": weight},
            samples=[Sample(id="u", reference="a", hypothesis=f"{weight}")],
        )

    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    train(
        model,
        watched,
        make_source(run.kind, PcmStore(run.data), run.config),
        run.config,
        folder=run.folder,
        name=run.kind,
        validate=validate,
        head=getattr(model, "head", None),
        quiet=True,
    )


def remains(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, but for times."""
    found: dict[str, Any] = {}
    for path in [*sorted((folder / "checkpoints").iterdir()), folder / "best"]:
        for file in sorted(path.iterdir()):
            name = str(file.relative_to(folder))
            if file.name == "state.json":
                found[name] = _timeless(json.loads(file.read_text()))
            elif file.name != "manifest.json":
                found[name] = file.read_bytes()
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = (folder / name).read_text().splitlines()
        found[name] = [_timeless(json.loads(line)) for line in lines]
    return found


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    timed = {"elapsed_seconds", "audio_seconds_per_second"}
    return {name: value for name, value in row.items() if name not in timed}
