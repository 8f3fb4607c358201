"""A config.json of transformers with typed, checked access."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.errors import ConfigError, FormatError
from unheard.interop import storage

CONFIG_FILE = "config.json"

MODEL_TYPE = "wav2vec2"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of one file; transformers' defaults stand for what it leaves out."""

    values: Mapping[str, Any]
    source: Path

    def integer(self, name: str, default: int, *, least: int = 1) -> int:
        """Read a whole number of at least `least`."""
        value = self.values.get(name, default)
        if type(value) is not int or value < least:
            raise self.wrong(name, f"a whole number of at least {least}", value)
        return value

    def number(self, name: str, default: float, *, most: float = math.inf) -> float:
        """Read a finite number from 0 to `most`."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not 0 <= value <= most or not math.isfinite(value):
            raise self.wrong(name, f"a number from 0 to {most}", value)
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.values.get(name, default)
        if type(value) is not bool:
            raise self.wrong(name, "true or false", value)
        return value

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """Read one of some words."""
        value = self.values.get(name, default)
        if value not in choices:
            raise self.wrong(name, " or ".join(map(repr, choices)), value)
        return value

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Read a list of whole numbers of at least 1."""
        value = self.values.get(name, default)
        if (
            not isinstance(value, list | tuple)
            or not value
            or not all(type(item) is int and item >= 1 for item in value)
        ):
            raise self.wrong(name, "a list of whole numbers of at least 1", value)
        return tuple(value)

    def wrong(self, name: str, expected: str, value: object) -> ConfigError:
        """Say which setting is wrong."""
        text = repr(value)
        shown = text if len(text) <= 60 else text[:59] + "…"
        return ConfigError(
            f"{self.source}: {name} is not valid: expected {expected}, found {shown}."
        )


def read_settings(folder: Path) -> Settings:
    """Read the config.json of a folder.

    Raises:
        FormatError: if there is none, it is no JSON object, or it is of another kind of model.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FormatError(
            f"{folder} is not a model folder: expected a {CONFIG_FILE} in it, found none."
        )
    settings = Settings(values=storage.read_json_object(path), source=path)
    kind = settings.values.get("model_type")
    if kind != MODEL_TYPE:
        raise FormatError(
            f"{path}: models of the type {kind!r} are not supported: expected model_type "
            f"{MODEL_TYPE!r}."
        )
    return settings


def located(error: Exception, path: Path) -> str:
    """Put the file before a message."""
    return f"{path}: {error}"
