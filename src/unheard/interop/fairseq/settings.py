"""Settings of a fairseq checkpoint, in the old and the new style, as configurations here.

Old files have a flat `args` (argparse.Namespace), new ones a nested `cfg` (a dict, or what
omegaconf stores). A fine-tuned network keeps the settings of the pre-trained one in `w2v_args`, and
the sizes are there: fields of the same name beside it hold defaults that mean nothing.
Source: fairseq dataclass/utils.py, models/wav2vec/wav2vec2.py and wav2vec2_asr.py @ 3d262bb.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.errors import ConfigError, FormatError
from unheard.interop.fairseq.literals import read_numbers, read_triples
from unheard.interop.fairseq.options import Options
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)

logger = logging.getLogger(__name__)

Network = Literal["wav2vec2", "wav2vec_ctc"]
"""Networks that are read, by their names in fairseq."""

NORMALIZE_EPSILON = 1e-5
"""Added to the variance of each utterance: the layer norm of data/audio/raw_audio_dataset.py."""

DEFAULT_CONV_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
"""`conv_feature_layers` where a file leaves it out."""

_DEFAULT_UPDATES = 400_000
"""Length of a run where a file does not tell: that of the Base model."""

_MOST_REFERENCES = 10
"""Longest chain of references between options that is followed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the options of a checkpoint are.

    Attributes:
        network: which network it is.
        model: options of the network as it was trained last.
        pretrained: options of the pre-trained network, which hold all sizes.
        task: options of the data.
        pretrained_task: the same of pre-training.
        criterion: options of the loss.
        updates: length of the run [updates].
    """

    network: Network
    model: Options
    pretrained: Options
    task: Options
    pretrained_task: Options
    criterion: Options
    updates: float


def read_settings(checkpoint: Mapping[str, Any], *, source: object) -> Settings:
    """Find the options of a checkpoint.

    Args:
        checkpoint: plain data, without the tensors.
        source: what to call the file in messages.

    Raises:
        FormatError: if there are no options, or they are those of another network; named.
        ConfigError: if those of the pre-trained network are missing.
    """
    style = _Style.find(checkpoint, source)
    model = style.group("model")
    network = _network(model.get("_name", model.get("arch", None)), source=model.source)
    pretrained, pretrained_task = model, style.group("task")
    if network == "wav2vec_ctc":
        inner = model.get("w2v_args", None)
        if not isinstance(inner, Mapping):
            raise ConfigError(
                f"{source} is fine-tuned and does not say from what: expected the settings of the "
                "pre-trained network (w2v_args), found none. Load it once in fairseq, beside its "
                "pre-trained checkpoint, and save it again."
            )
        nested = _Style(
            values=inner,
            flat=not isinstance(inner.get("model"), Mapping),
            source=f"{model.source}.w2v_args",
            root=style.root,
        )
        pretrained, pretrained_task = nested.group("model"), nested.group("task")
        name = pretrained.get("_name", pretrained.get("arch", "wav2vec2"))
        if _network(name, source=pretrained.source) != "wav2vec2":
            raise FormatError(
                f"{pretrained.source}: the pre-trained network {name!r} is not supported: expected "
                "'wav2vec2'."
            )
    optimization, schedule = style.group("optimization"), style.group("lr_scheduler")
    return Settings(
        network=network,
        model=model,
        pretrained=pretrained,
        task=style.group("task"),
        pretrained_task=pretrained_task,
        criterion=style.group("criterion"),
        updates=_updates(optimization.get("max_update", 0))
        or _updates(schedule.get("total_num_update", 0))
        or _DEFAULT_UPDATES,
    )


def network_config(
    settings: Settings, *, conv_norm: str, conv_bias: bool, vocab: int, adapter_dim: int
) -> CtcConfig | PretrainingConfig:
    """Translate the settings.

    Args:
        settings: of the checkpoint.
        conv_norm: "group" or "layer", as the tensors show: files exist whose `extractor_mode`
            is missing.
        conv_bias: whether there are biases of convolutions.
        vocab: outputs of the CTC head.
        adapter_dim: width of the language adapters, 0 without.

    Raises:
        FormatError: on an option that changes what the network computes and is not supported.
        ConfigError: if an option is not valid.
    """
    _refuse_unsupported(settings)
    try:
        encoder = _encoder_config(
            settings, conv_norm=conv_norm, conv_bias=conv_bias, adapter_dim=adapter_dim
        )
        if settings.network == "wav2vec_ctc":
            return CtcConfig(
                encoder=encoder,
                vocab=vocab,
                head_dropout=settings.model.number("final_dropout", 0.0, most=1),
                masking=_masking(
                    settings.model,
                    time=0.5,
                    masks=settings.model.flag("apply_mask", default=False),
                ),
            )
        return _pretraining_config(settings, encoder)
    except ConfigError as error:
        if str(error).startswith((settings.model.source, settings.pretrained.source)):
            raise
        raise ConfigError(f"{settings.pretrained.source}: {error}") from error


def input_spec(settings: Settings) -> InputSpec:
    """Read what the network expects of its input.

    Raises:
        ConfigError: if fine-tuning and pre-training disagree about it, as fairseq refuses too.
    """
    tuned = settings.task if settings.task.has("normalize") else settings.model
    normalize = tuned.flag("normalize", default=False)
    before = settings.pretrained_task
    if before.has("normalize") and before.flag("normalize", default=False) != normalize:
        raise ConfigError(
            f"{tuned.source}: normalize is {normalize}, and {not normalize} in "
            f"{before.source}: expected the same in fine-tuning as in pre-training."
        )
    return InputSpec(
        sample_rate=settings.task.integer("sample_rate", SAMPLE_RATE),
        normalize=normalize,
        normalize_epsilon=NORMALIZE_EPSILON,
        padding="masked",
        attention_mask=True,
    )


def adapter_options(settings: Settings) -> Options | None:
    """Find the options of language adapters; None for a network without.

    Those of fine-tuning count where they are set, as in fairseq's `Wav2VecEncoder`.

    Raises:
        FormatError: on a kind of layer or adapter that is not supported.
    """
    values = dict(settings.pretrained.values)
    for name in ("layer_type", "adp_num", "adp_dim", "adp_act_fn", "adp_trf_idx"):
        if settings.model.has(name):
            values[name] = settings.model.values[name]
    options = Options(values=values, source=settings.model.source)
    kind = options.text("layer_type", "transformer")
    if kind == "transformer":
        return None
    if kind != "trf_adp":
        raise _unsupported(options, "layer_type", "'transformer' or 'trf_adp'")
    if options.text("adp_act_fn", "relu") != "relu":
        raise _unsupported(options, "adp_act_fn", "'relu'")
    layers = settings.pretrained.integer("encoder_layers", 12)
    reach = options.text("adp_trf_idx", "all")
    parts = reach.split(":")
    everywhere = len(parts) in (1, 2, 3) and all(re.fullmatch(r"\d{1,4}", part) for part in parts)
    if reach != "all" and not (
        everywhere and list(range(*map(int, parts)))[:layers] == list(range(layers))
    ):
        raise _unsupported(options, "adp_trf_idx", f"'all' or '0:{layers}'")
    return options


@dataclass(frozen=True, kw_only=True)
class _Style:
    """Nested settings (new) or flat ones (old), asked for in the same way."""

    values: Mapping[str, Any]
    flat: bool
    source: str
    root: Mapping[str, Any]

    @classmethod
    def find(cls, checkpoint: Mapping[str, Any], source: object) -> "_Style":
        """Find out the style of a checkpoint."""
        new, old = checkpoint.get("cfg"), checkpoint.get("args")
        if isinstance(new, Mapping) and new:
            return cls(values=new, flat=False, source=f"{source}: cfg", root=new)
        if isinstance(old, Mapping) and old:
            return cls(values=old, flat=True, source=f"{source}: args", root={})
        raise FormatError(
            f"{source} has no settings: expected a checkpoint of fairseq with cfg or args, found "
            f"{', '.join(sorted(map(str, checkpoint))[:8]) or 'nothing'}."
        )

    def group(self, name: str) -> Options:
        """Return a group of options; all there are in the old style."""
        if self.flat:
            return Options(values=self.values, source=self.source)
        part = self.values.get(name)
        values = part if isinstance(part, Mapping) else {}
        resolved = {key: _resolve(value, self.root) for key, value in values.items()}
        return Options(values=resolved, source=f"{self.source}.{name}")


def _resolve(value: Any, root: Mapping[str, Any]) -> Any:
    """Follow a reference such as "${task.normalize}", which omegaconf stores as it is."""
    for _ in range(_MOST_REFERENCES):
        found = re.fullmatch(r"\$\{([A-Za-z0-9_.]+)\}", value) if isinstance(value, str) else None
        if found is None:
            return value
        value = root
        for part in found[1].split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    return None


_OTHER_NETWORKS: Mapping[str, str] = {
    "wav2vec": "wav2vec of 2019 or vq-wav2vec",
    "audio_cpc": "wav2vec of 2019",
    "wav2vec_seq2seq": "a sequence-to-sequence recogniser",
    "wav2vec2_classification": "a classifier",
    "wav2vec_classification": "a classifier",
    "wav2vec2_laser": "a sentence encoder",
    "hubert": "HuBERT",
    "hubert_ctc": "HuBERT",
    "hubert_seq2seq": "HuBERT",
    "data2vec_audio": "data2vec",
    "data2vec_multi": "data2vec 2",
}
"""Networks of fairseq that are recognised and not read -> what they are."""


def _network(name: Any, *, source: str) -> Network:
    """Tell which network a name means."""
    if name in ("wav2vec2", "wav2vec_ctc"):
        return name
    if isinstance(name, str) and name in _OTHER_NETWORKS:
        raise FormatError(
            f"{source}: the network {name!r} is {_OTHER_NETWORKS[name]}, which is not supported: "
            "expected a pre-trained wav2vec 2.0 ('wav2vec2') or one fine-tuned with CTC "
            "('wav2vec_ctc')."
        )
    raise FormatError(
        f"{source}: the network {name!r} is not supported: expected 'wav2vec2' or 'wav2vec_ctc'."
    )


_ONLY_SUPPORTED: Mapping[str, object] = {
    "activation_fn": "gelu",
    "quantize_input": False,
    "pos_conv_depth": 1,
    "conv_pos_batch_norm": False,
    "crop_seq_to_multiple": 1,
}
"""Options of the encoder -> the only value of them that is known here."""

_ONLY_SUPPORTED_HEADS: Mapping[str, object] = {
    "quantize_targets": True,
    "target_glu": False,
    "quantizer_depth": 1,
}
"""The same for what pre-training puts on top; a fine-tuned network has dropped it."""

_ONLY_SUPPORTED_CTC: Mapping[str, object] = {"blank_weight": 0}
"""The same for the CTC head."""

_DEFAULTS: Mapping[str, object] = {"quantize_targets": False}
"""Defaults of fairseq where they are not the supported value."""

_TRAINING_ONLY: Mapping[str, object] = {
    "mask_selection": "static",
    "mask_other": 0,
    "no_mask_overlap": False,
    "mask_dropout": 0,
    "mask_channel_before": False,
    "mask_channel_selection": "static",
    "mask_channel_other": 0,
    "no_mask_channel_overlap": False,
    "negatives_from_everywhere": False,
    "cross_sample_negatives": 0,
    "codebook_negatives": 0,
}
"""Options of training that are not followed here, with what training here does."""


def _refuse_unsupported(settings: Settings) -> None:
    """Refuse options that change what the network computes; mention those of training."""
    tables = [(settings.pretrained, _ONLY_SUPPORTED)]
    if settings.network == "wav2vec2":
        tables.append((settings.pretrained, _ONLY_SUPPORTED_HEADS))
    else:
        tables.append((settings.model, _ONLY_SUPPORTED_CTC))
    for options, table in tables:
        for name, supported in table.items():
            if options.get(name, _DEFAULTS.get(name, supported)) != supported:
                raise _unsupported(options, name, repr(supported))
    odd = [
        f"{name} = {settings.model.get(name, usual)!r}"
        for name, usual in _TRAINING_ONLY.items()
        if settings.model.get(name, usual) != usual
    ]
    if odd:
        logger.warning(
            "%s: trained with options that training here does not have (the network is the same): "
            "%s",
            settings.model.source,
            ", ".join(odd),
        )


def _unsupported(options: Options, name: str, expected: str) -> FormatError:
    """Say which option is not supported."""
    return FormatError(
        f"{options.source}: the option {name} = {options.values.get(name)!r} is not supported: "
        f"expected {expected}. This model cannot be loaded."
    )


def _encoder_config(
    settings: Settings, *, conv_norm: str, conv_bias: bool, adapter_dim: int
) -> EncoderConfig:
    """Translate the settings of the encoder: sizes of pre-training, dropout of the last run."""
    sizes, last = settings.pretrained, settings.model
    layers = read_triples(
        sizes.get("conv_feature_layers", DEFAULT_CONV_LAYERS),
        what=f"{sizes.source}.conv_feature_layers",
    )
    ctc = settings.network == "wav2vec_ctc"
    usual = 0.0 if ctc else 0.1
    return EncoderConfig(
        conv_layers=tuple(
            ConvLayer(channels=channels, kernel=kernel, stride=stride)
            for channels, kernel, stride in layers
        ),
        conv_norm="layer" if conv_norm == "layer" else "group",
        conv_bias=conv_bias,
        dim=sizes.integer("encoder_embed_dim", 768),
        ffn_dim=sizes.integer("encoder_ffn_embed_dim", 3072),
        layers=sizes.integer("encoder_layers", 12),
        heads=sizes.integer("encoder_attention_heads", 12),
        norm_first=sizes.flag("layer_norm_first", default=False),
        positional_kernel=sizes.integer("conv_pos", 128),
        positional_groups=sizes.integer("conv_pos_groups", 16),
        dropout=last.number("dropout", usual, most=1),
        attention_dropout=last.number("attention_dropout", usual, most=1),
        activation_dropout=last.number("activation_dropout", 0.0, most=1),
        input_dropout=last.number("dropout_input", 0.0, most=1),
        layer_drop=last.number("layerdrop" if ctc else "encoder_layerdrop", 0.0, most=1),
        feature_grad_scale=last.number("feature_grad_mult", 0.0 if ctc else 1.0),
        adapter_dim=adapter_dim,
    )


def _pretraining_config(settings: Settings, encoder: EncoderConfig) -> PretrainingConfig:
    """Translate the settings of quantiser, masks and loss."""
    model = settings.model
    projection = model.integer("final_dim", 0, least=0) or encoder.dim
    start, end, decay = read_numbers(
        model.get("latent_temp", (2, 0.5, 0.999995)),
        count=3,
        what=f"{model.source}.latent_temp",
    )
    if not (0 < end <= start < math.inf and 0 < decay <= 1):
        raise model.wrong("latent_temp", "a start, an end below it, and a factor up to 1")
    floor_at = 1.0
    if end < start and decay < 1:
        floor_at = math.log(end / start) / math.log(decay) / settings.updates
    weights = settings.criterion.get("loss_weights", None)
    diversity, penalty = 0.1, 10.0 if encoder.conv_norm == "group" else 0.0
    if isinstance(weights, list | tuple) and weights:
        pair = list(weights) if len(weights) > 1 else [*weights, *weights]
        diversity, penalty = read_numbers(
            pair[:2], count=2, what=f"{settings.criterion.source}.loss_weights"
        )
    return PretrainingConfig(
        encoder=encoder,
        quantizer=QuantizerConfig(
            groups=model.integer("latent_groups", 2),
            entries=model.integer("latent_vars", 320),
            dim=model.integer("latent_dim", 0, least=0) or projection,
            temperature_start=start,
            temperature_end=end if decay < 1 else start,
            temperature_floor_at=floor_at,
        ),
        masking=_masking(model, time=0.65, masks=True),
        projection_dim=projection,
        feature_dropout=model.number("dropout_features", 0.0, most=1),
        distractors=model.integer("num_negatives", 100),
        contrastive_temperature=model.number("logit_temp", 0.1),
        diversity_weight=diversity,
        feature_penalty_weight=penalty,
    )


def _masking(model: Options, *, time: float, masks: bool) -> MaskingConfig:
    """Translate the masks of training, if there are any."""
    return MaskingConfig(
        time_probability=model.number("mask_prob", time) if masks else 0.0,
        time_span_frames=model.integer("mask_length", 10),
        channel_probability=model.number("mask_channel_prob", 0.0) if masks else 0.0,
        channel_span=model.integer("mask_channel_length", 10),
    )


def _updates(value: Any) -> float:
    """Read a number of updates, which some files keep as text; 0 if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
