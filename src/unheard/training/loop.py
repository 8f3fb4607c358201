"""The one training loop, for every objective.

A step is: micro-batches, each a summed loss and its backward pass; one division by the global
count; clip; finite? ; update. What a step draws depends on the seed and the step alone, so a run
that was stopped anywhere goes on as if it had not been.

Several processes share an update's micro-batches. They are numbered through, process 0 has the
first, and what one draws depends on its number: the same run on any number of processes.
"""

import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from unheard.data.batching import Position
from unheard.data.dataset import AudioBatch, LabelledBatch, Prefetch, Source
from unheard.data.texts import TextBatch
from unheard.errors import (
    SIGNAL_TO_REQUEUE,
    CheckpointError,
    ConfigError,
    Interrupted,
    TrainingDivergedError,
)
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
from unheard.training.config import Execution, TrainingConfig
from unheard.training.distributed import ALONE, Ranks
from unheard.training.health.findings import HealthFinding
from unheard.training.health.keeper import MOST_REWINDS, SLOWER, HealthKeeper
from unheard.training.health.watch import HealthWatch
from unheard.training.logging import NoLog, RunLog, Sample
from unheard.training.memory import keep_freed_memory
from unheard.training.optim import finish_gradient, make_optimizer
from unheard.training.parallel import hold, prepared_layers, skip_same_layers
from unheard.training.precision import autocast, resolve_precision
from unheard.training.schedule import rate_scale

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch", AudioBatch, LabelledBatch, TextBatch)
Trained = TypeVar("Trained", bound=nn.Module, contravariant=True)
Taken = TypeVar("Taken", AudioBatch, LabelledBatch, TextBatch, contravariant=True)


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
    ranks: Ranks = ALONE,
    execution: Execution | None = None,
    watch: HealthWatch | None = None,
) -> TrainingResult:
    """Train a model, or go on where an earlier call with the same folder stopped.

    When several processes train together, all call this with the same arguments, see the same
    folder, and end here together, whichever of them is told to stop.

    Args:
        model: what learns; it ends with the weights of the last step.
        objective: the loss.
        source: batches by position.
        config: settings; on resuming they should be those of the first call.
        folder: run folder: checkpoints/, best/, metrics.jsonl, samples.jsonl, tensorboard/.
        name: of the stage, for the live line.
        validate: called now and then with the model in evaluation mode, in every process.
        head: the part that learns alone during `config.head_only`.
        device: where to train; by default where the model is.
        quiet: print nothing.
        ranks: this process among those that train together. The first alone writes.
        execution: how the work is done; it may be another one on resuming.
        watch: looks at every row of figures; None for no watch. What happens when it calls the
            run lost, `execution.on_collapse` says.

    Raises:
        Interrupted: on SIGINT, SIGTERM or SIGUSR1, after a checkpoint was saved. A second signal
            stops at once.
        TrainingDivergedError: after `config.patience_nonfinite` non-finite steps in a row, when
            no validation was finite, or when the watch calls the run lost and it is to end then.
        WorkerError, AudioError, FormatError: if a batch cannot be loaded, after a checkpoint was
            saved.
        DiskFullError: if there is no room for a checkpoint or a row of the log.
        NoCheckpointError: if there are checkpoints to go on from and none is whole.
        ConfigError: if another process trains in this folder, or the micro-batches of an update
            cannot be shared evenly.
        RankError: when another of the processes failed.
    """
    keep_freed_memory()
    device = device or next(model.parameters()).device
    model.to(device)
    execution = execution or Execution()
    with _locked_by_first(folder, ranks), ExitStack() as prepared:
        run = _Run(
            model=model,
            objective=objective,
            source=source,
            config=config,
            folder=folder,
            log=RunLog(folder, name, quiet) if ranks.first else NoLog(folder, name),
            validate=validate,
            head=head,
            device=device,
            ranks=ranks,
            execution=execution,
            watch=watch,
        )
        prepared.enter_context(run.held.in_use())
        prepared.enter_context(prepared_layers(run.held.learner, execution))
        prepared.callback(run.log.close)
        return run.run()


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
        ranks: Ranks,
        execution: Execution,
        watch: HealthWatch | None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.source = source
        self.config = config
        self.folder = folder
        self.log = log
        self.validate = validate
        self.device = device
        self.ranks = ranks
        self.micro_batches = _share(config.accumulation, ranks)
        self.dtype = resolve_precision(config.precision, device)
        self.trunk = _learning_outside(head, model)
        self.held = hold(model, execution, ranks)
        self.optimizer = make_optimizer(self.held.stored, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.checkpoints = CheckpointFolder(folder / "checkpoints", ranks=ranks)
        self.health = HealthKeeper(
            watch, on_collapse=execution.on_collapse, folder=folder, log=log, ranks=ranks
        )
        self.state = TrainingState()
        self.window = _Window()
        self.saved_step = 0
        self.head_alone = False
        self.started = time.monotonic()
        self.nonfinite_total = 0
        self.nonfinite_in_row = 0

    def run(self) -> TrainingResult:
        """Resume, then step until the budget is spent."""
        restored = self.checkpoints.load_newest(model=self.held.stored, optimizer=self.optimizer)
        if restored is not None:
            self._take_up(restored)
            self.saved_step = restored.step
            self.log.say(f"going on from step {restored.step}")
        self.log.resume_at(self.state.step)
        self.health.resume(self.state.rewinds, begins=restored is None)
        if restored is None and self.health.on_collapse == "rewind":
            self._save()
        if self.state.progress < 1 or self.health.alarm is not None:
            with _stop_signals() as stop_requested:
                self._learn(stop_requested)
            self.held.collect()
        elif self.state.best_metric is None:
            self._validate()
            self._save()
        else:
            self.held.collect()
        if self.state.best_metric is None:
            raise TrainingDivergedError(
                f"No validation in {self.folder} gave a finite figure, so there is no best step. "
                f"{self.folder / 'metrics.jsonl'} shows how the run went; lower the learning rate.",
                step=self.state.step,
            )
        return TrainingResult(
            state=self.state, best=self.folder / "best", nonfinite_steps=self.nonfinite_total
        )

    def _take_up(self, restored: TrainingState) -> None:
        """Go on from a state that was restored."""
        self.window = _Window(restored.window)
        self.state = replace(self._with_best(restored), window=[])

    def _with_best(self, restored: TrainingState) -> TrainingState:
        """Bring a restored state in line with the best weights that are on the disk.

        Those may be later than the checkpoint, when the run was killed between the two, or gone.
        """
        metric, step = self.ranks.ask_first(lambda: self._look_for_best(restored))
        return replace(restored, best_metric=metric, best_step=step)

    def _look_for_best(self, restored: TrainingState) -> tuple[float | None, int]:
        """Find the best validation figure that belongs to weights on the disk, and its step."""
        best = self.folder / "best"
        known = (restored.best_metric, restored.best_step)
        restore_replaced(best)
        try:
            found = verify_checkpoint(best)
        except CheckpointError as error:
            if restored.best_metric is not None:
                log.warning("%s The best step is looked for anew from here.", error)
            return None, 0
        if found.step <= restored.step or found.best_metric is None:
            return known
        if restored.best_metric is not None and restored.best_metric < found.best_metric:
            return known
        return found.best_metric, found.step

    def _learn(self, stop_requested: "_StopRequest") -> None:
        """Step until the budget is spent, and go back or end where the watch calls the run lost."""
        while True:
            if self.health.alarm is not None:
                self._answer(self.health.alarm)
            self._steps(stop_requested)
            if self.health.alarm is None:
                return

    def _answer(self, alarm: HealthFinding) -> None:
        """Save and end, or go back to where all was well and on from there more slowly."""
        lost = f"Step {alarm.step}: {alarm.message} {alarm.advice}"
        if self.health.on_collapse != "rewind":
            if self.saved_step != self.state.step:
                self._save()
            raise TrainingDivergedError(
                f"{lost} Everything is saved. To go on from before, with half the learning rate, "
                "repeat the command with --on-collapse rewind; to go on regardless, with "
                "--on-collapse warn.",
                step=self.state.step,
            )
        rewinds = self.state.rewinds
        if len(rewinds) >= MOST_REWINDS:
            raise TrainingDivergedError(
                f"{lost} The run went back {len(rewinds)} times already and came to the same end, "
                f"at last with {SLOWER ** len(rewinds):g} times the learning rate. Something else "
                "is wrong.",
                step=self.state.step,
            )
        restored = self.checkpoints.load_newest(
            model=self.held.stored, optimizer=self.optimizer, up_to=self.health.clean_step
        )
        if restored is None:
            raise TrainingDivergedError(
                f"{lost} There is no checkpoint from before to go back to: start again in another "
                "folder with a lower learning rate.",
                step=self.state.step,
            )
        step = restored.step
        back = {"step": step, "from_step": self.state.step, "code": alarm.code}
        if self.ranks.ask_first(lambda: self._forget_later_best(step)):
            restored = replace(restored, best_metric=None, best_step=0)
        self._take_up(restored)
        self.state = replace(self.state, rewinds=[*rewinds, back])
        self.nonfinite_in_row = 0
        self._save()
        self.log.say(
            f"going back from step {alarm.step} to step {step}, and on from there with "
            f"{SLOWER ** len(self.state.rewinds):g} times the learning rate"
        )
        self.log.resume_at(step)
        self.health.resume(self.state.rewinds, begins=False)

    def _forget_later_best(self, step: int) -> bool:
        """Delete the best weights if they are from after a step: they are of the lost part."""
        best = self.folder / "best"
        restore_replaced(best)
        try:
            later = verify_checkpoint(best).step > step
        except CheckpointError:
            return False
        if later:
            shutil.rmtree(best)
        return later

    def _steps(self, stop_requested: "_StopRequest") -> None:
        position = self.source.plan.within(Position(epoch=self.state.epoch, batch=self.state.batch))
        batches: Prefetch[Batch] = Prefetch(
            self.source, position, rank=self.ranks.rank, world=self.ranks.world
        )
        self.started = time.monotonic() - self.state.elapsed_seconds
        last_checkpoint = last_validation = self.state.elapsed_seconds
        stop = False
        try:
            stream = iter(batches)
            while self.state.progress < 1 and not stop and self.health.alarm is None:
                began = time.monotonic()
                figures = self._step(stream, stop_requested)
                elapsed = self._elapsed() if self.ranks.alone else figures.elapsed_seconds
                figures.seconds = time.monotonic() - began
                self.window.add(figures)
                self._advance(elapsed)
                if self.state.step % self.config.log_every_steps == 0 or self.state.progress >= 1:
                    self._log_window(elapsed)
                over = self.state.progress >= 1
                if over or self._validation_due(elapsed - last_validation):
                    self._validate()
                    last_validation = self.ranks.of_first(self._elapsed())
                stop = stop_requested.is_set() if self.ranks.alone else figures.stop
                due = elapsed - last_checkpoint >= self.config.checkpoint_every_seconds
                if over or stop or due:
                    self._save()
                    last_checkpoint = self.ranks.of_first(self._elapsed())
        finally:
            batches.close()
            skip_same_layers(self.held.learner, None)
        if signals := [number for number in self.ranks.tell_all(stop_requested.signal) if number]:
            raise Interrupted(
                f"Stopped at step {self.state.step}; everything is saved. "
                "Repeat the command to go on.",
                signal=signals[0],
            )

    def _elapsed(self) -> float:
        """Time spent in training by this process's clock, over all sittings [seconds]."""
        return time.monotonic() - self.started

    def _step(
        self, stream: Iterator[tuple[Position, Batch]], stop_requested: "_StopRequest"
    ) -> "_StepFigures":
        """Do one update; returns sums over all processes for the log."""
        step = self.state.step
        self._let_learn()
        self.held.learner.train()
        if self.config.accumulation > 1:
            layers = derived_generator(self.config.seed, "layers", step)
            skip_same_layers(self.held.learner, layers)
        rate = self.config.learning_rate * rate_scale(self.config.schedule, self.state.progress)
        rate *= SLOWER ** len(self.state.rewinds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = _Sums(self.device)
        heard: list[tuple[str, str]] = []
        position = Position()
        for turn in range(self.micro_batches):
            position, batch = self._next(stream)
            heard.extend(zip(batch.ids, batch.audio or batch.ids, strict=True))
            micro = turn * self.ranks.world + self.ranks.rank
            # Dropout draws from the global generator, everything else from its own.
            torch.manual_seed(derive_seed(self.config.seed, "dropout", step, micro))
            generator = derived_generator(self.config.seed, "step", step, micro, device=self.device)
            with self.held.micro_batch(last=turn + 1 == self.micro_batches):
                with autocast(self.dtype, self.device):
                    terms = self.objective(
                        self.held.learner,  # pyright: ignore[reportArgumentType] - or a wrapper
                        batch.to(self.device),
                        progress=self.state.progress,
                        generator=generator,
                    )
                terms.total.backward()
            sums.add(terms, audio_seconds=batch.audio_seconds)
        figures = sums.meet(
            self.ranks,
            norm_share=self.held.norm_share(self.parameters),
            stop=stop_requested.is_set(),
            elapsed_seconds=self._elapsed(),
        )
        figures.learning_rate = rate
        figures.grad_norm = finish_gradient(
            self.parameters,
            count=max(figures.count, 1.0),
            clip_norm=self.config.clip_norm,
            norm=self.held.norm(figures.grad_norm),
        )
        if math.isfinite(figures.grad_norm) and math.isfinite(figures.total):
            self.optimizer.step()
            self.nonfinite_in_row = 0
        else:
            figures.skipped = True
            self._record_nonfinite(figures, heard)
        self.optimizer.zero_grad(set_to_none=True)
        self.state = replace(
            self.state,
            step=step + 1,
            epoch=position.epoch,
            batch=position.batch,
            audio_seconds=self.state.audio_seconds + figures.audio_seconds,
        )
        return figures

    def _next(self, stream: Iterator[tuple[Position, Batch]]) -> tuple[Position, Batch]:
        """Take the next batch; what was learnt so far is saved when it cannot be loaded.

        Several processes cannot meet to save once one of them has failed: they lose what came
        after the last checkpoint.
        """
        try:
            return next(stream)
        except Exception:
            if self.ranks.alone and self.state.step > self.saved_step:
                self._save()
            raise

    def _advance(self, elapsed_seconds: float) -> None:
        self.state = replace(
            self.state,
            elapsed_seconds=elapsed_seconds,
            progress=self.config.budget.advance(
                self.state.progress, step=self.state.step, elapsed_seconds=elapsed_seconds
            ),
        )

    def _let_learn(self) -> None:
        """Let only the head learn during the first share of the run."""
        alone = bool(self.trunk) and self.state.progress < self.config.head_only
        if alone != self.head_alone:
            self.held.let_learn(self.trunk, learn=not alone)
            self.head_alone = alone

    def _record_nonfinite(self, figures: "_StepFigures", heard: list[tuple[str, str]]) -> None:
        """Name the batch whose loss or gradient is not finite; stop after too many in a row.

        Args:
            figures: of the update.
            heard: id and recording of each of its utterances.
        """
        self.nonfinite_total += 1
        self.nonfinite_in_row += 1
        step = self.state.step + 1
        shares = self.ranks.tell_all(heard)
        row: dict[str, Any] = {
            "step": step,
            "ids": [name for share in shares for name, _ in share],
            "audio": [audio for share in shares for _, audio in share],
        }
        if not self.ranks.alone:
            row["ids_by_rank"] = [[name for name, _ in share] for share in shares]
        if self.ranks.first:
            append_jsonl(self.folder / "bad_batches.jsonl", {**row, "reason": "nonfinite"})
        self.log.say(
            f"step {step}: loss or gradient is not finite; the weights were left as "
            f"they are, the batch is in {self.folder / 'bad_batches.jsonl'}"
        )
        if self.nonfinite_in_row < self.config.patience_nonfinite:
            return
        message = (
            f"{self.nonfinite_in_row} steps in a row had a loss or gradient that is not "
            f"finite (last at step {step}, loss {figures.total})."
        )
        advice = (
            "Lower the learning rate, or look at the recordings in "
            f"{self.folder / 'bad_batches.jsonl'}."
        )
        if self.health.on_collapse == "rewind":
            self.health.call(
                HealthFinding(
                    code="nonfinite", severity="error", step=step, message=message, advice=advice
                )
            )
            return
        self._save()
        raise TrainingDivergedError(
            f"{message} The weights of the last good step were saved. {advice}", step=step
        )

    def _log_window(self, elapsed_seconds: float) -> None:
        """Log the figures of the updates since the last row, and begin to gather the next."""
        values = self.window.values()
        self.window = _Window()
        values["elapsed_seconds"] = elapsed_seconds
        values["audio_seconds"] = self.state.audio_seconds
        values["progress"] = self.state.progress
        values["alarms"] = float(self.health.alarms)
        self.log.write("train", self.state.step, values)
        left = self._seconds_left(elapsed_seconds)
        self.log.show(self.state.step, values, seconds_left=left)
        self.health.see("train", self.state.step, values)

    def _seconds_left(self, elapsed_seconds: float) -> float:
        if self.state.progress <= 0:
            return math.inf
        return elapsed_seconds * (1 - self.state.progress) / self.state.progress

    def _validation_due(self, seconds_since: float) -> bool:
        if self.config.validate_every_steps is not None:
            return self.state.step % self.config.validate_every_steps == 0
        return seconds_since >= self.config.validate_every_seconds

    def _validate(self) -> None:
        """Validate, log, keep the weights when they are the best so far.

        All processes measure the same, in the time that one would take, and the first decides.
        """
        self.held.collect()
        self.model.eval()
        with torch.inference_mode():
            found = self.validate()
        values = {**found.values, "elapsed_seconds": self.state.elapsed_seconds}
        self.log.write("valid", self.state.step, values)
        self.log.write_samples(self.state.step, found.samples)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in found.values.items())
        self.log.say(f"step {self.state.step} valid  {shown}")
        self.health.see("valid", self.state.step, values)
        best = self.state.best_metric
        metric = self.ranks.of_first(found.metric)
        if math.isfinite(metric) and (best is None or metric <= best):
            self.state = replace(self.state, best_metric=metric, best_step=self.state.step)
            state = replace(self.state, extra={"validation": found.values})
            self.ranks.ask_first(
                lambda: save_checkpoint(
                    self.folder / "best", model=self.model, optimizer=None, state=state
                )
            )

    def _save(self) -> None:
        self.checkpoints.clean_step = self.health.clean_step
        self.checkpoints.save(
            model=self.held.stored,
            optimizer=self.optimizer,
            state=replace(self.state, window=self.window.stored()),
            sharded=self.held.sharded,
        )
        self.saved_step = self.state.step


def _share(accumulation: int, ranks: Ranks) -> int:
    """How many of an update's micro-batches are this process's."""
    if accumulation < 1:
        raise ConfigError(f"accumulation must be at least 1, got {accumulation}.")
    if accumulation % ranks.world:
        fitting = -(-accumulation // ranks.world) * ranks.world
        raise ConfigError(
            f"{ranks.world} processes cannot share the micro-batches of an update evenly: expected "
            f"a multiple of {ranks.world}, got accumulation {accumulation}. Start another number "
            f"of processes, or give --accumulation {fitting}; an update is larger then, and the "
            "learning rate may have to follow."
        )
    return accumulation // ranks.world


def _learning_outside(head: nn.Module | None, model: nn.Module) -> list[str]:
    """Name what learns besides the head; nothing where there is no head to learn alone."""
    if head is None:
        return []
    within = {id(parameter) for parameter in head.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in within
    ]


@contextmanager
def _locked_by_first(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the run folder's lock, for all processes that train together."""
    with ExitStack() as held:

        def lock() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / "lock"))

        ranks.ask_first(lock)
        yield


@dataclass
class _StepFigures:
    """Sums of one update."""

    total: float
    count: float
    audio_seconds: float
    grad_norm: float
    stop: bool
    elapsed_seconds: float
    parts: dict[str, float]
    means: dict[str, float]
    learning_rate: float = 0.0
    seconds: float = 0.0
    skipped: bool = False


class _Sums:
    """What an update adds up, on the device until all of it is fetched at once."""

    def __init__(self, device: torch.device) -> None:
        # Apple's graphics processors have no float64.
        self._place = torch.device("cpu") if device.type == "mps" else device
        self._values: Tensor | None = None
        self._parts: tuple[str, ...] = ()
        self._means: tuple[str, ...] = ()
        self._batches = 0
        self._audio_seconds = 0.0

    def add(self, terms: LossTerms, *, audio_seconds: float) -> None:
        """Add a micro-batch."""
        self._parts, self._means = tuple(terms.parts), tuple(terms.means)
        found = (terms.total, terms.count, *terms.parts.values(), *terms.means.values())
        values = torch.stack([self._wide(value) for value in found])
        self._values = values if self._values is None else self._values + values
        self._batches += 1
        self._audio_seconds += audio_seconds

    def meet(
        self, ranks: Ranks, *, norm_share: Tensor, stop: bool, elapsed_seconds: float
    ) -> _StepFigures:
        """Add up over processes and fetch: the one place where a step waits for its device.

        Args:
            ranks: who trains together.
            norm_share: () this process's part of the gradient's norm.
            stop: whether this process was asked to stop.
            elapsed_seconds: by this process's clock; that of the first counts.
        """
        if self._values is None:
            raise ConfigError("An update needs at least one micro-batch.")
        first = float(ranks.first)
        own = [self._audio_seconds, float(stop), elapsed_seconds * first, self._batches]
        extra = torch.tensor(own, dtype=torch.float64, device=self._place)
        everything = torch.cat([self._values, self._wide(norm_share)[None], extra])
        values = ranks.sum(everything).tolist()
        total, count, *rest = values
        *named, norm, audio_seconds, stops, elapsed, batches = rest
        parts = dict(zip(self._parts, named[: len(self._parts)], strict=True))
        means = dict(zip(self._means, named[len(self._parts) :], strict=True))
        return _StepFigures(
            total=total,
            count=count,
            audio_seconds=audio_seconds,
            grad_norm=norm,
            stop=stops > 0,
            elapsed_seconds=elapsed,
            parts=parts,
            means={name: value / batches for name, value in means.items()},
        )

    def _wide(self, value: Tensor) -> Tensor:
        return value.detach().to(self._place).to(torch.float64)


class _Window:
    """Averages over the steps since the last row."""

    def __init__(self, stored: Iterable[Mapping[str, Any]] = ()) -> None:
        self.steps = [_StepFigures(**row) for row in stored]

    def stored(self) -> list[dict[str, Any]]:
        """Plain data to go on from."""
        return [asdict(figures) for figures in self.steps]

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
            "skipped_steps": float(len(self.steps) - len(good)),
        }
        if audio_seconds:  # texts have none
            values["audio_seconds_per_second"] = audio_seconds / seconds
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


class _StopRequest(threading.Event):
    """Whether to stop, and which signal said so."""

    signal: int | None = None


@contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGUSR1 into an event; the next acts as it always does.

    A signal that this process was told to ignore, as `nohup` does, stays ignored, and one that
    something other than Python handles is left to it.
    """
    requested = _StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    previous: Mapping[signal.Signals, object] = {
        name: handler
        for name in (signal.SIGINT, signal.SIGTERM, SIGNAL_TO_REQUEUE)
        if name is not None and (handler := signal.getsignal(name)) not in (signal.SIG_IGN, None)
    }

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        requested.signal = number
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
