"""Tiny training runs for the tests of reliability.

Three objectives on recordings of tones, read from shards, by this process or by workers.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tests import shard_folders, tones
from torch import nn

from unheard.audio.encode import encode
from unheard.audio.signal import InputSpec
from unheard.data.batching import Position
from unheard.data.dataset import LabelledSource, UnlabelledSource
from unheard.data.shard_store import ShardStore, open_shards
from unheard.data.units import CepstralFeatures, open_units
from unheard.errors import Interrupted, UnheardError
from unheard.models.config import CtcConfig, EncoderConfig, MaskedUnitConfig, MaskingConfig
from unheard.models.ctc import CtcModel
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import contrastive_objective
from unheard.objectives.ctc import ctc_objective
from unheard.objectives.masked_units import masked_unit_objective
from unheard.training.config import TrainingConfig
from unheard.training.logging import Sample
from unheard.training.loop import Validation, train
from unheard.training.schedule import Budget

Kind = Literal["contrastive", "units", "ctc"]
Precision = Literal["float32", "bfloat16"]
LETTERS = ["<blank>", " ", *tones.TONES_HZ]
UNITS = 6
FRESH_SECONDS = 150.0
"""A test gives up waiting after this time."""

Meddle = Callable[[int, nn.Module, Any, LossTerms], LossTerms | None]
"""Called with the micro-batch's number, the model, the batch and its loss; may give another."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sitting of a run.

    Attributes:
        kind: objective.
        data: folder of shards, as `write_data` leaves it.
        folder: run folder.
        config: settings.
        workers: processes that decode.
        patience_seconds: until a worker counts as hung.
        retries: how often a sample is tried again in a new worker.
        stop_in: (update, micro-batch, signal): the process sends itself that signal there.
    """

    kind: Kind
    data: Path
    folder: Path
    config: TrainingConfig
    workers: int = 0
    patience_seconds: float = 20.0
    retries: int = 0
    stop_in: tuple[int, int, int] | None = None


def settings(steps: int, **more: Any) -> TrainingConfig:
    """Updates of two micro-batches, each checkpointed only when the run is told to stop."""
    config = TrainingConfig(
        budget=Budget(max_steps=steps),
        learning_rate=3e-3,
        batch_seconds=3.0,
        accumulation=2,
        min_seconds=0.1,
        max_seconds=0.9,
        precision="float32",
        log_every_steps=5,
        validate_every_steps=10,
        checkpoint_every_seconds=1e9,
    )
    return replace(config, **more)


def write_data(folder: Path, *, count: int = 21) -> Path:
    """Write shards of tones, whose ids are their texts, and label them with units."""
    generator = np.random.default_rng(0)
    samples = {}
    for number in range(count):
        text = tones.draw_text(generator)
        sound = tones.say(text, pitch=1.0, generator=generator)
        name = f"{number:02d}-{text.replace(' ', '_')}"
        samples[name] = {"flac": encode(sound, "flac"), "json": json.dumps({"text": text}).encode()}
    half = count // 2
    parts = list(samples.items())
    for number, part in enumerate((parts[:half], parts[half:])):
        shard_folders.foreign_tar(folder / "shards" / f"part-{number}.tar", dict(part))
    with closing(open_data(folder)) as store:
        open_units(store, CepstralFeatures(encoder()), units=UNITS, seed=0, workers=1)
    return folder


def open_data(folder: Path, **more: Any) -> ShardStore:
    more.setdefault("workers", 0)
    return open_shards(folder / "shards", folder / "work", **more)


def encoder() -> EncoderConfig:
    """A tiny encoder with everything that is drawn: dropout and skipped layers."""
    return replace(tones.tiny_network().encoder, dropout=0.1, layer_drop=0.2)


def make_model(kind: Kind) -> nn.Module:
    torch.manual_seed(1)
    masking = MaskingConfig(time_probability=0.3, time_span_frames=3)
    if kind == "contrastive":
        return PretrainingModel(replace(tones.tiny_network(), encoder=encoder()))
    if kind == "units":
        return MaskedUnitModel(MaskedUnitConfig(encoder=encoder(), units=UNITS, masking=masking))
    return CtcModel(CtcConfig(encoder=encoder(), vocab=len(LETTERS), masking=masking))


def make_source(kind: Kind, store: ShardStore, config: TrainingConfig) -> Any:
    if kind == "ctc":
        return LabelledSource(
            store,
            [[LETTERS.index(letter) for letter in text] for text in store.texts],
            input_spec=InputSpec(),
            batch_seconds=config.batch_seconds,
            seed=config.seed,
        )
    units = None
    if kind == "units":
        units = open_units(store, CepstralFeatures(encoder()), units=UNITS, seed=0)
    return UnlabelledSource(
        store,
        input_spec=InputSpec(),
        batch_seconds=config.batch_seconds,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
        seed=config.seed,
        units=units,
        encoder=encoder(),
    )


OBJECTIVES: dict[Kind, Any] = {
    "contrastive": contrastive_objective,
    "units": masked_unit_objective,
    "ctc": partial(ctc_objective, blank=0),
}


def position_after(run: Run, store: ShardStore, step: int) -> Position:
    """Where the batch lies that follows an update, by the plan."""
    plan = make_source(run.kind, store, run.config).plan
    return plan.ahead(Position(), step * run.config.accumulation)


def do(
    run: Run,
    *,
    store: ShardStore | None = None,
    source: Any = None,
    model: nn.Module | None = None,
    meddle: Meddle | None = None,
) -> list[str]:
    """Run a sitting in this process.

    Returns:
        The loss of every micro-batch, to the last bit.
    """
    with closing(store or _open_for(run)) as opened:
        return _do(run, source or make_source(run.kind, opened, run.config), model, meddle)


def do_with(run: Run, store: ShardStore) -> list[str]:
    """Run a sitting with a store that stays open."""
    return _do(run, make_source(run.kind, store, run.config), None, None)


def _open_for(run: Run) -> ShardStore:
    return open_data(
        run.data,
        workers=run.workers,
        patience_seconds=run.patience_seconds,
        retries=run.retries,
    )


def _do(run: Run, source: Any, model: nn.Module | None, meddle: Meddle | None) -> list[str]:
    model = make_model(run.kind) if model is None else model
    objective = OBJECTIVES[run.kind]
    signals = iter([] if run.stop_in is None else [run.stop_in[2]])
    losses: list[str] = []
    micro_batches = 0

    def watched(model: nn.Module, batch: Any, *, progress: float, **more: Any) -> LossTerms:
        nonlocal micro_batches
        turn = micro_batches % run.config.accumulation
        step = round(progress * (run.config.budget.max_steps or 1))
        if run.stop_in is not None and (step, turn) == run.stop_in[:2]:
            # Once: a second signal ends the process at once.
            for number in signals:
                os.kill(os.getpid(), number)
        terms = objective(model, batch, progress=progress, **more)
        losses.append(float(terms.total.detach()).hex())
        if meddle is not None:
            terms = meddle(micro_batches, model, batch, terms) or terms
        micro_batches += 1
        return terms

    def validate() -> Validation:
        weight = float(next(model.parameters()).detach().double().abs().sum())
        sample = Sample(id="u", reference="a", hypothesis=f"{weight}")
        return Validation(metric=-weight, values={"weight": weight}, samples=[sample])

    # What a process drew before must not matter.
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    train(
        model,
        watched,
        source,
        run.config,
        folder=run.folder,
        name=run.kind,
        validate=validate,
        head=getattr(model, "head", None) if run.kind == "ctc" else None,
        quiet=True,
    )
    return losses


def prepare_process() -> None:
    """Compute in one thread and hear SIGINT, even when started in the background."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def work(run: Run) -> None:
    """Run a sitting in a process of its own and end it as the command line would."""
    prepare_process()
    try:
        do(run)
    except Interrupted as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except UnheardError as error:
        complaint_of(run).write_text(str(error))
        sys.exit(error.exit_code)


