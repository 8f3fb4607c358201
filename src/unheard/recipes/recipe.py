"""What a recipe is: a network, and how to train it."""

from dataclasses import dataclass
from typing import Literal

from unheard.data.sampling import SamplingConfig
from unheard.errors import ConfigError
from unheard.models.config import MaskingConfig, PretrainingConfig
from unheard.training.config import TrainingConfig

Objective = Literal["contrastive", "masked_units"]
"""wav2vec 2.0's own objective, or the prediction of clustered units, which learns much faster at
small compute (docs/small-compute.md)."""

Stage = Literal["both", "pretraining", "finetuning"]
"""The part of a recipe that its source describes; the other is what usually goes with it."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """What changes in an encoder when it learns to write.

    Source: Baevski et al. 2020, sec. 4.3; fairseq examples/wav2vec/config/finetuning @ 3d262bb.
    """

    masking: MaskingConfig
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.1
    input_dropout: float = 0.0
    head_dropout: float = 0.0
    layer_drop: float = 0.1
    feature_grad_scale: float = 0.0
    """0 freezes the convolutions, as the paper does; without pre-training they always learn."""
    adapter_dim: int = 0
    """Above 0, the network stays as it is, and an adapter of this width after each layer learns
    with the head: Pratap et al. 2023 (MMS), sec. 5.1. A network that has adapters keeps theirs."""

    def __post_init__(self) -> None:
        if self.adapter_dim < 0:
            raise ConfigError(f"adapter_dim must be at least 0, got {self.adapter_dim}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how to train it.

    Attributes:
        name: of the recipe.
        normalize: whether recordings are brought to zero mean and unit variance.
        filterbank: whether the first convolutions start as a filterbank instead of from noise.
        linear_spread: standard deviation that linear layers of the encoder start with: BERT's 0.02,
            or more for a narrow network.
        network: encoder, and the heads of the contrastive objective.
        objective: what pre-training learns by.
        units: clusters that "masked_units" predicts.
        pretraining: how it learns from recordings.
        finetune: what changes for CTC.
        finetuning: how it learns from transcripts.
        pretrain_share: share of a time budget for both that goes to pre-training.
        best_for: one line for people who choose.
        stage: what its source describes.
        source: where the numbers come from.
        sampling: how often pre-training hears each language and corpus; None for as often as there
            is sound of it.
    """

    name: str
    normalize: bool
    filterbank: bool
    linear_spread: float
    network: PretrainingConfig
    objective: Objective
    units: int
    pretraining: TrainingConfig
    finetune: FinetuneSettings
    finetuning: TrainingConfig
    pretrain_share: float
    best_for: str
    stage: Stage = "both"
    source: str = ""
    sampling: SamplingConfig | None = None
