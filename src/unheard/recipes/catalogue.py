"""Ready settings by name: a recipe is a function that returns a network and how to train it.

This is the module to import from. One paper or family has a module of its own beside it.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from unheard.errors import ConfigError
from unheard.recipes import xlsr
from unheard.recipes.continued import continued
from unheard.recipes.mms import mms_adapter
from unheard.recipes.recipe import FinetuneSettings, Objective, Recipe, Stage
from unheard.recipes.small import mini, mini_ft_10m, nano
from unheard.recipes.wav2vec2 import (
    BASE_SPLITS,
    LARGE_SPLITS,
    base,
    large,
    wav2vec2_base,
    wav2vec2_base_finetuned,
    wav2vec2_large,
    wav2vec2_large_finetuned,
    wav2vec2_large_lv60k,
)

__all__ = [
    "RECIPES",
    "FinetuneSettings",
    "Objective",
    "Recipe",
    "Stage",
    "base",
    "get_recipe",
    "large",
    "mini",
    "nano",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "nano": nano,
    "mini": mini,
    "mini-ft-10m": mini_ft_10m,
    "base": base,
    "large": large,
    "continued": continued,
    "mms-adapter": mms_adapter,
    "wav2vec2-base": wav2vec2_base,
    "wav2vec2-large": wav2vec2_large,
    "wav2vec2-large-lv60k": wav2vec2_large_lv60k,
    **{f"wav2vec2-base-ft-{name}": partial(wav2vec2_base_finetuned, name) for name in BASE_SPLITS},
    **{
        f"wav2vec2-large-ft-{name}": partial(wav2vec2_large_finetuned, name)
        for name in LARGE_SPLITS
    },
    "xlsr-53": xlsr.xlsr_53,
    "xls-r-300m": xlsr.xls_r_300m,
    "xls-r-1b": xlsr.xls_r_1b,
    "xls-r-2b": xlsr.xls_r_2b,
    **{f"xlsr-ft-{name}": partial(xlsr.xlsr_finetuned, name) for name in xlsr.UPDATES},
    "xls-r-2b-ft": xlsr.xls_r_2b_finetuned,
}
"""Every recipe by name: general ones first, then by paper."""


def get_recipe(name: str, *, objective: Objective | None = None) -> Recipe:
    """Return the recipe of a name, with another objective if one is given.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3)
        advice = f"Did you mean {' or '.join(near)}?" if near else "`unheard recipes` lists them."
        raise ConfigError(f"There is no recipe {name!r}. {advice}")
    recipe = RECIPES[name]()
    return recipe if objective is None else replace(recipe, objective=objective)
