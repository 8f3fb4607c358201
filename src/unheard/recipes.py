"""Ready settings by name: a preset is a function that returns a recipe.

`base` and `large` are the networks and settings of the paper. `mini` and `nano` are for machines
without an accelerator: the same network behind a cheaper front end, a learnt filterbank of three
convolutions with the paper's frame rate. What was learnt about training at that size, and measured,
is in docs/small-compute.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from unheard.errors import ConfigError
from unheard.models.config import (
    WAV2VEC2_CONV_LAYERS,
    ConvLayer,
    EncoderConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig


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


Objective = Literal["contrastive", "masked_units"]
"""wav2vec 2.0's own objective, or the prediction of clustered units, which learns much faster at
small compute (docs/small-compute.md)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how to train it.

    Attributes:
        name: of the preset.
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


def nano() -> Recipe:
    """A network of 1.0 million parameters that learns something within minutes on two cores."""
    return Recipe(
        name="nano",
        normalize=True,
        filterbank=True,
        linear_spread=0.04,
        network=_small_network(channels=128, dim=128, layers=4),
        objective="masked_units",
        units=100,
        pretraining=_small_pretraining(minutes=3.0),
        finetune=_small_finetune(),
        finetuning=_small_finetuning(minutes=1.5),
        pretrain_share=0.65,
        best_for="a first look, tests and the demonstration: minutes on two cores",
    )


def mini() -> Recipe:
    """A network of 5.3 million parameters for a laptop."""
    return Recipe(
        name="mini",
        normalize=True,
        filterbank=True,
        linear_spread=0.04,
        network=_small_network(channels=256, dim=256, layers=6),
        objective="masked_units",
        units=100,
        pretraining=_small_pretraining(minutes=90.0),
        finetune=_small_finetune(),
        finetuning=_small_finetuning(minutes=20.0),
        pretrain_share=0.75,
        best_for="a few hours of recordings on a laptop without an accelerator: one to a few hours",
    )


def base() -> Recipe:
    """wav2vec 2.0 Base, 95 million parameters.

    Source: Baevski et al. 2020, sec. 4.2 and 4.3; fairseq
        examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml and
        finetuning/base_10h.yaml @ 3d262bb. One micro-batch is one of their 64 graphics
        processors; accumulate to reach their 1.6 hours of sound an update.
    """
    return Recipe(
        name="base",
        normalize=False,
        filterbank=False,
        linear_spread=0.02,
        network=PretrainingConfig(
            encoder=EncoderConfig(
                conv_layers=WAV2VEC2_CONV_LAYERS,
                input_dropout=0.1,
                layer_drop=0.05,
                feature_grad_scale=0.1,
            ),
            feature_dropout=0.1,
        ),
        objective="contrastive",
        units=100,
        pretraining=TrainingConfig(
            budget=Budget(max_steps=400_000),
            schedule=ScheduleConfig(shape="linear", warmup=0.08),
            learning_rate=5e-4,
            batch_seconds=87.5,
            accumulation=64,
            min_seconds=2.0,
            max_seconds=15.6,
            clip_norm=25.0,
        ),
        finetune=FinetuneSettings(
            masking=MaskingConfig(time_probability=0.65, channel_probability=0.5, channel_span=64),
            layer_drop=0.05,
        ),
        finetuning=TrainingConfig(
            budget=Budget(max_steps=20_000),
            schedule=_TRI_STAGE,
            learning_rate=5e-5,
            epsilon=1e-8,
            weight_decay=0.0,
            batch_seconds=200.0,
            accumulation=8,
            head_only=0.5,
            clip_norm=25.0,
        ),
        pretrain_share=0.9,
        best_for="hundreds of hours of recordings on one or more graphics processors",
    )


