"""Language models in `learn`, `tune`, `transcribe` and `evaluate`, on a language of tones."""

import io
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import tones
from tests.small_language_models import small_language_model

import unheard
from unheard.decoding.presets import get_preset
from unheard.errors import ConfigError
from unheard.files import read_json, read_jsonl
from unheard.inference.neural_model import NeuralModel
from unheard.interop.language_model import save_language_model
from unheard.recipes import catalogue as recipes
from unheard.tasks.evaluate import evaluate
from unheard.tasks.learn import LearnResult, learn
from unheard.tasks.searching import SearchOptions
from unheard.tasks.transcribe import transcribe, transcribe_files
from unheard.tasks.tune import TuneResult, tune


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `learn` is given; the text is of the same language as the transcripts."""

    folder: Path
    corpus: tones.ToneCorpus
    text: Path

    def learn(self) -> LearnResult:
        return learn(
            str(self.corpus.recordings),
            transcripts=str(self.corpus.transcripts),
            test=str(self.corpus.test),
            valid=0.2,
            recipe="tiny",
            pretraining=False,
            text=[str(self.text)],
            out=self.folder / "out",
            quiet=True,
        )

    def tune(self, out: str, *, trials: int = 6, seed: int = 0) -> TuneResult:
        return tune(
            self.model,
            str(self.corpus.test),
            lm=self.lm,
            beam=8,
            trials=trials,
            seed=seed,
            out=self.folder / out,
            quiet=True,
        )

    @property
    def model(self) -> Path:
        return self.folder / "out" / "model"

    @property
    def lm(self) -> Path:
        return self.folder / "out" / "lm" / "lm.arpa.gz"

    @property
    def recording(self) -> Path:
        row = read_jsonl(self.folder / "out" / "data" / "test.jsonl")[0]
        return (self.folder / "out" / "data" / row["audio"]).resolve()


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", tones.tiny)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("search")
    generator = np.random.default_rng(5)
    text = folder / "text.txt"
    text.write_text("".join(tones.draw_text(generator) + "\n" for _ in range(60)), "utf-8")
    found = Job(folder=folder, corpus=tones.write_corpus(folder), text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "tiny", tones.tiny)
        found.learn()
    return found


def test_learn_makes_tunes_and_measures_a_language_model(job: Job) -> None:
    result = job.learn()  # all stages are done before: what is returned was written down

    assert result.search is not None
    assert result.wer is not None
    stored = read_json(job.folder / "out" / "learn.json")
    assert {"language model", "tune", "evaluate search"} <= stored["stages"].keys()
    assert stored["result"]["search"]["error_rate"]["wer"]["value"] == result.search.wer.value
    gain = result.search.wer.value - result.wer.value
    assert result.search.gain.wer.value == pytest.approx(gain)
    assert "with a search" in result.table()
    assert f"--lm {job.lm} --preset" in result.table()
    assert "Words, with a search" in (job.folder / "out" / "report.html").read_text("utf-8")
    transcripts = (job.folder / "out" / "lm" / "transcripts.txt").read_text("utf-8").splitlines()
    learnt = read_jsonl(job.folder / "out" / "data" / "train.jsonl")
    assert len(transcripts) == sum(row["text"] is not None for row in learnt)


def test_what_learn_measured_is_what_its_options_give(job: Job) -> None:
    settings = job.folder / "out" / "lm" / "tuned" / "search.json"
    found = evaluate(
        job.model, job.folder / "out" / "data" / "test.jsonl", lm=job.lm, preset=str(settings)
    )

    stored = read_json(job.folder / "out" / "evaluation-search" / "result.json")
    assert found.errors.wer.to_dict() == stored["error_rate"]["wer"]
    assert stored["decoder"] == "search"
    assert stored["search"]["lm_weight"] == get_preset(settings).config.lm_weight


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lm": "there.arpa"}, "found both"),
        ({"preset": "wav2vec3"}, "no search settings called 'wav2vec3'"),
        ({"beam": 0}, "beam is out of range"),
        ({"lexicon": "missing.txt"}, r"no file missing\.txt"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    asked: dict[str, Any], message: str, job: Job
) -> None:
    with pytest.raises(ConfigError, match=message):
        learn(str(job.corpus.recordings), text=[str(job.text)], out=job.folder / "never", **asked)
    assert not (job.folder / "never").exists()


def test_tuning_never_ends_worse_than_it_began_where_it_chose(job: Job) -> None:
    found = job.tune("tuned")

    rows = read_jsonl(job.folder / "tuned" / "trials.jsonl")
    assert len(rows) == found.trials == 6
    best = min(rows, key=lambda row: row["rates"]["wer"])
    assert found.config.lm_weight == best["settings"]["lm_weight"]
    assert found.config.word_bonus == best["settings"]["word_bonus"]
    assert get_preset(found.settings).config == found.config
    assert not found.flatters
    assert found.tuned_on + found.reported_on == len(
        read_jsonl(job.folder / "out" / "data" / "test.jsonl")
    )
    assert "weights found on" in found.table()


def test_tuning_goes_on_where_it_was_stopped(job: Job) -> None:
    """The trials of a run that was cut short are not done again, and the end is the same."""
    whole = job.tune("whole")
    cut = job.folder / "cut"
    cut.mkdir()
    shutil.copy(job.folder / "whole" / "request.json", cut)
    lines = (job.folder / "whole" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "trials.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:10])

    found = job.tune("cut")

    assert found.config == whole.config
    assert (cut / "trials.jsonl").read_bytes() == b"".join(lines)
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        job.tune("cut", seed=1)


def test_tuning_finds_weights_for_a_second_model_too(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights go into the same file, and give the rates that were reported."""
    likes_long_texts = _Likes(lambda text: float(len(text)))
    monkeypatch.setattr(NeuralModel, "load", lambda _: likes_long_texts)
    monkeypatch.setattr(SearchOptions, "identity", lambda _: {})

    found = tune(
        job.model,
        str(job.corpus.test),
        lm=job.lm,
        beam=8,
        trials=6,
        rescore="second",
        out=job.folder / "rescored",
        quiet=True,
    )

    rows = read_jsonl(job.folder / "rescored" / "rescoring-trials.jsonl")
    assert len(rows) == 6
    best = min(rows, key=lambda row: row["rates"]["wer"])
    assert found.rescoring is not None
    assert asdict(found.rescoring) == best["settings"]
    assert rows[0]["settings"] == {"weight": 0.5, "lm_scale": 1.0, "word_bonus": 0.0}
    assert len({row["rates"]["cer"] for row in rows}) > 1  # the weights matter
    assert found.rescored is not None
    assert found.rescoring_gain is not None
    gain = found.rescored.wer.value - found.tuned.wer.value
    assert found.rescoring_gain.wer.value == pytest.approx(gain)
    assert "rescored against tuned" in found.table()
    options = SearchOptions(lm=job.lm, preset=str(found.settings), rescore="second")
    assert options.rescoring() == found.rescoring
    assert replace(options, rescore_weight=0.25).rescoring().weight == 0.25


