"""Adapters of many languages in a folder of transformers: write, find and list them.

    folder/
      config.json                     adapter_attn_dim: width of the adapters
      model.safetensors               the network, with adapter and head of the base language
      adapter.<language>.safetensors  adapter and head of one language
      vocab.json                      {language: {token: number}}
      tokenizer_config.json           special tokens of all languages; target_lang: base language

Source: transformers 5.23 models/wav2vec2/modeling_wav2vec2.py (`load_adapter`) and
tokenization_wav2vec2.py (`set_target_lang`).
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError, shorten
from unheard.files import atomic_path, locked, write_json_atomic
from unheard.interop import storage
from unheard.interop.adapters import check_name, is_of_language
from unheard.interop.bundle import ModelBundle
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.stored import Place, StoredAdapter
from unheard.models.config import EncoderConfig
from unheard.text.alphabet import Alphabet

ADAPTER_NAMES: Mapping[str, str] = {
    "encoder.transformer.layers.{}.adapter.norm.weight": (
        "wav2vec2.encoder.layers.{}.adapter_layer.norm.weight"
    ),
    "encoder.transformer.layers.{}.adapter.norm.bias": (
        "wav2vec2.encoder.layers.{}.adapter_layer.norm.bias"
    ),
    "encoder.transformer.layers.{}.adapter.down.weight": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_1.weight"
    ),
    "encoder.transformer.layers.{}.adapter.down.bias": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_1.bias"
    ),
    "encoder.transformer.layers.{}.adapter.up.weight": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_2.weight"
    ),
    "encoder.transformer.layers.{}.adapter.up.bias": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_2.bias"
    ),
    "head.weight": "lm_head.weight",
    "head.bias": "lm_head.bias",
}
"""Name here -> name in an adapter file; "{}" is the number of a layer."""

_BASE_NAMES: Mapping[str, str] = {
    "encoder.feature_norm.weight": "wav2vec2.feature_projection.layer_norm.weight",
    "encoder.transformer.norm.bias": "wav2vec2.encoder.layer_norm.bias",
    "encoder.transformer.layers.{}.attention_norm.weight": (
        "wav2vec2.encoder.layers.{}.layer_norm.weight"
    ),
    "encoder.transformer.layers.{}.inner.bias": (
        "wav2vec2.encoder.layers.{}.feed_forward.intermediate_dense.bias"
    ),
}
"""Small weights that tell whether two networks are the same but for their languages."""

VOCABULARY_FILE = "vocab.json"
TOKENIZER_FILE = "tokenizer_config.json"

_SAME_WEIGHTS = 1e-2
"""Difference up to which weights are the same, rounded to whatever type they are stored in."""


def adapter_path(folder: Path, language: str) -> Path:
    """Path of a language's adapter in a folder of transformers.

    Raises:
        ConfigError: if the language cannot be part of a file's name.
    """
    return folder / f"adapter.{check_name(language)}.safetensors"


def stored_adapter(path: Path, alphabet: Alphabet) -> StoredAdapter:
    """Describe the adapter in a file of transformers; its header is read, its weights are not.

    Args:
        path: adapter.<language>.safetensors.
        alphabet: symbols of its head.

    Raises:
        CheckpointError: if the file is missing or unsound, holds other tensors than an adapter
            has, or a head that does not fit the alphabet.
    """
    store = SafetensorsStore([path])
    ours = {theirs: own for own, theirs in ADAPTER_NAMES.items()}
    places: dict[str, Place] = {}
    unexpected: list[str] = []
    for name in store.tensors:
        template, number = re.subn(r"\.\d+\.", ".{}.", name, count=1)
        if template not in ours:
            unexpected.append(name)
            continue
        found = re.search(r"\.(\d+)\.", name)
        own = ours[template]
        places[own.replace("{}", found[1]) if number and found else own] = Place(name=name)
    head = store.tensors.get(ADAPTER_NAMES["head.weight"])
    if unexpected or head is None:
        raise CheckpointError(
            f"{path} is not an adapter of one language: expected adapters of layers and lm_head.",
            missing=[] if head else [ADAPTER_NAMES["head.weight"]],
            unexpected=unexpected,
        )
    if head.shape[:1] != (len(alphabet),):
        raise CheckpointError(
            f"{path} does not fit its vocabulary: expected a head with {len(alphabet)} outputs, "
            f"found shape {head.shape}. The files belong to different versions of the model."
        )
    return StoredAdapter(alphabet=alphabet, places=places, store=store)


def list_adapters(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """List the languages that a folder of transformers has adapters for.

    A language counts if it has a vocabulary and weights: a file of its own, or, for the one that
    `target_lang` names, the file of the network.

    Args:
        folder: with config.json and vocab.json.

    Returns:
        Language -> file with its weights, in the order of the vocabularies; empty for a model
        without adapters.

    Raises:
        FormatError: if it is not a model folder, or a file in it is not sound.
        ConfigError: if a language has a name that no file can have.
    """
    source = Path(folder)
    settings = _settings(source)
    if not settings.get("adapter_attn_dim"):
        return {}
    tokenizer = _read_optional(source / TOKENIZER_FILE)
    vocabularies = _read_optional(source / VOCABULARY_FILE)
    if not _is_nested(vocabularies):
        return {}
    found: dict[str, Path] = {}
    for language in map(check_name, vocabularies):
        own = [source / f"adapter.{language}.{kind}" for kind in ("safetensors", "bin")]
        shared = [] if language != tokenizer.get("target_lang") else _base_files(source)
        if files := [path for path in [*own, *shared[:1]] if path.is_file()]:
            found[language] = files[0]
    return found


def save_adapter(
    bundle: ModelBundle,
    folder: str | os.PathLike[str],
    *,
    base_language: str | None = None,
) -> Path:
    """Add the language of a model to a folder that holds the rest of it, or replace it there.

    Everything else in the folder stays as it is. The adapter is written first and its vocabulary
    after it, each whole or not at all; several processes may add languages at once.

    The blank, the word boundary and the unknown token take the names that they have in the folder.
    Where their numbers are others than in its other languages, transformers decodes rightly, but
    encodes rightly only after `tokenizer.set_target_lang(language)`.

    Args:
        bundle: a model with an adapter, whose language is stored.
        folder: a folder of transformers with the same network: where the model came from, or
            where `save_model` wrote it.
        base_language: what to call the language that the folder has, if its vocabulary has no
            name yet. It is the one that transformers uses when nobody names a language.

    Returns:
        The adapter's file.

    Raises:
        ConfigError: if the model has no adapter, or the folder's vocabulary needs a name.
        CheckpointError: if the folder holds another network, or weights are not finite.
        FormatError: if the folder is not one of transformers.
        AlphabetError: if the language cannot be written with the folder's special tokens.
    """
    target = Path(folder)
    language, alphabet = bundle.adapter, bundle.alphabet
    if language is None or alphabet is None or not bundle.encoder_config.adapter_dim:
        raise ConfigError(
            "There is no adapter to store: expected a model with the adapter and alphabet of a "
            "language, got one without. Make one with `new_adapter`."
        )
    path = adapter_path(target, language)
    state = bundle.model.state_dict()
    weights = {_their_name(name): state[name] for name in state if is_of_language(name)}
    storage.check_finite(weights, source=f"the adapter {language!r}")
    _check_settings(_settings(target), bundle.encoder_config, source=target)
    _check_base(target, bundle)
    with locked(target / f"{VOCABULARY_FILE}.lock"):
        tokenizer = _read_optional(target / TOKENIZER_FILE)
        vocabularies = _named(target, tokenizer, base_language=base_language, language=language)
        base = base_language or tokenizer.get("target_lang")
        vocabulary = _vocabulary(alphabet, tokenizer, source=target)
        if language == base and vocabularies.get(language, vocabulary) != vocabulary:
            raise ConfigError(
                f"{language!r} is the language of the network's own file in {target}, with "
                f"another vocabulary: expected the same {len(vocabularies[language])} tokens, "
                f"got {len(vocabulary)}. Store the whole model in a new folder instead."
            )
        with atomic_path(path) as temporary:
            storage.write_tensors(temporary, weights)
        write_json_atomic(target / VOCABULARY_FILE, {**vocabularies, language: vocabulary})
        if not tokenizer.get("target_lang"):
            write_json_atomic(
                target / TOKENIZER_FILE,
                {
                    "tokenizer_class": "Wav2Vec2CTCTokenizer",
                    **tokenizer,
                    "target_lang": base or language,
                },
            )
    return path


def _their_name(name: str) -> str:
    """Name of a weight of a language in an adapter file."""
    template, _ = re.subn(r"\.\d+\.", ".{}.", name, count=1)
    number = re.search(r"\.(\d+)\.", name)
    return ADAPTER_NAMES[template].replace("{}", number[1] if number else "")


def _settings(folder: Path) -> dict[str, Any]:
    """Read the configuration of a folder of transformers."""
    path = folder / storage.CONFIG_FILE
    if not path.is_file():
        raise FormatError(
            f"{folder} is not a model folder: expected {storage.CONFIG_FILE}, found none. Store "
            'the model there first: save_model(..., format="huggingface").'
        )
    settings = storage.read_json_object(path)
    if settings.get("model_type") != "wav2vec2":
        raise FormatError(
            f"{path} is not of a model that takes adapters: expected model_type 'wav2vec2', found "
            f"{settings.get('model_type')!r}. Convert it first: unheard convert --to huggingface."
        )
    return settings


def _read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object, or nothing where there is no file."""
    return storage.read_json_object(path) if path.exists() else {}


