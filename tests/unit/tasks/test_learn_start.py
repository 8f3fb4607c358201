"""What `learn` begins with, and when it goes on listening from there."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests import tones
from tests.tiny_models import tiny_masked_units, tiny_pretraining

from unheard.errors import ConfigError
from unheard.files import read_json
from unheard.inference.hidden_features import HiddenFeatures
from unheard.interop import packaged
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import save_model
from unheard.interop.packaged import UNHEARD_MINI
from unheard.recipes.catalogue import get_recipe
from unheard.recipes.continued import CONTINUED
from unheard.tasks import learn as learn_module
from unheard.tasks.learn import learn


class Stopped(Exception):
    """A training was about to begin."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tones.ToneCorpus:
    return tones.write_corpus(tmp_path_factory.mktemp("tones"), labelled=6, unlabelled=2, test=2)


@pytest.fixture(autouse=True)
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the first training was asked for; a tiny network stands in for unheard-mini."""
    asked: dict[str, Any] = {}

    def stop(stage: str) -> Any:
        def train(*given: Any, **settings: Any) -> None:
            recipe = next(one for one in given if hasattr(one, "best_for"))
            asked.update(settings, stage=stage, recipe=recipe)
            raise Stopped

        return train

    monkeypatch.setattr(learn_module, "pretrain_store", stop("listen"))
    monkeypatch.setattr(learn_module, "finetune_utterances", stop("write"))
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "pretrained")
    mini = replace(tiny_masked_units(), provenance={"name": UNHEARD_MINI})
    save_model(mini, tmp_path / "pretrained" / UNHEARD_MINI)
    save_model(tiny_pretraining(), tmp_path / "contrastive")
    return asked


def begin(corpus: tones.ToneCorpus, out: Path, **settings: Any) -> None:
    with pytest.raises(Stopped):
        ask(corpus, out, **settings)


def ask(corpus: tones.ToneCorpus, out: Path, **settings: Any) -> None:
    given = {"quiet": True, "device": "cpu", **settings}
    learn(corpus.recordings, transcripts=corpus.transcripts, test=corpus.test, out=out, **given)


@pytest.mark.parametrize("settings", [{}, {"recipe": "mini"}, {"start": UNHEARD_MINI}])
def test_it_writes_from_unheard_mini(
    corpus: tones.ToneCorpus, tmp_path: Path, trainings: dict[str, Any], settings: dict[str, Any]
) -> None:
    begin(corpus, tmp_path / "out", **settings)
    assert trainings["stage"] == "write"
    assert trainings["start"].provenance == {"name": UNHEARD_MINI}
    assert read_json(tmp_path / "out" / "learn.json")["request"]["start"] == UNHEARD_MINI


@pytest.mark.parametrize(
    ("settings", "stage", "recipe"),
    [
        ({"start": "none"}, "listen", "mini"),
        ({"start": "none", "recipe": "mini"}, "listen", "mini"),
        ({"recipe": "nano"}, "listen", "nano"),
        ({"recipe": "base"}, "listen", "base"),
        ({"objective": "contrastive"}, "listen", "mini"),
        ({"pretraining": False}, "write", "mini"),
        ({"start": "none", "pretraining": False}, "write", "mini"),
    ],
)
def test_random_weights_where_it_is_asked_for_or_another_network(
    corpus: tones.ToneCorpus,
    tmp_path: Path,
    trainings: dict[str, Any],
    settings: dict[str, Any],
    stage: str,
    recipe: str,
) -> None:
    begin(corpus, tmp_path / "out", **settings)
    assert (trainings["stage"], trainings["recipe"].name) == (stage, recipe)
    assert trainings["start"] is None
    assert read_json(tmp_path / "out" / "learn.json")["request"]["start"] == "none"
    if stage == "listen":
        assert trainings["teacher"] is None
        assert trainings["config"].budget == get_recipe(recipe).pretraining.budget


def test_minutes_of_pretraining_let_it_go_on_with_its_own_units(
    corpus: tones.ToneCorpus, tmp_path: Path, trainings: dict[str, Any]
) -> None:
    begin(corpus, tmp_path / "out", pretrain_minutes=1.5, max_minutes=40.0)
    assert trainings["stage"] == "listen"
    assert trainings["start"].provenance == {"name": UNHEARD_MINI}
    assert trainings["config"].budget.max_minutes == 1.5
    teacher = trainings["teacher"]
    assert isinstance(teacher, HiddenFeatures)
    assert teacher.bundle is trainings["start"]
    assert teacher.layer == round(2 / 3 * teacher.bundle.encoder_config.layers)
    # The rest of the time is for writing.
    minutes = read_json(tmp_path / "out" / "learn.json")["minutes"]
    assert minutes["pretrain"] == 1.5
    assert minutes["finetune"] == pytest.approx(0.95 * 40.0 - 1.5, abs=0.5)


def test_minutes_that_leave_none_for_writing_are_refused(
    corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="pretrain_minutes 40 leave nothing of max_minutes 40"):
        ask(corpus, tmp_path / "out", pretrain_minutes=40.0, max_minutes=40.0)


def test_a_network_that_tells_sounds_apart_goes_on_with_that(
    corpus: tones.ToneCorpus, tmp_path: Path, trainings: dict[str, Any]
) -> None:
    begin(corpus, tmp_path / "out", start=tmp_path / "contrastive", pretrain_minutes=1.0)
    assert trainings["stage"] == "listen"
    assert trainings["teacher"] is None


def test_a_released_network_goes_on_by_the_recipe_for_that() -> None:
    encoder = replace(get_recipe("base").network.encoder, layers=1)
    wide: Any = SimpleNamespace(encoder_config=encoder)
    chosen = learn_module._listening(get_recipe("base"), wide, named=False)
    assert chosen.name == CONTINUED
    assert chosen.network.encoder.layers == 1
    assert learn_module._listening(get_recipe("base"), wide, named=True).name == "base"
    narrow: ModelBundle = tiny_masked_units()
    assert learn_module._listening(get_recipe("mini"), narrow, named=False).name == "mini"


def test_another_start_is_another_run(corpus: tones.ToneCorpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(corpus, out)
    with pytest.raises(ConfigError, match="start was 'unheard-mini', is 'none'"):
        ask(corpus, out, start="none")
    begin(corpus, out)


def test_a_run_of_random_weights_from_before_goes_on(
    corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    """An earlier version wrote no start down where there was none."""
    out = tmp_path / "out"
    begin(corpus, out, start="none")
    data = read_json(out / "learn.json")
    data["request"]["start"] = None
    (out / "learn.json").write_text(json.dumps(data))
    begin(corpus, out, start="none")
    with pytest.raises(ConfigError, match="start was 'none', is 'unheard-mini'"):
        ask(corpus, out)


def test_recordings_that_nobody_listens_to_are_said(
    corpus: tones.ToneCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(corpus, tmp_path / "out", quiet=False)
    assert "are not listened to" in (said := capsys.readouterr().err)
    assert "--pretrain-minutes" in said
    begin(corpus, tmp_path / "listening", quiet=False, pretrain_minutes=1.0)
    assert "are not listened to" not in capsys.readouterr().err
