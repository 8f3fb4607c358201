"""The watch in a run folder: what it finds is said once, kept in health.jsonl, and acted upon."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unheard.files import append_jsonl, read_jsonl, write_jsonl_atomic
from unheard.training.distributed import Ranks
from unheard.training.health.findings import HealthFinding, OnCollapse
from unheard.training.health.watch import HealthWatch
from unheard.training.logging import RunLog

MOST_REWINDS = 3
"""Times that a run goes back before it stops."""
SLOWER = 0.5
"""What the learning rate is multiplied with each time."""


class HealthKeeper:
    """Lets a watch see every row of a run, and tells all processes what follows.

    health.jsonl follows from metrics.jsonl and the state of the run alone: it is written anew when
    a run goes on, so that both always tell of the same updates.

    Attributes:
        on_collapse: what an error leads to.
        alarm: the error that asks for something to be done; always None where errors are only
            told of.
        clean_step: the last update up to which nothing looked ill; None without a watch.
    """

    def __init__(
        self,
        watch: HealthWatch | None,
        *,
        on_collapse: OnCollapse,
        folder: Path,
        log: RunLog,
        ranks: Ranks,
    ) -> None:
        self.on_collapse = on_collapse
        self.alarm: HealthFinding | None = None
        self.clean_step: int | None = None
        self._watch = watch
        self._folder = folder
        self._log = log
        self._ranks = ranks

    def resume(self, rewinds: list[dict[str, Any]], *, begins: bool) -> None:
        """Look at the rows that the run has logged so far.

        Args:
            rewinds: when it went back, from its state.
            begins: whether nothing was logged yet: what was found before training is said then.
        """
        alarm, self.clean_step = self._ranks.ask_first(lambda: self._recall(rewinds, begins=begins))
        self.alarm = None if alarm is None else HealthFinding(**alarm)

    def see(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Look at a row that was logged just now."""
        if self._watch is None:
            return
        alarm, self.clean_step = self._ranks.ask_first(lambda: self._observe(kind, step, values))
        if alarm is not None:
            self.alarm = HealthFinding(**alarm)

    @property
    def alarms(self) -> int:
        """Errors and warnings so far, for metrics.jsonl."""
        found = [] if self._watch is None else self._watch.findings
        return sum(finding.severity != "note" for finding in found)

    def call(self, finding: HealthFinding) -> None:
        """Raise the alarm for something that all processes have seen themselves."""
        self.alarm = finding

    def _recall(
        self, rewinds: list[dict[str, Any]], *, begins: bool
    ) -> tuple[dict[str, Any] | None, int | None]:
        watch = self._watch
        if watch is None:
            return None, None
        metrics = self._folder / "metrics.jsonl"
        watch.recall(read_jsonl(metrics) if metrics.exists() else ())
        found = [*watch.findings, *(rewound(number, row) for number, row in enumerate(rewinds, 1))]
        path = self._folder / "health.jsonl"
        if found:
            ordered = sorted(found, key=lambda finding: finding.step)
            write_jsonl_atomic(path, [finding.to_dict() for finding in ordered])
        else:
            path.unlink(missing_ok=True)
        for finding in watch.before if begins else ():
            self._say(finding)
        return self._verdict(watch)

    def _observe(
        self, kind: str, step: int, values: Mapping[str, float]
    ) -> tuple[dict[str, Any] | None, int | None]:
        watch = self._watch
        if watch is None:
            return None, None
        # As metrics.jsonl has them, so that it is the same to see them again.
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for finding in watch.observe(kind, step, finite):
            append_jsonl(self._folder / "health.jsonl", finding.to_dict())
            self._say(finding)
        return self._verdict(watch)

    def _verdict(self, watch: HealthWatch) -> tuple[dict[str, Any] | None, int | None]:
        alarm = watch.alarm
        if alarm is None or self.on_collapse == "warn":
            return None, watch.clean_step
        return alarm.to_dict(), watch.clean_step

    def _say(self, finding: HealthFinding) -> None:
        where = f"step {finding.step} " if finding.step else ""
        self._log.say(f"{where}{finding.severity}: {finding.message} {finding.advice}")


def rewound(number: int, row: Mapping[str, Any]) -> HealthFinding:
    """Describe a time that a run went back.

    Args:
        number: which time, from 1.
        row: {"step": where it went, "from_step": whence, "code": why}.
    """
    factor = SLOWER**number
    return HealthFinding(
        code=f"rewound_{number}",
        severity="warning",
        step=int(row["step"]),
        message=f"At step {row['from_step']} the run was lost ({row['code']}), so it went back to "
        f"step {row['step']} and goes on from there with {factor:g} times the learning rate.",
        advice="Next time, start with the lower rate (training.learning_rate).",
        values={"from_step": row["from_step"], "rate_factor": factor},
    )
