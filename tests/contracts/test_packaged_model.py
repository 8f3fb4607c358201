"""unheard-mini as it lies in the package: whole, small, with a card, and in the wheel.

These hold for whichever weights lie there; python -m tools.make_unheard_mini puts them there.
"""

import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uv_build
from safetensors import safe_open
from tools import make_unheard_mini

import unheard
from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.files import sha256_file
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface.card import read_card
from unheard.interop.packaged import FOLDER, UNHEARD_MINI
from unheard.models.config import EncoderOnlyConfig
from unheard.recipes.catalogue import get_recipe

ROOT = Path(__file__).parents[2]
HERE = FOLDER / UNHEARD_MINI

NEEDED = ("README.md", "config.json", "hashes.json", "model.safetensors")


@pytest.fixture(scope="module")
def model() -> ModelBundle:
    return unheard.load_model(UNHEARD_MINI)


def test_all_of_it_is_there() -> None:
    """First of all: without these files `learn` has nothing to begin with."""
    assert [name for name in NEEDED if not (HERE / name).is_file()] == []


def test_hashes_are_those_of_the_files() -> None:
    hashes = json.loads((HERE / "hashes.json").read_text())
    assert hashes == {name: sha256_file(HERE / name) for name in hashes}
    assert set(hashes) == {"config.json", "model.safetensors"}


def test_weights_are_small_and_rounded() -> None:
    path = HERE / "model.safetensors"
    assert path.stat().st_size <= make_unheard_mini.MAX_BYTES == 25_000_000
    with safe_open(path, "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"BF16"}


def test_it_is_an_encoder_of_the_recipe_mini_that_hears(model: ModelBundle) -> None:
    assert isinstance(model.config, EncoderOnlyConfig)
    wanted = get_recipe("mini")
    assert model.encoder_config.conv_layers == wanted.network.encoder.conv_layers
    assert model.encoder_config.dim == wanted.network.encoder.dim
    assert model.input_spec == InputSpec(normalize=wanted.normalize)
    assert model.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    sounds = torch.randn(2, SAMPLE_RATE, generator=generator)
    with torch.inference_mode():
        frames = model.model.encoder(sounds).frames
    assert frames.isfinite().all()
    # Neither the same for all sounds, nor the same at all times.
    assert (frames[0] - frames[1]).abs().mean() > 0.1 * frames.abs().mean()
    assert frames.std(dim=1).mean() > 0.1 * frames.std()


def test_the_card_names_every_corpus_with_licence_and_attribution(model: ModelBundle) -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert read_card(HERE)["licence"] == "apache-2.0" == model.provenance["licence"]
    assert len(model.provenance["data"]) >= 1
    for line in model.provenance["data"]:
        match = re.fullmatch(r"(.+) \(([^()]+)\): (.+)", line)
        assert match is not None, line
        name, licence, attribution = match.groups()
        assert licence in make_unheard_mini.ALLOWED
        assert re.search(rf"^\| \[{re.escape(name)}\]\(http.*\| {licence} \|$", text, re.MULTILINE)
        assert f"**{name}**: {attribution.rstrip('.')}." in text
    assert "share-alike" in text
    assert "What it is not good for" in text
    for row in model.provenance["rounds"]:
        assert f"{row['steps']:,} |" in text


def test_links_of_the_card_lead_somewhere() -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    targets = [found for found in re.findall(r"\]\(([^)]+)\)", text) if "://" not in found]
    assert any(target.endswith(".svg") for target in targets)
    assert [target for target in targets if not (HERE / target).is_file()] == []


def test_the_card_is_the_one_that_the_tool_writes() -> None:
    """Fixed sentences of the template stand in the card: it was not made by an older one."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    fixed = [
        line
        for line in make_unheard_mini.CARD.read_text(encoding="utf-8").splitlines()
        if "{" not in line
    ]
    assert [line for line in fixed if line not in text] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this tree, as pip would build it."""
    folder, before = tmp_path_factory.mktemp("wheel"), Path.cwd()
    scripts = Path(sys.executable).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join((str(scripts), os.environ["PATH"])))
        os.chdir(ROOT)
        try:
            name = uv_build.build_wheel(str(folder))
        finally:
            os.chdir(before)
    with zipfile.ZipFile(folder / name) as opened:
        yield opened


def test_the_wheel_has_it(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for path in HERE.iterdir():
        inside = f"unheard/pretrained/{UNHEARD_MINI}/{path.name}"
        assert inside in names
        assert wheel.getinfo(inside).file_size == path.stat().st_size
    assert {"unheard/py.typed", "unheard/report/report.css"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
