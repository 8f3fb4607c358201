import json
from pathlib import Path

import pytest
from tests.learn_folder import make_learn_folder, write_json, write_rows

from unheard.report.facts import find_number, read_facts


def test_an_empty_folder_has_no_parts(tmp_path: Path):
    facts = read_facts(tmp_path)
    assert facts.scores is facts.pretraining is facts.finetuning is facts.scratch is None
    assert facts.splits == {}
    assert facts.utterances == facts.vocabulary == ()
    assert facts.unreadable == {}
    assert facts.speakers_are_new is None


def test_a_whole_folder_is_read(tmp_path: Path):
    facts = read_facts(make_learn_folder(tmp_path / "out", audio=False))
    lines = (tmp_path / "out/data/train.jsonl").read_text().splitlines()
    train = [json.loads(line) for line in lines]
    result = json.loads((tmp_path / "out/evaluation/result.json").read_text())["error_rate"]
    split = facts.splits["train"]
    assert split.utterances == len(train)
    assert split.seconds == pytest.approx(sum(r["num_samples"] / 8000 for r in train))
    assert split.characters["a"] == sum(r["text"].count("a") for r in train)
    assert len(split.speakers) == 5
    assert facts.speakers_are_new is True
    assert facts.language == "sw"
    assert facts.scores is not None
    assert facts.scores.cer is not None
    assert facts.scores.cer.value == result["cer"]["value"]
    assert facts.scores.cer.total == result["cer"]["counts"]["reference_length"]
    assert len(facts.scores.speakers) == 6
    assert [r.value for _, r, _ in facts.scores.speakers] == sorted(
        r["characters"]["rate"] for r in result["by_speaker"]
    )
    assert facts.difference is not None
    assert facts.difference.value < 0
    assert len(facts.utterances) == 60
    assert "|" not in facts.vocabulary
    assert "<blank>" not in facts.vocabulary
    assert facts.pretraining is not None
    assert len(facts.pretraining.series("valid", "contrastive")) == 12
    assert facts.evaluated == Path("data")
    assert facts.num_failed == 1


def test_characters_are_counted_after_the_normaliser(tmp_path: Path):
    row = {"id": "a", "num_samples": 1, "sample_rate": 1, "text": "Habari, Mama!"}
    write_rows(tmp_path / "data/train.jsonl", [row])
    assert read_facts(tmp_path).splits["train"].characters["H"] == 1
    write_json(tmp_path / "evaluation/result.json", {"normalizer": "basic-1"})
    counted = read_facts(tmp_path).splits["train"].characters
    assert counted["h"] == 1
    assert counted["H"] == counted[","] == 0


def test_a_step_logged_twice_counts_once(tmp_path: Path):
    write_rows(
        tmp_path / "finetune/metrics.jsonl",
        [
            {"kind": "train", "step": 20, "ctc": 9.0},
            {"kind": "train", "step": 10, "ctc": 3.0},
            {"kind": "valid", "step": 20, "ctc": 7.0},
            {"kind": "train", "step": 20, "ctc": 2.0},
        ],
    )
    run = read_facts(tmp_path).finetuning
    assert run is not None
    assert run.series("train", "ctc") == ((10.0, 3.0), (20.0, 2.0))


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path: Path):
    write_rows(
        tmp_path / "finetune/metrics.jsonl",
        [{"kind": "train", "step": k, "loss": float("nan") if k == 2 else 1.0} for k in range(5)],
    )
    run = read_facts(tmp_path).finetuning
    assert run is not None
    assert len(run.series("train", "loss")) == 4
    assert run.non_finite("loss") == 1


def test_broken_lines_and_files_are_counted(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_bytes(b'{"id": "a"}\n{"id": \n\xff\xfe\n[1]\n\n')
    (tmp_path / "learn.json").write_text("{")
    write_rows(tmp_path / "evaluation/utterances.jsonl", [{"id": "a", "reference": 3}])
    facts = read_facts(tmp_path)
    assert facts.unreadable == {
        "learn.json": 1,
        "data/train.jsonl": 3,
        "evaluation/utterances.jsonl": 1,
    }
    assert facts.splits["train"].utterances == 1


@pytest.mark.parametrize("wrong", [None, 3, "text", [], {}, [[]], {"a": None}])
def test_any_json_is_borne(tmp_path: Path, wrong: object):
    for name in ("learn", "data/scan", "data/audit", "evaluation/result", "pretrain/config"):
        write_json(tmp_path / f"{name}.json", wrong)
        write_json(
            tmp_path / f"{name}.json", dict.fromkeys(("request", "result", "skipped"), wrong)
        )
    for key in ("error_rate", "manifest", "normalizer", "cer", "by_speaker"):
        write_json(tmp_path / "evaluation/result.json", {key: wrong})
        read_facts(tmp_path)
    row = dict.fromkeys(
        ("id", "kind", "step", "loss", "text", "speaker", "num_samples", "sample_rate"), wrong
    )
    write_rows(tmp_path / "data/train.jsonl", [row])
    write_rows(tmp_path / "finetune/metrics.jsonl", [row])
    write_json(tmp_path / "model/model.json", {"alphabet": wrong, "tokens": wrong})
    read_facts(tmp_path)


def test_find_number_looks_everywhere():
    tree = {"a": [{"distractors": "no"}, {"b": {"distractors": 7}}], "distractors": True}
    assert find_number(tree, "distractors") == 7
    assert find_number(tree, "absent") is None
