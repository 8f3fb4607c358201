import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard.errors import ConfigError
from unheard.training.schedule import Budget, ScheduleConfig, rate_scale

SHARES = st.floats(0.0, 1.0)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    shape = draw(st.sampled_from(["linear", "polynomial", "tri_stage", "cosine"]))
    warmup = draw(SHARES)
    lowest = 1e-6 if shape == "tri_stage" else 0.0
    return ScheduleConfig(
        shape=shape,
        warmup=warmup,
        hold=draw(st.floats(0.0, 1.0 - warmup)),
        initial_scale=draw(SHARES),
        final_scale=draw(st.floats(lowest, 1.0)),
        power=draw(st.floats(0.1, 5.0)) if shape == "polynomial" else 1.0,
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


def rates(config: ScheduleConfig, peak: float, updates: int, steps: list[int]) -> list[float]:
    """Learning rate of the update that follows so many, as the training loop computes it."""
    budget = Budget(max_steps=updates)
    return [
        peak * rate_scale(config, budget.advance(0.0, step=step, elapsed_seconds=0.0))
        for step in steps
    ]


def test_tri_stage_at_every_boundary_of_base_10h() -> None:
    """Worked out by hand from fairseq's formula: 2,000 up, 8,000 constant, 10,000 down.

    Up: 5e-7 + s (5e-5 - 5e-7) / 2000, a step is 2.475e-8. Down: 5e-5 exp(-d k), with
    d = -ln(0.05) / 10000 = 2.99573227355399e-4.
    """
    config = ScheduleConfig(
        shape="tri_stage", warmup=0.1, hold=0.4, initial_scale=0.01, final_scale=0.05
    )
    golden = {
        0: 5e-7,
        1: 5.2475e-7,
        1000: 2.525e-5,
        1999: 4.997525e-5,
        2000: 5e-5,
        2001: 5e-5,
        9999: 5e-5,
        10_000: 5e-5,
        10_001: 4.99850235820111694e-5,
        15_000: 1.1180339887498949e-5,
        19_999: 2.50074904525973958e-6,
        20_000: 2.5e-6,
    }
    assert rates(config, 5e-5, 20_000, list(golden)) == pytest.approx(
        list(golden.values()), rel=1e-12, abs=0
    )
    # The negative control: the straight line of the paper's text.
    straight = ScheduleConfig(warmup=0.1, hold=0.4, initial_scale=0.01, final_scale=0.05)
    assert rates(straight, 5e-5, 20_000, [15_000]) == pytest.approx([2.625e-5])


def test_linear_decay_at_every_boundary_of_base_pre_training() -> None:
    """fairseq's polynomial_decay: s / 32000, then 1 - (s - 32000) / 368000, of 5e-4."""
    golden = {
        0: 0.0,
        1: 1.5625e-8,
        16_000: 2.5e-4,
        31_999: 4.99984375e-4,
        32_000: 5e-4,
        32_001: 4.99998641304347826e-4,
        216_000: 2.5e-4,
        399_999: 1.35869565217391304e-9,
        400_000: 0.0,
    }
    for shape in ("linear", "polynomial"):
        config = ScheduleConfig(shape=shape, warmup=0.08)
        assert rates(config, 5e-4, 400_000, list(golden)) == pytest.approx(
            list(golden.values()), rel=1e-9, abs=1e-22
        )


def test_polynomial_decay_with_a_power_and_an_end() -> None:
    """(peak - end) (1 - (s - 100) / 900)^p + end, with peak 1, end 0.1 and p 2, then 0.5."""
    steps = [50, 100, 190, 550, 910, 1000]
    squared = ScheduleConfig(shape="polynomial", warmup=0.1, final_scale=0.1, power=2.0)
    assert rates(squared, 1.0, 1000, steps) == pytest.approx(
        [0.5, 1.0, 0.9 * 0.81 + 0.1, 0.9 * 0.25 + 0.1, 0.9 * 0.01 + 0.1, 0.1]
    )
    root = ScheduleConfig(shape="polynomial", warmup=0.1, final_scale=0.1, power=0.5)
    assert rates(root, 1.0, 1000, [325, 550]) == pytest.approx(
        [0.9 * 0.8660254037844386 + 0.1, 0.9 * 0.7071067811865476 + 0.1]
    )


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
        ({"shape": "polynomial", "power": 0.0}, "power must be above 0, got 0.0"),
        ({"shape": "cosine", "power": 2.0}, '2.0 is for the shape "polynomial"'),
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
