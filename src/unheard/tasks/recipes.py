"""The verb `recipes`: the ready settings there are, and all of one."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from unheard.config import to_dict
from unheard.models.config import PretrainingConfig
from unheard.models.pretraining import PretrainingModel
from unheard.recipes.catalogue import RECIPES, Recipe, Stage, get_recipe
from unheard.recipes.toml import to_toml
from unheard.training.schedule import Budget


@dataclass(frozen=True, kw_only=True)
class RecipeLine:
    """One recipe in the list.

    Attributes:
        name: to give to a verb as `--recipe`.
        stage: what it describes.
        parameters: of the network with the heads of pre-training.
        pretraining: how long that takes.
        finetuning: how long that takes.
        best_for: what it is made for.
        source: where the numbers come from.
    """

    name: str
    stage: Stage
    parameters: int
    pretraining: str
    finetuning: str
    best_for: str
    source: str


@dataclass(frozen=True, kw_only=True)
class RecipeList:
    """All recipes, in the order of the catalogue."""

    recipes: tuple[RecipeLine, ...]

    def table(self) -> str:
        """Lay the list out for a person at a terminal."""
        rows = [("recipe", "parameters", "pre-train", "fine-tune", "best for")]
        for line in self.recipes:
            shown = (
                "" if line.stage == "finetuning" else line.pretraining,
                "" if line.stage == "pretraining" else line.finetuning,
            )
            rows.append((line.name, f"{line.parameters / 1e6:,.1f} M", *shown, line.best_for))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if column in (1, 2, 3) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join((*lines, "", "all settings of one:  unheard recipes NAME"))


@dataclass(frozen=True, kw_only=True)
class ResolvedRecipe:
    """A recipe with every setting."""

    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, which `--config` takes too."""
        return to_dict(self.recipe)

    def table(self) -> str:
        """Write it as TOML that can be changed and handed to `--config`."""
        name = self.recipe.name
        return (
            f"# unheard recipes {name} > mine.toml; change it; then: unheard pretrain or finetune "
            f"... --config mine.toml\n{to_toml(self.recipe)}".rstrip()
        )


def recipes(*, name: str | None = None) -> RecipeList | ResolvedRecipe:
    """List the recipes, or show all settings of one.

    A recipe is a network and how to train it, with its source. What `unheard recipes NAME` prints
    is a file that `pretrain` and `finetune` take back with --config, changed or not.

    Args:
        name: of a recipe; all are listed if left out.

    Returns:
        The list, or the recipe.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name is not None:
        return ResolvedRecipe(recipe=get_recipe(name))
    lines = []
    for one in RECIPES:
        recipe = get_recipe(one)
        lines.append(
            RecipeLine(
                name=one,
                stage=recipe.stage,
                parameters=count_parameters(recipe.network),
                pretraining=_length(recipe.pretraining.budget),
                finetuning=_length(recipe.finetuning.budget),
                best_for=recipe.best_for,
                source=recipe.source,
            )
        )
    return RecipeList(recipes=tuple(lines))


@cache
def count_parameters(network: PretrainingConfig) -> int:
    """Count the numbers that a network learns, without making it."""
    with torch.device("meta"):
        model = PretrainingModel(network)
    return sum(parameter.numel() for parameter in model.parameters())


def _length(budget: Budget) -> str:
    """Say how long a training takes: updates, or minutes."""
    if budget.max_steps is not None:
        return f"{budget.max_steps:,} updates"
    return f"{budget.max_minutes:g} minutes"
