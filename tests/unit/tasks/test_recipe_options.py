"""Recipes, files with recipes and single settings as the training verbs take them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tones

from unheard import cli
from unheard.audio.signal import InputSpec
from unheard.config import to_dict
from unheard.data.sampling import SamplingConfig
from unheard.errors import ConfigError
from unheard.files import read_json
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import load_model, save_model
from unheard.models.config import CtcConfig, PretrainingConfig, QuantizerConfig
from unheard.models.ctc import CtcModel
from unheard.models.pretraining import PretrainingModel
from unheard.recipes import catalogue
from unheard.recipes.catalogue import get_recipe
from unheard.recipes.continued import go_on_from, heads_for
from unheard.recipes.toml import to_toml
from unheard.tasks.finetune import finetune
from unheard.tasks.pretrain import pretrain

QUICK = {
    "training.batch_seconds": 4.0,
    "training.accumulation": 1,
    "training.min_seconds": 0.2,
    "training.max_seconds": 1.0,
    "training.precision": "float32",
    "training.validate_every_steps": 1000,
}


class Stopped(Exception):
    """Training was about to begin."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the loop is called with; it does not run."""
    calls: list[dict[str, Any]] = []

    def train(model: Any, objective: Any, source: Any, config: Any, **more: Any) -> None:
        calls.append({"model": model, "source": source, "config": config, **more})
        raise Stopped

    for verb in ("pretrain", "finetune"):
        monkeypatch.setattr(sys.modules[f"unheard.tasks.{verb}"], "train", train)
    monkeypatch.setitem(catalogue.RECIPES, "tiny", tones.tiny)
    return calls


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tones.ToneCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    return tones.write_corpus(folder, labelled=4, unlabelled=4, test=2)


def begin(verb: Callable[..., Any], corpus: tones.ToneCorpus, out: Path, **options: Any) -> None:
    if verb is finetune:
        options = {"valid": corpus.test, **options}
    data = corpus.recordings if verb is pretrain else corpus.transcripts
    with pytest.raises(Stopped):
        verb(data, out=out, device="cpu", quiet=True, **options)


