"""The whole encoder: waveform -> features -> (masked) projection -> context."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unheard.models.config import EncoderConfig
from unheard.models.dropout import dropout
from unheard.models.feature_encoder import FeatureEncoder, Padding
from unheard.models.transformer import Transformer, init_linear


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """What an encoder makes of a batch.

    Attributes:
        frames: (batch, frames, dim) context vectors; (wanted, dim) of the `places` asked for.
        lengths: (batch,) [frames], or None when nothing is padded.
        conv_features: (batch, frames, channels) straight from the convolutions.
        normed_features: (batch, frames, channels) after the layer norm; what a quantiser sees.
        layers: input of the first Transformer layer and output of each, if asked for.
    """

    frames: Tensor
    lengths: Tensor | None
    conv_features: Tensor
    normed_features: Tensor
    layers: list[Tensor] = field(default_factory=list)


class Encoder(nn.Module):
    """wav2vec 2.0 without heads.

    Source: Baevski et al. 2020, sec. 2 and fig. 1; fairseq `Wav2Vec2Model` @ 3d262bb.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_encoder = FeatureEncoder(config)
        self.feature_norm = nn.LayerNorm(config.conv_channels, eps=config.norm_epsilon)
        self.projection = nn.Linear(config.conv_channels, config.dim)
        self.mask_embedding = nn.Parameter(torch.rand(config.dim))
        self.transformer = Transformer(config)
        init_linear(self.projection)

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
        places: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode a batch of waveforms.

        Args:
            samples: (batch, samples), normalised as the model's input spec says, zero padded.
            lengths: (batch,) [samples], or None when nothing is padded.
            padding: "masked" keeps padding out of all statistics; "zeros" lets it into those of
                a group norm, as the original does.
            time_mask: (batch, frames) bool, True where the mask embedding replaces the frame.
            channel_mask: (batch, dim) bool, True where a channel is set to zero.
            generator: draws skipped layers in training.
            keep_layers: also return what each Transformer layer gives.
            places: (wanted,) int64, which of the batch * frames context vectors are wanted; see
                `Transformer.forward`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.feature_grad_scale > 0):
            conv_features, frame_lengths = self.feature_encoder(samples, lengths, padding=padding)
        if torch.is_grad_enabled() and 0 < self.config.feature_grad_scale != 1:
            conv_features = _ScaleGradient.apply(conv_features, self.config.feature_grad_scale)
        normed = self.feature_norm(conv_features)
        frames = self.projection(normed)
        frames = dropout(frames, self.config.input_dropout, self.training)
        if time_mask is not None:
            embedding = self.mask_embedding.to(frames.dtype)
            frames = torch.where(time_mask[:, :, None], embedding, frames)
        if channel_mask is not None:
            frames = frames.masked_fill(channel_mask[:, None, :], 0)
        frames, layers = self.transformer(
            frames,
            frame_lengths,
            generator=generator,
            keep_layers=keep_layers,
            places=places,
        )
        return EncoderOutput(
            frames=frames,
            lengths=frame_lengths,
            conv_features=conv_features,
            normed_features=normed,
            layers=layers,
        )


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor (fairseq `GradMultiply`)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * ctx.scale, None
