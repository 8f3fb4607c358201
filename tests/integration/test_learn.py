"""The main job, start to end, on a language of tones."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import recordings, small_corpora, tones

import unheard
from unheard.errors import ConfigError
from unheard.files import read_json, read_jsonl
from unheard.models.config import MaskedUnitConfig
from unheard.recipes import catalogue as recipes
from unheard.tasks import learn as learn_module
from unheard.tasks.finetune import finetune
from unheard.tasks.learn import LearnResult, learn
from unheard.tasks.pretrain import pretrain
from unheard.training.schedule import Budget


def broken_flac() -> bytes:
    """A file whose header is read without complaint and whose sound cannot be decoded."""
    whole = recordings.encode(recordings.sound(1.0, 16_000), 16_000, "flac", "flac")
    kept = len(whole) // 8
    noise = np.random.default_rng(0).integers(0, 255, size=len(whole) - kept, dtype=np.uint8)
    return whole[:kept] + noise.tobytes()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A corpus and the command that learns it."""

    corpus: tones.ToneCorpus
    folder: Path

    def words(self, out: str) -> list[str]:
        return [
            "learn",
            str(self.corpus.recordings),
            *("--transcripts", str(self.corpus.transcripts)),
            *("--test", str(self.corpus.test)),
            *("--valid", "0.2"),
            *("--recipe", "tiny"),
            "--compare-scratch",
            *("--out", str(self.folder / out)),
        ]

    def again(self, out: str, **changes: Any) -> LearnResult:
        """The same from Python, in this process."""
        arguments: dict[str, Any] = {
            "transcripts": str(self.corpus.transcripts),
            "test": str(self.corpus.test),
            "valid": 0.2,
            "recipe": "tiny",
            "compare_scratch": True,
            "out": self.folder / out,
            "quiet": True,
            **changes,
        }
        return learn(str(self.corpus.recordings), **arguments)

    def start(self, out: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.tones", *self.words(out), *more],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("learn")
    corpus = tones.write_corpus(folder)
    small_corpora.text(corpus.recordings / "u0" / "header.wav", b"RIFF....but this is no sound")
    small_corpora.text(corpus.recordings / "u0" / "inside.flac", broken_flac())
    return Job(corpus=corpus, folder=folder)


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What the command left and printed."""

    folder: Path
    printed: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def learnt(job: Job) -> Learnt:
    process = job.start("out", "--json")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return Learnt(folder=job.folder / "out", printed=json.loads(stdout), log=stderr)


@pytest.fixture(autouse=True)
def _recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", tones.tiny)

    def brief() -> recipes.Recipe:
        whole = tones.tiny()
        return replace(
            whole,
            name="brief",
            pretraining=replace(whole.pretraining, budget=Budget(max_steps=2)),
            finetuning=replace(
                whole.finetuning, budget=Budget(max_steps=3), batch_seconds=4.0, head_only=0.4
            ),
        )

    monkeypatch.setitem(recipes.RECIPES, "brief", brief)


def test_one_command_leaves_a_recogniser_its_figures_and_a_report(learnt: Learnt) -> None:
    names = """
        learn.json report.html
        data/train.jsonl data/valid.jsonl data/test.jsonl data/unlabelled.jsonl data/scan.json
        data/audit.json
        pretrain/config.json pretrain/metrics.jsonl pretrain/result.json
        pretrained/config.json
        finetune/config.json finetune/metrics.jsonl finetune/samples.jsonl finetune/result.json
        model/config.json model/model.safetensors
        scratch/metrics.jsonl scratch/model/config.json scratch/evaluation/result.json
        evaluation/result.json evaluation/utterances.jsonl
    """.split()
    assert [name for name in names if not (learnt.folder / name).is_file()] == []
    every = [str(path) for path in learnt.folder.rglob("*")]
    assert not [name for name in every if ".tmp" in name or name.endswith((".i16", "lock"))]
    report = (learnt.folder / "report.html").read_text()
    assert "<html" in report
    assert "ŋ" in report
    stages = read_json(learnt.folder / "learn.json")["stages"]
    assert {stage["state"] for stage in stages.values()} == {"done"}
    assert {"scan", "pretrain", "finetune", "scratch", "evaluate", "report"} <= stages.keys()


def test_an_easy_language_is_learnt_in_seconds(learnt: Learnt) -> None:
    """Letters are tones: 250 updates of a small network, from pre-trained and random weights."""
    for run in ("finetune", "scratch"):
        curve = [
            row["cer"]
            for row in read_jsonl(learnt.folder / run / "metrics.jsonl")
            if row["kind"] == "valid"
        ]
        assert curve[0] > 0.5
        assert min(curve) < 0.2
        assert read_json(learnt.folder / run / "result.json")["valid_cer"] == min(curve)
    # Speakers that were never heard, at another pitch.
    cer = learnt.printed["cer"]
    assert cer["low"] <= cer["value"] <= cer["high"]
    assert cer["value"] < 0.3
    assert learnt.printed["difference"]["num_utterances"] == 12


def test_the_result_transcribes(job: Job, learnt: Learnt) -> None:
    rows = read_jsonl(learnt.folder / "evaluation" / "utterances.jsonl")
    _, row = job.corpus.test.read_text().splitlines()[:2]
    path, _, text = row.split("\t")
    transcript = unheard.transcribe(learnt.folder / "model", job.folder / path)
    assert set(transcript.text) <= {*tones.TONES_HZ, " "}
    assert transcript.text in {row["hypothesis"] for row in rows}
    assert text in {row["reference"] for row in rows}


def test_broken_recordings_are_named_and_the_rest_is_learnt(learnt: Learnt) -> None:
    skipped = read_json(learnt.folder / "data" / "scan.json")["skipped"]
    unreadable = read_jsonl(learnt.folder / "pretrain" / "unreadable.jsonl")
    assert [Path(row["path"]).name for row in skipped] == ["header.wav"]
    assert [Path(row["audio"]).name for row in unreadable] == ["inside.flac"]
    assert unreadable[0]["reason"]
    assert "1 recording could not be decoded" in learnt.log


def test_the_second_call_does_nothing_again(
    job: Job, learnt: Learnt, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scan", "open_store", "pretrain_store", "finetune_utterances", "evaluate"):
        monkeypatch.setattr(learn_module, name, lambda *_, name=name, **__: pytest.fail(name))
    result = job.again("out")
    assert result.cer is not None
    assert result.cer.to_dict() == learnt.printed["cer"]
    assert result.scratch_wer is not None
    assert result.scratch_wer.to_dict() == learnt.printed["scratch_wer"]
    assert result.difference is not None
    assert result.difference.to_dict() == learnt.printed["difference"]
    assert result.minutes == pytest.approx(learnt.printed["minutes"], abs=0.5)
    assert str(result.report) == learnt.printed["report"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"recipe": "nano"}, "recipe was 'tiny', is 'nano'"),
        ({"valid": 0.3}, "valid was 0.2, is 0.3"),
        ({"max_minutes": 5.0}, "max_minutes was None, is 5.0"),
        ({"compare_scratch": False}, "compare_scratch was True, is False"),
    ],
)
def test_a_changed_setting_is_refused(
    job: Job, learnt: Learnt, changes: dict[str, Any], message: str
) -> None:
    before = (learnt.folder / "learn.json").read_bytes()
    with pytest.raises(ConfigError, match=message):
        job.again("out", **changes)
    assert (learnt.folder / "learn.json").read_bytes() == before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_killed_in_each_training_and_repeated_is_the_same_model(job: Job, learnt: Learnt) -> None:
    out = job.folder / "killed"
    for run in ("pretrain", "finetune"):
        process = job.start("killed")
        _wait_for(out / run / "metrics.jsonl", process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (out / run / "result.json").exists()
    result = job.again("killed")
    for model in ("pretrained", "model", "scratch/model"):
        expected = (learnt.folder / model / "model.safetensors").read_bytes()
        assert (out / model / "model.safetensors").read_bytes() == expected
    assert result.cer is not None
    assert result.cer.to_dict() == learnt.printed["cer"]


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there and has a line."""
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def hugging_face_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        num_codevectors_per_group=4,
        codevector_dim=8,
        proj_codevector_dim=8,
    )
    folder = tmp_path_factory.mktemp("hf")
    transformers.Wav2Vec2ForPreTraining(config).save_pretrained(folder)
    return folder


