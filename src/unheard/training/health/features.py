"""The scale of what the convolutions hear: growing without end, or fading to nothing."""

from unheard.training.health.detector import Detector, Middle, Streak, name_rate
from unheard.training.health.findings import HealthFinding, Nature, Row


class FeatureScale(Detector):
    """What the convolutions make of the sound grows or fades away."""

    HUGE = 1e4
    """Mean square that no layer behind was made for; healthy runs end near 10."""
    GROWN = 100.0
    """And times what it was at first."""
    FADED = 1e-3
    """Times what it was at first, and falling."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._first = Middle(3)
        self._start: float | None = None
        self._huge = Streak()
        self._faded = Streak()

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        power = row.values.get("feature_power")
        if row.kind != "train":
            return []
        if power is None:
            self.clean_step = row.step
            return []
        if self._start is None:
            self._start = self._first.add(power)
            self.clean_step = row.step
            return []
        rate = name_rate(self.nature, row)
        figures = {"feature_power": power, "at_first": self._start}
        huge = power > self.HUGE and power > self.GROWN * self._start
        faded = power <= self.FADED * self._start
        if not huge and not faded:
            self.clean_step = row.step
        if self._huge.goes_on(row.step, ill=huge):
            return self._tell(
                "features_grow",
                "warning",
                row,
                f"What the convolutions make of the sound has grown from a mean square of "
                f"{self._start:.2g} to {power:.2g}.",
                "Likely cause: nothing holds it (network.feature_penalty_weight; the published "
                f"Base has 10), or a {rate} that is too high.",
                **figures,
            )
        if self._faded.goes_on(row.step, ill=faded):
            return self._tell(
                "features_vanish",
                "error",
                row,
                f"What the convolutions make of the sound has faded from a mean square of "
                f"{self._start:.2g} to {power:.2g}: the network no longer hears.",
                "Likely cause: the feature penalty outweighs the rest "
                f"(network.feature_penalty_weight), or a {rate} that is too high: lower them. "
                "If it was so from the start, are the recordings silent?",
                **figures,
            )
        return []
