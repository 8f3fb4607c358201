"""The watch over a training run: every row of figures goes in, findings come out once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unheard.training.health.descent import (
    Divergence,
    GradientJump,
    NonFinite,
    Overfit,
    Standstill,
)
from unheard.training.health.detector import Detector
from unheard.training.health.features import FeatureScale
from unheard.training.health.findings import HealthFinding, Nature, Row
from unheard.training.health.quantiser import CodeCollapse, UnitCollapse
from unheard.training.health.writing import BlankPlateau

DETECTORS: dict[str, tuple[type[Detector], ...]] = {
    "contrastive": (CodeCollapse, FeatureScale),
    "masked_units": (UnitCollapse, FeatureScale),
    "ctc": (BlankPlateau,),
}
"""What is watched for in each objective, besides what all have in common."""

COMMON: tuple[type[Detector], ...] = (Divergence, GradientJump, NonFinite, Standstill, Overfit)


class HealthWatch:
    """Judges a run by the rows of its metrics.jsonl, and by nothing else.

    So its memory needs no place in a checkpoint: a run that goes on shows it the rows again, and
    it is where it was.

    Attributes:
        nature: of the run.
        before: what was found before training.
    """

    def __init__(self, nature: Nature, *, before: Sequence[HealthFinding] = ()) -> None:
        self.nature = nature
        self.before = tuple(before)
        self._found: list[HealthFinding] = []
        self._detectors: list[Detector] = []
        self.recall(())

    @property
    def findings(self) -> list[HealthFinding]:
        """Everything so far, those before training first."""
        return [*self.before, *self._found]

    @property
    def alarm(self) -> HealthFinding | None:
        """The first error among what the rows have shown; None while the run is not lost."""
        return next((finding for finding in self._found if finding.severity == "error"), None)

    @property
    def clean_step(self) -> int:
        """The last update up to which nothing looked ill, even if it was too soon to say so."""
        return min(detector.clean_step for detector in self._detectors)

    def observe(self, kind: str, step: int, values: Mapping[str, float]) -> list[HealthFinding]:
        """Look at the next row.

        Args:
            kind: "train" or "valid".
            step: the last update that it covers.
            values: figures as they stand in metrics.jsonl.

        Returns:
            What is new; nothing is told twice.
        """
        row = Row(kind=kind, step=step, values=values)
        found = [finding for detector in self._detectors for finding in detector.observe(row)]
        self._found += found
        return found

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget everything and look at the rows of a run that goes on, silently."""
        self._found = []
        nature = self.nature
        classes = (*DETECTORS[nature.objective], *COMMON)
        self._detectors = [detector(nature) for detector in classes]
        for row in rows:
            figures = {k: v for k, v in row.items() if k not in ("kind", "step")}
            self.observe(row["kind"], row["step"], figures)
