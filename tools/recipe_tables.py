"""Write the tables of docs/recipes.md from the recipes themselves.

Run it after changing a recipe: python tools/recipe_tables.py
"""

import re
from pathlib import Path

from unheard.recipes.catalogue import RECIPES, Recipe, get_recipe
from unheard.tasks.recipes import count_parameters
from unheard.training.config import TrainingConfig

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"


def tables() -> str:
    """Return the tables of pre-training and of fine-tuning, and the sources."""
    recipes = [get_recipe(name) for name in RECIPES]
    return "\n\n".join(
        (
            "### Pre-training",
            _table(
                ("recipe", "parameters", "peak rate", "length", "warm-up", "sound an update"),
                [_pretraining(one) for one in recipes if one.stage != "finetuning"],
            ),
            "### Fine-tuning",
            _table(
                (
                    "recipe",
                    "peak rate",
                    "length",
                    "head alone",
                    "time mask",
                    "channel mask",
                    "layer drop",
                    "sound an update",
                ),
                [_finetuning(one) for one in recipes if one.stage != "pretraining"],
            ),
            "### Sources",
            _table(("recipe", "source"), [(f"`{one.name}`", one.source) for one in recipes]),
        )
    )


def shown_tables() -> str:
    """Return the tables that the document shows."""
    match = re.search(r"<!-- tables -->\n(.*?)\n<!-- /tables -->", DOCUMENT.read_text(), re.DOTALL)
    return match.group(1) if match else ""


def _pretraining(recipe: Recipe) -> tuple[str, ...]:
    training = recipe.pretraining
    return (
        f"`{recipe.name}`",
        f"{count_parameters(recipe.network) / 1e6:,.1f} M",
        f"{training.learning_rate:g}",
        _length(training),
        f"{100 * training.schedule.warmup:g} %",
        _sound(training),
    )


def _finetuning(recipe: Recipe) -> tuple[str, ...]:
    training, masking = recipe.finetuning, recipe.finetune.masking
    channels = masking.channel_probability
    updates = training.budget.max_steps or 0
    return (
        f"`{recipe.name}`",
        f"{training.learning_rate:g}",
        _length(training),
        f"{round(training.head_only * updates):,}" if training.head_only else "",
        f"{masking.time_probability:g} / {masking.time_span_frames}",
        f"{channels:g} / {masking.channel_span}" if channels else "",
        f"{recipe.finetune.layer_drop:g}",
        _sound(training),
    )


def _length(training: TrainingConfig) -> str:
    budget = training.budget
    if budget.max_steps is not None:
        return f"{budget.max_steps:,} updates"
    return f"{budget.max_minutes:g} minutes"


def _sound(training: TrainingConfig) -> str:
    seconds = training.batch_seconds * training.accumulation
    shape = f"{training.accumulation} x {training.batch_seconds:g} s"
    return f"{seconds / 3600:.2g} h ({shape})" if training.accumulation > 1 else f"{seconds:g} s"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Replace the tables in docs/recipes.md."""
    before, _, rest = DOCUMENT.read_text().partition("<!-- tables -->\n")
    after = rest.partition("<!-- /tables -->")[2]
    DOCUMENT.write_text(f"{before}<!-- tables -->\n{tables()}\n<!-- /tables -->{after}")


if __name__ == "__main__":
    main()