def _is_nested(vocabularies: Mapping[str, Any]) -> bool:
    """Whether vocabularies are of languages, rather than one of tokens."""
    return bool(vocabularies) and all(isinstance(one, dict) for one in vocabularies.values())


def _base_files(folder: Path) -> list[Path]:
    """Files with the network itself, the safest kind first."""
    safe = [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if not path.name.startswith("adapter.")
    ]
    return safe or sorted(folder.glob("pytorch_model*.bin"))


def _check_settings(settings: Mapping[str, Any], encoder: EncoderConfig, *, source: Path) -> None:
    """Refuse a folder whose network has another shape."""
    wanted = {
        "adapter_attn_dim": encoder.adapter_dim,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.layers,
    }
    wrong = [
        f"{name}: expected {value}, found {settings.get(name)}"
        for name, value in wanted.items()
        if settings.get(name) != value
    ]
    if wrong:
        raise CheckpointError(
            f"The network in {source} has another shape than the one the adapter is for. Store "
            "the adapter in the folder that its model came from, or the whole model in a new one.",
            mismatched=wrong,
        )


def _check_base(folder: Path, bundle: ModelBundle) -> None:
    """Refuse a folder whose network has other weights outside adapters and head."""
    files = _base_files(folder)
    if not files or files[0].suffix != ".safetensors":
        raise FormatError(
            f"The weights of {folder} cannot be compared with the model's: expected safetensors "
            f"files, found {shorten(path.name for path in files) or 'no weights'}. Convert the "
            "folder first: unheard convert --to huggingface."
        )
    store = SafetensorsStore(files)
    state = bundle.model.state_dict()
    missing: list[str] = []
    mismatched: list[str] = []
    for template, their_template in _BASE_NAMES.items():
        numbers = range(bundle.encoder_config.layers if "{}" in template else 1)
        for number in numbers:
            ours = state[template.replace("{}", str(number))].detach().cpu().double()
            name = their_template.replace("{}", str(number))
            stored = store.tensors.get(name)
            if stored is None:
                missing.append(name)
                continue
            if stored.kind not in storage.FLOAT_TYPES or stored.shape != tuple(ours.shape):
                mismatched.append(f"{name}: expected {tuple(ours.shape)}, found {stored.shape}")
                continue
            away = (store.read(name).to(torch.float64) - ours).abs().max()
            if not float(away) <= _SAME_WEIGHTS * max(1.0, float(ours.abs().max())):
                mismatched.append(f"{name}: differs by {float(away):.3g}")
    if missing or mismatched:
        raise CheckpointError(
            f"The network in {folder} is not the one that the adapter is for. Store the adapter "
            "in the folder that its model came from, or the whole model in a new one.",
            missing=missing,
            mismatched=mismatched,
        )


