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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unheard.errors import AlphabetError, CheckpointError, ConfigError, shorten
from unheard.files import atomic_path, locked, write_json_atomic
from unheard.interop import storage
from unheard.interop.adapters import check_name, is_of_language
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import keymap
from unheard.interop.huggingface.languages import adapter_file, find_languages
from unheard.interop.huggingface.settings import read_settings
from unheard.interop.huggingface.tokenizer import (
    KIND,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    read_tokenizer,
)
from unheard.interop.huggingface.weights import open_weights, weight_files
from unheard.models.config import EncoderConfig
from unheard.text.alphabet import Alphabet

_SAME_WEIGHTS = 1e-2
"""Difference up to which weights are the same, rounded to whatever type they are stored in."""


def list_adapters(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """List the languages that a folder of transformers has adapters for.

    A language counts if it has a vocabulary and weights: a file of its own, or, for the one that
    `target_lang` names, the file of the network.

    Args:
        folder: with config.json and vocab.json.

    Returns:
        Language -> file with its weights, in order; empty for a model without adapters.

    Raises:
        FormatError: if it is not a model folder, or a file in it is not sound.
    """
    source = Path(folder)
    settings = read_settings(source)
    if not settings.values.get("adapter_attn_dim") or not (source / VOCABULARY_FILE).is_file():
        return {}
    tokenizer = read_tokenizer(source)
    if tokenizer is None:
        return {}
    languages = find_languages(source, settings, tokenizer)
    found: dict[str, Path] = {}
    for language in tokenizer.languages:
        if language in languages.files:
            found[language] = languages.files[language]
        elif language == languages.own:
            found[language] = weight_files(source)[0]
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
        FormatError: if the folder is not one of transformers, or has a tokenizer that is not
            supported.
        AlphabetError: if the language cannot be written with the folder's special tokens.
    """
    target = Path(folder)
    language, alphabet, weights = _adapter_of(bundle)
    path = adapter_file(target, language)
    _check_settings(read_settings(target).values, bundle.encoder_config, source=target)
    _check_base(target, bundle)
    with locked(target / f"{VOCABULARY_FILE}.lock"):
        roles, described = _roles(target), _read_optional(target / TOKENIZER_FILE)
        vocabularies = _named(target, roles, base_language=base_language)
        base = base_language or roles.get("target_lang")
        vocabulary = _vocabulary(alphabet, roles, source=target)
        if language == base and vocabularies.get(language, vocabulary) != vocabulary:
            raise ConfigError(
                f"{language!r} is the language of the network's own file in {target}, with "
                f"another vocabulary: expected the same {len(vocabularies[language])} tokens, "
                f"got {len(vocabulary)}. Store the whole model in a new folder instead."
            )
        with atomic_path(path) as temporary:
            storage.write_tensors(temporary, weights)
        write_json_atomic(target / VOCABULARY_FILE, {**vocabularies, language: vocabulary})
        if not roles.get("target_lang"):
            write_json_atomic(
                target / TOKENIZER_FILE,
                {"tokenizer_class": KIND, **described, "target_lang": base or language},
            )
    return path


def write_adapter(bundle: ModelBundle, folder: str | os.PathLike[str]) -> Path:
    """Write the language of a model alone: its adapter, and a vocabulary with nothing else.

    Args:
        bundle: a model with an adapter.
        folder: a new folder, or one that this has written.

    Returns:
        The adapter's file.

    Raises:
        ConfigError: if the model has no adapter.
        CheckpointError: if weights are not finite.
        AlphabetError: if the language cannot be written with transformers' special tokens.
    """
    target = Path(folder)
    language, alphabet, weights = _adapter_of(bundle)
    vocabulary = _vocabulary(alphabet, {}, source=target)
    target.mkdir(parents=True, exist_ok=True)
    path = adapter_file(target, language)
    with atomic_path(path) as temporary:
        storage.write_tensors(temporary, weights)
    write_json_atomic(target / VOCABULARY_FILE, {language: vocabulary})
    return path


def _adapter_of(bundle: ModelBundle) -> tuple[str, Alphabet, dict[str, torch.Tensor]]:
    """The language of a model, how it is written, and its weights under transformers' names."""
    language, alphabet = bundle.adapter, bundle.alphabet
    if language is None or alphabet is None or not bundle.encoder_config.adapter_dim:
        raise ConfigError(
            "There is no adapter to store: expected a model with the adapter and alphabet of a "
            "language, got one without. Make one with `new_adapter`."
        )
    state = bundle.model.state_dict()
    weights = {
        keymap.transformers_name(name): state[name] for name in state if is_of_language(name)
    }
    storage.check_finite(weights, source=f"the adapter {language!r}")
    return language, alphabet, weights


def _roles(folder: Path) -> Mapping[str, Any]:
    """Read the settings of a folder's tokenizer; transformers' defaults stand where it has none."""
    tokenizer = read_tokenizer(folder) if (folder / VOCABULARY_FILE).is_file() else None
    return {} if tokenizer is None else tokenizer.roles


def _read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object, or nothing where there is no file."""
    return storage.read_json_object(path) if path.exists() else {}


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
    """Refuse a folder whose network has other weights outside adapters and head.

    All that have one dimension are compared: whatever training touches, it touches these too.
    """
    store = open_weights(folder)
    state = bundle.model.state_dict()
    ours = [
        name
        for name, weight in state.items()
        # The mask embedding may be in no file.
        if weight.dim() == 1 and not is_of_language(name) and name != "encoder.mask_embedding"
    ]
    missing: list[str] = []
    mismatched: list[str] = []
    for name, place in keymap.names_in_file(ours, store.tensors).items():
        weight = state[name].detach().to(device="cpu", dtype=torch.float64)
        stored = store.tensors.get(place)
        if stored is None:
            missing.append(place)
        elif stored.kind not in storage.FLOAT_TYPES or stored.shape != tuple(weight.shape):
            mismatched.append(f"{place}: expected {tuple(weight.shape)}, found {stored.shape}")
        else:
            away = float((store.read(place).to(torch.float64) - weight).abs().max())
            if not away <= _SAME_WEIGHTS * max(1.0, float(weight.abs().max())):
                mismatched.append(f"{place}: differs by {away:.3g}")
    if missing or mismatched:
        raise CheckpointError(
            f"The network in {folder} is not the one that the adapter is for. Store the adapter "
            "in the folder that its model came from, or the whole model in a new one.",
            missing=missing,
            mismatched=mismatched,
        )


def _named(folder: Path, roles: Mapping[str, Any], *, base_language: str | None) -> dict[str, Any]:
    """Read the vocabularies of a folder, by language."""
    vocabularies = _read_optional(folder / VOCABULARY_FILE)
    known = roles.get("target_lang")
    if known is not None and base_language not in (None, known):
        raise ConfigError(
            f"The language of {folder} has a name: expected base_language {known!r} or none, got "
            f"{base_language!r}."
        )
    if not vocabularies or all(isinstance(one, dict) for one in vocabularies.values()):
        return vocabularies
    base = base_language or known
    if base is None:
        raise ConfigError(
            f"{folder / VOCABULARY_FILE} holds one vocabulary without the name of its language, "
            "which would be lost among several: expected base_language, got none."
        )
    return {check_name(base): vocabularies}


def _vocabulary(alphabet: Alphabet, roles: Mapping[str, Any], *, source: Path) -> dict[str, int]:
    """Number tokens, under the special names that all languages of a folder share."""
    if roles.get("do_lower_case"):
        raise AlphabetError(
            f"The tokenizer of {source} turns all text into capitals (do_lower_case): expected "
            "one that keeps it, as adapters of several scripts need."
        )
    names = {
        alphabet.blank: _special(roles, "pad_token", "<pad>"),
        alphabet.word_boundary: _special(roles, "word_delimiter_token", "|"),
        alphabet.unknown: _special(roles, "unk_token", "<unk>"),
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


def _special(roles: Mapping[str, Any], name: str, default: str) -> str:
    """Read the name of a special token, which may be an object with further settings."""
    value = roles.get(name) or default
    return str(value.get("content", default) if isinstance(value, dict) else value)