def large() -> Recipe:
    """wav2vec 2.0 Large as for Libri-Light and XLSR, 317 million parameters.

    Source: Baevski et al. 2020, sec. 4.2 and 4.3 (learning rate and updates of the paper, not of
        fairseq's wav2vec2_large_librivox.yaml, which disagrees); finetuning/vox_10h.yaml.
    """
    return Recipe(
        name="large",
        normalize=True,
        filterbank=False,
        linear_spread=0.02,
        network=PretrainingConfig(
            encoder=EncoderConfig(
                conv_layers=WAV2VEC2_CONV_LAYERS,
                conv_norm="layer",
                conv_bias=True,
                norm_first=True,
                dim=1024,
                ffn_dim=4096,
                layers=24,
                heads=16,
                dropout=0.0,
                attention_dropout=0.0,
            ),
            quantizer=QuantizerConfig(dim=768, temperature_end=0.1, temperature_floor_at=0.9986),
            projection_dim=768,
            feature_penalty_weight=0.0,
        ),
        objective="contrastive",
        units=100,
        pretraining=TrainingConfig(
            budget=Budget(max_steps=600_000),
            schedule=ScheduleConfig(shape="linear", warmup=0.08),
            learning_rate=3e-4,
            batch_seconds=75.0,
            accumulation=128,
            min_seconds=2.0,
            max_seconds=20.0,
            clip_norm=25.0,
        ),
        finetune=FinetuneSettings(
            masking=MaskingConfig(time_probability=0.75, channel_probability=0.25, channel_span=64),
        ),
        finetuning=TrainingConfig(
            budget=Budget(max_steps=20_000),
            schedule=_TRI_STAGE,
            learning_rate=1e-4,
            epsilon=1e-8,
            weight_decay=0.0,
            batch_seconds=80.0,
            accumulation=20,
            head_only=0.5,
            clip_norm=25.0,
        ),
        pretrain_share=0.9,
        best_for="thousands of hours, or fine-tuning a released XLSR or XLS-R model",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "nano": nano,
    "mini": mini,
    "base": base,
    "large": large,
}
"""Every preset by name."""


def get_recipe(name: str, *, objective: Objective | None = None) -> Recipe:
    """Return the recipe of a preset, with another objective if one is given.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no preset {name!r}: expected one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]()
    return recipe if objective is None else replace(recipe, objective=objective)


_TRI_STAGE = ScheduleConfig(
    shape="tri_stage", warmup=0.1, hold=0.4, initial_scale=0.01, final_scale=0.05
)


def _small_network(*, channels: int, dim: int, layers: int) -> PretrainingConfig:
    """A learnt filterbank at 10 ms, two more convolutions to 20 ms, and a pre-norm Transformer."""
    return PretrainingConfig(
        encoder=EncoderConfig(
            conv_layers=(
                ConvLayer(channels=channels, kernel=400, stride=160),
                ConvLayer(channels=channels, kernel=3, stride=2),
                ConvLayer(channels=channels, kernel=1, stride=1),
            ),
            conv_norm="group",
            norm_first=True,
            dim=dim,
            ffn_dim=4 * dim,
            layers=layers,
            heads=4,
            positional_kernel=32,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        quantizer=QuantizerConfig(entries=160, dim=128),
        projection_dim=128,
        feature_penalty_weight=0.0,
    )


def _small_pretraining(*, minutes: float) -> TrainingConfig:
    return TrainingConfig(
        budget=Budget(max_minutes=minutes),
        schedule=ScheduleConfig(shape="linear", warmup=0.08),
        learning_rate=1e-3,
        batch_seconds=32.0,
        max_seconds=5.0,
        min_seconds=1.0,
    )


def _small_finetune() -> FinetuneSettings:
    return FinetuneSettings(
        masking=MaskingConfig(time_probability=0.15, time_min_spans=1),
        dropout=0.1,
        attention_dropout=0.1,
        layer_drop=0.0,
        feature_grad_scale=1.0,
    )


def _small_finetuning(*, minutes: float) -> TrainingConfig:
    return TrainingConfig(
        budget=Budget(max_minutes=minutes),
        schedule=_TRI_STAGE,
        learning_rate=1e-3,
        batch_seconds=16.0,
        clip_norm=5.0,
    )
