"""Collapse in pre-training: few codes in use, or one unit predicted for everything."""

import math

from unheard.training.health.detector import (
    LONGER_WARMUP,
    Detector,
    Streak,
    name_rate,
    past_warmup,
)
from unheard.training.health.findings import HealthFinding, Nature, Row

COLLAPSED = 0.25
"""Share of the codebook's entropy below which nothing is left to tell apart."""
FEW = 0.4
"""Share below which it is heading there."""
HEALTHY = 0.5
"""Share above which nothing is suspected."""

PAPER_DIVERSITY = 0.1
"""Baevski et al. 2020, sec. 3.2: alpha."""
LITTLE_SOUND_SECONDS = 60.0
"""An update of less sound shows few of the codes, so that the diversity term is noisy."""

START_STEPS = 200
"""Updates past the warm-up in which a network may still name the most frequent unit only."""


def codebook_share(perplexity: float, *, groups: int, entries: int) -> float:
    """How much of a codebook's greatest entropy is used: 0 for one code a group, 1 for all alike.

    Args:
        perplexity: summed over the groups.
        groups: codebooks.
        entries: codes of each; at least 2.
    """
    return math.log(max(perplexity / groups, 1.0)) / math.log(entries)


class CodeCollapse(Detector):
    """Few codes of the quantiser are in use."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._few = Streak()
        self._collapsed = Streak()

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        used = row.values.get("code_perplexity")
        nature = self.nature
        if row.kind != "train":
            return []
        if used is None or nature.entries < 2:
            self.clean_step = row.step
            return []
        share = codebook_share(used, groups=nature.groups, entries=nature.entries)
        if share >= HEALTHY:
            self.clean_step = row.step
        collapsed = self._collapsed.goes_on(row.step, ill=share < COLLAPSED)
        few = self._few.goes_on(row.step, ill=share < FEW)
        codes = nature.groups * nature.entries
        figures = {
            "code_perplexity": used,
            "codes": codes,
            **{
                name: row.values[name]
                for name in ("soft_perplexity", "accuracy", "contrastive")
                if name in row.values
            },
        }
        if collapsed:
            return self._tell(
                "codes_collapsed",
                "error",
                row,
                f"The codebook has collapsed: {used:.1f} of {codes} codes are in use "
                f"({nature.groups} would be one for everything). The contrastive loss no longer "
                "means anything: targets that are all alike are easy to guess, and teach nothing.",
                self._advice(row),
                **figures,
            )
        if few:
            return self._tell(
                "codes_few",
                "warning",
                row,
                f"Only {used:.1f} of {codes} codes are in use, which may be the beginning of a "
                "collapse.",
                self._advice(row),
                **figures,
            )
        return []

    def _advice(self, row: Row) -> str:
        nature = self.nature
        rate = name_rate(nature, row)
        parts = []
        if nature.diversity_weight < PAPER_DIVERSITY:
            parts.append(
                f"Likely cause: the diversity weight is {nature.diversity_weight:g}; set "
                f"network.diversity_weight to {PAPER_DIVERSITY:g} or more."
            )
            parts.append(f"If that is not enough, lower the {rate} or {LONGER_WARMUP}.")
        else:
            parts.append(f"Likely cause: a {rate} that is too high: halve it, or {LONGER_WARMUP}.")
            parts.append(
                f"Or raise the diversity weight (network.diversity_weight, now "
                f"{nature.diversity_weight:g})."
            )
        if 0 < nature.batch_seconds < LITTLE_SOUND_SECONDS:
            parts.append(
                f"An update hears {nature.batch_seconds:.0f} s only: larger batches "
                "(training.batch_seconds, training.accumulation) show the diversity term more of "
                "the codes."
            )
        if nature.temperature_end < 0.5:
            parts.append(
                f"The quantiser's temperature falls to {nature.temperature_end:g}: a higher floor "
                "(network.quantizer.temperature_end) keeps it exploring."
            )
        return " ".join(parts)


class UnitCollapse(Detector):
    """One unit is predicted for everything, long after the start."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._streak = Streak(steps=START_STEPS)

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        predicted = row.values.get("predicted_perplexity")
        units = row.values.get("unit_perplexity")
        if row.kind != "train":
            return []
        if predicted is None or units is None or units <= 1.0:
            self.clean_step = row.step
            return []
        share = math.log(max(predicted, 1.0)) / math.log(units)
        if share >= HEALTHY:
            self.clean_step = row.step
        ill = share < COLLAPSED and past_warmup(self.nature, row)
        if not self._streak.goes_on(row.step, ill=ill):
            return []
        rate = name_rate(self.nature, row)
        return self._tell(
            "units_collapsed",
            "error",
            row,
            f"The network names {predicted:.1f} units, where the recordings have {units:.1f} "
            "equally frequent ones: for most masked sounds it says the same.",
            f"Likely cause: a {rate} that is too high: halve it, or {LONGER_WARMUP}. If the loss "
            "was flat from the first update, the units may not belong to the recordings: were "
            "they made from the same audio, by a network with the same frames?",
            predicted_perplexity=predicted,
            unit_perplexity=units,
            accuracy=row.values.get("accuracy", 0.0),
        )
