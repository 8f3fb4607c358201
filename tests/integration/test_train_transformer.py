"""`lm train --kind transformer`: it learns, goes on where it was stopped, and is measured."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unheard import cli
from unheard.errors import ConfigError, Interrupted
from unheard.inference.neural_model import NeuralModel
from unheard.interop.language_model import load_language_model
from unheard.lm.ngram import NgramModel
from unheard.objectives.next_token import next_token_objective
from unheard.tasks import language_model
from unheard.tasks.language_model import part, train_transformer
from unheard.tasks.lm import TransformerTraining, perplexity, train
from unheard.text.swahili import sentences

SMALL = {
    "network.dim": 32,
    "network.ffn_dim": 64,
    "network.layers": 1,
    "network.heads": 2,
    "network.dropout": 0.1,
    "network.vocab": 120,
    "training.learning_rate": 2e-2,
    "training.precision": "float32",
    "training.log_every_steps": 5,
    "batch_tokens": 512,
    "piece_dropout": 0.1,
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return sentences(300, generator=np.random.default_rng(0))


def trained(texts: list[str], folder: Path, **more: Any) -> TransformerTraining:
    settings: dict[str, Any] = {"max_steps": 20, "set": SMALL, "device": "cpu", "quiet": True}
    return train_transformer(texts, out=folder, **{**settings, **more})


def test_it_learns_and_is_found_again(
    texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(texts), encoding="utf-8")
    command = ["lm", "train", str(text), "--kind", "transformer", "--out", str(tmp_path / "lm")]
    command += ["--max-steps", "60", "--device", "cpu"]
    for name, value in SMALL.items():
        command += ["--set", f"{name}={value}"]
    assert cli.main([*command, "--json"]) == 0
    first = capfd.readouterr()
    result = json.loads(first.out)
    rows = [json.loads(row) for row in (tmp_path / "lm/metrics.jsonl").read_text().splitlines()]
    found = [row["perplexity"] for row in rows if row["kind"] == "valid"]
    assert len(found) == 20
    assert found[-1] < found[0] / 10
    assert result["perplexity"] == pytest.approx(min(found))
    assert "lm: step 60 valid" in first.err
    assert not any("audio_seconds_per_second" in row for row in rows)

    assert cli.main([*command, "--json"]) == 0
    again = capfd.readouterr()
    assert again.out == first.out
    assert "step" not in again.err

    # The held-out sentences, measured through the stored model, give the figure of the training.
    _, held_out = part(texts, None, seed=0)
    (tmp_path / "held.txt").write_text("\n".join(held_out), encoding="utf-8")
    measured = perplexity(tmp_path / "lm", [tmp_path / "held.txt"])
    assert measured.word_perplexity == pytest.approx(result["perplexity"], rel=1e-4)
    assert measured.bits_per_character == pytest.approx(result["bits_per_character"], rel=1e-4)
    assert measured.unknown == 0
    # It knows more than how frequent each piece is: a unigram model has as many pieces.
    learned, _ = part(texts, None, seed=0)
    (tmp_path / "learned.txt").write_text("\n".join(learned), encoding="utf-8")
    unigrams = tmp_path / "1.arpa"
    train([tmp_path / "learned.txt"], out=unigrams, order=1, units="piece", pieces=120)
    plain = perplexity(NgramModel.load(unigrams), [tmp_path / "held.txt"])
    assert measured.bits_per_character < 0.85 * plain.bits_per_character
    # A text in the order of words is likelier than the same words backwards.
    model = NeuralModel.load(tmp_path / "lm")
    backwards = [" ".join(reversed(one.split())) for one in held_out]
    assert (model.score_sentences(held_out) > model.score_sentences(backwards)).mean() > 0.8


def test_it_goes_on_where_it_was_stopped(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(texts, tmp_path / "whole")
    calls = 0

    def stopping(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        learning = named["progress"] < 1
        calls += learning
        if learning and calls == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return next_token_objective(*arguments, **named)

    monkeypatch.setattr(language_model, "next_token_objective", stopping)
    with pytest.raises(Interrupted):
        trained(texts, tmp_path / "parts")
    assert not (tmp_path / "parts/model").exists()
    parts = trained(texts, tmp_path / "parts")
    assert calls == 20
    for name in ("model.safetensors", "pieces.json"):
        one, other = tmp_path / "whole/model" / name, tmp_path / "parts/model" / name
        assert one.read_bytes() == other.read_bytes()
    assert (parts.perplexity, parts.best_step) == (whole.perplexity, whole.best_step)


def test_another_request_in_the_same_folder_is_refused(texts: list[str], tmp_path: Path) -> None:
    trained(texts, tmp_path, max_steps=1)
    with pytest.raises(ConfigError, match=r"text was"):
        trained([*texts, "one more"], tmp_path, max_steps=1)
    with pytest.raises(ConfigError, match=r"units was 'piece', is 'character'"):
        trained(texts, tmp_path, max_steps=1, units="character")


def test_characters_are_units_of_one_letter(texts: list[str], tmp_path: Path) -> None:
    result = trained(texts, tmp_path, max_steps=1, units="character")
    bundle = load_language_model(tmp_path)
    assert bundle.units == result.units == "character"
    assert bundle.pieces.split("baba") == ["▁", "b", "a", "b", "a"]
    assert result.vocabulary == len(bundle.pieces) == len({*"".join(texts)} - {" "}) + 4


def test_no_sentence_is_learnt_from_and_held_out() -> None:
    texts = ["a", "b", "a", "c", "", " "] * 20 + [str(number) for number in range(60)]
    learned, held_out = part(texts, None, seed=1)
    assert not {*learned} & {*held_out}
    assert {*learned} | {*held_out} == {*texts} - {"", " "}
    assert len(held_out) == 4
    assert part(texts, None, seed=1) == (learned, held_out)
    assert part(texts, None, seed=2)[1] != held_out
    learned, held_out = part(texts, ["a", "a", "z"], seed=1)
    assert held_out == ["a", "z"]
    assert learned.count("a") == 0
    assert learned.count("b") == 20


@pytest.mark.parametrize("texts", [[], [""], ["only one"]])
def test_too_little_text_is_refused(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too little text"):
        trained(texts, tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("ngram", {"max_steps": 5}, "max_steps"),
        ("ngram", {"seed": 3}, "seed"),
        ("ngram", {"set": ["a=1"]}, "set"),
        ("transformer", {"order": 3}, "order"),
        ("transformer", {"prune": [0, 1]}, "prune"),
        ("transformer", {"units": "word"}, "units"),
    ],
)
def test_settings_of_the_other_kind_are_refused(
    kind: Any, settings: dict[str, Any], named: str, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("a b\nb c\n")
    with pytest.raises(ConfigError, match=named):
        train([tmp_path / "text.txt"], out=tmp_path / "lm.arpa", kind=kind, **settings)
