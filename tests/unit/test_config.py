"""Settings: plain data and back, dotted changes, messages that help."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard import config
from unheard.errors import ConfigError
from unheard.models.config import ConvLayer, CtcConfig, EncoderConfig, PretrainingConfig


@dataclass(frozen=True, kw_only=True)
class Layer:
    width: int
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    name: Literal["adam", "sgd"] = "adam"
    clip: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    out: Path
    layers: tuple[Layer, ...] = (Layer(width=3),)
    optimiser: Optimiser = field(default_factory=Optimiser)
    spare: Optimiser | None = None
    seed: int = 0
    start: str | Path | None = None
    sizes: tuple[int, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    extra: Any = None
    level: Literal[1, 2, "auto"] = "auto"

    def __post_init__(self) -> None:
        if len(self.sizes) > 3 and self.seed == 0:
            raise ConfigError("more than three sizes need a seed.")


finite = st.floats(allow_nan=False, allow_infinity=False)
optimisers = st.builds(
    Optimiser,
    rate=finite,
    betas=st.tuples(finite, finite),
    name=st.sampled_from(["adam", "sgd"]),
    clip=st.none() | finite,
)
runs = st.builds(
    Run,
    out=st.text("abc/.", min_size=1).map(Path),
    layers=st.lists(st.builds(Layer, width=st.integers(), bias=st.booleans())).map(tuple),
    optimiser=optimisers,
    spare=st.none() | optimisers,
    seed=st.integers(min_value=1),
    start=st.none() | st.text(),
    sizes=st.lists(st.integers()).map(tuple),
    weights=st.dictionaries(st.text(), finite),
    extra=st.none() | st.integers() | st.lists(st.text()),
    level=st.sampled_from([1, 2, "auto"]),
)


@given(run=runs)
def test_plain_data_and_back(run: Run) -> None:
    plain = config.to_dict(run)
    assert config.from_dict(Run, json.loads(json.dumps(plain))) == run


@given(run=runs, other=runs)
def test_every_leaf_can_be_set_from_text(run: Run, other: Run) -> None:
    changes = {
        "seed": str(other.seed),
        "out": str(other.out),
        "optimiser.rate": repr(other.optimiser.rate),
        "optimiser.clip": str(other.optimiser.clip),
        "optimiser.name": other.optimiser.name,
        "optimiser.betas": ",".join(map(repr, other.optimiser.betas)),
        "sizes": ",".join(map(str, other.sizes)),
        "level": str(other.level),
    }
    changed = config.override(run, changes)
    assert changed.optimiser == other.optimiser
    assert (changed.seed, changed.out, changed.sizes, changed.level) == (
        other.seed,
        other.out,
        other.sizes,
        other.level,
    )
    assert changed.layers == run.layers


def test_the_models_settings_survive() -> None:
    encoder = EncoderConfig(
        conv_layers=(ConvLayer(channels=4, kernel=10, stride=5),), dim=64, heads=4
    )
    for settings in (PretrainingConfig(encoder=encoder), CtcConfig(encoder=encoder, vocab=30)):
        plain = json.loads(json.dumps(config.to_dict(settings)))
        assert config.from_dict(type(settings), plain) == settings
    assert plain["encoder"]["conv_layers"] == [{"channels": 4, "kernel": 10, "stride": 5}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "Settings of Run without a value: out"),
        ({"out": "a", "sed": 1}, 'Run has no setting "sed". Did you mean "seed"?'),
        (
            {"out": "a", "optimiser": {"rat": 1}},
            'Optimiser has no setting "optimiser.rat". Did you mean "optimiser.rate"?',
        ),
        ({"out": "a", "zzz": 1}, 'Run has no setting "zzz". Known: extra, layers,'),
        ({"out": "a", "seed": True}, "seed: expected a whole number, found True."),
        ({"out": "a", "seed": 1.0}, "seed: expected a whole number, found 1.0."),
        ({"out": "a", "seed": "1"}, "seed: expected a whole number, found '1'."),
        ({"out": 3}, "out: expected a path, found 3."),
        ({"out": "a", "optimiser": 3}, "optimiser: expected settings of Optimiser, found 3."),
        ({"out": "a", "optimiser": {"name": "rms"}}, "expected one of 'adam', 'sgd', found 'rms'."),
        ({"out": "a", "optimiser": {"betas": [1]}}, "optimiser.betas: expected"),
        ({"out": "a", "optimiser": {"clip": "x"}}, "optimiser.clip: expected a number or none"),
        ({"out": "a", "layers": [{"width": 1}, {"width": "2"}]}, "layers[1].width: expected"),
        ({"out": "a", "spare": {"rte": 1}}, 'Did you mean "spare.rate"?'),
        ({"out": "a", "weights": {"a": "b"}}, "weights.a: expected a number, found 'b'."),
        ({"out": "a", "level": True}, "level: expected one of 1, 2, 'auto', found True."),
        ({"out": "a", "sizes": [1, 2, 3, 4]}, "more than three sizes need a seed."),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_dict(Run, data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.rate": "1"}, 'Run has no setting "optimizer". Did you mean "optimiser"?'),
        ({"optimiser.rte": "1"}, 'Did you mean "optimiser.rate"?'),
        ({"optimiser": "fast"}, "optimiser: expected settings of Optimiser"),
        ({"seed.deep": "1"}, "seed is 0, which has no setting 'deep'."),
        ({"spare.rate": "1"}, "spare is None, which has no setting 'rate'."),
        ({"seed": "many"}, "seed: expected a whole number, found 'many'."),
        ({"optimiser.betas": "1,2,3"}, "optimiser.betas: expected"),
        ({"optimiser": "{}", "optimiser.rate": "1"}, "Both optimiser and a setting within it"),
        ({"optimiser.rate": "1", "optimiser": "{}"}, "Both optimiser and a setting within it"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override(Run(out=Path("a")), changes)
    assert message in str(caught.value)


def test_changes_that_belong_together_are_checked_together() -> None:
    encoder = EncoderConfig(dim=768, heads=12)
    changed = config.override(encoder, {"dim": "80", "heads": "5"})
    assert (changed.dim, changed.heads) == (80, 5)
    with pytest.raises(ConfigError, match="multiple of heads"):
        config.override(encoder, {"heads": "5"})


def test_values_that_are_not_text_are_taken_as_they_are() -> None:
    run = Run(out=Path("a"))
    changed = config.override(
        run,
        {"layers": [Layer(width=1)], "spare": {"rate": 2}, "start": Path("m"), "sizes": "[4, 5]"},
    )
    assert changed.layers == (Layer(width=1),)
    assert changed.spare == Optimiser(rate=2.0)
    assert changed.start == Path("m")
    assert changed.sizes == (4, 5)
    assert config.override(run, {"start": "none"}).start is None
    assert config.override(run, {"start": "kilingo"}).start == "kilingo"


def test_values_without_a_plain_form_are_refused() -> None:
    for value in (float("nan"), {1: 2}, b"x", Run):
        with pytest.raises(ConfigError, match="extra: expected"):
            config.to_dict(Run(out=Path("a"), extra=value))
    with pytest.raises(ConfigError, match="Expected a settings object, found dict"):
        config.to_dict({"a": 1})
