"""Runs that go ill on purpose are called by name in time, and runs that go well are left alone."""

import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import health_runs, rank_runs, tones, training_runs
from tests.health_runs import RateTooHigh, Scripted, Sitting

from unheard import cli
from unheard.errors import TrainingDivergedError
from unheard.files import read_jsonl
from unheard.recipes import catalogue
from unheard.training.checkpoint import verify_checkpoint
from unheard.training.config import Execution, Parallel
from unheard.training.health.detector import Detector
from unheard.training.health.findings import HealthFinding, Nature, Row
from unheard.training.logging import Sample
from unheard.training.loop import Interrupted, Validation
from unheard.training.schedule import Budget


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    training_runs.decode(folder, count=60).close()
    return folder / "store"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    torch.set_num_threads(threads)


def alarms(folder: Path) -> list[dict[str, Any]]:
    """Everything that is more than a note."""
    path = folder / "health.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    return [row for row in rows if row["severity"] != "note"]


def trained(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_collapsing_codebook_is_called(data: Path, tmp_path: Path, seed: int) -> None:
    """No diversity loss, a learning rate a hundred times too high."""
    sitting = health_runs.listener(data, seed=seed, learning_rate=0.3, diversity_weight=0.0)
    with pytest.raises(TrainingDivergedError, match="codebook has collapsed") as caught:
        sitting.go(tmp_path, on_collapse="stop")
    found = alarms(tmp_path)[-1]
    assert found["code"] == "codes_collapsed"
    assert found["step"] <= 200
    assert "network.diversity_weight to 0.1" in found["advice"]
    assert "training.learning_rate" in found["advice"]
    # It saved, and it ended at once.
    assert caught.value.step == found["step"]
    assert verify_checkpoint(tmp_path / "checkpoints" / f"step_{found['step']:08d}")
    # The loss itself looks splendid: who looks at that alone is fooled.
    rows = trained(tmp_path)
    assert rows[-1]["contrastive"] < 0.5 * rows[0]["contrastive"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_healthy_pretraining_raises_no_alarm(data: Path, tmp_path: Path, seed: int) -> None:
    sitting = health_runs.listener(data, seed=seed, learning_rate=5e-3, diversity_weight=0.1)
    sitting.go(tmp_path, on_collapse="stop")
    assert alarms(tmp_path) == []
    rows = trained(tmp_path)
    assert rows[-1]["accuracy"] > 1.5 * rows[0]["accuracy"], "it did learn"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_blank_only_run_is_called(data: Path, tmp_path: Path, seed: int) -> None:
    """Transcripts of other recordings: there is nothing to hear in them."""
    sitting = health_runs.writer(data, seed=seed, mixed_up=True)
    with pytest.raises(TrainingDivergedError, match="writes nothing"):
        sitting.go(tmp_path, on_collapse="stop")
    found = alarms(tmp_path)[-1]
    assert found["code"] == "blank_only"
    assert found["step"] <= 200
    assert "transcripts that do not belong to their recordings" in found["advice"]
    assert found["values"]["over_constant_output"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_finetuning_raises_no_alarm(data: Path, tmp_path: Path, seed: int) -> None:
    """The same number of updates, most of them silent, as every run begins."""
    sitting = health_runs.writer(data, seed=seed)
    sitting.go(tmp_path, on_collapse="stop")
    assert alarms(tmp_path) == []
    rows = trained(tmp_path)
    silent = [row["step"] for row in rows if row["blank_ratio"] > 0.98]
    assert len(silent) >= 5, "the negative control is silent for a while too"
    assert rows[-1]["ctc"] < 0.9 * 14.3


def scripted(data: Path, detector: type[Detector] = RateTooHigh, **more: Any) -> Sitting:
    """Twelve updates at a constant rate of 5e-3, validated at 4, 8 and 12; better and better."""
    sitting = health_runs.writer(
        data,
        seed=3,
        budget=Budget(max_steps=12),
        log_every_steps=1,
        validate_every_steps=4,
        checkpoint_every_seconds=0.0,
        **more,
    )
    schedule = replace(sitting.config.schedule, warmup=0.0, hold=1.0)
    sitting.config = replace(sitting.config, schedule=schedule, learning_rate=5e-3)
    sitting.watch = Scripted(Nature(objective="ctc", learning_rate=5e-3), detector=detector)

    def validate() -> Validation:
        weight = float(next(sitting.model.parameters()).detach().double().sum())
        steps = len(read_jsonl(sitting_folder[0] / "metrics.jsonl"))
        sample = Sample(id="u", reference="a", hypothesis=f"{weight}")
        return Validation(metric=-float(steps), values={"weight": weight}, samples=[sample])

    sitting_folder: list[Path] = []
    sitting.validate = validate
    go = sitting.go

    def remember(folder: Path, **more: Any) -> Any:
        sitting_folder[:] = [folder]
        return go(folder, **more)

    sitting.go = remember  # type: ignore[method-assign]
    return sitting


def test_a_run_goes_back_to_where_it_was_well_and_on_more_slowly(
    data: Path, tmp_path: Path
) -> None:
    result = scripted(data).go(tmp_path, on_collapse="rewind")
    assert result.state.step == 12
    assert result.state.rewinds == [{"step": 5, "from_step": 8, "code": "too_fast"}]
    rows = trained(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 13)), "the lost part is gone"
    assert [row["learning_rate"] for row in rows] == [5e-3] * 5 + [2.5e-3] * 7
    (told,) = read_jsonl(tmp_path / "health.jsonl")
    assert told["code"] == "rewound_1"
    assert "0.5 times the learning rate" in told["message"]


def test_a_run_that_went_back_learns_what_one_with_the_lower_rate_learns(
    data: Path, tmp_path: Path
) -> None:
    """From the very start, where no update is left from before."""

    class AtOnce(RateTooHigh):
        def observe(self, row: Row) -> list[HealthFinding]:
            found = super().observe(row)
            self.clean_step = 0
            return found

    scripted(data, AtOnce).go(tmp_path / "back", on_collapse="rewind")
    slow = scripted(data)
    slow.config = replace(slow.config, learning_rate=2.5e-3)
    slow.go(tmp_path / "slow", on_collapse="rewind")
    back = training_runs.remains(tmp_path / "back")
    other = training_runs.remains(tmp_path / "slow")
    weights = [name for name in other if name.endswith(".safetensors")]
    assert len(weights) == 5, "model and optimiser of two steps, and the best"
    for name in weights:
        assert back[name] == other[name], name


@pytest.mark.parametrize("call", [3, 7, 8, 9, 11, 14])
def test_a_stop_anywhere_around_it_changes_nothing(data: Path, tmp_path: Path, call: int) -> None:
    """The watch remembers, however often the run is taken up again."""
    scripted(data).go(tmp_path / "whole", on_collapse="rewind")
    with pytest.raises(Interrupted):
        scripted(data).go(tmp_path / "parts", on_collapse="rewind", stop_at_call=call)
    scripted(data).go(tmp_path / "parts", on_collapse="rewind")
    whole = training_runs.remains(tmp_path / "whole")
    parts = training_runs.remains(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        assert whole[name] == parts[name], name
    for name in ("whole", "parts"):
        (told,) = read_jsonl(tmp_path / name / "health.jsonl")
        assert told["code"] == "rewound_1"


def test_figures_between_two_rows_survive_a_stop(data: Path, tmp_path: Path) -> None:
    """Regression: the first row after a stop told of the updates since the stop only."""

    def run(folder: Path, stop: int | None = None) -> list[dict[str, Any]]:
        sitting = health_runs.writer(
            data, seed=3, budget=Budget(max_steps=10), log_every_steps=5, validate_every_steps=10
        )
        if stop is not None:
            with pytest.raises(Interrupted):
                sitting.go(folder, stop_at_call=stop)
            return run(folder)
        sitting.go(folder)
        timed = ("elapsed_seconds", "audio_seconds_per_second")
        rows = read_jsonl(folder / "metrics.jsonl")
        return [{k: v for k, v in row.items() if k not in timed} for row in rows]

    whole = run(tmp_path / "whole")
    assert [row["step"] for row in whole] == [5, 10, 10]
    assert run(tmp_path / "parts", stop=8) == whole


def test_a_run_that_is_lost_again_and_again_ends(data: Path, tmp_path: Path) -> None:
    class Never(RateTooHigh):
        limit = 0.0

    with pytest.raises(TrainingDivergedError, match="went back 3 times already"):
        scripted(data, Never).go(tmp_path, on_collapse="rewind")
    rows = read_jsonl(tmp_path / "health.jsonl")
    assert [row["code"] for row in rows] == ["rewound_1", "rewound_2", "rewound_3", "too_fast"]
    assert trained(tmp_path)[-1]["learning_rate"] == 5e-3 / 8


def test_a_stopped_run_stops_again_unless_told_otherwise(data: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingDivergedError, match="--on-collapse rewind"):
            scripted(data).go(tmp_path, on_collapse="stop")
    steps = [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert max(steps) == 8, "no further update was made"
    result = scripted(data).go(tmp_path, on_collapse="rewind")
    assert result.state.rewinds == [{"step": 5, "from_step": 8, "code": "too_fast"}]


def test_a_warned_run_goes_on_and_is_told_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = scripted(data).go(tmp_path)
    assert result.state.step == 12
    assert [row["code"] for row in read_jsonl(tmp_path / "health.jsonl")] == ["too_fast"]
    rows = trained(tmp_path)
    assert [row["alarms"] for row in rows] == [0.0] * 8 + [1.0] * 4
    assert capsys.readouterr().err == "", "quiet is quiet"


def test_the_best_weights_of_the_lost_part_are_forgotten(data: Path, tmp_path: Path) -> None:
    """They may have looked best: the loss of a collapsed codebook is near zero."""
    result = scripted(data).go(tmp_path, on_collapse="rewind")
    best = verify_checkpoint(result.best)
    # The validation of step 8 was better than that of step 4 and belonged to the lost part.
    assert best.step == 12
    metrics = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if row["kind"] == "valid"]
    assert [row["step"] for row in metrics] == [4, 8, 12]


def test_weights_that_blow_up_count_as_lost(data: Path, tmp_path: Path) -> None:
    """Updates that are no numbers are left out; too many in a row are a reason to go back."""
    sitting = scripted(data, type("Calm", (RateTooHigh,), {"limit": 1.0}), patience_nonfinite=2)
    inner, calls = sitting.objective, 0

    def poisoned(model: Any, batch: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        terms = inner(model, batch, **more)
        return replace(terms, total=terms.total * float("nan")) if calls in (7, 8) else terms

    sitting.objective = poisoned
    result = sitting.go(tmp_path, on_collapse="rewind")
    assert result.state.step == 12
    assert [row["code"] for row in result.state.rewinds] == ["nonfinite"]


def test_processes_go_back_together(tmp_path: Path) -> None:
    """One process with two micro-batches, and two with one each that share every parameter."""
    training_runs.decode(tmp_path / "data").close()
    config = rank_runs.settings(
        budget=Budget(max_steps=rank_runs.STEPS), checkpoint_every_seconds=0.0, head_only=0.0
    )

    def run(name: str, parallel: Parallel) -> rank_runs.Run:
        return rank_runs.Run(
            kind="contrastive",
            data=tmp_path / "data" / "store",
            folder=tmp_path / name,
            config=config,
            execution=Execution(parallel=parallel, on_collapse="rewind"),
            lost_above=1.5e-4,
        )

    alone = rank_runs.do(run("alone", "ddp"))
    found = rank_runs.sit([run("ddp", "ddp"), run("fsdp", "fsdp")], tmp_path / "record")
    assert alone["rewinds"] == [{"step": 5, "from_step": 8, "code": "too_fast"}] * 2
    weights = rank_runs.final_weights(tmp_path / "alone")
    for name in ("ddp", "fsdp"):
        assert [one[name]["rewinds"] for one in found] == [alone["rewinds"]] * 2
        other = rank_runs.final_weights(tmp_path / name)
        assert rank_runs.furthest_weight(weights, other) < 1e-6
        told = read_jsonl(tmp_path / name / "health.jsonl")
        assert [row["code"] for row in told] == ["rewound_1", "rewound_2"]


def test_the_command_ends_with_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transcripts in the wrong order, as after a table was sorted by one column only."""
    monkeypatch.setitem(catalogue.RECIPES, "tiny", tones.tiny)
    corpus = tones.write_corpus(tmp_path, labelled=40, unlabelled=0, test=0)
    head, *rows = corpus.transcripts.read_text().splitlines()
    cells = [row.rsplit("\t", 1) for row in rows]
    texts = [text for _, text in cells]
    wrong = zip((left for left, _ in cells), texts[9:] + texts[:9], strict=True)
    corpus.transcripts.write_text("\n".join([head, *("\t".join(row) for row in wrong)]) + "\n")
    out = tmp_path / "out"
    command = ["finetune", str(corpus.transcripts), "--out", str(out), "--recipe", "tiny"]
    command += ["--max-steps", "200", "--set", "training.batch_seconds=6"]
    command += ["--set", "training.learning_rate=1e-3", "--set", "training.log_every_steps=10"]
    assert cli.main([*command, "--on-collapse", "stop"]) == 4
    told = capsys.readouterr().err
    assert told.count("It writes nothing: 100% of the frames") == 2, (
        "as it happened, and why it ended"
    )
    assert "--on-collapse rewind" in told
    assert [row["code"] for row in alarms(out)] == ["blank_only"]
    assert alarms(out)[0]["step"] <= 200


def test_what_advice_names_are_settings() -> None:
    """Every dotted name in the source of the watch can be given to --set."""
    from unheard.tasks.runs import changed, named_changes

    source = Path(__file__).parents[2] / "src" / "unheard" / "training" / "health"
    text = " ".join(path.read_text() for path in sorted(source.glob("*.py")))
    names = set(re.findall(r"\b(?:training|network|finetune)(?:\.[a-z_]+)+", text))
    names = {name for name in names if not name.startswith("training.health")}
    names -= {"training.distributed", "training.logging"}
    assert len(names) >= 10
    recipe = catalogue.get_recipe("base")
    for name in sorted(names):
        whole: Any = recipe
        stage = "pretraining" if not name.startswith("finetune") else "finetune"
        for part in name.replace("training.", f"{stage}.", 1).split("."):
            assert hasattr(whole, part), name
            whole = getattr(whole, part)
    changes = named_changes(["training.learning_rate=1e-4", "network.diversity_weight=0.2"])
    assert changed(recipe, changes, training="pretraining").pretraining.learning_rate == 1e-4
