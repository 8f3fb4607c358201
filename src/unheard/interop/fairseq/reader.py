"""Checkpoints of fairseq (.pt): pre-trained wav2vec 2.0, and recognisers fine-tuned with CTC.

Nothing of fairseq or omegaconf is needed, and no code of a file runs.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError, shorten
from unheard.interop import storage
from unheard.interop.adapters import choose_language
from unheard.interop.fairseq import dictionary, identity, keymap, settings
from unheard.interop.fairseq.adapters import (
    LANGUAGES,
    MASK_EMBEDDING,
    NETWORK,
    AdapterShapes,
    stacked_languages,
    table_of_languages,
)
from unheard.interop.fairseq.options import Options
from unheard.interop.fairseq.settings import Settings
from unheard.interop.pickle_store import PickledFile, Record, TensorHandle, open_pickle
from unheard.interop.reading import Reading
from unheard.interop.stored import Place, StoredAdapter, TensorStore
from unheard.models.config import CtcConfig, PretrainingConfig
from unheard.text.alphabet import Alphabet

logger = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pt"
"""The checkpoint in a folder that `writer.save` wrote."""


def open_model(path: str | Path, *, adapter: str | None = None) -> Reading:
    """Understand a checkpoint of fairseq without reading its weights.

    The norm and the biases of the convolutions are told from the tensors, everything else from the
    settings. A network whose convolutions have as many channels as its Transformer has no
    projection between them in fairseq; its place is taken by an identity.

    Args:
        path: the .pt file, or the folder of one; the alphabet is in the file or in dict.ltr.txt
            (or whatever its labels are called) beside it.
        adapter: the language, for a recogniser with adapters for several (MMS).

    Raises:
        FormatError: if the file is something else, or has an option that is not supported; named.
        ConfigError: if an option is not valid, or there is no such language.
        CheckpointError: if the file is damaged, or its adapters do not fit.
        AlphabetError: if its dictionary does not fit its head.
    """
    return understand(open_pickle(_find_file(Path(path))), adapter=adapter)


def understand(pickled: PickledFile, *, adapter: str | None = None) -> Reading:
    """Understand a checkpoint that has been opened; see `open_model`."""
    file, checkpoint = pickled.path, pickled.objects
    tensors = _network_tensors(checkpoint, source=file)
    options = {name: _plain(checkpoint.get(name)) for name in ("cfg", "args")}
    found = settings.read_settings(options, source=file)
    languages = _open_adapters(checkpoint, found, tensors, store=pickled.store, file=file)
    language = _choose(adapter, languages, source=file)
    chosen = None if language is None else languages[language]
    alphabet = None
    if chosen is not None:
        alphabet = chosen.alphabet
    elif found.network == "wav2vec_ctc":
        alphabet = _alphabet(checkpoint, found.task, source=file)
    config = _config(found, tensors, chosen=chosen, store=pickled.store)
    if isinstance(config, CtcConfig) and alphabet is not None and len(alphabet) != config.vocab:
        raise AlphabetError(
            f"{file}: the dictionary does not fit the head: expected {config.vocab} tokens, one "
            f"for each output, found {len(alphabet)}."
        )
    places, store = _places(config, tensors, store=pickled.store, file=file)
    if chosen is not None:
        places |= chosen.places
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(config, PretrainingConfig):
        quantizer = config.quantizer
        size = quantizer.dim // quantizer.groups
        shapes["quantizer.codebook"] = (1, quantizer.groups * quantizer.entries, size)
    return Reading(
        format="fairseq",
        architecture=found.network,
        config=config,
        alphabet=alphabet,
        input_spec=settings.input_spec(found),
        provenance={"source": str(file), "format": "fairseq", "architecture": found.network},
        store=store,
        places=places,
        shapes=shapes,
        ignored=_ignored(tensors, pickled.store, has_table=bool(checkpoint.get(LANGUAGES))),
        adapters={name: replace(item, store=store) for name, item in languages.items()},
        adapter=language,
    )


def recognises(checkpoint: Any) -> bool:
    """Whether the content of a pickle is a checkpoint of fairseq."""
    return (
        isinstance(checkpoint, Mapping)
        and isinstance(checkpoint.get("model"), Mapping)
        and (checkpoint.get("cfg") is not None or checkpoint.get("args") is not None)
    )


def is_checkpoint_folder(folder: Path) -> bool:
    """Whether a folder is one that `writer.save` wrote, or looks like it."""
    return (folder / CHECKPOINT_FILE).is_file()


def _find_file(path: Path) -> Path:
    """Find the checkpoint of a path that is a file or a folder."""
    if not path.is_dir():
        return path
    usual = path / CHECKPOINT_FILE
    if usual.is_file():
        return usual
    found = sorted(path.glob("*.pt"))
    if len(found) == 1:
        return found[0]
    raise FormatError(
        f"{path} is not the folder of a fairseq checkpoint: expected {CHECKPOINT_FILE} or one .pt "
        f"file in it, found {shorten(file.name for file in found) or 'none'}."
    )


def _network_tensors(checkpoint: Any, *, source: Path) -> dict[str, TensorHandle]:
    """Find the network's tensors by their names in fairseq, and refuse networks before it."""
    model = checkpoint.get(NETWORK) if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, Mapping):
        raise FormatError(
            f"{source} is not a checkpoint of fairseq: expected a table with model, cfg or args at "
            "its top."
        )
    tensors = {name: item for name, item in model.items() if isinstance(item, TensorHandle)}
    if any(name.startswith(("feature_aggregator.", "wav2vec_predictions.")) for name in tensors):
        quantised = any(name.startswith("vector_quantizer.") for name in tensors)
        raise FormatError(
            f"{source} is a {'vq-wav2vec' if quantised else 'wav2vec'} of 2019: expected wav2vec "
            "2.0. This version does not read it."
        )
    return tensors


