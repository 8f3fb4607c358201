"""Training runs shared by several processes, each of which does a list of them in one start."""

import errno
import json
import math
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tests import health_runs, tones, training_runs
from torch import Tensor, nn

from unheard.audio.signal import InputSpec
from unheard.data.dataset import UnlabelledSource
from unheard.data.pcm import PcmStore
from unheard.data.units import CepstralFeatures, open_units
from unheard.models.config import CtcConfig, EncoderConfig, MaskedUnitConfig, MaskingConfig
from unheard.models.ctc import CtcModel
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import contrastive_objective
from unheard.objectives.ctc import ctc_objective
from unheard.objectives.masked_units import masked_unit_objective
from unheard.training import checkpoint
from unheard.training.config import Execution, TrainingConfig
from unheard.training.distributed import ALONE, Ranks, join_ranks
from unheard.training.health.findings import Nature
from unheard.training.health.watch import HealthWatch
from unheard.training.loop import Interrupted, Validation, train
from unheard.training.schedule import Budget

Kind = Literal["contrastive", "units", "ctc"]
Flaw = Literal["none", "means", "nan", "disk"]
STEPS = 20
UNITS = 6


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sitting of a run.

    Attributes:
        kind: objective.
        data: folder with the decoded recordings and their units.
        folder: run folder.
        execution: how.
        config: settings.
        flaw: "means" divides each process's loss by its own count; "nan" spoils the second
            micro-batch of the fourth update; "disk" lets the second process fail to write.
        stop: (rank, step, signal) that the process sends itself in that update.
        lost_above: a watch calls the run lost at step 8 if the learning rate is above this.
    """

    kind: Kind
    data: Path
    folder: Path
    execution: Execution = field(default_factory=Execution)
    config: TrainingConfig
    flaw: Flaw = "none"
    stop: tuple[int, int, int] | None = None
    lost_above: float | None = None


def settings(**more: Any) -> TrainingConfig:
    """Twenty updates of two micro-batches each, of different lengths."""
    config = TrainingConfig(
        budget=Budget(max_steps=STEPS),
        learning_rate=5e-4,
        batch_seconds=4.0,
        accumulation=2,
        min_seconds=0.1,
        max_seconds=1.0,
        precision="float32",
        head_only=0.2,
        log_every_steps=1,
        validate_every_steps=10,
        checkpoint_every_seconds=1e9,
    )
    return replace(config, **more)


def encoder(**more: Any) -> EncoderConfig:
    """A tiny encoder with everything that is drawn: dropout and skipped layers."""
    return replace(tones.tiny_network().encoder, layers=3, dropout=0.1, layer_drop=0.3, **more)


def decode(folder: Path) -> Path:
    """Decode recordings of tones and label them with units."""
    store = training_runs.decode(folder)
    open_units(store, CepstralFeatures(encoder()), units=UNITS, seed=0, workers=1)
    return folder / "store"


def make_model(kind: Kind) -> nn.Module:
    torch.manual_seed(1)
    masking = MaskingConfig(time_probability=0.3, time_span_frames=3)
    if kind == "contrastive":
        return PretrainingModel(replace(tones.tiny_network(), encoder=encoder()))
    if kind == "units":
        return MaskedUnitModel(MaskedUnitConfig(encoder=encoder(), units=UNITS, masking=masking))
    # Frozen convolutions, as in the paper: parameters that never have a gradient.
    frozen = encoder(feature_grad_scale=0.0)
    return CtcModel(CtcConfig(encoder=frozen, vocab=len(training_runs.LETTERS), masking=masking))


def make_source(kind: Kind, data: Path, config: TrainingConfig) -> Any:
    store = PcmStore(data)
    if kind == "ctc":
        return training_runs.make_source("finetune", store, config)
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


OBJECTIVES: dict[str, Any] = {
    "contrastive": contrastive_objective,
    "units": masked_unit_objective,
    "ctc": partial(ctc_objective, blank=0),
}


def do(run: Run, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Run a sitting; returns where it ended."""
    model = make_model(run.kind)
    objective = OBJECTIVES[run.kind]
    signals = iter([run.stop[2]] if run.stop is not None else [])
    passes = 0

    def watched(model: nn.Module, batch: Any, *, progress: float, **more: Any) -> LossTerms:
        nonlocal passes
        micro = (passes * ranks.world + ranks.rank) % run.config.accumulation
        passes += 1
        step = round(progress * STEPS)
        if run.stop is not None and run.stop[:2] == (ranks.rank, step):
            for number in signals:
                os.kill(os.getpid(), number)
        terms = objective(model, batch, progress=progress, **more)
        if run.flaw == "means":
            one = torch.ones_like(terms.count)
            terms = replace(terms, total=terms.total / terms.count, count=one)
        if run.flaw == "nan" and step == 3 and micro == 1:
            terms = replace(terms, total=terms.total * math.nan)
        return terms

    def validate() -> Validation:
        weight = sum(float(each.detach().double().abs().sum()) for each in model.parameters())
        return Validation(metric=-weight, values={"weight": weight})

    def write(tensors: dict[str, Tensor], path: Path) -> None:
        if run.flaw == "disk" and ranks.rank == 1:
            raise OSError(errno.EIO, "disk on fire")
        original(tensors, path)

    original, checkpoint.save_file = checkpoint.save_file, write
    # What a process drew before must not matter.
    torch.manual_seed(random.SystemRandom().randrange(2**40))
    try:
        result = train(
            model,
            watched,
            make_source(run.kind, run.data, run.config),
            run.config,
            folder=run.folder,
            name=run.kind,
            validate=validate,
            head=getattr(model, "head", None) if run.kind == "ctc" else None,
            quiet=True,
            ranks=ranks,
            execution=run.execution,
            watch=None if run.lost_above is None else _watch(run.lost_above),
        )
    except Interrupted as stopped:
        return {"stopped": str(stopped)}
    except OSError as error:
        return {"failed": str(error)}
    finally:
        checkpoint.save_file = original
    rewinds = result.state.rewinds
    return {"step": result.state.step, "weights": digest(model), "rewinds": rewinds}


