"""How numbers are written in the report: with units, and no idle digits."""

import math


def percent(share: float, *, digits: int = 1) -> str:
    """Write a share of one as a percentage, the sign held to the number."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def per_hundred(share: float) -> str:
    """Write a share as "so many in 100": a whole number from 10 on, one decimal below."""
    value = 100 * share
    if value == 0:
        return "0"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Write a length of time for reading: "42 seconds", "58 minutes", "3.7 hours"."""
    if seconds < 90:
        return quantity(round(seconds), "second")
    if seconds < 100 * 60:
        return quantity(round(seconds / 60), "minute")
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 100 else f"{hours:,.0f} hours"


def quantity(count: float, noun: str, *, plural: str | None = None) -> str:
    """Write a count with its noun in the right number: "1 speaker", "12,400 files"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def significant(value: float, *, digits: int = 3) -> str:
    """Write a number with about `digits` digits: 4.62, 0.0312, 1,240, 5e-05."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude >= digits - 1:
        return f"{value:,.0f}"
    if magnitude < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits - 1 - magnitude}f}"


def trimmed(value: float) -> str:
    """Write a round number as an axis does: 0, 0.0004, 2.5, 1,200, 1e-05."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
