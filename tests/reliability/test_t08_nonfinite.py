"""T8: what is not a number never reaches a weight, and what it came from is written down."""

import itertools
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import faults, reliable_runs, training_runs
from tests.reliable_runs import Kind, Meddle, Run
from torch import nn

from unheard import cli
from unheard.data.batching import Position
from unheard.data.dataset import UnlabelledSource
from unheard.errors import TrainingDivergedError
from unheard.files import read_jsonl
from unheard.objectives.base import LossTerms
from unheard.training.checkpoint import CheckpointFolder, TrainingState, verify_checkpoint

STEPS = 6


def spoil_sample(number: int, model: nn.Module, batch: Any, terms: LossTerms) -> None:
    """Nothing: the sample is spoilt where the batch is made."""


def spoil_loss(number: int, model: nn.Module, batch: Any, terms: LossTerms) -> LossTerms | None:
    return replace(terms, total=terms.total * math.nan) if number in SPOILT else None


def spoil_gradient(number: int, model: nn.Module, batch: Any, terms: LossTerms) -> None:
    """One number of one parameter's gradient, in a loss that is finite."""
    if number in SPOILT:
        parameter = next(iter(model.parameters()))
        handle: Any = None

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            handle.remove()
            spoilt = gradient.clone()
            spoilt.view(-1)[3] = math.inf
            return spoilt

        handle = parameter.register_hook(spoil)


SPOILT = (4, 7)
"""Micro-batches, two to an update: the first of the third and the second of the fourth."""
WAYS: dict[str, Meddle] = {
    "sample": spoil_sample,
    "loss": spoil_loss,
    "gradient": spoil_gradient,
}


class Spoilt:
    """A source in which one sample of some batches is not a number."""

    def __init__(self, source: Any, places: set[Position]) -> None:
        self.plan = source.plan
        self._source = source
        self._places = places

    def load(self, position: Position) -> Any:
        batch = self._source.load(position)
        if position in self._places:
            batch.samples[-1, 100] = math.nan
        return batch


def digests_of_a_spoilt_run(run: Run, way: str) -> list[str]:
    """Train; returns the digest of the weights before each update and at the end."""
    model = reliable_runs.make_model(run.kind)
    digests: list[str] = []

    def meddle(number: int, model: nn.Module, batch: Any, terms: LossTerms) -> LossTerms | None:
        if number % 2 == 0:
            digests.append(reliable_runs.weights_digest(model))
        return WAYS[way](number, model, batch, terms)

    with closing(reliable_runs.open_data(run.data)) as store:
        source = reliable_runs.make_source(run.kind, store, run.config)
        places = {source.plan.ahead(Position(), number) for number in SPOILT}
        source = Spoilt(source, places if way == "sample" else set())
        reliable_runs.do(run, store=store, source=source, model=model, meddle=meddle)
    return [*digests, reliable_runs.weights_digest(model)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["contrastive", "ctc"])
def test_the_weights_stay_and_the_batch_is_written_down(
    data: Path, tmp_path: Path, kind: Kind, way: str
) -> None:
    config = reliable_runs.settings(STEPS, log_every_steps=1, validate_every_steps=STEPS)
    run = Run(kind=kind, data=data, folder=tmp_path, config=config)
    digests = digests_of_a_spoilt_run(run, way)
    stayed = [one == other for one, other in itertools.pairwise(digests)]
    # The first update has a learning rate of zero.
    assert stayed == [True, False, True, True, False, False]
    rows = read_jsonl(tmp_path / "bad_batches.jsonl")
    assert [(row["step"], row["reason"]) for row in rows] == [(3, "nonfinite"), (4, "nonfinite")]
    with closing(reliable_runs.open_data(data)) as store:
        source = reliable_runs.make_source(kind, store, config)
        for row in rows:
            first = 2 * (row["step"] - 1)
            batches = [source.load(source.plan.ahead(Position(), first + two)) for two in (0, 1)]
            assert row["ids"] == [name for batch in batches for name in batch.ids]
            assert row["audio"] == [audio for batch in batches for audio in batch.audio]
            for name, audio in zip(row["ids"], row["audio"], strict=True):
                shard = data / "shards" / f"part-{int(int(name[:2]) >= 10)}.tar"
                assert audio.endswith(str(shard))
                assert shard.is_file()
    skipped = {
        row["step"]: row["skipped_steps"]
        for row in read_jsonl(tmp_path / "metrics.jsonl")
        if row["kind"] == "train"
    }
    assert skipped == {1: 0, 2: 0, 3: 1, 4: 1, 5: 0, 6: 0}
    verify_checkpoint(reliable_runs.newest(tmp_path), with_optimizer=True)


