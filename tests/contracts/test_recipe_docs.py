"""The documents on recipes and adapters show what there is."""

import re
from pathlib import Path

import pytest
from tools import recipe_tables

from unheard import cli
from unheard.errors import ConfigError
from unheard.recipes.catalogue import RECIPES, get_recipe
from unheard.tasks.runs import changed, named_changes

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("recipes.md", "adapters.md")


def commands() -> list[str]:
    """Commands of the pages, without comments and with their lines joined."""
    text = "\n".join((DOCS / page).read_text() for page in PAGES).replace("\\\n", " ")
    return re.findall(r"^    unheard (.+?)(?:\s+#.*)?$", text, re.MULTILINE)


def test_tables_are_those_of_the_recipes() -> None:
    assert recipe_tables.shown_tables() == recipe_tables.tables(), (
        "run: python tools/recipe_tables.py"
    )


def test_commands_are_verbs_with_those_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands()) >= 8
    for command in commands():
        verb, *words = command.split()
        assert verb in cli.VERBS
        cli.main([verb, "--help"])
        shown = capsys.readouterr().out
        for word in words:
            if word.startswith("--"):
                assert word in shown, f"unheard {verb} {word}"


def test_recipes_and_settings_that_are_named_exist() -> None:
    named = {
        *re.findall(r"--recipe (\S+)", " ".join(commands())),
        *re.findall(r"^recipes (\S+)", "\n".join(commands()), re.MULTILINE),
    }
    assert {"xlsr-53", "mms-adapter", "continued"} <= named <= RECIPES.keys()
    text = "\n".join((DOCS / page).read_text() for page in PAGES)
    settings = re.findall(r"--set '?([a-z_.]+=[^\s`']+(?: [\d.]+})?)", text)
    assert len(settings) >= 6
    for setting in settings:
        # Raises if there is no such setting, or it has another type.
        changed(get_recipe("xlsr-53"), named_changes([setting]), training="finetuning")
    with pytest.raises(ConfigError):
        changed(get_recipe("xlsr-53"), {"training.rate": "1e-4"}, training="finetuning")