def test_a_hugging_face_model_is_a_start(
    job: Job, tmp_path: Path, hugging_face_folder: Path
) -> None:
    result = learn(
        job.corpus.recordings,
        transcripts=job.corpus.transcripts,
        test=job.corpus.test,
        out=tmp_path / "out",
        start=hugging_face_folder,
        recipe="brief",
        quiet=True,
    )
    assert result.cer is not None
    assert not (tmp_path / "out" / "pretrain").exists()
    model = unheard.load_model(tmp_path / "out" / "model")
    assert (
        model.encoder_config.conv_layers
        == unheard.load_model(hugging_face_folder).encoder_config.conv_layers
    )
    parent = model.provenance["parent"]
    assert parent["source"] == str(hugging_face_folder)
    assert model.provenance["recipe"] == "brief"


def test_a_hugging_face_model_goes_on_with_pretraining(
    job: Job, tmp_path: Path, hugging_face_folder: Path
) -> None:
    result = pretrain(
        job.corpus.recordings,
        out=tmp_path,
        start=hugging_face_folder,
        recipe="brief",
        quiet=True,
    )
    assert result.steps == 2
    assert result.objective == "contrastive"
    assert unheard.load_model(result.model).provenance["parent"]["source"] == str(
        hugging_face_folder
    )


