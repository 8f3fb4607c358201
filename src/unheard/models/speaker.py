"""An encoder with an x-vector head: one vector a recording that tells speakers apart."""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unheard.errors import ShapeError
from unheard.models.config import SpeakerConfig, TdnnLayer
from unheard.models.encoder import Encoder
from unheard.models.feature_encoder import Padding
from unheard.models.pooling import deviation_over_time, mean_over_time, mix_layers, mixture_weights
from unheard.models.transformer import init_linear


@dataclass(frozen=True, kw_only=True)
class SpeakerOutput:
    """Vectors of a batch.

    Attributes:
        embeddings: (batch, embedding_dim): compare two recordings by the cosine between theirs.
        directions: (batch, embedding_dim): the embeddings where the known speakers are; what
            transformers calls `logits`.
        cosines: (batch, classes) between the directions and the known speakers, -1 to 1. The
            scores of the additive-margin softmax, without its scale and margin.
    """

    embeddings: Tensor
    directions: Tensor
    cosines: Tensor


class SpeakerModel(nn.Module):
    """Encoder, projection, time-delay layers, mean and deviation over time, embedding.

    Only frames that see no padding enter the mean and the deviation, so that a recording has the
    same vector in every batch. transformers forgets the dilations when it counts these frames:
    with the layers of Snyder et al. it lets in, for every padded recording, six frames that saw
    padding. Its numbers for recordings alone, or all of one length, are those of this network.

    Source: Snyder et al. 2018, table 1; class vectors of Wang et al. 2018 (AM-softmax), eq. 5;
    transformers 5.23 `Wav2Vec2ForXVector`.
    """

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.layer_weights = (
            mixture_weights(config.encoder.layers) if config.weighted_layers else None
        )
        first, last = config.layers[0], config.layers[-1]
        self.project = nn.Linear(config.encoder.dim, first.channels)
        widths = itertools.pairwise([first.channels, *(layer.channels for layer in config.layers)])
        self.tdnn = nn.ModuleList(
            TimeDelay(layer, in_channels=width)
            for layer, (width, _) in zip(config.layers, widths, strict=True)
        )
        self.embed = nn.Linear(2 * last.channels, config.embedding_dim)
        self.classify = nn.Linear(config.embedding_dim, config.embedding_dim)
        self.class_vectors = nn.Parameter(torch.empty(config.embedding_dim, config.classes))
        for linear in (self.project, self.embed, self.classify):
            init_linear(linear)
        nn.init.normal_(self.class_vectors)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor | None = None,
        *,
        padding: Padding = "masked",
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> SpeakerOutput:
        """Make one vector of each recording; arguments as `Encoder.forward`.

        Raises:
            ShapeError: if a recording has fewer frames than `SpeakerConfig.frames_needed`.
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
        self._check_frames(output.frames, output.lengths)
        frames = mix_layers(output, self.layer_weights, ends_normed=self.config.mixture_ends_normed)
        frames = self.project(frames)
        for layer in self.tdnn:
            frames = layer(frames)
        heard = None
        if output.lengths is not None:
            heard = output.lengths - self.config.context_frames
        mean = mean_over_time(frames, heard)
        deviation = deviation_over_time(frames, mean, heard)
        embeddings = self.embed(torch.cat([mean, deviation], dim=-1))
        directions = self.classify(embeddings)
        cosines = F.normalize(directions, dim=1) @ F.normalize(self.class_vectors, dim=0)
        return SpeakerOutput(embeddings=embeddings, directions=directions, cosines=cosines)

    def _check_frames(self, frames: Tensor, lengths: Tensor | None) -> None:
        """Refuse recordings of which no deviation can be taken."""
        shortest = frames.shape[1] if lengths is None else int(lengths.min())
        if shortest < self.config.frames_needed:
            encoder = self.config.encoder
            needed = (
                encoder.receptive_field_samples
                + (self.config.frames_needed - 1) * encoder.stride_samples
            )
            raise ShapeError(
                f"A recording is too short for this speaker model: expected at least "
                f"{self.config.frames_needed} frames ({needed} samples), found {shortest}. "
                "Leave it out."
            )


class TimeDelay(nn.Module):
    """A dilated convolution over frames, without padding, and a rectifier.

    `weight` is (channels, kernel * in_channels), all channels of the first tap first, as a linear
    layer over joined frames has it: Peddinti et al. 2015, sec. 3; transformers 5.23 `TDNNLayer`.
    """

    def __init__(self, layer: TdnnLayer, *, in_channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.kernel * in_channels))
        self.bias = nn.Parameter(torch.zeros(layer.channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, frames: Tensor) -> Tensor:
        """Map (batch, frames, in_channels) to (batch, frames - (kernel - 1) dilation, channels)."""
        layer = self.layer
        # (channels, kernel * in_channels) -> (channels, in_channels, kernel)
        weight = self.weight.view(layer.channels, layer.kernel, -1).transpose(1, 2)
        made = F.conv1d(frames.transpose(1, 2), weight, self.bias, dilation=layer.dilation)
        return F.relu(made.transpose(1, 2))
