"""Model folders of Hugging Face transformers, understood before a weight is read.

Wav2Vec2Model and the five classes with a head: Wav2Vec2ForPreTraining, ...ForCTC,
...ForSequenceClassification, ...ForAudioFrameClassification, ...ForXVector.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unheard.interop import adapters, storage
from unheard.interop.bundle import NetworkConfig
from unheard.interop.huggingface import (
    card,
    features,
    keymap,
    labels,
    language_model,
    networks,
    weights,
)
from unheard.interop.huggingface.hub import TEXT_FILES
from unheard.interop.huggingface.languages import (
    HEAD,
    Languages,
    StoredAdapters,
    adapter_files,
    find_languages,
    overlay,
)
from unheard.interop.huggingface.settings import Settings, read_settings
from unheard.interop.huggingface.tokenizer import Tokenizer, read_tokenizer
from unheard.interop.reading import Reading
from unheard.interop.stored import Place, StoredAdapter, TensorStore
from unheard.models.config import (
    CtcConfig,
    FrameClassifierConfig,
    PretrainingConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
)
from unheard.text.alphabet import Alphabet

FORMAT = "transformers"

MASK_EMBEDDING = "encoder.mask_embedding"


def open_model(
    folder: str | Path,
    *,
    adapter: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Reading:
    """Understand a folder that transformers wrote, without reading its weights.

    Every option that changes what the network computes is honoured or refused by name. A model
    trained without masking may lack its mask embedding: `Reading.initialised` names it then.

    Args:
        folder: with config.json and weights, safetensors or pickles, whole or in parts; for a CTC
            model with a vocabulary, unless its emissions are all that is wanted.
        adapter: the language, for models with an adapter for each.
        provenance: to begin with; source and architecture are added.

    Raises:
        FormatError: if the folder is of another kind of model, or has an option that is not
            supported; named.
        ConfigError: if a setting is not valid, there is no such adapter, or there are several and
            none was chosen.
        CheckpointError: if weights are damaged or do not fit the settings.
        AlphabetError: if the vocabulary does not fit the head.
    """
    source = Path(folder)
    settings = read_settings(source)
    architecture = networks.named_architecture(settings)
    networks.refuse_unsupported(settings)
    if architecture is not None:
        # A network of impossible size is refused before anything else is opened.
        storage.shapes_of(networks.network_config(settings, architecture), source=settings.source)
    store = base = weights.open_weights(source)
    architecture = architecture or networks.guess_architecture(base.tensors)
    tokenizer, languages = None, Languages(folder=source, own=None, named=(), files={})
    if architecture == networks.CTC:
        tokenizer = read_tokenizer(source)
        languages = find_languages(source, settings, tokenizer)
    language = languages.choose(adapter)
    if language is not None:
        store = overlay(base, languages, language)
    config = _sized(networks.network_config(settings, architecture), store, language)
    wanted = storage.shapes_of(config, source=settings.source)
    names = keymap.names_in_file(wanted, store.tensors)
    reading = Reading(
        format=FORMAT,
        architecture=architecture,
        config=config,
        alphabet=_alphabet(config, settings, tokenizer, languages, language),
        labels=_labels(config, settings),
        input_spec=features.read_input_spec(source, conv_norm=config.encoder.conv_norm),
        provenance=_provenance(source, architecture, settings, tokenizer, provenance or {}),
        store=store,
        places={name: Place(name=place) for name, place in names.items()},
        shapes=_shapes(config),
        initialised=_absent(config, names, store, settings),
        adapters=_adapters(tokenizer, languages, tuple(names), base),
        adapter=language,
    )
    storage.compare(reading)
    return reading


def model_files(folder: Path, *, adapter: str | None = None) -> list[Path]:
    """List the files of a folder that decide what its model computes and writes.

    Args:
        folder: of transformers.
        adapter: the language in use; without it the adapters of all languages count.
    """
    texts = [folder / name for name in TEXT_FILES]
    files = adapter_files(folder)
    chosen = [path for name, path in files.items() if adapter in (None, name)]
    return [path for path in texts if path.is_file()] + weights.weight_files(folder) + chosen


def is_folder(folder: Path) -> bool:
    """Whether a folder is one of a wav2vec 2.0 model of transformers."""
    try:
        read_settings(folder)
    except (OSError, ValueError):
        return False
    return True


def _sized(config: NetworkConfig, store: TensorStore, language: str | None) -> NetworkConfig:
    """Give the head of a language the outputs that its file has."""
    if language is None or not isinstance(config, CtcConfig) or HEAD not in store.tensors:
        return config
    shape = store.tensors[HEAD].shape
    return replace(config, vocab=shape[0]) if shape else config


def _alphabet(
    config: NetworkConfig,
    settings: Settings,
    tokenizer: Tokenizer | None,
    languages: Languages,
    language: str | None,
) -> Alphabet | None:
    """Read the alphabet of a CTC head."""
    if not isinstance(config, CtcConfig) or tokenizer is None:
        return None
    if None in tokenizer.vocabularies and len(languages.named) == 1:
        language = None  # the vocabulary does not name its language
    return tokenizer.alphabet(
        language, vocab=config.vocab, blank_id=settings.values.get("pad_token_id")
    )


def _labels(config: NetworkConfig, settings: Settings) -> tuple[str, ...]:
    """Read the names of the classes of a head that has classes."""
    if isinstance(config, SequenceClassifierConfig | FrameClassifierConfig | SpeakerConfig):
        return labels.read_labels(settings)
    return ()


def _shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Name the weights that transformers shapes otherwise."""
    if not isinstance(config, PretrainingConfig):
        return {}
    quantizer = config.quantizer
    size = quantizer.dim // quantizer.groups
    # In our network it is (groups, entries, size).
    return {"quantizer.codebook": (1, quantizer.groups * quantizer.entries, size)}


def _absent(
    config: NetworkConfig, names: Mapping[str, str], store: TensorStore, settings: Settings
) -> frozenset[str]:
    """Name the weights that a sound folder may lack; anything else missing is an error later.

    transformers leaves the mask embedding out of models trained without masking, and published
    models with a head lack it anyway.
    """
    needed = isinstance(config, PretrainingConfig) and networks.masks(settings)
    if needed or names[MASK_EMBEDDING] in store.tensors:
        return frozenset()
    return frozenset({MASK_EMBEDDING})


def _provenance(
    folder: Path,
    architecture: str,
    settings: Settings,
    tokenizer: Tokenizer | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Say where a model comes from, as plain data."""
    facts: dict[str, Any] = {"source": str(folder), **card.read_card(folder), **given}
    facts |= {"format": FORMAT, "architecture": architecture}
    version = settings.values.get("transformers_version")
    if isinstance(version, str):
        facts["transformers_version"] = version[:40]
    if tokenizer is not None and tokenizer.lowers:
        facts["do_lower_case"] = True
    model = language_model.read_facts(folder)
    if model is not None:
        facts["language_model"] = model
    return facts


def _adapters(
    tokenizer: Tokenizer | None,
    languages: Languages,
    names: tuple[str, ...],
    base: TensorStore,
) -> Mapping[str, StoredAdapter]:
    """List the languages that the model can be switched to."""
    if tokenizer is None or not languages.named:
        return {}
    of_language = tuple(name for name in names if adapters.is_of_language(name))
    return StoredAdapters(languages, tokenizer, names=of_language, base=base)