def _named(
    folder: Path, tokenizer: Mapping[str, Any], *, base_language: str | None, language: str
) -> dict[str, Any]:
    """Read the vocabularies of a folder, by language."""
    vocabularies = _read_optional(folder / VOCABULARY_FILE)
    if not vocabularies or _is_nested(vocabularies):
        known = tokenizer.get("target_lang")
        if base_language is not None and base_language != known:
            raise ConfigError(
                f"The language of {folder} has a name: expected base_language {known!r} or none, "
                f"got {base_language!r}."
            )
        return vocabularies
    if base_language is None:
        raise ConfigError(
            f"{folder / VOCABULARY_FILE} holds one vocabulary without the name of its language, "
            "which would be lost among several: expected base_language, got none."
        )
    if check_name(base_language) == language:
        return {language: vocabularies}
    return {base_language: vocabularies}


def _vocabulary(
    alphabet: Alphabet, tokenizer: Mapping[str, Any], *, source: Path
) -> dict[str, int]:
    """Number tokens, under the special names that all languages of a folder share."""
    if tokenizer.get("do_lower_case"):
        raise AlphabetError(
            f"The tokenizer of {source} turns all text into capitals (do_lower_case): expected "
            "one that keeps it, as adapters of several scripts need."
        )
    names = {
        alphabet.blank: _special(tokenizer, "pad_token", "<pad>"),
        alphabet.word_boundary: _special(tokenizer, "word_delimiter_token", "|"),
        alphabet.unknown: _special(tokenizer, "unk_token", "<unk>"),
    }
    tokens = [names.get(token, token) for token in alphabet.tokens]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = sorted({token for token in tokens if tokens.count(token) > 1})
        raise AlphabetError(
            f"The alphabet has letters that are special tokens in {source}: expected none named "
            f"so, found {shorten(map(repr, twice))}."
        )
    return vocabulary


def _special(tokenizer: Mapping[str, Any], name: str, default: str) -> str:
    """Read the name of a special token, which may be an object with further settings."""
    value = tokenizer.get(name) or default
    return str(value.get("content", default) if isinstance(value, dict) else value)
