"""Shapes of the wav2vec 2.0 networks, as frozen data.

Stride, receptive field and frame counts are computed from the convolutions, never typed.
"""

from dataclasses import dataclass, field
from typing import Literal

from unheard.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """One temporal convolution of the feature encoder."""

    channels: int
    kernel: int
    stride: int


WAV2VEC2_CONV_LAYERS = (
    ConvLayer(channels=512, kernel=10, stride=5),
    *(ConvLayer(channels=512, kernel=3, stride=2),) * 4,
    *(ConvLayer(channels=512, kernel=2, stride=2),) * 2,
)
"""Stride 320 (20 ms) and receptive field 400 samples (25 ms): Baevski et al. 2020, sec. 4.2."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that decides the shape and the forward pass of an encoder.

    Source: Baevski et al. 2020, sec. 2 and 4.2; the names in brackets are fairseq's options
    (models/wav2vec/wav2vec2.py @ 3d262bb).
    """

    conv_layers: tuple[ConvLayer, ...] = WAV2VEC2_CONV_LAYERS
    conv_norm: Literal["group", "layer"] = "group"
    """"group": one norm after the first convolution, per channel over time (extractor_mode
    "default"); "layer": a norm over channels after each convolution ("layer_norm")."""
    conv_bias: bool = False
    dim: int = 768
    ffn_dim: int = 3072
    layers: int = 12
    heads: int = 12
    norm_first: bool = False
    """Layer norm before (pre-norm) or after (post-norm) each sub-layer (layer_norm_first)."""
    positional_kernel: int = 128
    positional_groups: int = 16
    norm_epsilon: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    input_dropout: float = 0.0
    """On the projected features, before the Transformer (dropout_input)."""
    layer_drop: float = 0.0
    """Probability of skipping a whole Transformer layer in training (encoder_layerdrop)."""
    feature_grad_scale: float = 1.0
    """Factor on the gradient that enters the convolutions; 0 freezes them (feature_grad_mult)."""
    adapter_dim: int = 0
    """Width of the language adapter after each Transformer layer; 0 without (adp_dim). Only
    networks with norm_first have them: Pratap et al. 2023 (MMS), sec. 5.1."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(
                f"dim must be a multiple of heads, got dim {self.dim} and heads {self.heads}."
            )
        if self.dim % self.positional_groups:
            raise ConfigError(
                f"dim must be a multiple of positional_groups, got dim {self.dim} and "
                f"positional_groups {self.positional_groups}."
            )
        if not self.conv_layers:
            raise ConfigError("conv_layers must name at least one convolution, got none.")
        for number, layer in enumerate(self.conv_layers):
            if min(layer.channels, layer.kernel, layer.stride) < 1:
                raise ConfigError(
                    f"channels, kernel and stride of conv_layers[{number}] must be at least 1, "
                    f"got {layer}."
                )
        if min(self.dim, self.ffn_dim, self.layers, self.heads, self.positional_kernel) < 1:
            raise ConfigError(
                "dim, ffn_dim, layers, heads and positional_kernel must be at least 1."
            )
        if self.adapter_dim < 0 or (self.adapter_dim and not self.norm_first):
            raise ConfigError(
                "adapter_dim must be 0, or at least 1 in a network with norm_first, got "
                f"{self.adapter_dim} and norm_first {self.norm_first}."
            )

    @property
    def stride_samples(self) -> int:
        """Samples from one frame to the next."""
        stride = 1
        for layer in self.conv_layers:
            stride *= layer.stride
        return stride

    @property
    def receptive_field_samples(self) -> int:
        """Samples that one frame sees; also the shortest input that gives a frame."""
        field_samples, jump = 1, 1
        for layer in self.conv_layers:
            field_samples += (layer.kernel - 1) * jump
            jump *= layer.stride
        return field_samples

    @property
    def conv_channels(self) -> int:
        """Channels of the last convolution."""
        return self.conv_layers[-1].channels

    def num_frames(self, num_samples: int) -> int:
        """Frames made from `num_samples` samples; 0 when shorter than the receptive field."""
        frames = num_samples
        for layer in self.conv_layers:
            frames = (frames - layer.kernel) // layer.stride + 1
            if frames <= 0:
                return 0
        return frames


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Product quantiser of wav2vec 2.0: Baevski et al. 2020, sec. 2 and 4.2."""

    groups: int = 2
    entries: int = 320
    """Codes a group (latent_vars)."""
    dim: int = 256
    """Size of a quantised vector, all groups together (latent_dim; 0 means final_dim there)."""
    temperature_start: float = 2.0
    temperature_end: float = 0.5
    temperature_floor_at: float = 0.6931
    """Share of the run after which the temperature stays at its end. The default is fairseq's
    factor of 0.999995 an update over the 400,000 updates of Base (latent_temp): from 2 to 0.5
    after 277,258 of them."""

    def __post_init__(self) -> None:
        if self.dim % self.groups:
            raise ConfigError(
                f"quantizer dim must be a multiple of groups, got {self.dim} and {self.groups}."
            )


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Span masking, in fairseq's parameters (RECIPES: `mask_prob` is p times the span length)."""

    time_probability: float = 0.65
    """Share of frames that the spans would cover if none overlapped."""
    time_span_frames: int = 10
    time_min_spans: int = 2
    channel_probability: float = 0.0
    channel_span: int = 64
    channel_min_spans: int = 0


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """An encoder with the heads of the wav2vec 2.0 objective."""

    encoder: EncoderConfig
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    projection_dim: int = 256
    """Size of the space in which predictions and targets are compared (final_dim)."""
    feature_dropout: float = 0.0
    """On the features that the quantiser sees (dropout_features)."""
    distractors: int = 100
    contrastive_temperature: float = 0.1
    diversity_weight: float = 0.1
    feature_penalty_weight: float = 10.0


