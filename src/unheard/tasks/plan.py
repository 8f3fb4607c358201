"""The verb `plan`: what a pre-training of so many hours costs, before a machine is rented."""

import math
from dataclasses import dataclass, field

from unheard.errors import ConfigError
from unheard.recipes.catalogue import Objective, Recipe, get_recipe
from unheard.tasks.rates import (
    LOADER_RATES,
    STORED_SIZES,
    TRAINING_RATES,
    Basis,
    StoredSize,
    TrainingRate,
    forward_gflop,
)

_SAME_WORK = 0.02
"""Networks whose work differs by less count as the same."""

_FARTHEST = 10.0
"""Beyond this difference in work a rate says nothing about another network."""

DEFAULT_PASSES = 50.0
"""How often each hour is heard where neither the recipe nor the caller says."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost on one kind of device.

    Attributes:
        hardware: name of the device.
        audio_seconds_per_second: that each device takes in; None where nobody has measured it.
        gpu_hours: of all devices together [hours].
        days: by the clock, with all devices.
        loader_cores: processor cores for each device that decode as fast as it trains, by form.
        basis: whether the rate was measured, published, or computed from one that was.
        source: of the rate, and how it was carried over.
    """

    hardware: str
    audio_seconds_per_second: float | None
    gpu_hours: float | None
    days: float | None
    loader_cores: dict[str, int] = field(default_factory=dict)
    basis: Basis
    source: str


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Room for the recordings.

    Attributes:
        form: how they are stored.
        terabytes: [TB].
        basis: of the size of an hour.
        source: of that.
    """

    form: str
    terabytes: float
    basis: Basis
    source: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pre-training costs.

    Attributes:
        hours: of different sound [hours].
        gpus: devices that work together.
        recipe: of the network.
        objective: learnt by.
        updates: of the weights.
        update_hours: sound in one update [hours].
        heard_hours: sound that goes through the network, repeats included [hours].
        passes: how often each hour is heard.
        assumed: what was assumed where nobody said.
        estimates: cost by kind of device.
        disk: room by form of storage.
    """

    hours: float
    gpus: int
    recipe: str
    objective: Objective
    updates: int
    update_hours: float
    heard_hours: float
    passes: float
    assumed: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    disk: tuple[Disk, ...]

    def table(self) -> str:
        """The plan for a person at a terminal."""
        lines = [
            f"{self.recipe}, {self.objective}: {self.hours:,.0f} hours of sound on {self.gpus} "
            f"device{'s' if self.gpus > 1 else ''}",
            f"  {self.updates:,} updates of {self.update_hours:.3g} h: {self.heard_hours:,.0f} h "
            f"heard, each hour {self.passes:.3g} times",
            *(f"  assumed: {one}" for one in self.assumed),
            "",
            f"{'device':<14}{'audio-s/s each':>15}{'device-hours':>14}{'days':>9}  rate",
        ]
        for one in self.estimates:
            if one.gpu_hours is None or one.days is None:
                lines.append(f"{one.hardware:<14}{'-':>15}{'-':>14}{'-':>9}  {one.basis}")
                continue
            lines.append(
                f"{one.hardware:<14}{one.audio_seconds_per_second:>15,.0f}{one.gpu_hours:>14,.1f}"
                f"{one.days:>9,.1f}  {one.basis}"
            )
            cores = ", ".join(f"{count} for {form}" for form, count in one.loader_cores.items())
            lines.append(f"{'':<14}decoding cores a device: {cores}")
        lines += ["", f"{'recordings as':<26}{'TB':>9}  size of an hour"]
        lines += [f"{one.form:<26}{one.terabytes:>9,.3g}  {one.basis}" for one in self.disk]
        sources = dict.fromkeys(one.source for one in (*self.estimates, *self.disk))
        lines += ["", "sources:", *(f"  {source}" for source in sources)]
        return "\n".join(lines)