def test_a_second_round_learns_clusters_of_a_hidden_layer(job: Job, tmp_path: Path) -> None:
    first = pretrain(job.corpus.recordings, out=tmp_path / "1", recipe="brief", quiet=True)
    second = pretrain(
        job.corpus.recordings,
        out=tmp_path / "2",
        recipe="brief",
        start=first.model,
        units_from=first.model,
        units_layer=1,
        units=11,
        quiet=True,
    )
    model = unheard.load_model(second.model)
    assert isinstance(model.config, MaskedUnitConfig)
    assert model.config.units == 11
    assert model.provenance["units_from"]["task"] == "pretrain"
    with pytest.raises(ConfigError, match="units_layer"):
        pretrain(job.corpus.recordings, out=tmp_path / "3", recipe="brief", units_layer=1)
    with pytest.raises(ConfigError, match="expected 0 to"):
        pretrain(
            job.corpus.recordings,
            out=tmp_path / "4",
            recipe="brief",
            units_from=first.model,
            units_layer=9,
        )


def test_a_start_goes_on_listening_before_it_writes(job: Job, tmp_path: Path) -> None:
    first = pretrain(job.corpus.recordings, out=tmp_path / "first", recipe="brief", quiet=True)
    learn(
        job.corpus.recordings,
        transcripts=job.corpus.transcripts,
        test=job.corpus.test,
        out=tmp_path / "out",
        start=first.model,
        recipe="brief",
        pretrain_minutes=0.01,
        finetune_minutes=0.01,
        quiet=True,
    )
    began = unheard.load_model(first.model)
    listened = unheard.load_model(tmp_path / "out" / "pretrained")
    writes = unheard.load_model(tmp_path / "out" / "model")
    assert listened.provenance["parent"] == listened.provenance["units_from"] == began.provenance
    assert writes.provenance["parent"] == listened.provenance
    assert isinstance(listened.config, MaskedUnitConfig)
    assert "It began with the model" in (tmp_path / "out" / "report.html").read_text()


