import pytest

from unheard.report import numbers


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (1, "1 second"),
        (42.4, "42 seconds"),
        (90, "2 minutes"),
        (3480, "58 minutes"),
        (13_248, "3.7 hours"),
        (4_320_000, "1,200 hours"),
    ],
)
def test_duration(seconds: float, written: str):
    assert numbers.duration(seconds) == written


@pytest.mark.parametrize(
    ("share", "written"), [(0, "0"), (0.004, "0.4"), (0.0994, "9.9"), (0.0996, "10"), (1.2, "120")]
)
def test_per_hundred(share: float, written: str):
    assert numbers.per_hundred(share) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(4.6151, "4.62"), (0.03125, "0.0312"), (1240.4, "1,240"), (0, "0"), (5e-5, "5.00e-05")],
)
def test_significant(value: float, written: str):
    assert numbers.significant(value) == written


@pytest.mark.parametrize(
    ("value", "written"), [(5.0, "5"), (0.0004, "0.0004"), (2.5, "2.5"), (12_000.0, "12,000")]
)
def test_trimmed(value: float, written: str):
    assert numbers.trimmed(value) == written


def test_percent_keeps_its_sign():
    assert numbers.percent(0.1234) == "12.3\u00a0%"
    assert numbers.quantity(1, "entry", plural="entries") == "1 entry"
    assert numbers.quantity(2000, "entry", plural="entries") == "2,000 entries"