def test_a_transformer_in_the_beam_is_tuned_and_used(job: Job) -> None:
    second = job.folder / "second"
    save_language_model(small_language_model(), second)
    found = tune(
        job.model,
        str(job.corpus.test),
        lm=job.lm,
        beam=8,
        trials=4,
        fuse=second,
        out=job.folder / "fused",
        quiet=True,
    )

    rows = read_jsonl(job.folder / "fused" / "trials.jsonl")
    assert {len(row["settings"]) for row in rows} == {4}
    assert rows[0]["settings"]["fuse_weight"] == 0.5
    best = min(rows, key=lambda row: row["rates"]["wer"])
    assert found.config.fuse_weight == best["settings"]["fuse_weight"]
    assert f"fuse_weight {found.config.fuse_weight:.3f}" in found.table()
    assert found.to_dict()["fuse_weight"] == found.config.fuse_weight
    (reading, *_) = transcribe(
        job.model,
        job.recording,
        lm=job.lm,
        preset=str(found.settings),
        fuse=second,
        fuse_weight=0.25,
        nbest=2,
    ).readings
    assert reading.parts is not None
    said = NeuralModel.load(second).score_sentence(reading.text)
    assert reading.parts.fusion == pytest.approx(0.25 * said, rel=1e-5)
    assert reading.parts.total == pytest.approx(reading.score)
    measured = evaluate(
        job.model, str(job.corpus.test), lm=job.lm, preset=str(found.settings), fuse=second
    )
    assert measured.search["search"]["fuse_weight"] == found.config.fuse_weight


