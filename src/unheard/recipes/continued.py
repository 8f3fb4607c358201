"""Continued pre-training: a released network listens on, to another language, on one processor."""

from dataclasses import replace

from unheard.models.config import EncoderConfig, PretrainingConfig, QuantizerConfig
from unheard.recipes.recipe import Recipe
from unheard.recipes.wav2vec2 import BASE_NETWORK, CLIP_NORM, LARGE_NETWORK, large
from unheard.recipes.xlsr import XLS_R_1B_NETWORK
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig


def continued() -> Recipe:
    """Go on from `--start`, with its heads if it has them, the temperature at its floor throughout.

    Nobody has published a recipe for this. The learning rate is a third of the one Large was
    trained with, an update is 23 minutes of sound, in micro-batches that fit on one processor: a
    place to begin, not a finding. What is known is that the temperature of the quantiser must not
    start at 2 again, and that fine-tuned checkpoints lack the heads of pre-training; they are then
    made anew, in the sizes of the released network closest in width.

    Source: ours; fairseq `checkpoint.finetune_from_model` @ 3d262bb (weights kept, optimiser new).
    """
    return replace(
        large(),
        name="continued",
        stage="pretraining",
        pretraining=TrainingConfig(
            budget=Budget(max_steps=20_000),
            schedule=ScheduleConfig(shape="linear", warmup=0.08),
            learning_rate=1e-4,
            batch_seconds=87.5,
            accumulation=16,
            min_seconds=2.0,
            max_seconds=15.6,
            clip_norm=CLIP_NORM,
        ),
        best_for="going on from a released network with your own recordings, on one processor",
        source="ours: no recipe is published",
    )


def heads_for(encoder: EncoderConfig) -> PretrainingConfig:
    """The heads that released networks of a width were trained with, on this encoder."""
    if encoder.dim >= 1280:
        return replace(XLS_R_1B_NETWORK, encoder=encoder)
    if encoder.dim >= 1024:
        return replace(LARGE_NETWORK, encoder=encoder)
    return replace(BASE_NETWORK, encoder=encoder)


def at_floor(quantizer: QuantizerConfig) -> QuantizerConfig:
    """Keep the temperature at its end: the encoder has learnt already."""
    return replace(quantizer, temperature_start=quantizer.temperature_end)