def _open_adapters(
    checkpoint: Mapping[str, Any],
    found: Settings,
    tensors: Mapping[str, TensorHandle],
    *,
    store: TensorStore,
    file: Path,
) -> dict[str, StoredAdapter]:
    """Read the languages of a recogniser; empty for a network without adapters."""
    options = settings.adapter_options(found)
    if options is None:
        if checkpoint.get(LANGUAGES):
            raise FormatError(
                f"{file} has language adapters that its network does not use: expected the option "
                "layer_type = 'trf_adp'."
            )
        return {}
    if found.network != "wav2vec_ctc":
        raise FormatError(
            f"{options.source}: the option layer_type = 'trf_adp' is not supported without a CTC "
            "head: expected a recogniser."
        )
    shapes = _adapter_shapes(found, options)
    languages = table_of_languages(checkpoint, shapes, store=store, source=file)
    if languages:
        return languages
    alphabet = _alphabet(checkpoint, found.task, source=file)
    if alphabet is None:
        raise AlphabetError(
            f"{file} has language adapters and no dictionary: expected one in the file, or "
            f"{_dictionary_name(found.task)} beside it."
        )
    return stacked_languages(tensors, options, found.task, shapes, alphabet=alphabet, store=store)


def _adapter_shapes(found: Settings, options: Options) -> AdapterShapes:
    """Collect the sizes of adapters."""
    return AdapterShapes(
        layers=found.pretrained.integer("encoder_layers", 12),
        dim=found.pretrained.integer("encoder_embed_dim", 768),
        width=options.integer("adp_dim", 64),
    )


def _choose(
    adapter: str | None, languages: Mapping[str, StoredAdapter], *, source: Path
) -> str | None:
    """Choose the language: the one asked for, or the only one; None for a model without any."""
    if not languages and adapter is not None:
        raise ConfigError(
            f"{source} has no adapter {adapter!r}: expected a model with an adapter for each "
            "language, found one without. Leave the language out."
        )
    if adapter is None and len(languages) < 2:
        return next(iter(languages), None)
    return choose_language(adapter, languages, source=source)


