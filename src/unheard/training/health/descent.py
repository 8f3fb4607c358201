"""Whether the loss goes down: divergence, exploding gradients, standing still, over-fitting."""

import math
from collections import deque
from statistics import fmean, median

from unheard.training.health.detector import (
    LONGER_WARMUP,
    Detector,
    Middle,
    Streak,
    name_rate,
    past_warmup,
)
from unheard.training.health.findings import MAIN_LOSS, VALID_FIGURE, HealthFinding, Nature, Row


class Divergence(Detector):
    """The loss rises far above where it has been."""

    RISE = 1.5
    """Times the lowest median so far."""
    NOISES = 6.0
    """Or so many times the usual change from row to row of the logarithm, where that is more."""
    LEAST = 0.05
    """And by at least this share of the first loss: a ratio means little near zero."""
    NEAR = 1.1
    """Up to here over the lowest median, all is well."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._middle = Middle(5)
        self._changes: deque[float] = deque(maxlen=50)
        self._last: float | None = None
        self._first: float | None = None
        self._lowest = math.inf
        self._streak = Streak()

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        loss = row.values.get("loss")
        if row.kind != "train":
            return []
        if loss is None or loss <= 0:
            self.clean_step = row.step
            return []
        if self._last is not None:
            self._changes.append(abs(math.log(loss / self._last)))
        self._last = loss
        level = self._middle.add(loss)
        if level is None:
            self.clean_step = row.step
            return []
        if self._first is None:
            self._first = level
        self._lowest = min(self._lowest, level)
        noise = median(self._changes)
        allowed = math.exp(max(math.log(self.RISE), min(self.NOISES * noise, math.log(10))))
        risen = level - self._lowest
        ill = level > allowed * self._lowest and risen > self.LEAST * self._first
        if level <= self.NEAR * self._lowest or risen <= self.LEAST * self._first:
            self.clean_step = row.step
        if not self._streak.goes_on(row.step, ill=ill):
            return []
        rate = name_rate(self.nature, row)
        norm = row.values.get("grad_norm", math.nan)
        return self._tell(
            "diverged",
            "error",
            row,
            f"The loss rises: {level:.3g} where it has been {self._lowest:.3g} "
            f"(the gradient's norm is {norm:.3g}).",
            f"Likely cause: a {rate} that is too high: halve it, {LONGER_WARMUP}, or clip the "
            "gradient lower (training.clip_norm). If it rose within a few updates, look at the "
            "recordings that were heard then.",
            loss=level,
            lowest=self._lowest,
            grad_norm=norm,
        )


class GradientJump(Detector):
    """The gradient's norm is far above what it was."""

    TIMES = 20.0
    LEAST_ROWS = 10

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._usual: deque[float] = deque(maxlen=50)
        self._streak = Streak()
        self._head_alone = nature.head_only > 0

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        norm = row.values.get("grad_norm")
        if row.kind != "train":
            return []
        if norm is None:
            self.clean_step = row.step
            return []
        if self._head_alone and row.values.get("progress", 1.0) >= self.nature.head_only:
            # From now on it is the gradient of the whole network.
            self._head_alone = False
            self._usual.clear()
        if len(self._usual) < self.LEAST_ROWS:
            self._usual.append(norm)
            self.clean_step = row.step
            return []
        usual = median(self._usual)
        ill = norm > self.TIMES * usual > 0
        if not ill:
            self._usual.append(norm)
            self.clean_step = row.step
        if not self._streak.goes_on(row.step, ill=ill):
            return []
        rate = name_rate(self.nature, row)
        return self._tell(
            "gradient_jump",
            "warning",
            row,
            f"The gradient's norm is {norm:.3g}, {norm / usual:.0f} times what it was "
            f"({usual:.3g}).",
            f"Often the loss rises next. Lower the {rate} or clip the gradient lower "
            "(training.clip_norm).",
            grad_norm=norm,
            usual=usual,
        )


