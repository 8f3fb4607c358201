"""An encoder that scores classes at every frame: who speaks when."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.models.config import FrameClassifierConfig
from unheard.models.encoder import Encoder
from unheard.models.feature_encoder import Padding
from unheard.models.pooling import mix_layers, mixture_weights
from unheard.models.transformer import init_linear


@dataclass(frozen=True, kw_only=True)
class FrameClassifierOutput:
    """Scores of a batch.

    Attributes:
        logits: (batch, frames, classes), not normalised. Classes may overlap, as speakers do:
            each has its own sigmoid, unless a model was trained otherwise.
        lengths: (batch,) [frames], or None when nothing is padded.
    """

    logits: Tensor
    lengths: Tensor | None


class FrameClassifierModel(nn.Module):
    """Encoder and a linear layer over classes.

    Source: transformers 5.23 `Wav2Vec2ForAudioFrameClassification`.
    """

    def __init__(self, config: FrameClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.layer_weights = (
            mixture_weights(config.encoder.layers) if config.weighted_layers else None
        )
        self.classify = nn.Linear(config.encoder.dim, config.classes)
        init_linear(self.classify)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        padding: Padding = "masked",
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> FrameClassifierOutput:
        """Score every class at every frame; arguments as `Encoder.forward`."""
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
        return FrameClassifierOutput(logits=self.classify(frames), lengths=output.lengths)
