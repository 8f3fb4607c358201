"""A run that was stopped anywhere goes on as if it had not been, to the last bit."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tones, training_runs
from tests.training_runs import Kind, Run
from torch import nn

from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import AudioBatch, LabelledBatch
from unheard.data.pcm import PcmStore
from unheard.errors import ConfigError, TrainingDivergedError
from unheard.files import locked, read_jsonl
from unheard.models.config import CtcConfig
from unheard.models.ctc import CtcModel
from unheard.objectives.base import LossTerms
from unheard.objectives.ctc import ctc_objective
from unheard.training import loop
from unheard.training.checkpoint import verify_checkpoint
from unheard.training.loop import Interrupted, Validation, train
from unheard.training.schedule import Budget

pytestmark = pytest.mark.usefixtures("interruptible", "one_thread")
LAST = "checkpoints/step_00000012"


@pytest.fixture
def interruptible():
    """Hear SIGINT, in this process and in those it starts, even when run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_thread():
    """Sum in the same order as the processes that a test starts, which have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    training_runs.decode(folder)
    return folder / "store"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_resuming_in_new_processes_changes_no_bit(
    data: Path, tmp_path: Path, kind: Kind, precision: Any
) -> None:
    config = training_runs.settings(
        precision=precision, head_only=0.4, batch_seconds=5.0 if kind == "pretrain" else 3.5
    )
    whole = Run(kind=kind, data=data, folder=tmp_path / "whole", config=config)
    training_runs.do(whole)
    parts = replace(whole, folder=tmp_path / "parts")
    # The first stop is in the phase in which the head learns alone, the second in an update that
    # takes its two batches from two epochs.
    first = replace(parts, stop_in_step=2, stop_signal=signal.SIGINT)
    second = replace(parts, stop_in_step=_crossing_step(data, whole), stop_signal=signal.SIGTERM)
    assert training_runs.sit(first) == training_runs.STOPPED
    assert verify_checkpoint(parts.folder / "checkpoints" / "step_00000003").step == 3
    assert training_runs.sit(second) == training_runs.STOPPED
    assert training_runs.sit(parts) == 0
    expected, found = training_runs.remains(whole.folder), training_runs.remains(parts.folder)
    for name in (f"{LAST}/model.safetensors", f"{LAST}/optimizer.safetensors"):
        assert found[name] == expected[name]
    for name in (f"{LAST}/state.json", "best/model.safetensors", "best/state.json"):
        assert found[name] == expected[name]
    assert found["samples.jsonl"] == expected["samples.jsonl"]
    rows = [row for row in found["metrics.jsonl"] if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]


def _crossing_step(data: Path, run: Run) -> int:
    """The first update after the third that takes batches of two epochs."""
    plan = training_runs.make_source(run.kind, PcmStore(data), run.config).plan
    position, step = Position(), 0
    while True:
        first = position.epoch
        position = plan.after(position)
        crosses = position.epoch > first
        position = plan.after(position)
        if crosses and step > 3:
            return step
        step += 1
        assert step < 12, "no update crosses from one epoch into the next"


def test_another_seed_changes_the_bits(data: Path, tmp_path: Path) -> None:
    """The negative control of the test above."""
    found = []
    for seed in (0, 1):
        config = training_runs.settings(seed=seed, budget=Budget(max_steps=2))
        run = Run(kind="finetune", data=data, folder=tmp_path / str(seed), config=config)
        training_runs.do(run)
        found.append(
            (run.folder / "checkpoints" / "step_00000002" / "model.safetensors").read_bytes()
        )
    assert found[0] != found[1]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_killed_at_random_and_repeated_ends_in_the_same_weights(data: Path, tmp_path: Path) -> None:
    config = training_runs.settings(checkpoint_every_seconds=0.0, validate_every_steps=2)
    whole = Run(kind="finetune", data=data, folder=tmp_path / "whole", config=config)
    training_runs.do(whole)
    killed = replace(whole, folder=tmp_path / "killed")
    checkpoints = killed.folder / "checkpoints"
    draws = random.Random(4)
    for _ in range(4):
        before = _newest(checkpoints)
        process = training_runs.start(killed)
        deadline = time.monotonic() + 150
        while _newest(checkpoints) == before and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        # A checkpoint that has its name is whole, at any moment.
        for path in checkpoints.glob("step_*"):
            verify_checkpoint(path, with_optimizer=True)
    assert training_runs.sit(killed) == 0
    expected, found = training_runs.remains(whole.folder), training_runs.remains(killed.folder)
    assert found == expected
    names = [path.name for path in [*killed.folder.iterdir(), *checkpoints.iterdir()]]
    assert not [name for name in names if ".tmp" in name or ".old" in name]


def _newest(checkpoints: Path) -> str | None:
    return max((path.name for path in checkpoints.glob("step_*")), default=None)


def test_repeating_a_finished_run_does_no_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(
        kind="finetune",
        data=data,
        folder=tmp_path,
        config=training_runs.settings(budget=Budget(max_steps=2)),
    )
    training_runs.do(run)
    before = training_runs.remains(tmp_path)
    monkeypatch.setattr(loop._Run, "_step", lambda *_: pytest.fail("made a step"))
    training_runs.do(run)
    assert training_runs.remains(tmp_path) == before


def test_a_lost_best_step_is_found_again(data: Path, tmp_path: Path) -> None:
    """Regression: the run ended in an error that named a missing manifest."""
    config = training_runs.settings(budget=Budget(max_steps=4))
    run = Run(kind="finetune", data=data, folder=tmp_path, config=config)
    training_runs.do(run)
    before = training_runs.remains(tmp_path)
    (tmp_path / "best" / "model.safetensors").write_bytes(b"")
    training_runs.do(run)
    after = training_runs.remains(tmp_path)
    assert after["best/model.safetensors"] == before["best/model.safetensors"]
    assert after["best/state.json"]["best_step"] == 4


def test_better_weights_saved_after_the_last_checkpoint_are_not_lost(
    data: Path, tmp_path: Path
) -> None:
    """Regression: a kill between a validation and the next checkpoint, then a worse end.

    The best weights were of a step that the resumed run knew nothing of, and their figures were
    gone from the log.
    """
    config = training_runs.settings(
        budget=Budget(max_steps=6), validate_every_steps=2, accumulation=1
    )
    metrics = iter([0.5, 0.3, 0.4, 0.4])

    def go(stop_in_step: int | None) -> loop.TrainingResult:
        model = training_runs.make_model("finetune")

        def objective(model: Any, batch: Any, *, progress: float, **more: Any) -> LossTerms:
            if round(progress * 6) == stop_in_step:
                raise MemoryError
            return ctc_objective(model, batch, progress=progress, blank=0, **more)

        def validate() -> Validation:
            metric = next(metrics)
            return Validation(metric=metric, values={"cer": metric})

        return train(
            model,
            objective,
            training_runs.make_source("finetune", PcmStore(data), config),
            config,
            folder=tmp_path,
            name="finetune",
            validate=validate,
            quiet=True,
        )

    config = replace(config, checkpoint_every_seconds=0.0)
    with pytest.raises(MemoryError):
        go(stop_in_step=2)
    config = replace(config, checkpoint_every_seconds=1e9)
    with pytest.raises(MemoryError):
        go(stop_in_step=5)
    result = go(stop_in_step=None)
    best = verify_checkpoint(result.best)
    assert best.best_metric == 0.3
    assert best.step == 4
    assert best.extra["validation"] == {"cer": 0.3}
    assert result.state.best_metric == 0.3


def test_two_processes_do_not_train_in_one_folder(data: Path, tmp_path: Path) -> None:
    run = Run(kind="finetune", data=data, folder=tmp_path, config=training_runs.settings())
    with locked(tmp_path / "lock"), pytest.raises(ConfigError, match="in use"):
        training_runs.do(run)


def test_a_signal_in_the_last_step_still_stops_what_comes_after(data: Path, tmp_path: Path) -> None:
    """Regression: Ctrl-C during the last step or validation was taken for a finished run."""
    config = training_runs.settings(budget=Budget(max_steps=2))
    run = Run(kind="finetune", data=data, folder=tmp_path, config=config, stop_in_step=1)
    with pytest.raises(Interrupted, match="step 2"):
        training_runs.do(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    training_runs.do(replace(run, stop_in_step=None))
    assert verify_checkpoint(tmp_path / "best").step == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    corpus = tones.write_corpus(tmp_path, labelled=12, unlabelled=0, test=0)
    command = ["finetune", str(corpus.transcripts), "--out", str(tmp_path / "out")]
    command += ["--preset", "tiny", "--max-steps", "100000", "--valid", "0.3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tones", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, checkpoints = tmp_path / "out" / "metrics.jsonl", tmp_path / "out" / "checkpoints"
    deadline = time.monotonic() + 150
    while not metrics.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, complaints = process.communicate(timeout=150)
    assert process.returncode == 130, complaints
    assert "To go on from here, run again" in complaints
    assert "Traceback" not in complaints
    newest = _newest(checkpoints)
    assert newest is not None
    state = verify_checkpoint(checkpoints / newest, with_optimizer=True)
    steps = [row["step"] for row in read_jsonl(metrics)]
    assert state.step >= max(steps)


def test_a_signal_that_was_to_be_ignored_stays_ignored(data: Path, tmp_path: Path) -> None:
    """As under `nohup`, or in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = training_runs.settings(budget=Budget(max_steps=2))
    run = Run(kind="finetune", data=data, folder=tmp_path, config=config, stop_in_step=0)
    training_runs.do(run)
    assert verify_checkpoint(tmp_path / "best").step == 2
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


