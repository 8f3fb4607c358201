"""One group of options of a fairseq checkpoint, with typed and checked access."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unheard.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options as stored; one that is absent or None has its default.

    Attributes:
        values: name -> value, plain data.
        source: what to call them in messages, such as "model.pt: cfg.model".
    """

    values: Mapping[str, Any]
    source: str

    def has(self, name: str) -> bool:
        """Whether an option is set."""
        return self.values.get(name) is not None

    def get(self, name: str, default: Any) -> Any:
        """Read an option as it is."""
        value = self.values.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int, *, least: int = 1) -> int:
        """Read a whole number of at least `least`."""
        value = self.get(name, default)
        if type(value) is not int or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def number(self, name: str, default: float, *, most: float = math.inf) -> float:
        """Read a finite number from 0 to `most`."""
        value = self.get(name, default)
        if type(value) not in (int, float) or not 0 <= value <= most or not math.isfinite(value):
            raise self.wrong(name, f"a number from 0 to {most}")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.get(name, default)
        if type(value) is not bool:
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """Read a text."""
        value = self.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def wrong(self, name: str, expected: str) -> ConfigError:
        """Say which option is wrong."""
        text = repr(self.values.get(name))
        shown = text if len(text) <= 60 else text[:59] + "…"
        return ConfigError(
            f"{self.source}.{name} is not valid: expected {expected}, found {shown}."
        )
