"""Settings tried at random, then around the best; what came of each is kept on the disk."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from unheard.files import append_jsonl, read_jsonl

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

LOCAL_SHARE = 0.5
"""Part of the trials that look around the best one."""
FIRST_STEP, LAST_STEP = 0.15, 0.02
"""How far they look, at first and at last, in parts of the range."""


class Trials:
    """Settings that were tried, on the disk, so that a second run does not try them again."""

    def __init__(self, path: Path) -> None:
        """Read what was tried before, if anything was."""
        self._path = path
        rows = read_jsonl(path, repair_torn_tail=True) if path.exists() else []
        self._known = {_key(row["settings"]): row["rates"] for row in rows}

    def find(self, settings: dict[str, float]) -> dict[str, float] | None:
        """Look settings up."""
        return self._known.get(_key(settings))

    def add(self, settings: dict[str, float], rates: dict[str, float]) -> None:
        """Keep what came of settings."""
        self._known[_key(settings)] = rates
        append_jsonl(self._path, {"settings": settings, "rates": rates})


def find_best(
    start: "Settings",
    ranges: Mapping[str, tuple[float, float]],
    measure: "Callable[[Settings], dict[str, float]]",
    *,
    metric: str,
    trials: int,
    known: Trials,
    generator: np.random.Generator,
    quiet: bool,
) -> "Settings":
    """Try the settings to begin with, others at random, and others around the best.

    Args:
        start: settings to begin with.
        ranges: the fields to change, and between what.
        measure: error rates by name.
        metric: the one that shall become small.
        trials: settings to try, `start` among them.
        known: what was tried before; what is tried now is added.
        generator: draws them: the same one, the same settings.
        quiet: print nothing.

    Returns:
        The best settings that were tried; of equals, the first.
    """

    def measured(settings: "Settings") -> float:
        key = {field: getattr(settings, field) for field in ranges}
        found = known.find(key)
        if found is None:
            found = measure(settings)
            known.add(key, found)
        return found[metric]

    best, lowest = start, measured(start)
    near = round((trials - 1) * LOCAL_SHARE)
    for number in range(1, trials):
        left = trials - number
        if left > near:
            drawn = {name: generator.uniform(*bounds) for name, bounds in ranges.items()}
        else:
            done = 1 - left / max(near, 1)
            step = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** done
            drawn = {
                name: np.clip(
                    getattr(best, name) + generator.normal() * step * (high - low), low, high
                )
                for name, (low, high) in ranges.items()
            }
        changes = {name: round(float(value), 4) for name, value in drawn.items()}
        settings = replace(start, **changes)
        found = measured(settings)
        if found < lowest:
            best, lowest = settings, found
        if not quiet and (number % 8 == 0 or number == trials - 1):
            print(
                f"trial {number + 1} of {trials}: best {metric} {lowest:.2%} with "
                + ", ".join(f"{name} {getattr(best, name):.3f}" for name in ranges),
                file=sys.stderr,
                flush=True,
            )
    return best


def _key(settings: dict[str, float]) -> str:
    return json.dumps(settings, sort_keys=True)
