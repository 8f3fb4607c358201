"""Recipes as files: TOML that a person can read and change, and what it or JSON says."""

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unheard.config import from_dict, to_dict
from unheard.errors import ConfigError
from unheard.recipes.recipe import Recipe

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML, with every setting it has; what is None is left out.

    Lists of settings stand a line each.
    """
    lines: list[str] = []
    _write_table(to_dict(recipe), (), lines)
    return "\n".join(lines) + "\n"


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a TOML file, or from JSON where the name ends in .json.

    Settings that the file leaves out take their defaults, whatever recipe it was made from.

    Raises:
        ConfigError: if it cannot be read, or a setting in it is not known, missing or of another
            type; the message names it.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no recipe file {file}. Make one: unheard recipes base > {file.name}"
        ) from error
    except ValueError as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ConfigError(f"{file} is not {kind}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected the settings of a recipe, found {data!r:.40}.")
    try:
        return from_dict(Recipe, data)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    """Write plain values first, then tables within; TOML knows no other order."""
    plain = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    if path and (plain or not table):
        lines.extend(["", f"[{'.'.join(map(_key, path))}]"])
    for name, value in plain.items():
        if value is not None:
            lines.append(f"{_key(name)} = {_value(value)}")
    for name, value in table.items():
        if isinstance(value, Mapping):
            _write_table(value, (*path, name), lines)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _value(value: Any) -> str:
    """Write one value; a list of tables gets a line for each."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"A recipe file has finite numbers, got {value}.")
        return repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        items = ", ".join(
            f"{_key(name)} = {_value(item)}" for name, item in value.items() if item is not None
        )
        return f"{{ {items} }}"
    if any(isinstance(item, Mapping) for item in value):
        return "[\n" + "".join(f"    {_value(item)},\n" for item in value) + "]"
    return f"[{', '.join(_value(item) for item in value)}]"
