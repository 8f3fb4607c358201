"""Model folders of Hugging Face transformers: wav2vec 2.0 with or without a CTC head.

Only safetensors weights are read, and nothing of transformers is needed. Every option that changes
what the network computes is either honoured or refused by name.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.errors import (
    AlphabetError,
    CheckpointError,
    ConfigError,
    FormatError,
    MissingExtraError,
    shorten,
)
from unheard.files import write_json_atomic
from unheard.interop import keymap, storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.reading import Reading
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.stored import Place
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    MaskedUnitConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.text.alphabet import Alphabet, Case

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
VOCABULARY_FILE = "vocab.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
FEATURE_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"

TEXT_FILES = (
    storage.CONFIG_FILE,
    VOCABULARY_FILE,
    ADDED_TOKENS_FILE,
    TOKENIZER_FILE,
    SPECIAL_TOKENS_FILE,
    FEATURE_FILE,
    PROCESSOR_FILE,
)

HUB_FILES = (*TEXT_FILES, INDEX_FILE, WEIGHTS_FILE, "model-*-of-*.safetensors")
"""All that is ever fetched of a repository."""

FEATURE_EPSILON = 1e-7
"""Added to the variance of each utterance: `zero_mean_unit_var_norm` of transformers."""

ARCHITECTURES = ("Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining", "Wav2Vec2Model")


def open_model(
    folder: str | Path,
    *,
    adapter: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Reading:
    """Understand a folder that transformers wrote: Wav2Vec2ForCTC, ...ForPreTraining or ...Model.

    A Wav2Vec2Model has no heads: it becomes a pre-training model whose quantiser and projections
    are freshly drawn, always the same. `initialised` names what was not in the files, which may
    also be the mask embedding of a model trained without masking.

    Args:
        folder: with config.json and safetensors weights; for a CTC model with a vocabulary, unless
            its emissions are all that is wanted.
        adapter: language whose adapter to use.
        provenance: to begin with; source and architecture are added.

    Raises:
        FormatError: if the folder is of another kind of model, or has an option that is not
            supported; named.
        ConfigError: if a setting is not valid, or there is no such adapter.
        CheckpointError: if weights are damaged or do not fit the settings.
        AlphabetError: if the vocabulary does not fit the head.
    """
    source = Path(folder)
    settings = Settings(values=_read_settings(source), source=source / storage.CONFIG_FILE)
    architecture = _architecture(settings)
    _refuse_unsupported(settings)
    if adapter is not None:
        raise ConfigError(f"{source} has no adapter {adapter!r}: expected none. Leave it out.")
    store = SafetensorsStore(_weight_files(source))
    architecture = architecture or _guess_architecture(store.tensors)
    config: CtcConfig | PretrainingConfig
    if architecture == "Wav2Vec2ForCTC":
        config = ctc_config(settings)
    else:
        config = pretraining_config(settings)
    network = storage.build(config, source=settings.source)
    alphabet = None
    if isinstance(config, CtcConfig):
        alphabet = read_alphabet(source, vocab=config.vocab)
    input_spec = read_input_spec(source, conv_norm=config.encoder.conv_norm)
    names = keymap.names_in_file(network.state_dict(), store.tensors)
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(config, PretrainingConfig):
        quantizer = config.quantizer
        size = quantizer.dim // quantizer.groups
        shapes["quantizer.codebook"] = (1, quantizer.groups * quantizer.entries, size)
    reading = Reading(
        format="transformers",
        architecture=architecture,
        config=config,
        alphabet=alphabet,
        input_spec=input_spec,
        provenance={
            "source": str(source),
            **(provenance or {}),
            "format": "transformers",
            "architecture": architecture,
        },
        store=store,
        places={name: Place(name=place) for name, place in names.items()},
        shapes=shapes,
        initialised=_absent(
            config, names, store.tensors, settings, headless=architecture == "Wav2Vec2Model"
        ),
    )
    storage.compare(reading)
    return reading


def fetch(name: str) -> tuple[Path, dict[str, str]]:
    """Fetch a model from the Hugging Face hub, or find it in the local cache.

    Only files of known names come (`HUB_FILES`); no code of a repository ever runs.

    Args:
        name: "organisation/model", optionally with "@revision".

    Returns:
        The local folder, and what to remember of where it came from, with the exact commit.

    Raises:
        MissingExtraError: if huggingface_hub is not installed.
        ConfigError: if there is no such model or it cannot be reached.
    """
    repository, _, revision = name.partition("@")
    if not is_hub_name(repository):
        raise ConfigError(
            f"{name!r} is not a name on the Hugging Face hub: expected organisation/model or "
            "organisation/model@revision."
        )
    try:
        import huggingface_hub
    except (ImportError, OSError):
        raise MissingExtraError(
            "huggingface_hub", extra="hub", purpose=f"Fetching {repository}"
        ) from None
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=list(HUB_FILES)
            )
        )
    # The client's errors derive from OSError or ValueError, those of its transport from neither.
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"{repository} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {first_line}). Expected a model folder of that name here, "
            "or a public model and a network. Check the name and the connection, or give a local "
            "folder."
        ) from error
    return folder, {"source": f"hf:{repository}", "revision": folder.name}


def is_hub_name(name: str) -> bool:
    """Whether a name has the form organisation/model of the hub."""
    parts = name.split("/")
    return len(parts) == 2 and all(
        part
        and part[0].isalnum()
        and all(c.isascii() and (c.isalnum() or c in "-_.") for c in part)
        for part in parts
    )


def model_files(folder: Path) -> list[Path]:
    """List the files of a folder that decide what its model computes."""
    texts = [folder / name for name in TEXT_FILES]
    return [path for path in texts if path.is_file()] + _weight_files(folder)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A config.json with typed, checked access; transformers' defaults for what it leaves out."""

    values: Mapping[str, Any]
    source: Path

    def integer(self, name: str, default: int, *, least: int = 1) -> int:
        """Read a whole number of at least `least`."""
        value = self.values.get(name, default)
        if type(value) is not int or value < least:
            raise self._wrong(name, f"a whole number of at least {least}", value)
        return value

    def number(self, name: str, default: float, *, most: float = math.inf) -> float:
        """Read a finite number from 0 to `most`."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not 0 <= value <= most or not math.isfinite(value):
            raise self._wrong(name, f"a number from 0 to {most}", value)
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.values.get(name, default)
        if type(value) is not bool:
            raise self._wrong(name, "true or false", value)
        return value

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """Read one of some words."""
        value = self.values.get(name, default)
        if value not in choices:
            raise self._wrong(name, " or ".join(map(repr, choices)), value)
        return value

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Read a list of whole numbers of at least 1."""
        value = self.values.get(name, default)
        if (
            not isinstance(value, list | tuple)
            or not value
            or not all(type(item) is int and item >= 1 for item in value)
        ):
            raise self._wrong(name, "a list of whole numbers of at least 1", value)
        return tuple(value)

    def _wrong(self, name: str, expected: str, value: object) -> ConfigError:
        """Say which setting is wrong."""
        text = repr(value)
        shown = text if len(text) <= 60 else text[:59] + "…"
        return ConfigError(
            f"{self.source}: {name} is not valid: expected {expected}, found {shown}."
        )


