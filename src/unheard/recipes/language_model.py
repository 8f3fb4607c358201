"""How a Transformer language model is trained: one size for little text, one for much.

Published ones are of another world: 20 layers of 1,280, 562 million parameters, 128 graphics
processors (wav2letter recipes/sota/2019/lm). What helps a recogniser of a small language is a
model that is trained in minutes on the text that there is.
"""

from dataclasses import dataclass

from unheard.models.language_model import LanguageModelConfig
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig

MUCH_WORDS = 300_000
"""From so many words on, the larger network is taken."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe:
    """A language model and how to train it.

    Attributes:
        name: of the recipe.
        network: its shape; `vocab` is how many word pieces there may be, and becomes how many
            there are.
        training: how it learns.
        batch_tokens: in a batch, padding counted.
        piece_dropout: probability of passing over a merge of pieces, so that words are split
            otherwise each time (Provilkov et al. 2020).
    """

    name: str
    network: LanguageModelConfig
    training: TrainingConfig
    batch_tokens: int
    piece_dropout: float = 0.0


def language_model_recipe(words: int) -> LanguageModelRecipe:
    """Choose by how much text there is [words]."""
    return large_text() if words >= MUCH_WORDS else small_text()


def small_text() -> LanguageModelRecipe:
    """For some thousand sentences: minutes on one core."""
    return LanguageModelRecipe(
        name="small-text",
        network=LanguageModelConfig(
            vocab=1000, dim=192, ffn_dim=768, layers=3, heads=3, dropout=0.3
        ),
        training=_training(steps=5000, learning_rate=3e-3, validations=20),
        batch_tokens=512,
    )


def large_text() -> LanguageModelRecipe:
    """For a million words and more: hours on a processor, minutes on a graphics processor."""
    return LanguageModelRecipe(
        name="large-text",
        network=LanguageModelConfig(
            vocab=5000, dim=512, ffn_dim=2048, layers=6, heads=8, dropout=0.1
        ),
        training=_training(steps=20_000, learning_rate=5e-4, validations=40),
        batch_tokens=8192,
    )


def _training(*, steps: int, learning_rate: float, validations: int) -> TrainingConfig:
    """Adam with a short warm-up and a cosine to zero."""
    return TrainingConfig(
        budget=Budget(max_steps=steps),
        schedule=ScheduleConfig(shape="cosine", warmup=0.05),
        learning_rate=learning_rate,
        weight_decay=0.05,
        validate_every_steps=steps // validations,
    )
