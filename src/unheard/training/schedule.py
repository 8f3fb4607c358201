"""How far a run is, and what learning rate belongs there.

Progress is a number from 0 to 1. With a step budget it is steps done over steps planned, exactly.
With a time budget it is time spent over time given, so that the schedule ends when the time does,
on a machine of any speed.
"""

import math
from dataclasses import dataclass
from typing import Literal

from unheard.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Shape of the learning rate over a run.

    Source: "polynomial" is fairseq's polynomial_decay, and "linear" that of power 1 (Baevski et al.
    2020, sec. 4.2: warm-up over the first 8 % of updates, then linearly to zero); "tri_stage" its
    tri_stage scheduler (sec. 4.3: 10 % warm-up, 40 % constant, 50 % decay; the code decays
    exponentially, the paper says linearly: we follow the code). "cosine" is fairseq's cosine to
    `final_scale`.
    """

    shape: Literal["linear", "polynomial", "tri_stage", "cosine"] = "linear"
    warmup: float = 0.08
    """Share of the run in which the rate rises linearly from `initial_scale`."""
    hold: float = 0.0
    """Share of the run at the peak after warm-up."""
    initial_scale: float = 0.0
    """First rate over peak rate."""
    final_scale: float = 0.0
    """Last rate over peak rate."""
    power: float = 1.0
    """Of a polynomial decay: 1 is a straight line, more falls sooner."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup + self.hold <= 1 or min(self.warmup, self.hold) < 0:
            raise ConfigError(
                "warmup and hold are shares of a run: expected both from 0 and at most 1 "
                f"together, got {self.warmup} and {self.hold}."
            )
        if not (0 <= self.initial_scale <= 1 and 0 <= self.final_scale <= 1):
            raise ConfigError(
                "initial_scale and final_scale are shares of the peak rate: expected from 0 to 1, "
                f"got {self.initial_scale} and {self.final_scale}."
            )
        if self.power <= 0:
            raise ConfigError(f"power must be above 0, got {self.power}.")
        if self.shape != "polynomial" and self.power != 1:
            raise ConfigError(
                f'power {self.power} is for the shape "polynomial", this schedule is '
                f"{self.shape!r}. Change one of the two."
            )
        if self.shape == "tri_stage" and self.final_scale <= 0:
            raise ConfigError(
                f"tri_stage decays exponentially: expected final_scale above 0, "
                f"got {self.final_scale}."
            )


def rate_scale(config: ScheduleConfig, progress: float) -> float:
    """Learning rate over its peak at a progress from 0 to 1."""
    if progress < config.warmup:
        return config.initial_scale + (1 - config.initial_scale) * progress / config.warmup
    if progress < config.warmup + config.hold:
        return 1.0
    rest = 1 - config.warmup - config.hold
    decayed = 1.0 if rest <= 0 else min(1.0, (progress - config.warmup - config.hold) / rest)
    if config.shape == "tri_stage":
        return math.exp(math.log(config.final_scale) * decayed)
    if config.shape == "cosine":
        cosine = 0.5 * (1 + math.cos(math.pi * decayed))
        return config.final_scale + (1 - config.final_scale) * cosine
    return config.final_scale + (1 - config.final_scale) * (1 - decayed) ** config.power


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run may take: steps, minutes, or whichever ends first.

    Attributes:
        max_steps: updates of the weights.
        max_minutes: time spent in training, over all sittings, validation included.
    """

    max_steps: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ConfigError("A run needs an end: set max_steps, max_minutes or both.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, got {self.max_steps}.")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ConfigError(f"max_minutes must be above 0, got {self.max_minutes}.")

    def advance(self, progress: float, *, step: int, elapsed_seconds: float) -> float:
        """Progress after a step.

        Args:
            progress: before the step.
            step: updates done, this one included.
            elapsed_seconds: time spent in training so far, earlier sittings included.

        Returns:
            Progress, never falling; 1 when the run is over.
        """
        shares = [progress]
        if self.max_steps is not None:
            shares.append(step / self.max_steps)
        if self.max_minutes is not None:
            shares.append(elapsed_seconds / (60 * self.max_minutes))
        return min(1.0, max(shares))
