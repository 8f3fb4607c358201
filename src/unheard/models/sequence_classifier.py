"""An encoder that names one class for a whole utterance: language, emotion, keyword."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.models.config import SequenceClassifierConfig
from unheard.models.encoder import Encoder
from unheard.models.feature_encoder import Padding
from unheard.models.pooling import mean_over_time, mix_layers, mixture_weights
from unheard.models.transformer import init_linear


@dataclass(frozen=True, kw_only=True)
class SequenceClassifierOutput:
    """Scores of a batch.

    Attributes:
        logits: (batch, classes), not normalised.
        pooled: (batch, projection_dim), the mean of the projected frames.
    """

    logits: Tensor
    pooled: Tensor


class SequenceClassifierModel(nn.Module):
    """Encoder, projection, mean over the real frames, linear head.

    Source: transformers 5.23 `Wav2Vec2ForSequenceClassification`, which the language identifiers
    of MMS (Pratap et al. 2023, sec. 5.3) are published for.
    """

    def __init__(self, config: SequenceClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.layer_weights = (
            mixture_weights(config.encoder.layers) if config.weighted_layers else None
        )
        self.project = nn.Linear(config.encoder.dim, config.projection_dim)
        self.classify = nn.Linear(config.projection_dim, config.classes)
        for linear in (self.project, self.classify):
            init_linear(linear)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        padding: Padding = "masked",
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> SequenceClassifierOutput:
        """Score every class for every utterance.

        Every utterance must have a frame (see `EncoderConfig.receptive_field_samples`); arguments
        as `Encoder.forward`.
        """
        output = self.encoder(
            samples,
            lengths,
            padding=padding,
            time_mask=time_mask,
            channel_mask=channel_mask,
            generator=generator,
            keep_layers=self.layer_weights is not None,
        )
        frames = mix_layers(output, self.layer_weights, ends_normed=self.config.mixture_ends_normed)
        pooled = mean_over_time(self.project(frames), output.lengths)
        return SequenceClassifierOutput(logits=self.classify(pooled), pooled=pooled)