@dataclass(frozen=True)
class _Likes:
    """A language model with an opinion."""

    opinion: Callable[[str], float]

    def score_sentences(self, texts: Sequence[str]) -> list[float]:
        return [self.opinion(text) for text in texts]


def test_tuning_needs_something_to_tune(job: Job) -> None:
    with pytest.raises(ConfigError, match="nothing to tune"):
        tune(job.model, str(job.corpus.test), out=job.folder / "nothing")


def test_readings_have_parts_that_add_up(job: Job) -> None:
    found = transcribe(job.model, job.recording, lm=job.lm, beam=16, nbest=4, lm_weight=0.5)

    assert len(found.readings) == 4
    assert found.readings[0].text == found.text
    scores = [reading.score for reading in found.readings]
    assert scores == sorted(scores, reverse=True)
    for reading in found.readings:
        assert reading.parts is not None
        assert reading.score == pytest.approx(reading.parts.total)
    # The model's own opinion of a text of known words, times its weight, is the part "lm".
    lm = unheard.NgramModel.load(job.lm)
    known = [r for r in found.readings if r.parts is not None and not r.parts.unknown_words]
    for reading in known:
        assert reading.parts is not None
        expected = 0.5 * lm.score_sentence(reading.text)
        assert reading.parts.lm == pytest.approx(expected, abs=1e-4)


def test_scores_are_printed_as_a_table(job: Job) -> None:
    printed = io.StringIO()
    transcribe_files(
        job.model,
        [job.recording],
        lm=job.lm,
        word_bonus=1.5,
        nbest=2,
        scores=True,
        stdout=printed,
        progress=False,
    )

    name, header, first, second = printed.getvalue().splitlines()
    assert name == str(job.recording)
    assert header.split() == ["score", "acoustic", "lm", "words", "text"]
    place, score, *parts = first.split()[:5]
    assert place == "1"
    assert float(score) == pytest.approx(sum(map(float, parts)), abs=0.02)
    assert second.split()[0] == "2"


def test_records_of_another_search_are_not_mixed(job: Job) -> None:
    out = job.folder / "texts"

    def run(**search: object) -> None:
        transcribe_files(job.model, [job.recording], out=out, progress=False, **search)  # pyright: ignore[reportArgumentType]

    run(lm=job.lm, nbest=3)
    (row,) = read_jsonl(out / "transcripts.jsonl")
    assert [set(reading) for reading in row["readings"]] == [
        {"text", "score", "confidence", "parts"}
    ] * 3
    with pytest.raises(ConfigError, match="lm_weight"):
        run(lm=job.lm, nbest=3, lm_weight=0.25)
    with pytest.raises(ConfigError, match="decoder"):
        run()


def test_an_unpruned_search_without_anything_reads_as_well_as_greedy(job: Job) -> None:
    greedy = transcribe(job.model, job.recording)
    searched = transcribe(job.model, job.recording, beam=64)

    assert greedy.readings == ()
    assert math.isfinite(searched.confidence)
    assert searched.text == greedy.text