def test_pretraining_says_what_it_could_not_use(job: Job, tmp_path: Path) -> None:
    """Regression: recordings outside their folder were left out without a word."""
    table = tmp_path / "data" / "table.jsonl"
    recording = next(job.corpus.recordings.rglob("*.wav"))
    small_corpora.text(table, json.dumps({"id": "1", "audio": str(recording)}) + "\n")
    with pytest.raises(ConfigError, match=r"1 of them outside.*skipped\.jsonl"):
        pretrain(table, out=tmp_path / "p", recipe="brief", quiet=True)
    assert read_jsonl(tmp_path / "p" / "skipped.jsonl")[0]["reason"] == "outside"


def test_the_stages_alone_are_refused_with_other_settings_and_not_done_twice(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a repeated command gave the result of the first, whatever it asked for."""
    first = pretrain(job.corpus.recordings, out=tmp_path / "p", recipe="brief", quiet=True)
    assert (tmp_path / "p" / "unreadable.jsonl").exists()
    second = finetune(
        job.corpus.transcripts,
        out=tmp_path / "f",
        recipe="brief",
        start=first.model,
        valid=0.3,
        quiet=True,
    )
    assert second.utterances > 20
    for name in ("pretrain", "finetune"):
        module = sys.modules[f"unheard.tasks.{name}"]
        monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
        monkeypatch.setattr(module, "open_store", lambda *_, **__: pytest.fail("decoded again"))
    assert pretrain(job.corpus.recordings, out=tmp_path / "p", recipe="brief") == first
    assert (
        finetune(
            job.corpus.transcripts,
            out=tmp_path / "f",
            recipe="brief",
            start=first.model,
            valid=0.3,
        )
        == second
    )
    with pytest.raises(ConfigError, match="seed was 0, is 7"):
        pretrain(job.corpus.recordings, out=tmp_path / "p", recipe="brief", seed=7)
    with pytest.raises(ConfigError, match=r"start was .*, is None"):
        finetune(job.corpus.transcripts, out=tmp_path / "f", recipe="brief", valid=0.3)


def test_unreadable_training_recordings_stay_named_when_those_for_validation_are_fine(
    tmp_path: Path,
) -> None:
    """Regression: the second list, which was empty, deleted the file of the first."""
    corpus = tones.write_corpus(tmp_path, labelled=8, unlabelled=0, test=4)
    rows = corpus.transcripts.read_text()
    small_corpora.text(corpus.recordings / "p0" / "bad.flac", broken_flac())
    small_corpora.text(corpus.transcripts, f"{rows}recordings/p0/bad.flac\tp0\tab cd\n")
    result = finetune(
        corpus.transcripts, out=tmp_path / "f", recipe="brief", valid=corpus.test, quiet=True
    )
    assert result.unreadable == 1
    assert result.utterances == 8
    named = read_jsonl(tmp_path / "f" / "unreadable.jsonl")
    assert [Path(row["audio"]).name for row in named] == ["bad.flac"]


def test_recordings_of_a_frame_do_not_stop_pretraining(tmp_path: Path) -> None:
    """Regression: such a one held out for validation cut all others of its batch to its frame."""
    corpus = tones.write_corpus(tmp_path, labelled=4, unlabelled=0, test=0)
    for number in range(40):
        small_corpora.wav(corpus.recordings / "short" / f"{number}.wav", 0.03, rate=16_000)
    result = pretrain(corpus.recordings, out=tmp_path / "p", recipe="brief", quiet=True)
    assert result.steps == 2
    with pytest.raises(ConfigError, match=r"at least 0\.5 s, the longest has 0\.03 s"):
        pretrain(corpus.recordings / "short", out=tmp_path / "q", recipe="brief", quiet=True)
