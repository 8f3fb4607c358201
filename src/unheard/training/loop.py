"""The one training loop, for every objective.

A step is: micro-batches, each a summed loss and its backward pass; one division by the global
count; clip; finite? ; update. What a step draws depends on the seed and the step alone, so a run
that was stopped anywhere goes on as if it had not been.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from unheard.data.batching import Position
from unheard.data.dataset import AudioBatch, LabelledBatch, Prefetch, Source
from unheard.errors import CheckpointError, ConfigError, TrainingDivergedError
from unheard.files import append_jsonl, locked
from unheard.objectives.base import LossTerms
from unheard.tensors import derive_seed, derived_generator
from unheard.training.checkpoint import (
    CheckpointFolder,
    TrainingState,
    restore_replaced,
    save_checkpoint,
    verify_checkpoint,
)
from unheard.training.config import TrainingConfig
from unheard.training.logging import RunLog, Sample
from unheard.training.memory import keep_freed_memory
from unheard.training.optim import finish_gradient, make_optimizer
from unheard.training.precision import autocast, resolve_precision
from unheard.training.schedule import rate_scale

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch", AudioBatch, LabelledBatch)
Trained = TypeVar("Trained", bound=nn.Module, contravariant=True)
Taken = TypeVar("Taken", AudioBatch, LabelledBatch, contravariant=True)


class Objective(Protocol[Trained, Taken]):
    """Turns a batch into a summed loss."""

    def __call__(
        self, model: Trained, batch: Taken, *, progress: float, generator: torch.Generator
    ) -> LossTerms:
        """Run the model on a batch; `progress` is the share of the run that is done."""
        ...


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a validation found.

    Attributes:
        metric: the figure that decides which checkpoint is best; lower is better.
        values: everything to log.
        samples: sample predictions.
    """

    metric: float
    values: dict[str, float]
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        state: of the last step.
        best: folder with the best weights by validation; the figures of that validation are in
            its state, as `extra["validation"]`.
        nonfinite_steps: updates that were skipped because a loss or gradient was not finite.
    """

    state: TrainingState
    best: Path
    nonfinite_steps: int


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved everything."""


