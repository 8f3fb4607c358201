"""Recipes as files: what is printed is what is read."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from unheard import cli
from unheard.config import to_dict
from unheard.errors import ConfigError
from unheard.recipes.catalogue import RECIPES, get_recipe
from unheard.recipes.toml import read_recipe, to_toml


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_toml(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name)
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(recipe))
    assert read_recipe(path) == recipe


def test_a_recipe_comes_back_from_json(tmp_path: Path) -> None:
    recipe = get_recipe("xls-r-1b")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(to_dict(recipe)))
    assert read_recipe(path) == recipe


def test_texts_that_toml_must_escape_come_back(tmp_path: Path) -> None:
    best_for = 'tab\tquote" back\\slash line\nend é \x7f \x01 ŋ 🎤'
    recipe = replace(get_recipe("nano"), best_for=best_for)
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert read_recipe(path).best_for == best_for


def test_what_the_command_prints_is_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "xlsr-53"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["pretraining"]["learning_rate"] == 1e-3
    assert cli.main(["recipes", "xlsr-53", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == to_dict(get_recipe("xlsr-53"))


def test_the_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(RECIPES)]] == list(RECIPES)
    assert cli.main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["recipes"]
    assert {row["name"]: row["parameters"] for row in rows}["base"] == 95_044_608


def test_a_name_that_is_not_there_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "wav2vec2-base-ft-1hr"]) == 1
    assert "wav2vec2-base-ft-1h" in capsys.readouterr().err


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(ConfigError, match="There is no recipe file"):
        read_recipe(path)
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="not TOML"):
        read_recipe(path)
    path.write_text(to_toml(get_recipe("nano")).replace("layer_drop", "layerdrop", 1))
    with pytest.raises(ConfigError, match=r'Did you mean "network[.]encoder[.]layer_drop"'):
        read_recipe(path)
    path.write_text('name = "mine"\n')
    with pytest.raises(ConfigError, match=r"without a value.*network"):
        read_recipe(path)
    path = tmp_path / "mine.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="expected the settings of a recipe"):
        read_recipe(path)
