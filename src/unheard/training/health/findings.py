"""What the watch over a training run has to say, and what it must know of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
"""The run is lost as it is; it will be worse than it need be; good to know."""

OnCollapse = Literal["warn", "stop", "rewind"]
"""What an error leads to: go on, save and stop, or go back and learn more slowly."""

Objective = Literal["contrastive", "masked_units", "ctc"]

MAIN_LOSS: Mapping[Objective, str] = {
    "contrastive": "contrastive",
    "masked_units": "masked",
    "ctc": "ctc",
}
"""The part of the loss that says how well a run does what it is for."""

VALID_FIGURE: Mapping[Objective, str] = {
    "contrastive": "contrastive",
    "masked_units": "masked",
    "ctc": "cer",
}
"""The figure of a validation that decides which step is best; lower is better."""


@dataclass(frozen=True, kw_only=True)
class HealthFinding:
    """Something that is wrong with a run, or may look as if it were.

    Attributes:
        code: short and stable.
        severity: how much it matters.
        step: update after which it was noticed; 0 is before training.
        message: what was seen, with its figures.
        advice: the likely cause and which setting to turn.
        values: the figures, by name.
    """

    code: str
    severity: Severity
    step: int
    message: str
    advice: str
    values: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**vars(self), "values": dict(self.values)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of metrics.jsonl.

    Attributes:
        kind: "train" or "valid".
        step: the last update that it covers.
        values: figures by name; what is not finite may be missing.
    """

    kind: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Nature:
    """What a run is, as far as its curves are judged by it.

    Attributes:
        objective: what it learns by.
        learning_rate: the highest of its schedule.
        warmup: share of the run in which the rate rises.
        head_only: share of the run in which the head learns alone.
        batch_seconds: sound in an update [seconds].
        chance_nats: loss of guessing, of the main part [nats a masked frame]; None for CTC.
        groups: codebooks of the quantiser.
        entries: codes of each.
        diversity_weight: of the loss term that keeps codes in use.
        temperature_end: lowest temperature of the quantiser.
        silent_nats: CTC loss of the best output that does not depend on the sound [nats an
            utterance]; see `constant_output_loss`.
        pretrained: whether it goes on from a trained network.
    """

    objective: Objective
    learning_rate: float
    warmup: float = 0.0
    head_only: float = 0.0
    batch_seconds: float = 0.0
    chance_nats: float | None = None
    groups: int = 0
    entries: int = 0
    diversity_weight: float = 0.0
    temperature_end: float = 0.0
    silent_nats: float | None = None
    pretrained: bool = False
