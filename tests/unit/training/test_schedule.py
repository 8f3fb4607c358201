import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard.errors import ConfigError
from unheard.training.schedule import Budget, ScheduleConfig, rate_scale

SHARES = st.floats(0.0, 1.0)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    shape = draw(st.sampled_from(["linear", "tri_stage", "cosine"]))
    warmup = draw(SHARES)
    lowest = 1e-6 if shape == "tri_stage" else 0.0
    return ScheduleConfig(
        shape=shape,
        warmup=warmup,
        hold=draw(st.floats(0.0, 1.0 - warmup)),
        initial_scale=draw(SHARES),
        final_scale=draw(st.floats(lowest, 1.0)),
    )


def test_linear_is_warm_up_and_then_a_straight_line_to_zero() -> None:
    config = ScheduleConfig(shape="linear", warmup=0.2)
    assert [rate_scale(config, p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(
        [0.0, 0.5, 1.0, 0.5, 0.0]
    )


def test_tri_stage_warms_up_holds_and_decays_exponentially() -> None:
    config = ScheduleConfig(
        shape="tri_stage", warmup=0.1, hold=0.4, initial_scale=0.01, final_scale=0.05
    )
    found = [rate_scale(config, p) for p in (0.0, 0.05, 0.1, 0.3, 0.499, 0.75, 1.0)]
    # Halfway down an exponential is the geometric mean of its ends.
    assert found == pytest.approx([0.01, 0.505, 1.0, 1.0, 1.0, math.sqrt(0.05), 0.05])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    config = ScheduleConfig(shape="cosine", warmup=0.0, final_scale=0.2)
    found = [rate_scale(config, p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([1.0, 0.2 + 0.8 * (0.5 + math.sqrt(0.125)), 0.6, 0.2])


@given(schedules(), st.lists(SHARES, min_size=2, max_size=20))
def test_the_rate_stays_within_its_bounds_and_each_part_is_monotone(
    config: ScheduleConfig, places: list[float]
) -> None:
    places = sorted(places)
    scales = [rate_scale(config, place) for place in places]
    tiny = 1e-9
    assert all(-tiny <= scale <= 1 + tiny for scale in scales)
    top = config.warmup + config.hold
    for (here, now), (there, later) in zip(
        zip(places, scales, strict=True), list(zip(places, scales, strict=True))[1:], strict=False
    ):
        if there < config.warmup:
            assert later >= now - tiny
        if here >= top:
            assert later <= now + tiny


@given(schedules())
def test_the_schedule_ends_at_its_final_scale(config: ScheduleConfig) -> None:
    if config.warmup + config.hold < 1:
        assert rate_scale(config, 1.0) == pytest.approx(config.final_scale)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 0.7, "hold": 0.4}, "0.7 and 0.4"),
        ({"warmup": -0.1}, "-0.1"),
        ({"initial_scale": 1.5}, "1.5"),
        ({"final_scale": -0.5}, "-0.5"),
        ({"shape": "tri_stage"}, "above 0"),
    ],
)
def test_impossible_schedules_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**settings)


def test_a_step_budget_ends_exactly() -> None:
    budget = Budget(max_steps=7)
    progress = 0.0
    for step in range(1, 8):
        assert progress < 1
        progress = budget.advance(progress, step=step, elapsed_seconds=1e9)
        assert progress == step / 7
    assert progress == 1.0


def test_whichever_budget_is_spent_first_ends_the_run() -> None:
    budget = Budget(max_steps=10, max_minutes=1.0)
    assert budget.advance(0.0, step=1, elapsed_seconds=30.0) == 0.5
    assert budget.advance(0.0, step=8, elapsed_seconds=30.0) == 0.8
    assert budget.advance(0.0, step=1, elapsed_seconds=60.0) == 1.0


@given(
    st.integers(1, 50),
    st.floats(0.01, 10.0),
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60),
)
def test_progress_never_falls_and_never_passes_one(
    max_steps: int, max_minutes: float, durations: list[float]
) -> None:
    budget = Budget(max_steps=max_steps, max_minutes=max_minutes)
    progress, elapsed = 0.0, 0.0
    for step, seconds in enumerate(durations, start=1):
        elapsed += seconds
        new = budget.advance(progress, step=step, elapsed_seconds=elapsed)
        assert progress <= new <= 1.0
        progress = new
    assert (progress == 1.0) == (len(durations) >= max_steps or elapsed >= 60 * max_minutes)


def test_a_longer_budget_given_later_does_not_turn_back() -> None:
    assert Budget(max_steps=100).advance(0.9, step=10, elapsed_seconds=0.0) == 0.9


@pytest.mark.parametrize(
    "settings", [{}, {"max_steps": 0}, {"max_minutes": 0.0}, {"max_minutes": -1.0}]
)
def test_budgets_without_an_end_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Budget(**settings)