def _alphabet(checkpoint: Mapping[str, Any], task: Options, *, source: Path) -> Alphabet | None:
    """Read the dictionary: the pickled one, or the file of the task's labels beside the model."""
    state = checkpoint.get("task_state")
    stored = state.get("target_dictionary") if isinstance(state, Mapping) else None
    if isinstance(stored, Record):
        return dictionary.read_pickled(stored.state, source=f"{source}: target_dictionary")
    path = source.parent / _dictionary_name(task)
    if path.is_file():
        return dictionary.read_text(path)
    logger.warning(
        "%s has no dictionary and %s is not there: the model has emissions, but no alphabet to "
        "write text with.",
        source,
        path,
    )
    return None


def _dictionary_name(task: Options) -> str:
    """Name the file of the dictionary, which the task's labels decide."""
    labels = task.text("labels", "ltr")
    if not labels.isascii() or not labels.replace("_", "").replace("-", "").isalnum():
        raise task.wrong("labels", "a plain name such as 'ltr'")
    return f"dict.{labels}.txt"


def _config(
    found: Settings,
    tensors: Mapping[str, TensorHandle],
    *,
    chosen: StoredAdapter | None,
    store: TensorStore,
) -> CtcConfig | PretrainingConfig:
    """Make the configuration of settings and tensors."""
    ctc = found.network == "wav2vec_ctc"
    first = f"{keymap.CTC_PREFIX if ctc else ''}feature_extractor.conv_layers.0"
    vocab = 0
    if ctc:
        name = keymap.HEAD_NAMES["head.weight"]
        if name not in tensors:
            raise CheckpointError(f"{found.model.source}: the CTC head is missing.", missing=[name])
        shape = tensors[name].shape
        if chosen is not None:
            shape = store.tensors[chosen.places["head.weight"].name].shape
        vocab = shape[0] if shape else 0
    options = settings.adapter_options(found)
    return settings.network_config(
        found,
        conv_norm="layer" if f"{first}.2.1.weight" in tensors else "group",
        conv_bias=f"{first}.0.bias" in tensors,
        vocab=vocab,
        adapter_dim=0 if options is None else options.integer("adp_dim", 64),
    )


def _places(
    config: CtcConfig | PretrainingConfig,
    tensors: Mapping[str, TensorHandle],
    *,
    store: TensorStore,
    file: Path,
) -> tuple[dict[str, Place], TensorStore]:
    """Find every weight; those of the chosen language are put in later."""
    ctc = isinstance(config, CtcConfig)
    conv_norm = config.encoder.conv_norm
    places: dict[str, Place] = {}
    for name in storage.shapes_of(config, source=file):
        theirs = keymap.fairseq_name(name, conv_norm=conv_norm, ctc=ctc)
        places[name] = Place(name=f"{NETWORK}.{theirs}")
    projection = ("encoder.projection.weight", "encoder.projection.bias")
    absent = all(places[name].name not in store.tensors for name in projection)
    if absent and config.encoder.conv_channels == config.encoder.dim:
        kinds = {handle.kind for handle in tensors.values()}
        kind = kinds.pop() if len(kinds) == 1 else "F32"
        store = identity.IdentityStore(store, dim=config.encoder.dim, kind=kind, file=file)
        for name, made in zip(projection, (identity.WEIGHT, identity.BIAS), strict=True):
            places[name] = Place(name=made)
    return places, store


def _ignored(
    tensors: Mapping[str, TensorHandle], store: TensorStore, *, has_table: bool
) -> dict[str, str]:
    """Say why tensors that no network has are left out."""
    ignored: dict[str, str] = {}
    for name in store.tensors:
        if not name.startswith((f"{NETWORK}.", f"{LANGUAGES}.")):
            ignored[name] = "state of training, not of the network"
        elif name.startswith(f"{LANGUAGES}.") and name.endswith(f".{MASK_EMBEDDING}"):
            ignored[name] = "for training only"
    if has_table:
        own = (*keymap.HEAD_NAMES.values(), ".adapter_layer.")
        ignored |= {
            f"{NETWORK}.{name}": "head or adapter of the language that was trained last"
            for name in tensors
            if any(part in name for part in own)
        }
    return ignored


def _plain(value: Any) -> Any:
    """Turn records such as argparse.Namespace into the tables they hold."""
    if isinstance(value, Record):
        value = value.state
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