def encoder_config(settings: Settings) -> EncoderConfig:
    """Translate the settings of the encoder.

    transformers has no factor on the gradient of the convolutions: it is 1.
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
            norm_first=settings.flag("do_stable_layer_norm", default=False),
            positional_kernel=settings.integer("num_conv_pos_embeddings", 128),
            positional_groups=settings.integer("num_conv_pos_embedding_groups", 16),
            norm_epsilon=settings.number("layer_norm_eps", 1e-5),
            dropout=settings.number("hidden_dropout", 0.1, most=1),
            attention_dropout=settings.number("attention_dropout", 0.1, most=1),
            activation_dropout=settings.number("activation_dropout", 0.1, most=1),
            input_dropout=settings.number("feat_proj_dropout", 0.0, most=1),
            layer_drop=settings.number("layerdrop", 0.1, most=1),
        )
    except ConfigError as error:
        raise ConfigError(_located(error, settings.source)) from error


def ctc_config(settings: Settings) -> CtcConfig:
    """Translate the settings of a CTC model; masking as transformers fine-tunes with it."""
    masks = settings.flag("apply_spec_augment", default=True)
    return CtcConfig(
        encoder=encoder_config(settings),
        vocab=settings.integer("vocab_size", 32),
        head_dropout=settings.number("final_dropout", 0.1, most=1),
        masking=MaskingConfig(
            time_probability=settings.number("mask_time_prob", 0.05) if masks else 0.0,
            time_span_frames=settings.integer("mask_time_length", 10),
            time_min_spans=settings.integer("mask_time_min_masks", 2, least=0),
            channel_probability=settings.number("mask_feature_prob", 0.0) if masks else 0.0,
            channel_span=settings.integer("mask_feature_length", 10),
            channel_min_spans=settings.integer("mask_feature_min_masks", 0, least=0),
        ),
    )


def pretraining_config(settings: Settings) -> PretrainingConfig:
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
        raise ConfigError(_located(error, settings.source)) from error
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


def read_input_spec(folder: Path, *, conv_norm: str) -> InputSpec:
    """Read what a model expects of its input.

    Both places where transformers has kept it are read: preprocessor_config.json, and since
    version 5 processor_config.json. Without either: normalised utterances, as the feature
    extractor's own defaults say, and an attention mask for layer-norm models alone.

    Raises:
        FormatError: if the feature extractor is of another kind or pads otherwise.
    """
    path = folder / FEATURE_FILE
    values: Mapping[str, Any] = {}
    if path.is_file():
        values = storage.read_json_object(path)
    elif (folder / PROCESSOR_FILE).is_file():
        path = folder / PROCESSOR_FILE
        part = storage.read_json_object(path).get("feature_extractor", {})
        values = part if isinstance(part, dict) else {}
    settings = Settings(values=values, source=path)
    kind = values.get("feature_extractor_type", "Wav2Vec2FeatureExtractor")
    expected = {"feature_size": 1, "padding_value": 0.0, "padding_side": "right"}
    odd = [
        f"{name} {values[name]!r}"
        for name, value in expected.items()
        if name in values and values[name] != value
    ]
    if kind != "Wav2Vec2FeatureExtractor" or odd:
        raise FormatError(
            f"{path} asks for input that is not supported: expected a Wav2Vec2FeatureExtractor of "
            f"one channel, padded with zeros on the right, found {', '.join([str(kind), *odd])}."
        )
    return InputSpec(
        sample_rate=settings.integer("sampling_rate", SAMPLE_RATE),
        normalize=settings.flag("do_normalize", default=True),
        normalize_epsilon=FEATURE_EPSILON,
        padding="masked",
        attention_mask=settings.flag("return_attention_mask", default=conv_norm == "layer"),
    )


def read_alphabet(folder: Path, *, vocab: int) -> Alphabet | None:
    """Read the vocabulary of a CTC model; None when the folder has none.

    The padding token is the CTC blank. Tokens of a tokenizer that writes lower case
    (`do_lower_case`) are made lower case here. Special tokens that the tokenizer added beyond the
    model's outputs, as it does with sentence marks, are left out.

    Args:
        folder: the model folder.
        vocab: outputs of the head.

    Raises:
        AlphabetError: if the tokens are not one for each output, or there is no blank.
        FormatError: if a file is not what it should be.
    """
    path = folder / VOCABULARY_FILE
    if not path.is_file():
        logger.warning(
            "%s is not there: the model has emissions, but no alphabet to write text with.", path
        )
        return None
    tokens = dict(storage.read_json_object(path))
    if tokens and all(isinstance(value, dict) for value in tokens.values()):
        raise FormatError(
            f"{path} holds the vocabularies of {len(tokens)} languages: expected one. Models with "
            "a vocabulary and adapter for each language are not supported."
        )
    described = _read_if_there(folder / TOKENIZER_FILE)
    roles = {**_read_if_there(folder / SPECIAL_TOKENS_FILE), **described}
    added, marks = _added_tokens(folder, described)
    for token, number in added.items():
        tokens.setdefault(token, number)
    pad = _content(roles.get("pad_token", "<pad>"))
    unknown = _content(roles.get("unk_token", "<unk>"))
    boundary = _content(roles.get("word_delimiter_token", "|"))
    special = {_content(roles.get("bos_token", "<s>")), _content(roles.get("eos_token", "</s>"))}
    extra = roles.get("additional_special_tokens") or roles.get("extra_special_tokens") or []
    special.update(_content(token) for token in extra)
    special.update(marks)
    duties = [pad, boundary, unknown]
    special -= {*duties, None}

    for token in [name for name, number in tokens.items() if name in special | {unknown}]:
        if type(tokens[token]) is int and tokens[token] >= vocab:
            logger.info("%s: left out %r, which is no output of the model", path, token)
            del tokens[token]
    if pad is None or pad not in tokens:
        raise AlphabetError(
            f"{path} has no blank: expected the padding token {pad!r} among its {len(tokens)} "
            f"tokens, which CTC models of transformers use as blank. Name it in {TOKENIZER_FILE}."
        )
    if len(tokens) != vocab:
        raise AlphabetError(
            f"{path} does not fit the model: expected {vocab} tokens, one for each output, found "
            f"{len(tokens)}{_numbering(tokens, vocab)}. The files belong to different models."
        )
    reserved = {token for token in (*duties, *special) if token is not None}
    if roles.get("do_lower_case") is True:
        tokens = _lower(tokens, reserved)
    try:
        return Alphabet.from_vocabulary(
            tokens,
            blank=pad,
            word_boundary=boundary if boundary in tokens else None,
            unknown=unknown if unknown in tokens else None,
            special=tuple(sorted(name for name in special if name is not None and name in tokens)),
            case=_case_of(token for token in tokens if token not in reserved),
        )
    except AlphabetError as error:
        raise AlphabetError(_located(error, path)) from error


def save_huggingface(bundle: ModelBundle, folder: str | Path) -> Path:
    """Write a model as a folder that transformers loads, whole or not at all.

    transformers normalises with an epsilon of its own (`FEATURE_EPSILON`) and lets padding into
    the statistics of group-norm models: one utterance at a time gives what this package gives.

    Args:
        bundle: any model; of a masked-unit model the encoder is written, as Wav2Vec2Model: its
            head has no counterpart there.
        folder: where; a new or empty folder, or an older folder of transformers.

    Returns:
        The folder.

    Raises:
        CheckpointError: if a weight is not finite.
        FormatError: if the folder holds something else.
    """
    target = Path(folder)
    weights = bundle.model.state_dict()
    storage.check_finite(weights, source=f"the model for {target}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if isinstance(bundle.config, MaskedUnitConfig) and not name.startswith("encoder."):
            continue
        if name == "quantizer.codebook":
            tensor = tensor.flatten(0, 1)[None]  # (groups, entries, size) -> (1, all, size)
        tensors[keymap.transformers_name(name)] = tensor
    with storage.atomic_folder(target, is_ours=_is_transformers_folder) as temporary:
        storage.write_tensors(temporary / WEIGHTS_FILE, tensors)
        write_json_atomic(temporary / storage.CONFIG_FILE, _settings_of(bundle))
        write_json_atomic(
            temporary / FEATURE_FILE,
            {
                "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                "feature_size": 1,
                "sampling_rate": bundle.input_spec.sample_rate,
                "padding_value": 0.0,
                "padding_side": "right",
                "do_normalize": bundle.input_spec.normalize,
                "return_attention_mask": bundle.input_spec.attention_mask,
            },
        )
        if bundle.alphabet is not None:
            _write_alphabet(temporary, bundle.alphabet)
    return target


def _settings_of(bundle: ModelBundle) -> dict[str, Any]:
    """Write a configuration in the words of transformers."""
    config, encoder = bundle.config, bundle.encoder_config
    if not isinstance(config, CtcConfig | PretrainingConfig | MaskedUnitConfig):
        raise FormatError(
            f"A model of {type(config).__name__} cannot be written for transformers: expected a "
            "CTC, pre-training or masked-unit model."
        )
    masking = config.masking
    masks = masking.time_probability > 0 or masking.channel_probability > 0
    settings: dict[str, Any] = {
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
        "apply_spec_augment": masks,
        # Above zero in any case: transformers has a mask embedding only then.
        "mask_time_prob": masking.time_probability if masks else 0.05,
        "mask_time_length": masking.time_span_frames,
        "mask_time_min_masks": masking.time_min_spans,
        "mask_feature_prob": masking.channel_probability,
        "mask_feature_length": masking.channel_span,
        "mask_feature_min_masks": masking.channel_min_spans,
        "dtype": str(bundle.dtype).removeprefix("torch."),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0 if bundle.alphabet is None else bundle.alphabet.blank_id,
    }
    if isinstance(config, CtcConfig):
        settings |= {
            "architectures": ["Wav2Vec2ForCTC"],
            "vocab_size": config.vocab,
            "final_dropout": config.head_dropout,
            "ctc_loss_reduction": "sum",
            "ctc_zero_infinity": True,
        }
    elif isinstance(config, PretrainingConfig):
        settings |= {
            "architectures": ["Wav2Vec2ForPreTraining"],
            "num_codevector_groups": config.quantizer.groups,
            "num_codevectors_per_group": config.quantizer.entries,
            "codevector_dim": config.quantizer.dim,
            "proj_codevector_dim": config.projection_dim,
            "feat_quantizer_dropout": config.feature_dropout,
            "num_negatives": config.distractors,
            "contrastive_logits_temperature": config.contrastive_temperature,
            "diversity_loss_weight": config.diversity_weight,
        }
    else:
        settings["architectures"] = ["Wav2Vec2Model"]
    return settings


def _write_alphabet(folder: Path, alphabet: Alphabet) -> None:
    """Write vocabulary and tokenizer settings."""
    write_json_atomic(
        folder / VOCABULARY_FILE, {token: number for number, token in enumerate(alphabet.tokens)}
    )
    roles = {
        "pad_token": alphabet.blank,
        "unk_token": alphabet.unknown,
        "bos_token": "<s>" if "<s>" in alphabet.special else None,
        "eos_token": "</s>" if "</s>" in alphabet.special else None,
    }
    write_json_atomic(
        folder / TOKENIZER_FILE,
        {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            **roles,
            "word_delimiter_token": alphabet.word_boundary,
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
        },
    )
    write_json_atomic(
        folder / SPECIAL_TOKENS_FILE,
        {role: token for role, token in roles.items() if token is not None},
    )


def _is_transformers_folder(folder: Path) -> bool:
    """Whether a folder is one of a wav2vec 2.0 model of transformers."""
    try:
        return (
            storage.read_json_object(folder / storage.CONFIG_FILE).get("model_type") == "wav2vec2"
        )
    except (OSError, FormatError):
        return False


def _read_settings(folder: Path) -> dict[str, Any]:
    """Read config.json."""
    path = folder / storage.CONFIG_FILE
    if not path.is_file():
        raise FormatError(
            f"{folder} is not a model folder: expected a {storage.CONFIG_FILE} in it, found none."
        )
    return storage.read_json_object(path)


def _architecture(settings: Settings) -> str | None:
    """Read which network the folder holds; None when it does not say."""
    kind = settings.values.get("model_type")
    if kind != "wav2vec2":
        raise FormatError(
            f"{settings.source}: models of the type {kind!r} are not supported: expected "
            "model_type 'wav2vec2'."
        )
    named = settings.values.get("architectures")
    if not named:
        return None
    if not isinstance(named, list) or len(named) != 1 or named[0] not in ARCHITECTURES:
        raise FormatError(
            f"{settings.source}: the architecture {named!r} is not supported: expected one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    return named[0]


def _guess_architecture(stored: Mapping[str, object]) -> str:
    """Tell the network from the names of its weights."""
    if "lm_head.weight" in stored:
        return "Wav2Vec2ForCTC"
    if "quantizer.codevectors" in stored:
        return "Wav2Vec2ForPreTraining"
    return "Wav2Vec2Model"


_ONLY_SUPPORTED: Mapping[str, object] = {
    "add_adapter": False,
    "adapter_attn_dim": None,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "quantization_config": None,
}
"""Options that change what the network computes -> the only value of them that is known here."""


def _refuse_unsupported(settings: Settings) -> None:
    """Refuse options that are not computed here, by name."""
    for name, supported in _ONLY_SUPPORTED.items():
        value = settings.values.get(name, supported)
        if value != supported:
            raise FormatError(
                f"{settings.source}: the option {name} = {value!r} is not supported: expected "
                f"{supported!r}. This model cannot be loaded."
            )


def _weight_files(folder: Path) -> list[Path]:
    """Find the safetensors files of a folder."""
    whole, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if whole.is_file():
        return [whole]
    if index.is_file():
        table = storage.read_json_object(index).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise FormatError(f"{index} has no weight_map: expected name -> file of each tensor.")
        names = sorted(set(map(str, table.values())))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise FormatError(
                    f"{index} names {name!r}: expected safetensors files beside it, nothing else."
                )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} is incomplete: expected {len(names)} files of weights. Fetch the "
                "missing ones.",
                missing=missing,
            )
        return [folder / name for name in names]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise FormatError(
            f"{folder} has its weights as pickles only: expected {WEIGHTS_FILE}, found "
            f"{shorten(pickled)}. A pickle can run code when it is read. Convert it with "
            "transformers (from_pretrained, then save_pretrained), or ask for a safetensors copy."
        )
    raise CheckpointError(
        f"{folder} has no weights: expected {WEIGHTS_FILE} or {INDEX_FILE}.",
        missing=[WEIGHTS_FILE],
    )


def _absent(
    config: CtcConfig | PretrainingConfig,
    names: Mapping[str, str],
    stored: Mapping[str, object],
    settings: Settings,
    *,
    headless: bool,
) -> frozenset[str]:
    """Name the weights that a sound folder may lack; anything else missing is an error later.

    transformers leaves the mask embedding out of models trained without masking, and published
    CTC models lack it anyway.
    """
    unmasked = not (
        settings.number("mask_time_prob", 0.05) or settings.number("mask_feature_prob", 0.0)
    )
    absent: set[str] = set()
    if headless or isinstance(config, CtcConfig) or unmasked:
        absent.add("encoder.mask_embedding")
    if headless:
        absent.update(name for name in names if not name.startswith("encoder."))
    return frozenset(name for name in absent if names[name] not in stored)


def _read_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object, or nothing when there is no such file."""
    return storage.read_json_object(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """Read a token that is text, or an object around its text."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _added_tokens(folder: Path, described: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Read tokens kept outside the vocabulary, and which of all tokens are marked special.

    The word boundary of some folders is marked so too; its duty goes before.
    """
    tokens = dict(_read_if_there(folder / ADDED_TOKENS_FILE))
    marks: set[str] = set()
    table = described.get("added_tokens_decoder")
    for number, token in (table if isinstance(table, dict) else {}).items():
        text = _content(token)
        if text is None or not number.isdecimal():
            raise FormatError(
                f"{folder / TOKENIZER_FILE}: expected a number and a token in "
                f"added_tokens_decoder, found {number!r}: {token!r}."
            )
        tokens.setdefault(text, int(number))
        if isinstance(token, dict) and token.get("special") is True:
            marks.add(text)
    return tokens, marks


def _numbering(tokens: Mapping[str, Any], vocab: int) -> str:
    """Say which numbers are missing or too many."""
    numbers = {number for number in tokens.values() if type(number) is int}
    holes = [number for number in range(vocab) if number not in numbers]
    outside = [
        f"{number} ({name!r})" for name, number in tokens.items() if number not in range(vocab)
    ]
    text = ""
    if holes:
        text += f"; outputs without a token: {shorten(map(str, holes))}"
    if outside:
        text += f"; tokens without an output: {shorten(outside)}"
    return text


def _lower(tokens: Mapping[str, int], reserved: set[str]) -> dict[str, int]:
    """Make tokens lower case where that does not make two of them one."""
    return {
        token if token in reserved or token.lower() in tokens else token.lower(): number
        for token, number in tokens.items()
    }


def _case_of(tokens: Iterable[str]) -> Case:
    """Tell the case of an alphabet: that of all letters that have one, or "keep"."""
    text = "".join(tokens)
    if text != text.lower() and text == text.upper():
        return "upper"
    if text != text.upper() and text == text.lower():
        return "lower"
    return "keep"


def _located(error: Exception, path: Path) -> str:
    """Put the file before a message."""
    return f"{path}: {error}"
