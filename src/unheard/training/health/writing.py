"""Blank-only: a CTC network that writes nothing, at the start and for too long."""

from unheard.training.health.detector import (
    LONGER_WARMUP,
    Detector,
    Middle,
    name_rate,
    past_warmup,
)
from unheard.training.health.findings import HealthFinding, Nature, Row

SILENT = 0.98
"""Share of blanks from which on a network writes nothing."""
WRITING = 0.95
"""Share of blanks below which it writes."""

START_STEPS = 100
"""Updates after which it is worth saying that nothing is written yet."""
LEAST_STEPS = 150
"""Updates that every run may spend on the plateau."""
SHARE = 0.35
"""Share of the run that it may spend there: runs from random weights that came out well spent
up to 0.2 (docs/healthy-runs.md)."""
MOST_STEPS = 2000
"""Updates that it may spend there, however long the run is."""
HEARING = 0.97
"""Loss over that of the best constant output below which the network hears something, though it
does not dare to write it."""
WORSE = 1.15
"""Loss over that of the best constant output from which on the plateau is no plateau: a network
that has found out how much to keep silent is at 1."""
FAR = 1.5
"""The same ratio from which on not even silence was learnt."""
HIGH_RATE = 1e-2
"""Far above what any of the recipes takes."""


class BlankPlateau(Detector):
    """Nothing is written.

    Every run begins so: to write nothing is the quickest way down from random letters, until the
    loss is that of the best output that does not depend on the sound. What matters is how long it
    stays, at the rate that it was given, and whether it reached that loss at all.
    """

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._losses = Middle(5)
        self._since: Row | None = None
        self._was_silent = False
        self._has_written = False

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        blank, loss = row.values.get("blank_ratio"), row.values.get("ctc")
        if row.kind != "train":
            return []
        if blank is None or loss is None:
            self.clean_step = row.step
            return []
        level = self._losses.add(loss)
        silent = self.nature.silent_nats
        ratio = None if silent is None or level is None else level / silent
        hears = ratio is not None and ratio < HEARING
        if hears:
            self.clean_step = row.step
        if blank < SILENT:
            # Random weights write too, but letters that mean nothing.
            if blank < WRITING:
                self._has_written = self._has_written or self._was_silent or hears
                if self._has_written or past_warmup(self.nature, row):
                    self.clean_step = row.step
            self._since = None
            return []
        self._was_silent = True
        if self._since is None and past_warmup(self.nature, row):
            self._since = row
        begin = self._since
        if begin is None:
            return []
        steps = row.step - begin.step
        share = row.values.get("progress", 1.0) - begin.values.get("progress", 0.0)
        if hears or steps < START_STEPS:
            return []
        worse = ratio is not None and ratio > WORSE
        if steps >= LEAST_STEPS and (worse or share >= SHARE or steps >= MOST_STEPS):
            return self._alarm(row, blank=blank, steps=steps, ratio=ratio, level=level or loss)
        return self._tell(
            "blank_start",
            "note",
            row,
            f"It writes nothing yet: {blank:.0%} blanks, for {steps} updates. Most runs begin so, "
            "from random weights for some hundreds of updates.",
            f"Wait: should it hear nothing for {SHARE:.0%} of the run, this will be called a "
            "plateau.",
            blank_ratio=blank,
            ctc=loss,
        )

    def _alarm(
        self, row: Row, *, blank: float, steps: int, ratio: float | None, level: float
    ) -> list[HealthFinding]:
        compared = ""
        if ratio is not None:
            compared = (
                f", {ratio:.2f} times that of the best output that does not depend on the sound"
            )
        message = (
            f"It writes nothing: {blank:.0%} of the frames have been blank for {steps} updates, "
            f"and the loss stays at {level:.1f} nats an utterance{compared}."
        )
        advice = self._advice(row, ratio=1.0 if ratio is None else ratio)
        figures = {"blank_ratio": blank, "ctc": level, "steps": float(steps)}
        if ratio is not None:
            figures["over_constant_output"] = ratio
        return self._tell("blank_only", "error", row, message, advice, **figures)

    def _advice(self, row: Row, *, ratio: float) -> str:
        """Name the likeliest cause first."""
        rate = name_rate(self.nature, row)
        if ratio > FAR:
            return (
                "Not even silence was learnt well, so the weights hardly move or jump about: a "
                f"{rate} that is far too low or far too high. Change it tenfold, by the curve of "
                "the loss: flat is too low, jumping too high."
            )
        if ratio > WORSE:
            return (
                "The loss is above that of silence, so updates overshoot: lower the "
                f"{rate}, to a third for instance."
            )
        if self._has_written:
            return (
                f"It did write before, so the {rate} is likely too high: halve it, or "
                f"{LONGER_WARMUP}."
            )
        if row.values.get("learning_rate", self.nature.learning_rate) >= HIGH_RATE:
            return (
                f"Likely cause: the {rate} is far above what the recipes take (1e-5 to 1e-3): "
                "lower it tenfold. If it stays so, do the transcripts belong to their recordings?"
            )
        causes = (
            "Likely causes: transcripts that do not belong to their recordings (listen to a few, "
            f"look at alphabet and language); a {rate} that is too high or too low (try a third "
            "and three times of it); "
        )
        if self.nature.pretrained:
            return causes + (
                "convolutions that are frozen or a head that learns alone for too long "
                "(finetune.feature_grad_scale, training.head_only); too few updates."
            )
        return causes + (
            "random weights and few transcripts: start from a pre-trained model (--start), or "
            "give it more updates."
        )