class Given:
    """A source of the same batches again and again."""

    def __init__(self, batches: Sequence[LabelledBatch]) -> None:
        lengths = torch.full((len(batches),), 10).numpy()
        self.plan = BatchPlan(lengths, batch_samples=10, fit="crop", max_samples=10, seed=0)
        self._batches = batches

    def load(self, position: Position) -> LabelledBatch:
        return self._batches[position.batch]


def quiet_network() -> CtcModel:
    """In float64, without anything that is drawn."""
    torch.manual_seed(3)
    encoder = replace(tones.tiny_network().encoder, dropout=0.0)
    return CtcModel(CtcConfig(encoder=encoder, vocab=len(training_runs.LETTERS))).double()


def labelled(lengths: Sequence[int], *, longest: int, seed: int) -> LabelledBatch:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.zeros(len(lengths), longest, dtype=torch.float64)
    for row, length in enumerate(lengths):
        samples[row, :length] = torch.randn(length, generator=generator, dtype=torch.float64)
    return LabelledBatch(
        samples=samples,
        lengths=torch.tensor(lengths),
        targets=torch.randint(1, 7, (len(lengths), 3), generator=generator),
        target_lengths=torch.full((len(lengths),), 3),
        ids=tuple(f"s{seed}u{row}" for row in range(len(lengths))),
    )


