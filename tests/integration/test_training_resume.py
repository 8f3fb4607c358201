"""What a run that was stopped or is repeated finds again; updates of several batches.

That it goes on to the last bit, whatever happened, is shown in tests/reliability.
"""

import os
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
from tests.training_runs import Run

from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import LabelledBatch
from unheard.data.pcm import PcmStore
from unheard.errors import TrainingDivergedError
from unheard.files import read_jsonl
from unheard.models.config import CtcConfig
from unheard.models.ctc import CtcModel
from unheard.objectives.base import LossTerms
from unheard.objectives.ctc import ctc_objective
from unheard.training import loop
from unheard.training.checkpoint import verify_checkpoint
from unheard.training.loop import Interrupted, Validation, train
from unheard.training.schedule import Budget

pytestmark = pytest.mark.usefixtures("interruptible", "one_thread")


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


def test_a_signal_in_the_last_step_still_stops_what_comes_after(data: Path, tmp_path: Path) -> None:
    """Regression: Ctrl-C during the last step or validation was taken for a finished run."""
    config = training_runs.settings(budget=Budget(max_steps=2))
    run = Run(kind="finetune", data=data, folder=tmp_path, config=config, stop_in_step=1)
    with pytest.raises(Interrupted, match="step 2"):
        training_runs.do(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    training_runs.do(replace(run, stop_in_step=None))
    assert verify_checkpoint(tmp_path / "best").step == 2


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 75)])
def test_the_command_saves_and_says_how_to_go_on(tmp_path: Path, name: str, code: int) -> None:
    corpus = tones.write_corpus(tmp_path, labelled=12, unlabelled=0, test=0)
    command = ["finetune", str(corpus.transcripts), "--out", str(tmp_path / "out")]
    command += ["--recipe", "tiny", "--max-steps", "100000", "--valid", "0.3"]
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
    process.send_signal(signal.Signals[name])
    _, complaints = process.communicate(timeout=150)
    assert process.returncode == code, complaints
    assert "To go on from here, run again" in complaints
    assert "Traceback" not in complaints
    newest = max(checkpoints.glob("step_*"))
    state = verify_checkpoint(newest, with_optimizer=True)
    steps = [row["step"] for row in read_jsonl(metrics)]
    assert state.step >= max(steps)


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
