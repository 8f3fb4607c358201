"""Options of transformers and the configurations of our networks, both ways.

Every option that changes what a network computes is honoured or refused by name. Source:
transformers models/wav2vec2/configuration_wav2vec2.py and modeling_wav2vec2.py, version 5.23.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from unheard.errors import ConfigError, FormatError
from unheard.interop.bundle import NetworkConfig
from unheard.interop.huggingface.labels import read_labels
from unheard.interop.huggingface.settings import Settings, located
from unheard.models.config import (
    XVECTOR_LAYERS,
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    MaskedUnitConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
    TdnnLayer,
)

PLAIN = "Wav2Vec2Model"
CTC = "Wav2Vec2ForCTC"
PRETRAINING = "Wav2Vec2ForPreTraining"
SEQUENCE = "Wav2Vec2ForSequenceClassification"
FRAMES = "Wav2Vec2ForAudioFrameClassification"
SPEAKER = "Wav2Vec2ForXVector"

ENDS_NORMED = "tie_last_hidden_states"
"""Whether the last of the mixed layers is taken after the closing norm: an option of transformers
since `MIXTURE_CHANGED`, which then became false where a file does not have it."""

MIXTURE_CHANGED = (5, 16)
"""Version of transformers from which on it mixes the last layer as it is before that norm."""

ONLY_SUPPORTED: Mapping[str, object] = {
    "add_adapter": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "quantization_config": None,
    "pruned_heads": {},
}
"""Options that change what the network computes -> the only value of them that is known here."""


def network_config(settings: Settings, architecture: str) -> NetworkConfig:
    """Translate all settings of a network.

    Raises:
        FormatError: if an option is not supported; named.
        ConfigError: if a setting is not valid.
    """
    refuse_unsupported(settings)
    return _CONFIGS[architecture](settings)


def named_architecture(settings: Settings) -> str | None:
    """Read which network the folder holds; None when it does not say.

    Raises:
        FormatError: if it is none of the six that are known here.
    """
    named = settings.values.get("architectures")
    if not named:
        return None
    if not isinstance(named, list) or len(named) != 1 or named[0] not in _CONFIGS:
        raise FormatError(
            f"{settings.source}: the architecture {named!r} is not supported: expected one of "
            f"{', '.join(_CONFIGS)}."
        )
    return named[0]


def guess_architecture(stored: Iterable[str]) -> str:
    """Tell the network from the names of its weights."""
    names = set(stored)
    marks = {
        "lm_head.weight": CTC,
        "quantizer.codevectors": PRETRAINING,
        "objective.weight": SPEAKER,
        "projector.weight": SEQUENCE,
        "classifier.weight": FRAMES,
    }
    return next((kind for mark, kind in marks.items() if mark in names), PLAIN)


def refuse_unsupported(settings: Settings) -> None:
    """Refuse options that are not computed here, by name."""
    for name, supported in ONLY_SUPPORTED.items():
        value = settings.values.get(name, supported)
        if value != supported:
            raise FormatError(
                f"{settings.source}: the option {name} = {value!r} is not supported: expected "
                f"{supported!r}. This model cannot be loaded."
            )


def encoder_config(settings: Settings) -> EncoderConfig:
    """Translate the settings of the encoder.

    transformers has no factor on the gradient of the convolutions: it is 1. It ignores
    `adapter_attn_dim` in networks with the layer norm last, and so does this.
    """
    dims = settings.integers("conv_dim", (512,) * 7)
    kernels = settings.integers("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = settings.integers("conv_stride", (5, 2, 2, 2, 2, 2, 2))
    if not len(dims) == len(kernels) == len(strides):
        raise ConfigError(
            f"{settings.source}: conv_dim, conv_kernel and conv_stride must be equally long, found "
            f"{len(dims)}, {len(kernels)} and {len(strides)}."
        )
    conv_norm = settings.choice("feat_extract_norm", "group", ("group", "layer"))
    norm_first = settings.flag("do_stable_layer_norm", default=False)
    try:
        return EncoderConfig(
            conv_layers=tuple(
                ConvLayer(channels=channels, kernel=kernel, stride=stride)
                for channels, kernel, stride in zip(dims, kernels, strides, strict=True)
            ),
            conv_norm="group" if conv_norm == "group" else "layer",
            conv_bias=settings.flag("conv_bias", default=False),
            dim=settings.integer("hidden_size", 768),
            ffn_dim=settings.integer("intermediate_size", 3072),
            layers=settings.integer("num_hidden_layers", 12),
            heads=settings.integer("num_attention_heads", 12),
            norm_first=norm_first,
            positional_kernel=settings.integer("num_conv_pos_embeddings", 128),
            positional_groups=settings.integer("num_conv_pos_embedding_groups", 16),
            norm_epsilon=settings.number("layer_norm_eps", 1e-5),
            dropout=settings.number("hidden_dropout", 0.1, most=1),
            attention_dropout=settings.number("attention_dropout", 0.1, most=1),
            activation_dropout=settings.number("activation_dropout", 0.1, most=1),
            input_dropout=settings.number("feat_proj_dropout", 0.0, most=1),
            layer_drop=settings.number("layerdrop", 0.1, most=1),
            adapter_dim=adapter_dim(settings) if norm_first else 0,
        )
    except ConfigError as error:
        if str(settings.source) in str(error):
            raise
        raise ConfigError(located(error, settings.source)) from error


def adapter_dim(settings: Settings) -> int:
    """Read the width of language adapters; 0 without."""
    if settings.values.get("adapter_attn_dim") is None:
        return 0
    return settings.integer("adapter_attn_dim", 0)


def masks(settings: Settings) -> bool:
    """Whether transformers has a mask embedding in this model at all."""
    return bool(
        settings.number("mask_time_prob", 0.05) or settings.number("mask_feature_prob", 0.0)
    )


def _ctc_config(settings: Settings) -> CtcConfig:
    """Translate the settings of a CTC model; masking as transformers fine-tunes with it."""
    masked = settings.flag("apply_spec_augment", default=True)
    time_probability = settings.number("mask_time_prob", 0.05)
    channel_probability = settings.number("mask_feature_prob", 0.0)
    return CtcConfig(
        encoder=encoder_config(settings),
        vocab=settings.integer("vocab_size", 32),
        head_dropout=settings.number("final_dropout", 0.1, most=1),
        masking=MaskingConfig(
            time_probability=time_probability if masked else 0.0,
            time_span_frames=settings.integer("mask_time_length", 10),
            time_min_spans=settings.integer("mask_time_min_masks", 2, least=0),
            channel_probability=channel_probability if masked else 0.0,
            channel_span=settings.integer("mask_feature_length", 10),
            channel_min_spans=settings.integer("mask_feature_min_masks", 0, least=0),
        ),
    )


def _pretraining_config(settings: Settings) -> PretrainingConfig:
    """Translate the settings of a pre-training model.

    Masking is that of the paper: `mask_time_prob` in these folders is a setting for fine-tuning
    and says 0.05 where the model was trained with 0.65. transformers has no feature penalty; the
    weight is that of the original models, 10 for the group-norm kind and 0 for the other.
    """
    encoder = encoder_config(settings)
    try:
        quantizer = QuantizerConfig(
            groups=settings.integer("num_codevector_groups", 2),
            entries=settings.integer("num_codevectors_per_group", 320),
            dim=settings.integer("codevector_dim", 256),
        )
    except ConfigError as error:
        if str(settings.source) in str(error):
            raise
        raise ConfigError(located(error, settings.source)) from error
    return PretrainingConfig(
        encoder=encoder,
        quantizer=quantizer,
        projection_dim=settings.integer("proj_codevector_dim", 256),
        feature_dropout=settings.number("feat_quantizer_dropout", 0.0, most=1),
        distractors=settings.integer("num_negatives", 100),
        contrastive_temperature=settings.number("contrastive_logits_temperature", 0.1),
        diversity_weight=settings.number("diversity_loss_weight", 0.1),
        feature_penalty_weight=10.0 if encoder.conv_norm == "group" else 0.0,
    )


def _plain_config(settings: Settings) -> EncoderOnlyConfig:
    return EncoderOnlyConfig(encoder=encoder_config(settings))


def _sequence_config(settings: Settings) -> SequenceClassifierConfig:
    return SequenceClassifierConfig(
        encoder=encoder_config(settings),
        classes=len(read_labels(settings)),
        projection_dim=settings.integer("classifier_proj_size", 256),
        weighted_layers=settings.flag("use_weighted_layer_sum", default=False),
        mixture_ends_normed=_mixture_ends_normed(settings),
    )


def _frames_config(settings: Settings) -> FrameClassifierConfig:
    return FrameClassifierConfig(
        encoder=encoder_config(settings),
        classes=len(read_labels(settings)),
        weighted_layers=settings.flag("use_weighted_layer_sum", default=False),
        mixture_ends_normed=_mixture_ends_normed(settings),
    )


def _speaker_config(settings: Settings) -> SpeakerConfig:
    dims = settings.integers("tdnn_dim", tuple(layer.channels for layer in XVECTOR_LAYERS))
    kernels = settings.integers("tdnn_kernel", tuple(layer.kernel for layer in XVECTOR_LAYERS))
    dilations = settings.integers(
        "tdnn_dilation", tuple(layer.dilation for layer in XVECTOR_LAYERS)
    )
    if not len(dims) == len(kernels) == len(dilations):
        raise ConfigError(
            f"{settings.source}: tdnn_dim, tdnn_kernel and tdnn_dilation must be equally long, "
            f"found {len(dims)}, {len(kernels)} and {len(dilations)}."
        )
    return SpeakerConfig(
        encoder=encoder_config(settings),
        classes=len(read_labels(settings)),
        layers=tuple(
            TdnnLayer(channels=channels, kernel=kernel, dilation=dilation)
            for channels, kernel, dilation in zip(dims, kernels, dilations, strict=True)
        ),
        embedding_dim=settings.integer("xvector_output_dim", 512),
        weighted_layers=settings.flag("use_weighted_layer_sum", default=False),
        mixture_ends_normed=_mixture_ends_normed(settings),
    )


def _mixture_ends_normed(settings: Settings) -> bool:
    """Read how the last of the mixed layers is taken, if need be by the version of the file.

    transformers gives older files other numbers than those that they were trained with.
    """
    if settings.values.get(ENDS_NORMED) is not None:
        return settings.flag(ENDS_NORMED, default=True)
    written_by = str(settings.values.get("transformers_version", "")).split(".")[:2]
    if not all(part.isdecimal() and len(part) < 6 for part in written_by):
        return True
    return tuple(map(int, written_by)) < MIXTURE_CHANGED


_CONFIGS: Mapping[str, Callable[[Settings], NetworkConfig]] = {
    CTC: _ctc_config,
    PRETRAINING: _pretraining_config,
    PLAIN: _plain_config,
    SEQUENCE: _sequence_config,
    FRAMES: _frames_config,
    SPEAKER: _speaker_config,
}


def describe(config: NetworkConfig) -> tuple[str, dict[str, Any]]:
    """Write a configuration in the words of transformers.

    A masked-unit model becomes its encoder: its head has no counterpart there.

    Returns:
        The name of the class, and the options that decide shape, computation and masking.
    """
    encoder = config.encoder
    options: dict[str, Any] = {
        "model_type": "wav2vec2",
        "hidden_size": encoder.dim,
        "intermediate_size": encoder.ffn_dim,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "feat_extract_norm": encoder.conv_norm,
        "conv_dim": [layer.channels for layer in encoder.conv_layers],
        "conv_kernel": [layer.kernel for layer in encoder.conv_layers],
        "conv_stride": [layer.stride for layer in encoder.conv_layers],
        "conv_bias": encoder.conv_bias,
        "do_stable_layer_norm": encoder.norm_first,
        "num_conv_pos_embeddings": encoder.positional_kernel,
        "num_conv_pos_embedding_groups": encoder.positional_groups,
        "layer_norm_eps": encoder.norm_epsilon,
        "hidden_dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
        "activation_dropout": encoder.activation_dropout,
        "feat_proj_dropout": encoder.input_dropout,
        "layerdrop": encoder.layer_drop,
        "adapter_attn_dim": encoder.adapter_dim or None,
    }
    match config:
        case CtcConfig():
            options |= _describe_masking(config.masking)
            options |= {
                "vocab_size": config.vocab,
                "final_dropout": config.head_dropout,
                "ctc_loss_reduction": "sum",
                "ctc_zero_infinity": True,
            }
            return CTC, options
        case PretrainingConfig():
            options |= _describe_masking(config.masking)
            options |= {
                "num_codevector_groups": config.quantizer.groups,
                "num_codevectors_per_group": config.quantizer.entries,
                "codevector_dim": config.quantizer.dim,
                "proj_codevector_dim": config.projection_dim,
                "feat_quantizer_dropout": config.feature_dropout,
                "num_negatives": config.distractors,
                "contrastive_logits_temperature": config.contrastive_temperature,
                "diversity_loss_weight": config.diversity_weight,
            }
            return PRETRAINING, options
        case MaskedUnitConfig():
            return PLAIN, options | _describe_masking(config.masking)
        case EncoderOnlyConfig():
            return PLAIN, options
        case SequenceClassifierConfig():
            options |= _describe_mixture(config)
            options["classifier_proj_size"] = config.projection_dim
            return SEQUENCE, options
        case FrameClassifierConfig():
            return FRAMES, options | _describe_mixture(config)
        case SpeakerConfig():
            options |= _describe_mixture(config)
            options |= {
                "tdnn_dim": [layer.channels for layer in config.layers],
                "tdnn_kernel": [layer.kernel for layer in config.layers],
                "tdnn_dilation": [layer.dilation for layer in config.layers],
                "xvector_output_dim": config.embedding_dim,
            }
            return SPEAKER, options
        case _:
            assert_never(config)


def _describe_mixture(
    config: SequenceClassifierConfig | FrameClassifierConfig | SpeakerConfig,
) -> dict[str, Any]:
    """Write how a head mixes layers."""
    return {
        "use_weighted_layer_sum": config.weighted_layers,
        ENDS_NORMED: config.mixture_ends_normed,
    }


def _describe_masking(masking: MaskingConfig) -> dict[str, Any]:
    """Write how a model masks in training.

    The probability is above zero in any case: transformers has a mask embedding only then.
    """
    masked = masking.time_probability > 0 or masking.channel_probability > 0
    return {
        "apply_spec_augment": masked,
        "mask_time_prob": masking.time_probability if masked else 0.05,
        "mask_time_length": masking.time_span_frames,
        "mask_time_min_masks": masking.time_min_spans,
        "mask_feature_prob": masking.channel_probability,
        "mask_feature_length": masking.channel_span,
        "mask_feature_min_masks": masking.channel_min_spans,
    }