def _watch(limit: float) -> HealthWatch:
    detector = type("Limited", (health_runs.RateTooHigh,), {"limit": limit})
    return health_runs.Scripted(Nature(objective="ctc", learning_rate=1.0), detector=detector)


def digest(model: nn.Module) -> list[float]:
    """A number a tensor; equal for equal weights."""
    return [float(value.double().sum()) for value in model.state_dict().values()]


def work(runs: Sequence[Run], environment: dict[str, str], record: Path, meet: bool) -> None:
    """Do runs in this process, as one of several."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    with join_ranks(torch.device("cpu")) as ranks:
        found: dict[str, Any] = {run.folder.name: do(run, ranks) for run in runs}
        if meet:
            found["meeting"] = meeting(ranks)
        record.with_suffix(f".{ranks.rank}.json").write_text(json.dumps(found))


def meeting(ranks: Ranks) -> dict[str, Any]:
    """What processes agree on."""
    found: dict[str, Any] = {
        "told": ranks.tell_all({"rank": ranks.rank, "text": "ŋ" * (3 * ranks.rank)}),
        "any": [ranks.any(False), ranks.any(ranks.rank == 1), ranks.any(True)],
        "first": ranks.of_first(0.1 + ranks.rank),
        "sum": ranks.sum(torch.tensor([1.0, float(ranks.rank)])).tolist(),
        "asked": ranks.ask_first(lambda: {"by": ranks.rank}),
        "then": ranks.first_then(lambda: "made", lambda: "read"),
    }
    for name, failing in (("first_failed", 0), ("second_failed", 1)):
        try:
            with ranks.same_fate(OSError):
                if ranks.rank == failing:
                    raise FileNotFoundError("disk on fire")
        except Exception as error:  # noqa: BLE001 - what kind is what is tested
            found[name] = [type(error).__name__, str(error)]
    try:
        ranks.ask_first(lambda: 1 // 0)
    except Exception as error:  # noqa: BLE001
        found["asked_failed"] = [type(error).__name__, str(error)]
    return found


def start(
    runs: Sequence[Run], record: Path, *, world: int = 2, meet: bool = False
) -> list[BaseProcess]:
    """Start processes, forked from a server that has imported torch once."""
    context = multiprocessing.get_context("forkserver")
    modules = ["tests.rank_runs", "torch.utils.tensorboard.writer", "unheard.training.shards"]
    context.set_forkserver_preload(modules)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_PORT": str(port),
        }
        process = context.Process(target=work, args=(runs, environment, record, meet), daemon=True)
        process.start()
        processes.append(process)
    return processes


def sit(
    runs: Sequence[Run], record: Path, *, world: int = 2, meet: bool = False
) -> list[dict[str, Any]]:
    """Do runs in several processes; returns what each of them found."""
    processes = start(runs, record, world=world, meet=meet)
    deadline = time.monotonic() + 170
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode != 0:
            # The others follow within a minute.
            deadline = min(deadline, time.monotonic() + 60)
    codes = [process.exitcode for process in processes]
    if codes != [0] * world:
        raise AssertionError(f"processes ended with {codes}")
    return [json.loads(record.with_suffix(f".{rank}.json").read_text()) for rank in range(world)]


def final_weights(folder: Path, *, step: int = STEPS) -> dict[str, Tensor]:
    """Weights of a checkpoint, whole however they were stored."""
    from unheard.training.stored import StoredTensors

    stored = StoredTensors(folder / "checkpoints" / f"step_{step:08d}", "model")
    return {name: stored.whole(name) for name in stored.shapes}


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train" and "loss" in row]


def furthest(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest difference between two lists of numbers."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


def furthest_weight(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference between two sets of weights."""
    if one.keys() != other.keys():
        raise AssertionError(f"{sorted(one)} are not {sorted(other)}")
    return max(float((one[name] - other[name]).abs().max()) for name in one)


if __name__ == "__main__":
    sys.exit("a module for tests")
