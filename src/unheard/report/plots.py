"""Small SVG charts with axes, units and legends, as wide as a phone.

Every chart has the same nominal width, so that its text has the same size as the page's whether
one or three stand in a row. Colours are classes of the style sheet: the page has a light and a
dark scheme. Long curves are drawn as the mean of buckets over a band from their least to their
greatest value, so that nothing is hidden and nothing is large.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unheard.report.markup import Html, join, tag
from unheard.report.numbers import significant, trimmed

WIDTH, HEIGHT = 380, 222
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 38
_BUCKETS = 140

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend.
        points: (x, y), finite, x ascending.
        tone: 1 to 4, the colour.
        marks: draw a dot at each point (for the few points of a validation).
    """

    name: str
    points: Points
    tone: int = 1
    marks: bool = False


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line that says what a value means, such as chance."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart.

    Attributes:
        title: what is drawn, in words.
        unit: of the y axis, shown beside the title.
        series: curves; empty ones are left out.
        levels: horizontal lines.
        note: sentence under the chart.
        from_zero: the y axis begins at zero.
        logarithmic: the y axis is logarithmic; values that are not positive are left out.
        form: how a y value is written.
        tick: how a y value is written on the axis.
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    note: str | None = None
    from_zero: bool = False
    logarithmic: bool = False
    form: Callable[[float], str] = significant
    tick: Callable[[float], str] = trimmed


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Choose round numbers (1, 2, 2.5 or 5 times a power of ten) that span low to high.

    Returns:
        Ascending values; the first is at most `low`, the last at least `high`.
    """
    if not high > low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def thin(points: Points) -> list[tuple[float, float, float, float]]:
    """Reduce a curve to at most `_BUCKETS` points.

    Returns:
        (x, mean, least, greatest) for each bucket of equally many points.
    """
    size = math.ceil(len(points) / _BUCKETS) or 1
    buckets = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (
            sum(x for x, _ in bucket) / len(bucket),
            sum(y for _, y in bucket) / len(bucket),
            min(y for _, y in bucket),
            max(y for _, y in bucket),
        )
        for bucket in buckets
    ]


def line_chart(chart: Chart) -> Html | None:
    """Draw a line chart, or None when no series has a point."""
    series = [_positive(s) if chart.logarithmic else s for s in chart.series]
    series = [s for s in series if s.points]
    if not series:
        return None
    values = [y for s in series for _, y in s.points] + [level.value for level in chart.levels]
    frame = _Frame.around(
        [x for s in series for x, _ in s.points],
        values,
        from_zero=chart.from_zero,
        logarithmic=chart.logarithmic,
    )
    drawing = tag(
        "svg",
        _axes(frame, form=chart.tick),
        *(_level(frame, level, form=chart.form) for level in chart.levels),
        *(_curve(frame, s, form=chart.form) for s in series),
        at={
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "role": "img",
            "aria-label": f"{chart.title} [{chart.unit}]. "
            + " ".join(_spoken(s, form=chart.form) for s in series),
        },
    )
    return tag(
        "figure",
        tag("figcaption", _heading(chart.title, chart.unit), _legend(series, form=chart.form)),
        drawing,
        tag("p", chart.note, at={"class": "note"}) if chart.note else None,
        at={"class": "chart"},
    )


def bar_chart(
    title: str,
    *,
    bars: Sequence[tuple[str, float]],
    unit: str,
    x_label: str,
    note: str | None = None,
    tone: int = 1,
) -> Html | None:
    """Draw a histogram, or None when all bars are zero.

    Args:
        title: what is counted, in words.
        bars: label of the bin's lower edge and height; labels are thinned where they crowd.
        unit: of the heights.
        x_label: name and unit of the x axis.
        note: sentence under the chart.
        tone: 1 to 4, the colour.
    """
    highest = max((height for _, height in bars), default=0)
    if highest <= 0:
        return None
    marks = ticks(0, highest, count=4)
    top = marks[-1]
    width = (WIDTH - _LEFT - _RIGHT) / len(bars)
    scale = (HEIGHT - _TOP - _BOTTOM) / top
    floor = HEIGHT - _BOTTOM
    every = math.ceil(len(bars) / 10)
    shapes = []
    for index, (label, height) in enumerate(bars):
        x = _LEFT + index * width
        if height > 0:
            shapes.append(
                tag(
                    "rect",
                    tag("title", f"{label}: {height:,.0f}"),
                    at={
                        "class": f"fill{tone}",
                        "x": f"{x + width * 0.07:.1f}",
                        "width": f"{width * 0.86:.1f}",
                        "y": f"{floor - height * scale:.1f}",
                        "height": f"{max(height * scale, 0.8):.1f}",
                    },
                )
            )
        if index % every == 0:
            shapes.append(tag("path", at={"class": "grid", "d": f"M{x:.1f} {floor}v4"}))
            shapes.append(_label(x, floor + 16, label, anchor="middle"))
    grid = []
    for value in marks:
        y = floor - value * scale
        grid += [_grid_line(y), _label(_LEFT - 6, y + 4, trimmed(value), anchor="end")]
    drawing = tag(
        "svg",
        *grid,
        *shapes,
        _label(WIDTH - _RIGHT, HEIGHT - 5, x_label, anchor="end", role="axis"),
        at={
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "role": "img",
            "aria-label": f"{title}. "
            + " ".join(f"{label}: {height:,.0f}." for label, height in bars if height),
        },
    )
    return tag(
        "figure",
        tag("figcaption", _heading(title, unit)),
        drawing,
        tag("p", note, at={"class": "note"}) if note else None,
        at={"class": "chart"},
    )


def interval_bar(
    value: float, *, low: float | None, high: float | None, top: float, tone: int = 1
) -> Html:
    """Draw a value as a bar with its interval as a whisker, on a scale from zero to `top`."""
    width, height = 200, 16

    def x(share: float) -> str:
        return f"{min(1.0, share / top) * (width - 4):.1f}"

    whisker = None
    if low is not None and high is not None:
        ends = (x(low), x(high))
        path = f"M{ends[0]} 8H{ends[1]}M{ends[0]} 4V12M{ends[1]} 4V12"
        whisker = tag("path", at={"class": "whisker", "d": path})
    bar = tag("rect", at={"class": f"fill{tone}", "y": 3, "height": 10, "rx": 2, "width": x(value)})
    track = tag("rect", at={"class": "track", "y": 3, "height": 10, "rx": 2, "width": width - 4})
    return tag(
        "svg",
        track,
        bar,
        whisker,
        at={"class": "bar", "viewBox": f"0 0 {width} {height}", "aria-hidden": "true"},
    )


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Maps data to the drawing."""

    x_ticks: list[float]
    y_ticks: list[float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    logarithmic: bool

    @classmethod
    def around(
        cls, xs: Sequence[float], ys: Sequence[float], *, from_zero: bool, logarithmic: bool
    ) -> "_Frame":
        """Fit the axes to the data."""
        low, high = (0.0 if from_zero else min(ys)), max(ys)
        if logarithmic:
            ends = math.floor(math.log10(low)), math.ceil(math.log10(high))
            powers = range(ends[0], max(ends[1], ends[0] + 1) + 1, 1 + (ends[1] - ends[0]) // 6)
            y_ticks = [10.0**k for k in powers]
        else:
            y_ticks = ticks(low, high)
        x_high = max(xs)
        x_low = 0.0 if min(xs) < 0.3 * x_high else min(xs)
        x_ticks = [t for t in ticks(x_low, x_high) if x_low <= t <= x_high]
        return cls(
            x_ticks=x_ticks,
            y_ticks=y_ticks,
            x_range=(x_low, x_high if x_high > x_low else x_low + 1),
            y_range=(y_ticks[0], max(y_ticks[-1], high)),
            logarithmic=logarithmic,
        )

    def x(self, value: float) -> float:
        """Place of an x value."""
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Place of a y value."""
        low, high = self.y_range
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def _positive(series: Series) -> Series:
    """Leave out what a logarithm cannot show."""
    points = tuple((x, y) for x, y in series.points if y > 0)
    return Series(name=series.name, points=points, tone=series.tone, marks=series.marks)


def _heading(title: str, unit: str) -> Html:
    """Write what is drawn and the unit of the y axis."""
    return join([tag("strong", title), " ", tag("span", unit, at={"class": "unit"})])


def _label(x: float, y: float, text: str, *, anchor: str = "start", role: str = "tick") -> Html:
    """Write on the drawing."""
    place = {"class": role, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    return tag("text", text, at=place)


def _grid_line(y: float) -> Html:
    """Draw a horizontal line over the whole width."""
    return tag("path", at={"class": "grid", "d": f"M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"})


def _axes(frame: _Frame, *, form: Callable[[float], str]) -> Html:
    """Draw the grid, the tick labels and the name of the x axis."""
    parts = []
    for value in frame.y_ticks:
        y = frame.y(value)
        parts += [_grid_line(y), _label(_LEFT - 6, y + 4, form(value), anchor="end")]
    floor = HEIGHT - _BOTTOM
    for value in frame.x_ticks:
        x = frame.x(value)
        anchor = "end" if x > WIDTH - 30 else "middle"
        parts.append(tag("path", at={"class": "grid", "d": f"M{x:.1f} {floor}v4"}))
        parts.append(_label(x, floor + 16, _compact(value), anchor=anchor))
    parts.append(_label(WIDTH - _RIGHT, HEIGHT - 5, "updates", anchor="end", role="axis"))
    return join(parts)


def _compact(value: float) -> str:
    """Write a number of updates: 800, 1.5k, 12k, 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _level(frame: _Frame, level: Level, *, form: Callable[[float], str]) -> Html:
    """Draw a horizontal line with its name above it."""
    y = frame.y(level.value)
    line = tag("path", at={"class": "level", "d": f"M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"})
    place = y - 4 if y > _TOP + 14 else y + 13
    name = f"{level.name} {form(level.value)}"
    return join([line, _label(WIDTH - _RIGHT - 3, place, name, anchor="end", role="levelname")])


def _curve(frame: _Frame, series: Series, *, form: Callable[[float], str]) -> Html:
    """Draw one curve: a band where points were joined, the line, and dots where asked."""
    thinned = thin(series.points)
    band = None
    if len(thinned) < len(series.points):
        upper = [f"{frame.x(x):.1f} {frame.y(most):.1f}" for x, _, _, most in thinned]
        lower = [f"{frame.x(x):.1f} {frame.y(least):.1f}" for x, _, least, _ in reversed(thinned)]
        path = "M" + "L".join(upper + lower) + "Z"
        band = tag("path", at={"class": f"band fill{series.tone}", "d": path})
    places = [f"{frame.x(x):.1f} {frame.y(mean):.1f}" for x, mean, _, _ in thinned]
    line = tag("path", at={"class": f"line line{series.tone}", "d": "M" + "L".join(places)})
    dots = []
    if series.marks or len(thinned) == 1:
        for x, mean, _, _ in thinned:
            where = {"cx": f"{frame.x(x):.1f}", "cy": f"{frame.y(mean):.1f}", "r": 2.6}
            said = tag("title", f"{series.name}, update {x:,.0f}: {form(mean)}")
            dots.append(tag("circle", said, at={"class": f"fill{series.tone}", **where}))
    return join([band, line, *dots])


def _legend(series: Sequence[Series], *, form: Callable[[float], str]) -> Html:
    """Name each curve with its last value; one curve alone is named by the title."""
    if len(series) == 1:
        last = tag("b", form(series[0].points[-1][1]))
        return tag("span", "at the end ", last, at={"class": "key"})
    return join(
        tag(
            "span",
            tag(
                "svg",
                tag("path", at={"class": f"line line{s.tone}", "d": "M0 5H16"}),
                at={"class": "swatch", "viewBox": "0 0 16 10", "aria-hidden": "true"},
            ),
            f"{s.name} ",
            tag("b", form(s.points[-1][1])),
            at={"class": "key"},
        )
        for s in series
    )


def _spoken(series: Series, *, form: Callable[[float], str]) -> str:
    """Say a curve in words, for people who hear the page."""
    first, last = series.points[0], series.points[-1]
    return (
        f"{series.name}: {form(first[1])} at update {first[0]:,.0f}, "
        f"{form(last[1])} at update {last[0]:,.0f}."
    )
