"""What all detectors share: rows in, findings out, and since when all was well."""

from collections import deque
from statistics import median

from unheard.training.health.findings import HealthFinding, Nature, Row, Severity

PATIENT_ROWS = 3
"""Rows in a row that must look ill: one may be an odd batch."""
PATIENT_STEPS = 20
"""Updates in a row that must look ill, where every update is a row."""


class Detector:
    """Watches for one kind of trouble and tells of it once.

    Its memory is what it made of the rows so far: the same rows give the same state.

    Attributes:
        nature: of the run.
        clean_step: the last update up to which nothing looked ill, to go back to.
    """

    def __init__(self, nature: Nature) -> None:
        self.nature = nature
        self.clean_step = 0
        self._told: set[str] = set()

    def observe(self, row: Row) -> list[HealthFinding]:
        """Look at the next row; returns what is new."""
        raise NotImplementedError

    def _tell(
        self, code: str, severity: Severity, row: Row, message: str, advice: str, **values: float
    ) -> list[HealthFinding]:
        """Make a finding, unless it was made before."""
        if code in self._told:
            return []
        self._told.add(code)
        return [
            HealthFinding(
                code=code,
                severity=severity,
                step=row.step,
                message=message,
                advice=advice,
                values=values,
            )
        ]


class Streak:
    """Counts how long something has gone on."""

    def __init__(self, *, rows: int = PATIENT_ROWS, steps: int = PATIENT_STEPS) -> None:
        self._least_rows = rows
        self._least_steps = steps
        self._before = 0
        self.rows = 0
        self.steps = 0

    def goes_on(self, step: int, *, ill: bool) -> bool:
        """Add a row; returns whether enough rows and updates in a row were ill."""
        if not ill:
            self.rows = self.steps = 0
        else:
            self.rows += 1
            self.steps += step - self._before
        self._before = step
        return self.rows >= self._least_rows and self.steps >= self._least_steps


class Middle:
    """Median of the last few values."""

    def __init__(self, count: int) -> None:
        self._values: deque[float] = deque(maxlen=count)

    def add(self, value: float) -> float | None:
        """Add a value; returns the median, or None before there are enough."""
        self._values.append(value)
        return self.value

    @property
    def value(self) -> float | None:
        """The median, or None before there are enough values."""
        full = len(self._values) == self._values.maxlen
        return median(self._values) if full else None


def past_warmup(nature: Nature, row: Row) -> bool:
    """Whether the rate has reached half of its peak."""
    return row.values.get("progress", 1.0) >= 0.5 * nature.warmup


LONGER_WARMUP = "make the warm-up longer (training.schedule.warmup)"


def name_rate(nature: Nature, row: Row) -> str:
    """Write the learning rate with its setting and what it is at a row."""
    rate = row.values.get("learning_rate", nature.learning_rate)
    return f"learning rate (training.learning_rate, now {rate:.1e})"