@dataclass(frozen=True, kw_only=True)
class MaskedUnitConfig:
    """An encoder with a head over clustered units, for masked unit prediction."""

    encoder: EncoderConfig
    units: int = 100
    masking: MaskingConfig = field(default_factory=lambda: MaskingConfig(time_probability=0.5))
    unmasked_weight: float = 0.3
    """Weight of the loss on frames that were not masked."""


@dataclass(frozen=True, kw_only=True)
class CtcConfig:
    """An encoder with a linear CTC head."""

    encoder: EncoderConfig
    vocab: int
    head_dropout: float = 0.0
    """On the frames before the head (final_dropout)."""
    masking: MaskingConfig = field(
        default_factory=lambda: MaskingConfig(time_probability=0.0, channel_probability=0.0)
    )
    """Spans masked in training, as in fine-tuning of Baevski et al. 2020, sec. 4.3."""


@dataclass(frozen=True, kw_only=True)
class EncoderOnlyConfig:
    """An encoder and nothing else: features for other programs, or a start for training."""

    encoder: EncoderConfig


@dataclass(frozen=True, kw_only=True)
class SequenceClassifierConfig:
    """An encoder that names one class for a whole utterance (language, emotion, keyword)."""

    encoder: EncoderConfig
    classes: int
    projection_dim: int = 256
    weighted_layers: bool = False
    """Whether the head sees a learnt mixture of all layers instead of the last."""
    mixture_ends_normed: bool = True
    """Whether the last of the mixed layers is taken after the norm that closes a norm_first
    network (see `models.pooling`)."""


@dataclass(frozen=True, kw_only=True)
class FrameClassifierConfig:
    """An encoder that scores classes at every frame (who speaks when)."""

    encoder: EncoderConfig
    classes: int
    weighted_layers: bool = False
    mixture_ends_normed: bool = True


@dataclass(frozen=True, kw_only=True)
class TdnnLayer:
    """One time-delay layer: a dilated convolution over frames."""

    channels: int
    kernel: int
    dilation: int


XVECTOR_LAYERS = (
    TdnnLayer(channels=512, kernel=5, dilation=1),
    TdnnLayer(channels=512, kernel=3, dilation=2),
    TdnnLayer(channels=512, kernel=3, dilation=3),
    TdnnLayer(channels=512, kernel=1, dilation=1),
    TdnnLayer(channels=1500, kernel=1, dilation=1),
)
"""Snyder et al. 2018, table 1, as transformers has it (tdnn_dim, tdnn_kernel, tdnn_dilation)."""


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """An encoder with an x-vector head: one vector a recording that tells speakers apart."""

    encoder: EncoderConfig
    classes: int
    layers: tuple[TdnnLayer, ...] = XVECTOR_LAYERS
    embedding_dim: int = 512
    weighted_layers: bool = False
    mixture_ends_normed: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers must name at least one time-delay layer, got none.")
        for number, layer in enumerate(self.layers):
            if min(layer.channels, layer.kernel, layer.dilation) < 1:
                raise ConfigError(
                    f"channels, kernel and dilation of layers[{number}] must be at least 1, got "
                    f"{layer}."
                )

    @property
    def context_frames(self) -> int:
        """Frames that the time-delay layers take in beyond those that they give."""
        return sum((layer.kernel - 1) * layer.dilation for layer in self.layers)

    @property
    def frames_needed(self) -> int:
        """Fewest frames of the encoder of which a vector can be made: a deviation takes two."""
        return self.context_frames + 2
