"""The network that learns from recordings alone: encoder, quantiser and two projections.

Source: Baevski et al. 2020, fig. 1; fairseq models/wav2vec/wav2vec2.py `Wav2Vec2Model.forward`
@ 3d262bb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.models.config import PretrainingConfig
from unheard.models.dropout import dropout
from unheard.models.encoder import Encoder
from unheard.models.feature_encoder import Padding
from unheard.models.quantizer import Quantized, Quantizer
from unheard.models.transformer import pick_frames
from unheard.tensors import padding_mask


@dataclass(frozen=True, kw_only=True)
class PretrainingOutput:
    """Masked frames of a batch, all rows after each other.

    Attributes:
        predictions: (masked, proj), what the context says each masked frame is.
        targets: (masked, proj), the projected quantised truth.
        quantized: codes and logits of the same frames.
        masked_counts: (batch,) int64, how many of the frames belong to each row.
        feature_power: () float32 mean square of the convolutions' output.
    """

    predictions: Tensor
    targets: Tensor
    quantized: Quantized
    masked_counts: Tensor
    feature_power: Tensor


class PretrainingModel(nn.Module):
    """Encoder with quantiser and projections; predicts the quantised content of masked frames."""

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.quantizer = Quantizer(config.encoder.conv_channels, config.quantizer)
        self.project_targets = nn.Linear(config.quantizer.dim, config.projection_dim)
        self.project_context = nn.Linear(config.encoder.dim, config.projection_dim)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        time_mask: Tensor,
        channel_mask: Tensor | None = None,
        temperature: float = 1.0,
        padding: Padding = "masked",
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> PretrainingOutput:
        """Predict masked frames.

        The quantiser and most of the last Transformer layer run on masked frames only.

        Args:
            samples: (batch, samples).
            lengths: (batch,) [samples], or None when nothing is padded.
            time_mask: (batch, frames) bool, True where masked; never on padding.
            channel_mask: (batch, dim) bool.
            temperature: of the Gumbel softmax.
            padding: see `Encoder.forward`; with "zeros" padding counts as feature power too.
            generator: draws Gumbel noise and skipped layers.
            noise: (masked, groups, entries) Gumbel noise to use instead of drawing it.
        """
        places = time_mask.flatten().nonzero()[:, 0]  # waits for the device once, not three times
        output = self.encoder(
            samples,
            lengths,
            padding=padding,
            time_mask=time_mask,
            channel_mask=channel_mask,
            generator=generator,
            places=places,
        )
        features = pick_frames(output.normed_features, places)  # -> (masked, channels)
        features = dropout(features, self.config.feature_dropout, self.training)
        quantized = self.quantizer(
            features, temperature=temperature, generator=generator, noise=noise
        )
        targets = self.project_targets(quantized.vectors.to(self.project_targets.weight.dtype))
        predictions = self.project_context(output.frames)
        counted_lengths = output.lengths if padding == "masked" else None
        return PretrainingOutput(
            predictions=predictions,
            targets=targets,
            quantized=quantized,
            masked_counts=time_mask.sum(dim=1),
            feature_power=_mean_square(output.conv_features, counted_lengths),
        )


def _mean_square(features: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean square of (batch, frames, channels) over real frames, in float32 or wider."""
    squares = features.to(torch.promote_types(features.dtype, torch.float32)).square()
    if lengths is None:
        return squares.mean()
    is_padding = padding_mask(lengths, features.shape[1])
    total = squares.masked_fill(is_padding[:, :, None], 0).sum()
    return total / (lengths.sum().clamp_min(1) * features.shape[-1])