def complaint_of(run: Run) -> Path:
    """Where a sitting in another process says why it failed."""
    return run.folder.with_name(f"{run.folder.name}.error")


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process, forked from a server that has imported torch once."""
    context = multiprocessing.get_context("forkserver")
    # The last one is imported by the first optimiser of a process.
    modules = ["tests.reliable_runs", "torch.utils.tensorboard.writer", "torch._dynamo"]
    context.set_forkserver_preload(modules)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def sit(run: Run) -> int | None:
    """Run a sitting in another process; returns its exit code."""
    process = start(work, run)
    process.join(FRESH_SECONDS)
    return process.exitcode


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run folder."""
    return max((folder / "checkpoints").glob("step_*"))


def newest_step(folder: Path) -> int:
    """Its step; 0 where there is none."""
    found = [path.name for path in (folder / "checkpoints").glob("step_*")]
    return int(max(found, default="step_0")[5:])


PARTS = ("model.safetensors", "optimizer.safetensors", "optimizer.json", "state.json")


def kept(checkpoint: Path) -> dict[str, bytes]:
    """Everything that a checkpoint holds, but for the time that it took."""
    found = {name: (checkpoint / name).read_bytes() for name in PARTS}
    state = json.loads(found["state.json"])
    del state["elapsed_seconds"]
    found["state.json"] = json.dumps(state).encode()
    return found


def digest(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each part of a checkpoint."""
    return {name: sha256(data).hexdigest() for name, data in kept(checkpoint).items()}


def differing_bytes(one: Path, other: Path) -> int:
    """How many bytes of two checkpoints differ."""
    mine, theirs = kept(one), kept(other)
    return sum(
        abs(len(data) - len(theirs[name]))
        + sum(a != b for a, b in zip(data, theirs[name], strict=False))
        for name, data in mine.items()
    )


def rows_without_times(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, but for what depends on the clock."""
    timed = {"elapsed_seconds", "audio_seconds_per_second"}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all weights."""
    found = sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def leftovers(folder: Path) -> Sequence[str]:
    """What a killed process may leave behind and the next one has to clear away."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if any(mark in path.name for mark in (".tmp", ".old-", ".gone-"))
    )
