import itertools
import math
import re

import pytest

from unheard.report import plots
from unheard.report.plots import Chart, Level, Series


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (2.7, 4.62), (0, 3e-4), (-3, 5), (0, 640), (1e6, 5e6), (2, 2), (0, 0)]
)
def test_ticks_are_round_and_span_the_range(low: float, high: float):
    found = plots.ticks(low, high)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in itertools.pairwise(found)}
    step = found[1] - found[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert found[0] <= low <= high <= found[-1]
    assert steps == {1.0}
    assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5, 10)) < 1e-6
    assert 2 <= len(found) <= 8


def test_thin_keeps_extremes_and_order():
    points = [(float(k), math.sin(k)) for k in range(5000)]
    thinned = plots.thin(points)
    assert len(thinned) <= 140
    assert min(least for _, _, least, _ in thinned) == min(y for _, y in points)
    assert max(most for _, _, _, most in thinned) == max(y for _, y in points)
    assert [x for x, *_ in thinned] == sorted(x for x, *_ in thinned)
    assert plots.thin(points[:3]) == [(x, y, y, y) for x, y in points[:3]]


def test_line_chart_draws_inside_its_frame():
    loss = Series(name="training", points=[(float(k), 5 - k / 400) for k in range(1, 1001)])
    valid = Series(name="validation", points=[(500.0, 4.0), (1000.0, 2.6)], tone=2, marks=True)
    made = plots.line_chart(
        Chart(
            title="Loss",
            unit="nats",
            series=(loss, valid),
            levels=(Level(name="guessing", value=math.log(101)),),
        )
    )
    assert made is not None
    numbers = [
        (float(x), float(y))
        for path in re.findall(r'class="(?:line line\d|band fill\d)" d="M([^"Z]+)Z?"', made)
        if "H" not in path
        for x, y in (pair.split() for pair in path.split("L"))
    ]
    assert len(numbers) > 200
    assert all(0 <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT for x, y in numbers)
    for expected in ("guessing 4.62", "nats", "updates", "training", "validation", "<b>2.60</b>"):
        assert expected in made
    assert "band" in made  # the long curve was thinned, and says so
    assert made.count("<circle") == 2


def test_line_chart_falls_where_values_fall():
    made = plots.line_chart(
        Chart(title="t", unit="u", series=(Series(name="n", points=((0, 9), (10, 1))),))
    )
    assert made is not None
    path = re.search(r'class="line line1" d="M(\S+) (\S+)L(\S+) (\S+)"', made)
    assert path is not None
    x0, y0, x1, y1 = map(float, path.groups())
    assert x0 < x1
    assert y0 < y1  # SVG counts downwards


def test_chart_without_points_is_left_out():
    empty = Series(name="a", points=())
    negative = Series(name="b", points=((1.0, -1.0),))
    assert plots.line_chart(Chart(title="t", unit="u", series=(empty,))) is None
    assert (
        plots.line_chart(Chart(title="t", unit="u", series=(negative,), logarithmic=True)) is None
    )
    assert plots.bar_chart("t", bars=[("0", 0.0)], unit="u", x_label="x") is None


@pytest.mark.parametrize(
    "points",
    [((5.0, 1.0),), ((1.0, 0.0), (2.0, 0.0)), ((1.0, 1e-9), (2.0, 1e9)), ((0.0, -5.0), (1.0, 5.0))],
)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_degenerate_curves_are_drawn(points: tuple, logarithmic: bool):
    chart = Chart(
        title="t", unit="u", series=(Series(name="n", points=points),), logarithmic=logarithmic
    )
    made = plots.line_chart(chart)
    if made is None:
        assert logarithmic
        assert all(y <= 0 for _, y in points)
    else:
        assert "nan" not in made
        assert "inf" not in made


def test_titles_and_labels_are_escaped():
    made = plots.bar_chart("<script>", bars=[("<b>", 2.0)], unit="<i>", x_label="<u>", note="<s>")
    assert made is not None
    assert not re.search(r"<(script|b|i|u|s)>", made)


def test_interval_bar_stays_on_its_track():
    made = plots.interval_bar(1.7, low=1.2, high=2.4, top=1.0)
    assert 'width="196.0"' in made
