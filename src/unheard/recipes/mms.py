"""MMS: a language of its own for a network that stays as it is.

Pratap et al. 2023 (arXiv 2305.13516), sec. 5.1. Their settings of training were not released; those
of transformers' example, whose results are published, are used.
"""

from dataclasses import replace

from unheard.models.config import MaskingConfig
from unheard.recipes.recipe import FinetuneSettings, Recipe
from unheard.recipes.wav2vec2 import CLIP_NORM
from unheard.recipes.xlsr import xls_r_1b
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig

MMS_PAPER = "Pratap et al. 2023 (arXiv 2305.13516)"


def mms_adapter() -> Recipe:
    """An adapter of width 16 and a head for one language: 2.15 million parameters and the head.

    The network is not touched, so that the result is a file of some megabytes beside it. Peak rate
    1e-3, 100 updates of warm-up, then linearly to zero, Adam with 0.9 and 0.999, 32 recordings of
    some four seconds an update, no dropout, little masking: as in the example. It goes four times
    through its data; here it is 2,000 updates, which the paper has, as remembered and not checked
    against its text. The example divides the loss of an utterance by its letters; here it is a sum,
    so gradients are clipped at 25 instead of 1.

    Source: transformers examples/pytorch/speech-recognition/run_speech_recognition_ctc_adapter.py
        and its README; Pratap et al. 2023, sec. 5.1.
    """
    return replace(
        xls_r_1b(),
        name="mms-adapter",
        stage="finetuning",
        sampling=None,
        finetune=FinetuneSettings(
            masking=MaskingConfig(time_probability=0.05),
            activation_dropout=0.0,
            layer_drop=0.0,
            adapter_dim=16,
        ),
        finetuning=TrainingConfig(
            budget=Budget(max_steps=2_000),
            schedule=ScheduleConfig(shape="linear", warmup=0.05),
            learning_rate=1e-3,
            betas=(0.9, 0.999),
            epsilon=1e-8,
            weight_decay=0.0,
            batch_seconds=32.0,
            accumulation=4,
            clip_norm=CLIP_NORM,
        ),
        best_for="one more language for MMS, from minutes of transcripts, on one processor",
        source=f"transformers run_speech_recognition_ctc_adapter.py; {MMS_PAPER}, sec. 5.1",
    )
