"""An encoder and nothing else: features for other programs, or a start for training."""

import torch
from torch import Tensor, nn

from unheard.models.config import EncoderOnlyConfig
from unheard.models.encoder import Encoder, EncoderOutput
from unheard.models.feature_encoder import Padding


class EncoderOnlyModel(nn.Module):
    """What a stored encoder without heads is: transformers' plain `Wav2Vec2Model`."""

    def __init__(self, config: EncoderOnlyConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        padding: Padding = "masked",
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        keep_layers: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of waveforms; arguments as `Encoder.forward`."""
        return self.encoder(
            samples,
            lengths,
            padding=padding,
            time_mask=time_mask,
            channel_mask=channel_mask,
            generator=generator,
            keep_layers=keep_layers,
        )
