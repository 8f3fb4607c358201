"""Continued pre-training: a released network listens on, to another language, on one processor."""

from dataclasses import replace

from unheard.interop.bundle import NetworkConfig
from unheard.models.config import EncoderConfig, PretrainingConfig
from unheard.recipes.recipe import Recipe
from unheard.recipes.wav2vec2 import BASE_NETWORK, CLIP_NORM, LARGE_NETWORK, large
from unheard.recipes.xlsr import XLS_R_1B_NETWORK
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig

CONTINUED = "continued"


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
        name=CONTINUED,
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
    """How the released networks of a width were pre-trained, on this encoder's shape.

    Dropouts and weights of losses are theirs, whatever the encoder was fine-tuned with since.
    """
    if encoder.dim >= 1280:
        trained = XLS_R_1B_NETWORK
    elif encoder.dim >= 1024:
        trained = LARGE_NETWORK
    else:
        trained = BASE_NETWORK
    return replace(trained, encoder=_trained_as(encoder, trained.encoder))


def go_on_from(start: NetworkConfig, wanted: PretrainingConfig) -> PretrainingConfig:
    """Settings for pre-training that goes on.

    Args:
        start: of the model that there is; its shapes stay, those of its heads too if it has them.
        wanted: everything else: dropouts, masks, losses; and the heads if they must be made anew.

    Returns:
        The network, its temperature at the end of its fall throughout: the encoder has learnt
        already.
    """
    quantizer, projection_dim = wanted.quantizer, wanted.projection_dim
    if isinstance(start, PretrainingConfig):
        own = start.quantizer
        quantizer = replace(quantizer, groups=own.groups, entries=own.entries, dim=own.dim)
        projection_dim = start.projection_dim
    return replace(
        wanted,
        encoder=_trained_as(start.encoder, wanted.encoder),
        quantizer=replace(quantizer, temperature_start=quantizer.temperature_end),
        projection_dim=projection_dim,
    )


def _trained_as(shape: EncoderConfig, trained: EncoderConfig) -> EncoderConfig:
    """The shape of one encoder with the dropouts of another."""
    return replace(
        shape,
        dropout=trained.dropout,
        attention_dropout=trained.attention_dropout,
        activation_dropout=trained.activation_dropout,
        input_dropout=trained.input_dropout,
        layer_drop=trained.layer_drop,
        feature_grad_scale=trained.feature_grad_scale,
    )