def train(
    model: Model,
    objective: Objective[Model, Batch],
    source: Source[Batch],
    config: TrainingConfig,
    *,
    folder: Path,
    name: str,
    validate: Callable[[], Validation],
    head: nn.Module | None = None,
    device: torch.device | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train a model, or go on where an earlier call with the same folder stopped.

    Args:
        model: what learns; it ends with the weights of the last step.
        objective: the loss.
        source: batches by position.
        config: settings; on resuming they should be those of the first call.
        folder: run folder: checkpoints/, best/, metrics.jsonl, samples.jsonl, tensorboard/.
        name: of the stage, for the live line.
        validate: called now and then with the model in evaluation mode.
        head: the part that learns alone during `config.head_only`.
        device: where to train; by default where the model is.
        quiet: print nothing.

    Raises:
        Interrupted: on SIGINT or SIGTERM, after a checkpoint was saved. A second signal stops at
            once.
        TrainingDivergedError: after `config.patience_nonfinite` non-finite steps in a row, or
            when no validation was finite.
        ConfigError: if another process trains in this folder.
    """
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    device = device or next(model.parameters()).device
    model.to(device)
    with locked(folder / "lock"):
        run = _Run(
            model=model,
            objective=objective,
            source=source,
            config=config,
            folder=folder,
            log=RunLog(folder, name, quiet),
            validate=validate,
            head=head,
            device=device,
        )
        try:
            return run.run()
        finally:
            run.log.close()


class _Run(Generic[Model, Batch]):
    """The moving parts of one call of `train`."""

    def __init__(
        self,
        *,
        model: Model,
        objective: Objective[Model, Batch],
        source: Source[Batch],
        config: TrainingConfig,
        folder: Path,
        log: RunLog,
        validate: Callable[[], Validation],
        head: nn.Module | None,
        device: torch.device,
    ) -> None:
        self.model = model
        self.objective = objective
        self.source = source
        self.config = config
        self.folder = folder
        self.log = log
        self.validate = validate
        self.head = head
        self.device = device
        self.dtype = resolve_precision(config.precision, device)
        self.optimizer = make_optimizer(model, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.checkpoints = CheckpointFolder(folder / "checkpoints")
        self.state = TrainingState()
        self.nonfinite_total = 0
        self.nonfinite_in_row = 0

    def run(self) -> TrainingResult:
        """Resume, then step until the budget is spent."""
        restored = self.checkpoints.load_newest(model=self.model, optimizer=self.optimizer)
        if restored is not None:
            self.state = self._with_best(restored)
            self.log.say(f"going on from step {restored.step}")
        self.log.resume_at(self.state.step)
        if self.state.progress < 1:
            with _stop_signals() as stop_requested:
                self._steps(stop_requested)
        elif self.state.best_metric is None:
            self._validate()
            self._save()
        if self.state.best_metric is None:
            raise TrainingDivergedError(
                f"No validation in {self.folder} gave a finite figure, so there is no best step. "
                f"{self.folder / 'metrics.jsonl'} shows how the run went; lower the learning rate.",
                step=self.state.step,
            )
        return TrainingResult(
            state=self.state, best=self.folder / "best", nonfinite_steps=self.nonfinite_total
        )

    def _with_best(self, restored: TrainingState) -> TrainingState:
        """Bring a restored state in line with the best weights that are on the disk.

        Those may be later than the checkpoint, when the run was killed between the two, or gone.
        """
        best = self.folder / "best"
        restore_replaced(best)
        try:
            found = verify_checkpoint(best)
        except CheckpointError as error:
            if restored.best_metric is not None:
                log.warning("%s The best step is looked for anew from here.", error)
            return replace(restored, best_metric=None, best_step=0)
        if found.step <= restored.step or found.best_metric is None:
            return restored
        if restored.best_metric is not None and restored.best_metric < found.best_metric:
            return restored
        return replace(restored, best_metric=found.best_metric, best_step=found.step)

    def _steps(self, stop_requested: threading.Event) -> None:
        position = self.source.plan.within(Position(epoch=self.state.epoch, batch=self.state.batch))
        batches: Prefetch[Batch] = Prefetch(self.source, position)
        window = _Window()
        started = time.monotonic() - self.state.elapsed_seconds
        last_checkpoint = last_validation = self.state.elapsed_seconds
        try:
            stream = iter(batches)
            while self.state.progress < 1:
                began = time.monotonic()
                figures = self._step(stream)
                elapsed = time.monotonic() - started
                figures.seconds = time.monotonic() - began
                window.add(figures)
                self._advance(elapsed)
                if self.state.step % self.config.log_every_steps == 0 or self.state.progress >= 1:
                    self._log_window(window, elapsed)
                    window = _Window()
                over = self.state.progress >= 1
                if over or self._validation_due(elapsed - last_validation):
                    self._validate()
                    last_validation = time.monotonic() - started
                stop = stop_requested.is_set()
                due = elapsed - last_checkpoint >= self.config.checkpoint_every_seconds
                if over or stop or due:
                    self._save()
                    last_checkpoint = time.monotonic() - started
                if stop:
                    break
        finally:
            batches.close()
        if stop_requested.is_set():
            raise Interrupted(
                f"Stopped at step {self.state.step}; everything is saved. "
                "Repeat the command to go on."
            )

    def _step(self, stream: Iterator[tuple[Position, Batch]]) -> "_StepFigures":
        """Do one update; returns sums for the log."""
        step = self.state.step
        self._set_trainable()
        self.model.train()
        rate = self.config.learning_rate * rate_scale(self.config.schedule, self.state.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        figures = _StepFigures(learning_rate=rate)
        ids: list[str] = []
        position = None
        for micro in range(self.config.accumulation):
            position, batch = next(stream)
            ids.extend(batch.ids)
            figures.audio_seconds += batch.audio_seconds
            # Dropout draws from the global generator, everything else from its own.
            torch.manual_seed(derive_seed(self.config.seed, "dropout", step, micro))
            generator = derived_generator(self.config.seed, "step", step, micro, device=self.device)
            with autocast(self.dtype, self.device):
                terms = self.objective(
                    self.model,
                    batch.to(self.device),
                    progress=self.state.progress,
                    generator=generator,
                )
            terms.total.backward()
            figures.add(terms)
        figures.grad_norm = finish_gradient(
            self.parameters, count=max(figures.count, 1.0), clip_norm=self.config.clip_norm
        )
        if math.isfinite(figures.grad_norm) and math.isfinite(figures.total):
            self.optimizer.step()
            self.nonfinite_in_row = 0
        else:
            figures.skipped = True
            self._record_nonfinite(figures, ids)
        self.optimizer.zero_grad(set_to_none=True)
        if position is None:
            raise ConfigError(f"accumulation must be at least 1, got {self.config.accumulation}.")
        self.state = replace(
            self.state,
            step=step + 1,
            epoch=position.epoch,
            batch=position.batch,
            audio_seconds=self.state.audio_seconds + figures.audio_seconds,
        )
        return figures

    def _advance(self, elapsed_seconds: float) -> None:
        self.state = replace(
            self.state,
            elapsed_seconds=elapsed_seconds,
            progress=self.config.budget.advance(
                self.state.progress, step=self.state.step, elapsed_seconds=elapsed_seconds
            ),
        )

    def _set_trainable(self) -> None:
        """Let only the head learn during the first share of the run."""
        if self.head is None or self.config.head_only == 0:
            return
        alone = self.state.progress < self.config.head_only
        for parameter in self.model.parameters():
            parameter.requires_grad_(not alone)
        for parameter in self.head.parameters():
            parameter.requires_grad_(True)

    def _record_nonfinite(self, figures: "_StepFigures", ids: list[str]) -> None:
        """Name the batch whose loss or gradient is not finite; stop after too many in a row."""
        self.nonfinite_total += 1
        self.nonfinite_in_row += 1
        step = self.state.step + 1
        append_jsonl(
            self.folder / "bad_batches.jsonl", {"step": step, "ids": ids, "reason": "nonfinite"}
        )
        self.log.say(
            f"step {step}: loss or gradient is not finite; the weights were left as "
            f"they are, the batch is in {self.folder / 'bad_batches.jsonl'}"
        )
        if self.nonfinite_in_row >= self.config.patience_nonfinite:
            self._save()
            raise TrainingDivergedError(
                f"{self.nonfinite_in_row} steps in a row had a loss or gradient that is not "
                f"finite (last at step {step}, loss {figures.total}). The weights of the last good "
                "step were saved. Lower the learning rate, or look at the recordings in "
                f"{self.folder / 'bad_batches.jsonl'}.",
                step=step,
            )

    def _log_window(self, window: "_Window", elapsed_seconds: float) -> None:
        values = window.values()
        values["elapsed_seconds"] = elapsed_seconds
        values["audio_seconds"] = self.state.audio_seconds
        values["progress"] = self.state.progress
        self.log.write("train", self.state.step, values)
        left = self._seconds_left(elapsed_seconds)
        self.log.show(self.state.step, values, seconds_left=left)

    def _seconds_left(self, elapsed_seconds: float) -> float:
        if self.state.progress <= 0:
            return math.inf
        return elapsed_seconds * (1 - self.state.progress) / self.state.progress

    def _validation_due(self, seconds_since: float) -> bool:
        if self.config.validate_every_steps is not None:
            return self.state.step % self.config.validate_every_steps == 0
        return seconds_since >= self.config.validate_every_seconds

    def _validate(self) -> None:
        """Validate, log, keep the weights when they are the best so far."""
        self.model.eval()
        with torch.inference_mode():
            found = self.validate()
        values = {**found.values, "elapsed_seconds": self.state.elapsed_seconds}
        self.log.write("valid", self.state.step, values)
        self.log.write_samples(self.state.step, found.samples)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in found.values.items())
        self.log.say(f"step {self.state.step} valid  {shown}")
        best = self.state.best_metric
        if math.isfinite(found.metric) and (best is None or found.metric <= best):
            self.state = replace(self.state, best_metric=found.metric, best_step=self.state.step)
            save_checkpoint(
                self.folder / "best",
                model=self.model,
                optimizer=None,
                state=replace(self.state, extra={"validation": found.values}),
            )

    def _save(self) -> None:
        self.checkpoints.save(model=self.model, optimizer=self.optimizer, state=self.state)


@dataclass
class _StepFigures:
    """Sums of one update."""

    learning_rate: float
    total: float = 0.0
    count: float = 0.0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    grad_norm: float = 0.0
    skipped: bool = False
    parts: dict[str, float] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)

    def add(self, terms: LossTerms) -> None:
        """Add a micro-batch."""
        self.total += float(terms.total.detach())
        self.count += float(terms.count)
        for name, value in terms.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + float(value)
        for name, value in terms.means.items():
            self.means[name] = float(value)


class _Window:
    """Averages over the steps since the last row."""

    def __init__(self) -> None:
        self.steps: list[_StepFigures] = []

    def add(self, figures: _StepFigures) -> None:
        """Add one update."""
        self.steps.append(figures)

    def values(self) -> dict[str, float]:
        """Figures of the window: sums over counts, plain means of ratios."""
        good = [figures for figures in self.steps if not figures.skipped]
        seconds = max(sum(figures.seconds for figures in self.steps), 1e-9)
        audio_seconds = sum(figures.audio_seconds for figures in self.steps)
        values = {
            "learning_rate": self.steps[-1].learning_rate,
            "audio_seconds_per_second": audio_seconds / seconds,
            "skipped_steps": float(len(self.steps) - len(good)),
        }
        if good:
            count = max(sum(figures.count for figures in good), 1.0)
            values["loss"] = sum(figures.total for figures in good) / count
            values["grad_norm"] = _mean(figures.grad_norm for figures in good)
            for name in good[0].parts:
                values[name] = sum(figures.parts[name] for figures in good) / count
            for name in good[0].means:
                values[name] = _mean(figures.means[name] for figures in good)
        return values


def _mean(values: Iterator[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event; the second acts as it always does.

    A signal that this process was told to ignore, as `nohup` does, stays ignored.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    previous: Mapping[signal.Signals, object] = {
        name: handler
        for name in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(name)) is not signal.SIG_IGN
    }

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        requested.set()
        for name, handler in previous.items():
            signal.signal(name, handler)  # pyright: ignore[reportArgumentType]

    for name in previous:
        signal.signal(name, request)
    try:
        yield requested
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)  # pyright: ignore[reportArgumentType]
