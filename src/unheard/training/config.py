"""Settings of one training run, and how it is carried out."""

from dataclasses import dataclass, field
from typing import Literal

from unheard.audio.augment.config import AugmentConfig
from unheard.training.health.findings import OnCollapse
from unheard.training.precision import Precision
from unheard.training.schedule import Budget, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained; the same for pre-training and fine-tuning."""

    budget: Budget
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    learning_rate: float = 5e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    """Decoupled (AdamW); not on biases, norms and gains."""
    batch_seconds: float = 48.0
    """Sound in a micro-batch [seconds]."""
    accumulation: int = 1
    """Micro-batches to one update, of all processes together."""
    min_seconds: float = 1.0
    """Shorter utterances are left out of pre-training [seconds]."""
    max_seconds: float = 15.6
    """Crops of pre-training are at most this long [seconds]."""
    clip_norm: float = 1.0
    """Largest gradient norm, of the gradient divided by the count."""
    head_only: float = 0.0
    """Share of the run at its start in which only the CTC head learns (fine-tuning)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What is done to recordings as they are heard; nothing by default."""
    precision: Precision = "auto"
    seed: int = 0
    log_every_steps: int = 20
    validate_every_seconds: float = 60.0
    """Time from one validation to the next [seconds of training]."""
    validate_every_steps: int | None = None
    """Updates from one validation to the next, instead of `validate_every_seconds`."""
    checkpoint_every_seconds: float = 120.0
    """Most training time that a killed run loses [seconds]."""
    patience_nonfinite: int = 10
    """Non-finite steps in a row after which the run stops."""


Parallel = Literal["ddp", "fsdp"]
"""How several processes hold the network: a copy each, or a part of every parameter each."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the same training is carried out: any of it may change when a run goes on."""

    parallel: Parallel = "ddp"
    """How several processes hold the network."""
    recompute: bool = False
    """Compute the inner values of Transformer layers again in the backward pass, to save memory."""
    compile: bool = False
    """Compile Transformer layers with `torch.compile`; left out where that does not work."""
    on_collapse: OnCollapse = "warn"
    """What happens when the watch calls the run lost: say so and go on; save and end; or go back to
    the last checkpoint from before, and on from there with half the learning rate."""