class NonFinite(Detector):
    """Updates are left out because a loss or gradient is no number."""

    SHARE = 0.05
    """Of the last updates."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._windows: deque[tuple[float, int]] = deque(maxlen=10)
        self._before = 0

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        self.clean_step = row.step
        skipped = row.values.get("skipped_steps")
        if row.kind != "train" or skipped is None:
            return []
        self._windows.append((skipped, row.step - self._before))
        self._before = row.step
        left_out = sum(count for count, _ in self._windows)
        steps = sum(count for _, count in self._windows)
        if left_out < 2 or left_out < self.SHARE * steps:
            return []
        rate = name_rate(self.nature, row)
        return self._tell(
            "nonfinite",
            "warning",
            row,
            f"{left_out:.0f} of the last {steps} updates were left out, because a loss or a "
            "gradient was no number.",
            "bad_batches.jsonl names the recordings: if always the same, look at those. If all "
            f"kinds, lower the {rate} or compute in more digits "
            "(training.precision float32).",
            skipped=left_out,
            updates=float(steps),
        )


class Standstill(Detector):
    """Nothing has been learnt, or the learning rate is zero."""

    STEPS = 150
    """Updates past the warm-up after which a loss must have moved."""
    STILL = 0.005
    """Change that counts as none."""
    GUESSING = 0.985
    """Share of the loss of guessing above which nothing is known."""
    GUESSING_STEPS = 2000
    """Updates past the warm-up that the contrastive objective may take to find its first units."""
    FAR = 1.5
    """CTC loss over that of the best constant output."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._rate_zero = Streak()
        self._middles: dict[str, Middle] = {}
        self._firsts: dict[str, float] = {}
        self._since: int | None = None

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        if row.kind != "train":
            return []
        self.clean_step = row.step
        rate = row.values.get("learning_rate")
        progress = row.values.get("progress", 1.0)
        if rate is not None and self._rate_zero.goes_on(row.step, ill=rate == 0 and progress < 0.9):
            return self._tell(
                "rate_zero",
                "error",
                row,
                "The learning rate is zero: no weight moves.",
                "Set training.learning_rate above zero, and look at the schedule "
                "(training.schedule).",
                learning_rate=0.0,
            )
        levels = self._levels(row)
        if self._since is None and past_warmup(self.nature, row):
            self._since = row.step
        if self._since is None or not levels:
            return []
        return self._judge(row, levels, steps=row.step - self._since)

    def _levels(self, row: Row) -> dict[str, float]:
        """Medians of what should move, once there are enough rows; the first are kept."""
        levels = {}
        names = (MAIN_LOSS[self.nature.objective], "loss", "soft_perplexity", "feature_power")
        for name in names:
            value = row.values.get(name)
            if value is None:
                continue
            level = self._middles.setdefault(name, Middle(3)).add(value)
            if level is not None:
                levels[name] = level
                self._firsts.setdefault(name, level)
        return levels

    def _judge(self, row: Row, levels: dict[str, float], *, steps: int) -> list[HealthFinding]:
        nature = self.nature
        rate = name_rate(nature, row)
        level = levels.get(MAIN_LOSS[nature.objective])
        if level is None or steps < self.STEPS:
            return []
        moved = max(
            abs(value - self._firsts[name]) / max(abs(self._firsts[name]), 1e-12)
            for name, value in levels.items()
        )
        if nature.objective == "ctc":
            still = nature.silent_nats is not None and level > self.FAR * nature.silent_nats
        else:
            still = moved < self.STILL
        if still:
            what = (
                f"{level / (nature.silent_nats or level):.1f} times that of an output that does "
                "not depend on the sound"
                if nature.objective == "ctc"
                else "where it was at the start"
            )
            return self._tell(
                "not_learning",
                "warning",
                row,
                f"Hardly anything is learnt: after {steps} updates past the warm-up the loss is "
                f"{level:.4g}, {what}.",
                f"Likely cause: a {rate} that is too low: try three or ten times as much. Or the "
                "weights are frozen (finetune.feature_grad_scale, training.head_only).",
                loss=level,
                learning_rate=row.values.get("learning_rate", nature.learning_rate),
            )
        chance = nature.chance_nats
        if chance is None or steps < self.GUESSING_STEPS or level < self.GUESSING * chance:
            return []
        return self._tell(
            "guessing",
            "warning",
            row,
            f"After {steps} updates past the warm-up the masked sounds are still guessed: "
            f"{level:.3f} nats, where guessing gives {chance:.3f}.",
            "On small machines the contrastive objective may take very long to find its first "
            "units: the objective masked_units learns from the first minute "
            f"(--objective masked_units). Otherwise try a third and three times of the {rate}, "
            "more sound in an update (training.batch_seconds, training.accumulation), or a start "
            "from a pre-trained model (--start).",
            loss=level,
            guessing=chance,
        )


class Overfit(Detector):
    """Validation gets worse while training gets better."""

    RISE = 1.02
    """Over the best validation."""
    FALL = 0.95
    """Of the training loss at that time."""
    VALIDATIONS = 3
    """In a row that must be worse."""

    def __init__(self, nature: Nature) -> None:
        super().__init__(nature)
        self._heard: deque[float] = deque(maxlen=10)
        self._best = math.inf
        self._best_step = 0
        self._heard_at_best = math.inf
        self._worse = 0

    def observe(self, row: Row) -> list[HealthFinding]:
        """See `Detector.observe`."""
        self.clean_step = row.step
        if row.kind == "train":
            heard = row.values.get(MAIN_LOSS[self.nature.objective])
            if heard is not None:
                self._heard.append(heard)
            return []
        name = VALID_FIGURE[self.nature.objective]
        found = row.values.get(name)
        if found is None or not self._heard:
            return []
        heard = fmean(self._heard)
        if found <= self._best:
            self._best, self._best_step, self._heard_at_best = found, row.step, heard
        self._worse = self._worse + 1 if found > self.RISE * self._best else 0
        if self._worse < self.VALIDATIONS or heard > self.FALL * self._heard_at_best:
            return []
        return self._tell(
            "overfit",
            "warning",
            row,
            f"It learns by heart: since step {self._best_step} the validation has risen from "
            f"{self._best:.3g} to {found:.3g} ({name}), while the training loss fell from "
            f"{self._heard_at_best:.3g} to {heard:.3g}.",
            f"The weights of step {self._best_step} are kept as the best, so nothing is lost; "
            "more updates will hardly help. More recordings will, or more masking and dropout "
            "(finetune.masking.time_probability, finetune.dropout), or a start from a pre-trained "
            "model (--start).",
            best=self._best,
            valid=found,
            train=heard,
        )
