"""The tool that packs unheard-mini: two rounds in; a rounded encoder, its card and curves out."""

import json
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests import tones
from tools import make_unheard_mini

from unheard.interop.load import load_model
from unheard.models.config import EncoderOnlyConfig
from unheard.recipes import catalogue as recipes
from unheard.tasks.pretrain import pretrain
from unheard.training.schedule import Budget

DESCRIBED = """
[[corpus]]
folder = "tones"
name = "Tones"
licence = "{licence}"
source = "https://example.org/tones"
attribution = "Their maker."
part = "all of them"
"""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Two rounds of pre-training, and what they heard."""

    rounds: tuple[Path, Path]
    corpus: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("rounds")
    made = tones.write_corpus(folder, labelled=30, unlabelled=10, test=0)
    rows = [
        {
            "id": f"tones/{path.stem}-{path.parent.name}",
            "audio": str(path.relative_to(folder)),
            "speaker": path.parent.name,
            "language": "en",
        }
        for path in sorted(made.recordings.rglob("*.wav"))
    ]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def brief() -> recipes.Recipe:
        whole = tones.tiny()
        training = replace(
            whole.pretraining, budget=Budget(max_steps=4), validate_every_steps=2, log_every_steps=1
        )
        return replace(whole, name="brief", pretraining=training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "brief", brief)
        settings = {"recipe": "brief", "quiet": True}
        first = pretrain(corpus, out=folder / "1", units=7, **settings).model
        pretrain(corpus, out=folder / "2", units=9, start=first, units_from=first, **settings)
    return Runs(rounds=(folder / "1", folder / "2"), corpus=corpus)


@pytest.fixture(autouse=True)
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "corpora.toml"
    path.write_text(DESCRIBED.format(licence="CC-BY-4.0"))
    monkeypatch.setattr(make_unheard_mini, "CORPORA", path)
    return path


def pack(runs: Runs, out: Path) -> Path:
    return make_unheard_mini.pack(
        runs.rounds, corpus=runs.corpus, out=out, machine="a machine of the tests"
    )


def test_what_is_packed_is_the_last_encoder_and_its_facts(runs: Runs, tmp_path: Path) -> None:
    for _ in range(2):  # It may be made anew.
        folder = pack(runs, tmp_path / "packed")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("README.md", "config.json", "hashes.json", "model.safetensors"),
        *("curves-1.svg", "curves-2.svg"),
    }
    packed, trained = load_model(folder), load_model(runs.rounds[1] / "model")
    assert packed.config == EncoderOnlyConfig(encoder=trained.encoder_config)
    before = trained.model.encoder.state_dict()
    for name, weight in packed.model.encoder.state_dict().items():
        assert torch.equal(weight, before[name].to(torch.bfloat16).float()), name
    assert packed.input_spec == trained.input_spec
    first, second = packed.provenance["rounds"]
    assert (first["units"], first["units_of"]) == (7, "cepstra")
    assert (second["units"], second["steps"]) == (9, 4)
    assert "Transformer layer 1 of the round before" in second["units_of"]
    assert packed.provenance["data"] == ["Tones (CC-BY-4.0): Their maker."]

    text = (folder / "README.md").read_text()
    assert re.search(r"\| 1 \| 7 clusters of cepstra \| random weights.* \| 4 \|", text)
    assert re.search(r"\| 2 \| 9 clusters of .* \| round 1 \| 4 \|", text)
    assert re.search(r"\[Tones\]\(https://example.org/tones\) \| en \| 0.01 \| 40 \| 5 \|", text)
    assert "- **Tones**: Their maker. Heard: all of them." in text
    assert "a machine of the tests" in text
    assert "100 % of the sound is English" in text
    assert not re.search(r"\{\w*\}", text)


def test_a_licence_that_asks_for_more_than_a_name_is_refused(
    runs: Runs, tmp_path: Path, described: Path
) -> None:
    described.write_text(DESCRIBED.format(licence="CC-BY-SA-4.0"))
    with pytest.raises(SystemExit, match=r"tones is under CC-BY-SA-4\.0"):
        pack(runs, tmp_path / "packed")
    described.write_text(DESCRIBED.format(licence="MIT").replace('"tones"', '"others"'))
    with pytest.raises(SystemExit, match="does not describe tones"):
        pack(runs, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MAX_BYTES", 1000, "expected at most 1,000"), ("MAX_CHANGE", 0.0, "Rounding changes frames")],
)
def test_too_large_or_too_coarse_is_refused(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
    message: str,
) -> None:
    monkeypatch.setattr(make_unheard_mini, limit, value)
    with pytest.raises(SystemExit, match=message):
        pack(runs, tmp_path / "packed")


def test_every_corpus_of_the_project_is_described_wholly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    described = tomllib.loads(make_unheard_mini.CORPORA.read_text())["corpus"]
    fields = {"folder", "name", "licence", "source", "attribution", "part"}
    for one in described:
        assert one.keys() == fields
        assert all(one.values())
        assert one["licence"] in make_unheard_mini.ALLOWED
    assert len({one["folder"] for one in described}) == len(described) >= 10
    assert "fsdd" not in {one["folder"] for one in described}  # share-alike
