"""`nano`, `mini` and `mini-ft-10m`: for machines without an accelerator.

The same network behind a cheaper front end: a learnt filterbank of three convolutions with the
paper's frame rate. What was learnt about training at that size, and measured, is in
docs/small-compute.md.
"""

from dataclasses import replace

from unheard.audio.augment.config import AugmentConfig, SpeedConfig
from unheard.models.config import (
    ConvLayer,
    EncoderConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.recipes.recipe import FinetuneSettings, Recipe
from unheard.recipes.wav2vec2 import TRI_STAGE
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig

SOURCE = "docs/small-compute.md"
FEW_TRANSCRIPTS_SECONDS = 20 * 60.0
"""Below this the settings for ten minutes are taken. Measured at 10 minutes, where they win, and at
57, where they lose."""


def nano() -> Recipe:
    """A network of 1.0 million parameters that learns something within minutes on two cores."""
    return Recipe(
        name="nano",
        normalize=True,
        filterbank=True,
        linear_spread=0.04,
        network=_network(channels=128, dim=128, layers=4),
        objective="masked_units",
        units=100,
        pretraining=_pretraining(minutes=3.0),
        finetune=_finetune(),
        finetuning=_finetuning(minutes=1.5),
        pretrain_share=0.65,
        best_for="a first look, tests and the demonstration: minutes on two cores",
        source=SOURCE,
    )


def mini() -> Recipe:
    """A network of 5.3 million parameters for a laptop."""
    return Recipe(
        name="mini",
        normalize=True,
        filterbank=True,
        linear_spread=0.04,
        network=_network(channels=256, dim=256, layers=6),
        objective="masked_units",
        units=100,
        pretraining=_pretraining(minutes=90.0),
        finetune=_finetune(),
        finetuning=_finetuning(minutes=20.0),
        pretrain_share=0.75,
        best_for="a few hours of recordings on a laptop without an accelerator: one to a few hours",
        source=SOURCE,
    )


def mini_ft_10m() -> Recipe:
    """Fine-tuning of `mini`, or of unheard-mini, on minutes of transcripts instead of hours.

    Few utterances are heard hundreds of times: more of each is hidden, and each is played at
    several speeds. With an hour of transcripts this learns slower than `mini` does.
    """
    usual = mini()
    return replace(
        usual,
        name="mini-ft-10m",
        stage="finetuning",
        finetune=replace(
            usual.finetune,
            masking=MaskingConfig(
                time_probability=0.4, time_min_spans=1, channel_probability=0.2, channel_span=64
            ),
        ),
        finetuning=replace(
            usual.finetuning, learning_rate=7e-4, augment=AugmentConfig(speed=SpeedConfig())
        ),
        best_for="mini or unheard-mini with ten minutes of transcripts",
    )


def for_few_transcripts(recipe: Recipe, *, transcribed_seconds: float) -> Recipe:
    """Let `mini` learn to write as `mini-ft-10m` does where there is little to learn from.

    Args:
        recipe: any; others than `mini` stay as they are.
        transcribed_seconds: sound with transcripts to learn from [seconds].
    """
    if recipe.name != "mini" or transcribed_seconds >= FEW_TRANSCRIPTS_SECONDS:
        return recipe
    few = mini_ft_10m()
    return replace(recipe, finetune=few.finetune, finetuning=few.finetuning)


def _network(*, channels: int, dim: int, layers: int) -> PretrainingConfig:
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


def _pretraining(*, minutes: float) -> TrainingConfig:
    return TrainingConfig(
        budget=Budget(max_minutes=minutes),
        schedule=ScheduleConfig(shape="linear", warmup=0.08),
        learning_rate=1e-3,
        batch_seconds=32.0,
        max_seconds=5.0,
        min_seconds=1.0,
    )


def _finetune() -> FinetuneSettings:
    return FinetuneSettings(
        masking=MaskingConfig(time_probability=0.15, time_min_spans=1),
        dropout=0.1,
        attention_dropout=0.1,
        layer_drop=0.0,
        feature_grad_scale=1.0,
    )


def _finetuning(*, minutes: float) -> TrainingConfig:
    return TrainingConfig(
        budget=Budget(max_minutes=minutes),
        schedule=TRI_STAGE,
        learning_rate=1e-3,
        batch_seconds=16.0,
        clip_norm=5.0,
    )