def joined(one: LabelledBatch, other: LabelledBatch) -> LabelledBatch:
    return LabelledBatch(
        ids=(*one.ids, *other.ids),
        **{
            name: torch.cat([getattr(one, name), getattr(other, name)])
            for name in ("samples", "lengths", "targets", "target_lengths")
        },
    )


def gradients_of_one_update(
    batches: Sequence[LabelledBatch], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train for one update; returns the gradient that the optimiser saw, and the logged row."""
    model = quiet_network()
    seen: dict[str, torch.Tensor] = {}
    original = loop.finish_gradient

    def recorded(*arguments: Any, **more: Any) -> float:
        norm = original(*arguments, **more)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                seen[name] = parameter.grad.clone()
        return norm

    monkeypatch.setattr(loop, "finish_gradient", recorded)
    train(
        model,
        partial(ctc_objective, blank=0),
        Given(batches),
        training_runs.settings(
            budget=Budget(max_steps=1), accumulation=len(batches), clip_norm=1e9
        ),
        folder=folder,
        name="finetune",
        validate=lambda: Validation(metric=0.0, values={}),
        quiet=True,
    )
    return seen, read_jsonl(folder / "metrics.jsonl")[0]


def test_two_micro_batches_are_one_batch_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = labelled([9000, 7000], longest=9000, seed=1)
    other = labelled([9000, 5000, 8000, 6000, 9000], longest=9000, seed=2)
    # The plan shuffles its batches; whichever comes first, the sum is the same.
    apart, apart_row = gradients_of_one_update([one, other], tmp_path / "apart", monkeypatch)
    both, row = gradients_of_one_update([joined(one, other)], tmp_path / "both", monkeypatch)
    assert apart.keys() == both.keys()
    assert len(apart) > 20
    for name, gradient in both.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(apart[name], gradient, rtol=1e-9, atol=1e-9 * scale + 1e-12)
    for name in ("loss", "ctc", "grad_norm", "audio_seconds"):
        assert apart_row[name] == pytest.approx(row[name], rel=1e-9)
    # The negative control: a mean of the two means weighs the batches alike.
    means = [
        gradients_of_one_update([batch], tmp_path / batch.ids[0], monkeypatch)[0]
        for batch in (one, other)
    ]
    assert any(
        not torch.allclose((means[0][name] + means[1][name]) / 2, both[name], rtol=1e-3)
        for name in both
    )


class Poisoned:
    """A source in whose named batches one sample is not a number."""

    def __init__(self, source: Any, *, batches: set[int]) -> None:
        self.plan = source.plan
        self._source = source
        self._batches = batches

    def load(self, position: Position) -> AudioBatch:
        batch = self._source.load(position)
        if position.batch in self._batches:
            batch.samples[0, 5] = float("nan")
        return batch


def train_watched(
    data: Path, folder: Path, *, poison: set[int], **more: Any
) -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    """Pre-train one batch a step on a poisoned source; returns the weights before each step."""
    config = training_runs.settings(accumulation=1, budget=Budget(max_steps=6), **more)
    model = training_runs.make_model("pretrain")
    weights: list[dict[str, torch.Tensor]] = []

    def objective(model: Any, batch: AudioBatch, **others: Any) -> LossTerms:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return training_runs.contrastive_objective(model, batch, **others)

    train(
        model,
        objective,
        Poisoned(training_runs.make_source("pretrain", PcmStore(data), config), batches=poison),
        config,
        folder=folder,
        name="pretrain",
        validate=lambda: Validation(metric=1.0, values={}),
        quiet=True,
    )
    weights.append({name: value.clone() for name, value in model.state_dict().items()})
    return model, weights


def unchanged(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_that_is_not_finite_leaves_the_weights_alone(data: Path, tmp_path: Path) -> None:
    _, weights = train_watched(data, tmp_path, poison={2, 3})
    # The first step has a learning rate of zero.
    assert [unchanged(*pair) for pair in itertools.pairwise(weights)] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    assert all(bool(torch.isfinite(value).all()) for value in weights[-1].values())
    rows = read_jsonl(tmp_path / "bad_batches.jsonl")
    assert [row["step"] for row in rows] == [3, 4]
    assert all(row["reason"] == "nonfinite" and row["ids"] for row in rows)
    skipped = {
        row["step"]: row["skipped_steps"]
        for row in read_jsonl(tmp_path / "metrics.jsonl")
        if row["kind"] == "train"
    }
    assert skipped == {1: 0, 2: 0, 3: 1, 4: 1, 5: 0, 6: 0}


def test_a_run_without_finite_steps_stops_and_keeps_its_weights(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="3 steps in a row") as caught:
        train_watched(data, tmp_path, poison={2, 3, 4, 5}, patience_nonfinite=3)
    assert caught.value.step == 5
    newest = _newest(tmp_path / "checkpoints")
    assert newest is not None
    assert verify_checkpoint(tmp_path / "checkpoints" / newest).step == 4
    assert len(read_jsonl(tmp_path / "bad_batches.jsonl")) == 3


def test_a_gradient_that_is_not_finite_is_caught_when_the_loss_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training_runs.make_model

    def poisoned(kind: Kind) -> nn.Module:
        model = original(kind)
        model.get_parameter("project_context.bias").register_hook(lambda grad: grad * float("inf"))
        return model

    monkeypatch.setattr(training_runs, "make_model", poisoned)
    with pytest.raises(TrainingDivergedError, match="2 steps in a row"):
        train_watched(data, tmp_path, poison=set(), patience_nonfinite=2)


def test_a_run_whose_validations_are_never_finite_says_so(data: Path, tmp_path: Path) -> None:
    config = training_runs.settings(budget=Budget(max_steps=1))
    with pytest.raises(TrainingDivergedError, match="No validation"):
        train(
            training_runs.make_model("pretrain"),
            training_runs.contrastive_objective,
            training_runs.make_source("pretrain", PcmStore(data), config),
            config,
            folder=tmp_path,
            name="pretrain",
            validate=lambda: Validation(metric=float("nan"), values={"loss": float("nan")}),
            quiet=True,
        )