def test_recordings_that_were_decoded_are_named_by_their_paths(tmp_path: Path) -> None:
    store = training_runs.decode(tmp_path)
    source = UnlabelledSource(
        store,
        input_spec=training_runs.InputSpec(),
        batch_seconds=4.0,
        min_seconds=0.1,
        max_seconds=1.0,
        seed=0,
    )
    batch = source.load(Position())
    assert [Path(audio).name for audio in batch.audio] == [f"{name[:2]}.wav" for name in batch.ids]
    assert all(Path(audio).is_file() for audio in batch.audio)
    assert batch.to(torch.device("cpu")).audio == batch.audio


def always_nan(data: Path, folder: Path, patience: int) -> Run:
    config = reliable_runs.settings(STEPS, patience_nonfinite=patience, learning_rate=1e-3)
    return Run(kind="ctc", data=data, folder=folder, config=config)


def work_on_nothing_but_nan(run: Run) -> None:
    OBJECTIVE = reliable_runs.OBJECTIVES["ctc"]

    def spoilt(model: nn.Module, batch: Any, **more: Any) -> LossTerms:
        terms = OBJECTIVE(model, batch, **more)
        return replace(terms, total=terms.total * math.nan) if more["progress"] > 0.3 else terms

    reliable_runs.OBJECTIVES["ctc"] = spoilt
    try:
        reliable_runs.work(run)
    finally:
        reliable_runs.OBJECTIVES["ctc"] = OBJECTIVE


def test_after_as_many_as_patience_allows_the_run_ends_with_a_code_of_its_own(
    data: Path, tmp_path: Path
) -> None:
    """With the weights of the last good update saved."""
    run = always_nan(data, tmp_path / "run", patience=3)
    with pytest.raises(SystemExit) as caught:
        work_on_nothing_but_nan(run)
    assert caught.value.code == TrainingDivergedError.exit_code == 4
    complaint = reliable_runs.complaint_of(run).read_text()
    assert "3 steps in a row" in complaint
    assert "bad_batches.jsonl" in complaint
    rows = read_jsonl(run.folder / "bad_batches.jsonl")
    assert [row["step"] for row in rows] == [3, 4, 5]
    state = verify_checkpoint(reliable_runs.newest(run.folder), with_optimizer=True)
    assert state.step == 4
    # One less than patience, and it goes on to the end.
    patient = always_nan(data, tmp_path / "patient", patience=5)
    work_on_nothing_but_nan(patient)
    assert reliable_runs.newest_step(patient.folder) == STEPS


def test_the_exit_code_is_that_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise TrainingDivergedError("it diverged", step=3)

    monkeypatch.setitem(cli.VERBS, "fail", cli.Verb(summary="", run=fail))
    assert cli.main(["fail"]) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_weight_that_is_not_finite_can_never_be_saved(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    """Anywhere in any tensor, buffers too; the checkpoint before is as it was."""
    faults.save(tmp_path, 1)
    before = reliable_runs.digest(tmp_path / "step_00000001")
    for name in ("weight", "bias", "running_mean"):
        model = nn.BatchNorm1d(5).to(dtype)
        optimizer = torch.optim.AdamW(model.parameters())
        state = TrainingState(step=2)
        tensor = model.state_dict()[name]
        for place in range(5):
            kept = tensor[place].clone()
            tensor[place] = value
            with pytest.raises(TrainingDivergedError, match=f"step 2: {name}"):
                CheckpointFolder(tmp_path).save(model=model, optimizer=optimizer, state=state)
            tensor[place] = kept
        assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
        assert reliable_runs.digest(tmp_path / "step_00000001") == before
