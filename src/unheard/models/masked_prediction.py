"""An encoder that predicts the unit of each masked frame.

Source: Hsu et al. 2021 (HuBERT), sec. III. Its cosine similarities to unit embeddings are a
plain linear layer here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.models.config import MaskedUnitConfig
from unheard.models.encoder import Encoder
from unheard.models.transformer import init_linear


@dataclass(frozen=True, kw_only=True)
class MaskedUnitOutput:
    """Scores of a batch.

    Attributes:
        logits: (batch, frames, units), not normalised.
        feature_power: () float32 mean square of the convolutions' output.
    """

    logits: Tensor
    feature_power: Tensor


class MaskedUnitModel(nn.Module):
    """Encoder and a linear layer over units."""

    def __init__(self, config: MaskedUnitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.head = nn.Linear(config.encoder.dim, config.units)
        init_linear(self.head)

    def forward(
        self,
        samples: Tensor,
        *,
        time_mask: Tensor,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MaskedUnitOutput:
        """Score every unit at every frame.

        Args:
            samples: (batch, samples), all of one length.
            time_mask: (batch, frames) bool, True where masked.
            channel_mask: (batch, dim) bool.
            generator: draws skipped layers.
        """
        output = self.encoder(
            samples, time_mask=time_mask, channel_mask=channel_mask, generator=generator
        )
        return MaskedUnitOutput(
            logits=self.head(output.frames),
            feature_power=output.conv_features.detach().float().square().mean(),
        )
