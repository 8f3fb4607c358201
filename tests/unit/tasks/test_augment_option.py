"""`--augment`: what it reaches, what it leaves alone, what is refused before anything begins."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tones

from unheard.audio.augment.config import AugmentConfig, NoiseConfig, SpeedConfig
from unheard.data.batching import Position
from unheard.errors import ConfigError
from unheard.recipes import catalogue
from unheard.tasks.finetune import finetune
from unheard.tasks.learn import learn
from unheard.tasks.pretrain import pretrain

NOISE = AugmentConfig(noise=NoiseConfig(probability=1.0))


class Stopped(Exception):
    """Training was about to begin."""


@pytest.fixture
def corpus(tmp_path: Path) -> tones.ToneCorpus:
    return tones.write_corpus(tmp_path / "corpus", labelled=4, unlabelled=2, test=2)


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sources that trainings were given; none of them begins."""
    seen: list[Any] = []

    def train(model: Any, objective: Any, source: Any, *_: Any, **__: Any) -> None:
        seen.append(source)
        raise Stopped

    for module in ("finetune", "pretrain"):
        monkeypatch.setattr(sys.modules[f"unheard.tasks.{module}"], "train", train)
    monkeypatch.setitem(catalogue.RECIPES, "tiny", tones.tiny)

    def noisy() -> catalogue.Recipe:
        whole = tones.tiny()
        return replace(whole, name="noisy", finetuning=replace(whole.finetuning, augment=NOISE))

    monkeypatch.setitem(catalogue.RECIPES, "noisy", noisy)
    return seen


def begin(verb: str, corpus: tones.ToneCorpus, out: Path, **more: Any) -> None:
    call: Any = {"finetune": finetune, "pretrain": pretrain, "learn": learn}[verb]
    source = corpus.transcripts if verb == "finetune" else corpus.recordings
    common: dict[str, Any] = {"out": out, "recipe": "tiny", "quiet": True, "device": "cpu"}
    common |= {
        "finetune": {"valid": corpus.test},
        "pretrain": {},
        "learn": {"transcripts": corpus.transcripts},
    }[verb]
    with pytest.raises(Stopped):
        call(source, **common | more)


def written(out: Path) -> dict[str, Any]:
    return json.loads((out / "config.json").read_text())["training"]["augment"]


@pytest.mark.parametrize("verb", ["finetune", "pretrain"])
def test_what_is_asked_for_reaches_the_recordings(
    verb: str, corpus: tones.ToneCorpus, tmp_path: Path, sources: list[Any]
) -> None:
    more = {"objective": "contrastive"} if verb == "pretrain" else {}
    begin(verb, corpus, tmp_path / "plain", **more)
    begin(verb, corpus, tmp_path / "changed", augment="speed,noise,reverb,codec", **more)
    assert not any(written(tmp_path / "plain").values())
    assert all(written(tmp_path / "changed").values())
    plain, changed = (source.load(Position()) for source in sources)
    assert changed.ids == plain.ids
    shortest = min(plain.samples.shape[1], changed.samples.shape[1])
    assert not torch.equal(changed.samples[:, :shortest], plain.samples[:, :shortest])


def test_a_recipe_may_ask_for_it_and_the_command_line_for_something_else(
    corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    begin("finetune", corpus, tmp_path / "recipe", recipe="noisy")
    assert written(tmp_path / "recipe")["noise"]["probability"] == 1.0
    begin("finetune", corpus, tmp_path / "own", recipe="noisy", augment="speed")
    assert written(tmp_path / "own")["noise"] is None
    assert written(tmp_path / "own")["speed"]["factors"] == list(SpeedConfig().factors)


def test_learn_changes_recordings_in_fine_tuning_alone(
    corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    begin("learn", corpus, tmp_path / "listen", augment="speed,noise")
    assert not any(written(tmp_path / "listen" / "pretrain").values())
    begin("learn", corpus, tmp_path / "write", augment="speed,noise", pretraining=False)
    assert written(tmp_path / "write" / "finetune")["noise"]["snr_db"] == [5.0, 30.0]


def test_another_augmentation_is_another_run(corpus: tones.ToneCorpus, tmp_path: Path) -> None:
    begin("finetune", corpus, tmp_path / "run", augment="noise")
    with pytest.raises(ConfigError, match="augment was 'noise', is 'noise,speed'"):
        finetune(corpus.transcripts, out=tmp_path / "run", recipe="tiny", augment="noise,speed")


def test_speed_is_refused_where_units_are_predicted(
    corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"objective": "masked_units", "units": 4, "quiet": True}
    with pytest.raises(ConfigError, match="no speed among the augmentations"):
        pretrain(
            corpus.recordings, out=tmp_path / "run", recipe="tiny", augment="speed,noise", **more
        )


@pytest.mark.parametrize("verb", [finetune, pretrain, learn])
def test_a_word_that_is_not_known_is_refused_before_anything_is_written(
    verb: Any, corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="got 'nose'"):
        verb(corpus.recordings, out=tmp_path / "run", recipe="tiny", augment="speed,nose")
    assert not (tmp_path / "run").exists()