@pytest.mark.parametrize("verb", [pretrain, finetune])
def test_settings_are_changed_by_name(
    verb: Callable[..., Any], corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    changes = {"training.learning_rate": "1e-4", "network.encoder.layers": 3, "training.seed": 9}
    begin(verb, corpus, tmp_path / "run", recipe="tiny", set=changes)
    assert seen[0]["config"].learning_rate == 1e-4
    assert len(seen[0]["model"].encoder.transformer.layers) == 3
    assert seen[0]["config"].seed == 9
    kept = read_json(tmp_path / "run" / "config.json")
    assert kept["training"]["learning_rate"] == 1e-4
    assert read_json(tmp_path / "run" / "request.json")["set"] == changes


def test_settings_are_typed_at_a_terminal(
    corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    words = ["pretrain", str(corpus.recordings), "--out", str(tmp_path / "run"), "--quiet"]
    words += ["--recipe", "tiny", "--device", "cpu", "--set", "training.learning_rate=3e-4"]
    words += ["--set", "training.betas=0.8,0.9", "--set", "pretraining.accumulation=2"]
    with pytest.raises(Stopped):
        cli.main(words)
    config = seen[0]["config"]
    assert (config.learning_rate, config.betas, config.accumulation) == (3e-4, (0.8, 0.9), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.learning_rate", "expected training.learning_rate=1e-4 or the like"),
        ("=3", "expected training.learning_rate=1e-4 or the like"),
        ("training.learningrate=1", 'Did you mean "pretraining.learning_rate"'),
        ("training.learning_rate=fast", "expected a number, found 'fast'"),
        ("network.encoder.heads=3", "dim must be a multiple of heads"),
    ],
)
def test_changes_that_make_no_sense_are_refused(
    change: str, message: str, corpus: tones.ToneCorpus, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        pretrain(corpus.recordings, out=tmp_path, recipe="nano", set=[change], quiet=True)
    assert message in str(refused.value)


@pytest.mark.parametrize("verb", [pretrain, finetune])
def test_a_recipe_comes_from_a_file(
    verb: Callable[..., Any], corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    wanted = replace(tones.tiny(), name="mine", linear_spread=0.03)
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(wanted))
    begin(verb, corpus, tmp_path / "run", config=path)
    training = wanted.pretraining if verb is pretrain else wanted.finetuning
    assert seen[0]["config"] == training
    kept = read_json(tmp_path / "run" / "config.json")
    assert kept["recipe"] == "mine"
    assert kept["training"] == to_dict(training)
    with pytest.raises(ConfigError, match="expected one of the two"):
        verb(corpus.recordings, out=tmp_path / "new", config=path, recipe="mini", quiet=True)


def test_a_file_that_has_changed_is_another_run(
    corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(tones.tiny()))
    begin(pretrain, corpus, tmp_path / "run", config=path)
    path.write_text(to_toml(tones.tiny()).replace("batch_seconds = 10.0", "batch_seconds = 11.0"))
    with pytest.raises(ConfigError, match=r"training\.batch_seconds was 10\.0, is 11\.0"):
        pretrain(corpus.recordings, out=tmp_path / "run", config=path, quiet=True, device="cpu")


def test_sampling_of_a_recipe_reaches_the_batches(
    corpus: tones.ToneCorpus,
    tmp_path: Path,
    seen: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def sampled() -> Any:
        return replace(tones.tiny(), name="sampled", sampling=SamplingConfig(language=0.5))

    monkeypatch.setitem(catalogue.RECIPES, "sampled", sampled)
    with pytest.raises(Stopped):
        pretrain(corpus.recordings, out=tmp_path / "run", recipe="sampled", device="cpu")
    assert seen[0]["source"].sampling.groups[0].passes == pytest.approx(1)
    assert "No recording says its language" in capsys.readouterr().err
    rows = read_json(tmp_path / "run" / "sampling.json")
    assert [(row["language"], row["share"]) for row in rows] == [("", 1.0)]
    assert read_json(tmp_path / "run" / "config.json")["sampling"]["language"] == 0.5


def bundle_of(config: Any, folder: Path) -> ModelBundle:
    torch.manual_seed(0)
    model = (PretrainingModel if isinstance(config, PretrainingConfig) else CtcModel)(config)
    bundle = ModelBundle(model=model.eval(), alphabet=None, input_spec=InputSpec(normalize=True))
    save_model(bundle, folder)
    return bundle


def small(config: PretrainingConfig | None = None) -> PretrainingConfig:
    """A network with dropouts as after fine-tuning, and heads of odd sizes."""
    network = config or tones.tiny_network()
    return replace(
        network,
        encoder=replace(
            network.encoder, activation_dropout=0.3, layer_drop=0.4, feature_grad_scale=0.0
        ),
        quantizer=QuantizerConfig(groups=2, entries=6, dim=12),
        projection_dim=10,
        masking=replace(network.masking, time_probability=0.05),
    )


def test_going_on_restores_the_heads_and_keeps_the_temperature_low(
    corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    start = bundle_of(small(), tmp_path / "start")
    begin(
        pretrain, corpus, tmp_path / "run", recipe="continued", start=tmp_path / "start", set=QUICK
    )
    model = seen[0]["model"]
    state, before = model.state_dict(), start.model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert [model.quantizer.temperature(at) for at in (0.0, 0.3, 1.0)] == [0.5, 0.5, 0.5]
    # How it learns is the recipe's, whatever the start was last trained with.
    network = model.config
    assert (network.masking.time_probability, network.encoder.layer_drop) == (0.65, 0.05)
    assert (network.encoder.activation_dropout, network.encoder.feature_grad_scale) == (0.0, 0.1)
    assert network.feature_penalty_weight == 10.0


def test_going_on_from_a_fine_tuned_network_makes_heads_anew(
    corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    start = bundle_of(CtcConfig(encoder=small().encoder, vocab=7), tmp_path / "start")
    options = {"recipe": "continued", "start": tmp_path / "start", "set": QUICK}
    begin(pretrain, corpus, tmp_path / "run", **options)
    model = seen[0]["model"]
    encoder, before = model.encoder.state_dict(), start.model.encoder.state_dict()
    assert all(torch.equal(encoder[name], before[name]) for name in before)
    assert model.config.quantizer.dim == 256
    assert model.config.projection_dim == 256
    assert model.quantizer.temperature(0.0) == 0.5
    begin(pretrain, corpus, tmp_path / "again", **options)
    again = seen[1]["model"].state_dict()
    assert all(torch.equal(again[name], one) for name, one in model.state_dict().items())


def test_it_goes_on_learning_for_real(corpus: tones.ToneCorpus, tmp_path: Path) -> None:
    bundle_of(small(), tmp_path / "start")
    result = pretrain(
        corpus.recordings,
        out=tmp_path / "run",
        start=tmp_path / "start",
        recipe="continued",
        set=QUICK,
        max_steps=2,
        device="cpu",
        quiet=True,
    )
    assert result.objective == "contrastive"
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"temperature": 0.5' in rows
    assert load_model(result.model).provenance["recipe"] == "continued"


def test_nothing_to_go_on_from_is_refused(corpus: tones.ToneCorpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goes on from a trained network"):
        pretrain(corpus.recordings, out=tmp_path, recipe="continued", quiet=True)


@pytest.mark.parametrize(
    ("name", "dim", "floor", "projection"),
    [
        ("base", 256, 0.5, 256),
        ("wav2vec2-large-lv60k", 768, 0.1, 768),
        ("xls-r-1b", 1024, 0.1, 1024),
        ("xls-r-2b", 1024, 0.1, 1024),
    ],
)
def test_new_heads_are_those_of_released_networks_of_the_width(
    name: str, dim: int, floor: float, projection: int
) -> None:
    released = get_recipe(name).network
    tuned = replace(released.encoder, layer_drop=0.3, feature_grad_scale=0.0, dropout=0.2)
    found = go_on_from(CtcConfig(encoder=tuned, vocab=9), heads_for(tuned))
    assert (found.quantizer.dim, found.projection_dim) == (dim, projection)
    assert found.quantizer.temperature_start == found.quantizer.temperature_end == floor
    assert found.encoder == released.encoder
    assert found.feature_penalty_weight == released.feature_penalty_weight


def test_a_large_start_is_gone_on_from_without_being_asked(
    corpus: tones.ToneCorpus, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    network = tones.tiny_network()
    wide = replace(network, encoder=replace(network.encoder, dim=512, ffn_dim=32, layers=1))
    bundle_of(wide, tmp_path / "start")
    begin(pretrain, corpus, tmp_path / "run", start=tmp_path / "start", set=QUICK)
    assert read_json(tmp_path / "run" / "config.json")["recipe"] == "continued"
    begin(pretrain, corpus, tmp_path / "small", set=QUICK)
    assert read_json(tmp_path / "small" / "config.json")["recipe"] == "mini"
