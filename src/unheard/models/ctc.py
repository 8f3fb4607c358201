"""An encoder with a linear output layer over an alphabet: Baevski et al. 2020, sec. 3.3."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.models.config import CtcConfig
from unheard.models.dropout import dropout
from unheard.models.encoder import Encoder
from unheard.models.feature_encoder import Padding
from unheard.models.transformer import init_linear


@dataclass(frozen=True, kw_only=True)
class CtcOutput:
    """Scores of a batch.

    Attributes:
        logits: (batch, frames, vocab), not normalised.
        lengths: (batch,) [frames], or None when nothing is padded.
    """

    logits: Tensor
    lengths: Tensor | None


class CtcModel(nn.Module):
    """Encoder, dropout, linear head."""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.head = nn.Linear(config.encoder.dim, config.vocab)
        init_linear(self.head)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        padding: Padding = "masked",
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> CtcOutput:
        """Score every symbol at every frame; arguments as `Encoder.forward`."""
        output = self.encoder(
            samples,
            lengths,
            padding=padding,
            time_mask=time_mask,
            channel_mask=channel_mask,
            generator=generator,
        )
        frames = dropout(output.frames, self.config.head_dropout, self.training)
        return CtcOutput(logits=self.head(frames), lengths=output.lengths)