def plan(
    *,
    hours: float,
    gpus: int = 1,
    recipe: str = "base",
    objective: Objective | None = None,
    updates: int | None = None,
    passes: float | None = None,
) -> Plan:
    """Say what pre-training on so many hours costs: device-hours, days, disk.

    Rates come from a table of measured and published figures; each line says which, and what was
    extrapolated. Validation, checkpoints and failures are not counted.

    Args:
        hours: of recordings [hours].
        gpus: devices that work together.
        recipe: network and settings: one that `unheard recipes` lists.
        objective: what to learn by; the recipe's own by default.
        updates: of the weights; the recipe's own by default.
        passes: how often each hour shall be heard, instead of `updates`.

    Raises:
        ConfigError: if a number is not above zero, or both `updates` and `passes` are given.
    """
    for name, value in (("hours", hours), ("gpus", gpus), ("updates", updates), ("passes", passes)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} must be a number above 0, got {value:g}.")
    if updates is not None and passes is not None:
        raise ConfigError("updates and passes both say how long to train: give one of them.")
    chosen = get_recipe(recipe, objective=objective)
    if chosen.stage == "finetuning":
        raise ConfigError(
            f"{chosen.name} is a recipe of fine-tuning, and plan is about pre-training. Choose "
            "one such as base or xls-r-300m."
        )
    update_hours = chosen.pretraining.batch_seconds * chosen.pretraining.accumulation / 3600
    assumed: list[str] = []
    if updates is None and passes is None:
        updates = chosen.pretraining.budget.max_steps
        if updates is None:
            passes = DEFAULT_PASSES
            assumed.append(
                f"each hour is heard {passes:g} times, since the recipe gives a time and no updates"
            )
    if updates is None:
        updates = max(1, math.ceil((passes or DEFAULT_PASSES) * hours / update_hours))
    heard = updates * update_hours
    return Plan(
        hours=hours,
        gpus=gpus,
        recipe=chosen.name,
        objective=chosen.objective,
        updates=updates,
        update_hours=update_hours,
        heard_hours=heard,
        passes=heard / hours,
        assumed=tuple(assumed),
        estimates=tuple(
            _estimate(hardware, chosen, gpus, heard)
            for hardware in dict.fromkeys(rate.hardware for rate in TRAINING_RATES)
        ),
        disk=tuple(_disk(size, hours) for size in STORED_SIZES),
    )


def _estimate(hardware: str, recipe: Recipe, gpus: int, heard_hours: float) -> Estimate:
    """Estimate the cost on one kind of device from the nearest rate that is known of it."""
    known = [rate for rate in TRAINING_RATES if rate.hardware == hardware]
    rate = min(known, key=lambda one: _distance(one, recipe, gpus))
    value = rate.audio_seconds_per_second
    ratio = _work_ratio(rate, recipe)
    if value is None or max(ratio, 1 / ratio) > _FARTHEST:
        known_for = "" if value is None else f"known for {rate.recipe}, which is too unlike; "
        return Estimate(
            hardware=hardware,
            audio_seconds_per_second=None,
            gpu_hours=None,
            days=None,
            basis="not measured",
            source=f"{hardware}: {known_for}{rate.source}",
        )
    carried: list[str] = []
    if abs(ratio - 1) > _SAME_WORK:
        value /= ratio
        carried.append(f"from {rate.recipe} by the work of a forward pass ({ratio:.2g} times)")
    if rate.objective != recipe.objective:
        carried.append(f"from the {rate.objective} objective as it is")
    if rate.devices != gpus:
        carried.append(f"from {rate.devices} device{'s' if rate.devices > 1 else ''} as it is")
    gpu_hours = heard_hours / value
    return Estimate(
        hardware=hardware,
        audio_seconds_per_second=value,
        gpu_hours=gpu_hours,
        days=gpu_hours / gpus / 24,
        loader_cores={
            one.form: math.ceil(value / one.audio_seconds_per_second) for one in LOADER_RATES
        },
        basis="extrapolated" if carried else rate.basis,
        source=rate.source + (f"; carried over {', '.join(carried)}" if carried else ""),
    )


def _work_ratio(rate: TrainingRate, recipe: Recipe) -> float:
    """How much more work a second of sound is for a recipe's network than for the measured one."""
    measured = get_recipe(rate.recipe).network.encoder
    return forward_gflop(recipe.network.encoder) / forward_gflop(measured)


def _distance(rate: TrainingRate, recipe: Recipe, gpus: int) -> tuple[float, bool, float]:
    """Order rates: the likest network first, then the same objective, then like many devices."""
    return (
        abs(math.log(_work_ratio(rate, recipe))),
        rate.objective != recipe.objective,
        abs(math.log(rate.devices / gpus)),
    )


def _disk(size: StoredSize, hours: float) -> Disk:
    return Disk(
        form=size.form,
        terabytes=hours * size.megabytes_per_hour / 1e6,
        basis=size.basis,
        source=f"{size.form}: {size.source}",
    )
