"""Our own model folder: safetensors and JSON, readable for ever, every byte accounted for.

    folder/
      config.json         format, version, architecture, shape, alphabet, input spec, provenance
      model.safetensors   the weights, under the names of the network
      hashes.json         SHA-256 of both

A later format gets a higher version; this reader refuses what it does not know, and later readers
keep reading version 1.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from unheard.audio.signal import InputSpec
from unheard.config import from_dict, to_dict
from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError, UnheardError
from unheard.files import sha256_file, write_json_atomic
from unheard.interop import storage
from unheard.interop.adapters import choose_language
from unheard.interop.bundle import ModelBundle, NetworkConfig
from unheard.interop.reading import Reading
from unheard.interop.safetensors_store import SafetensorsStore, check_hash
from unheard.interop.stored import Place
from unheard.models.config import (
    CtcConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    MaskedUnitConfig,
    PretrainingConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
)
from unheard.text.alphabet import Alphabet

FORMAT = "unheard-model"
VERSION = 1

ARCHITECTURES: dict[str, type[NetworkConfig]] = {
    "ctc": CtcConfig,
    "pretraining": PretrainingConfig,
    "masked_units": MaskedUnitConfig,
    "encoder": EncoderOnlyConfig,
    "sequence_classifier": SequenceClassifierConfig,
    "frame_classifier": FrameClassifierConfig,
    "speaker": SpeakerConfig,
}

CONFIG_FILE = storage.CONFIG_FILE
WEIGHTS_FILE = "model.safetensors"
HASHES_FILE = "hashes.json"


def save_model(bundle: ModelBundle, folder: str | Path) -> Path:
    """Write a model folder, whole or not at all.

    A model that is there already is replaced in one step. Of a model with adapters the language in
    use is kept, and no other.

    Args:
        bundle: what to store.
        folder: where; a new or empty folder, or an older model folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: if a weight is not finite, or the alphabet does not fit the head.
        FormatError: if the folder holds something else, or the provenance is not plain data.
    """
    target = Path(folder)
    weights = bundle.model.state_dict()
    storage.check_finite(weights, source=f"the model for {target}")
    _check_vocabulary(bundle.config, bundle.alphabet, source=target)
    _check_labels(bundle.config, bundle.labels, source=target)
    with storage.atomic_folder(target, is_ours=is_model_folder) as temporary:
        storage.write_tensors(temporary / WEIGHTS_FILE, weights)
        write_json_atomic(temporary / CONFIG_FILE, _describe(bundle))
        hashes = {name: sha256_file(temporary / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
        write_json_atomic(temporary / HASHES_FILE, hashes)
    return target


def open_model(folder: str | Path, *, adapter: str | None = None) -> Reading:
    """Understand a model folder that `save_model` wrote, without reading its weights.

    Args:
        folder: the model folder.
        adapter: the language, to be sure of it: these folders have one at most.

    Raises:
        CheckpointError: if a file is missing or not the one that was written, or weights and
            configuration do not fit each other.
        FormatError: if it is not such a folder, or of a later version.
        ConfigError: if a setting in it is not valid, or the adapter asked for is another.
    """
    source = Path(folder)
    hashes = read_hashes(source)
    config_file = source / CONFIG_FILE
    check_hash(
        config_file,
        expected=hashes[CONFIG_FILE],
        found=_sha256(config_file),
        kept_in=source / HASHES_FILE,
    )
    data = storage.read_json_object(config_file)
    if data.get("format") != FORMAT:
        raise FormatError(
            f"{config_file} is not of a model of this package: expected format "
            f"{FORMAT!r}, found {data.get('format')!r}."
        )
    if data.get("version") != VERSION:
        raise FormatError(
            f"{source} is of another version: expected {VERSION}, found {data.get('version')!r}. "
            "Install a newer release of this package."
        )
    try:
        config = _read_config(data, source)
        alphabet = None if data["alphabet"] is None else Alphabet.from_dict(data["alphabet"])
        input_spec = from_dict(InputSpec, data["input_spec"])
    except KeyError as error:
        raise FormatError(f"{config_file} lacks the key {error}.") from None
    except (ConfigError, AlphabetError) as error:
        raise type(error)(f"{config_file}: {error}") from error
    _check_vocabulary(config, alphabet, source=source)
    language = data.get("adapter")
    if language is not None and not isinstance(language, str):
        raise FormatError(
            f"{config_file}: expected the name of a language as adapter, found {language!r}."
        )
    if adapter is not None:
        choose_language(adapter, () if language is None else (language,), source=source)
    store = SafetensorsStore(
        [source / WEIGHTS_FILE],
        hashes={source / name: digest for name, digest in hashes.items() if name != CONFIG_FILE},
        hashes_file=source / HASHES_FILE,
    )
    reading = Reading(
        format="unheard",
        architecture=data["architecture"],
        config=config,
        alphabet=alphabet,
        labels=_read_labels(data, config, source=config_file),
        input_spec=input_spec,
        provenance=data.get("provenance", {}),
        store=store,
        places={name: Place(name=name) for name in store.tensors},
        adapter=language,
    )
    storage.compare(reading)
    return reading


def is_model_folder(folder: Path) -> bool:
    """Whether a folder says it is one of ours."""
    try:
        return storage.read_json_object(folder / CONFIG_FILE).get("format") == FORMAT
    except (OSError, UnheardError):
        return False


def fingerprint(folder: Path) -> str:
    """Return a hash that tells models apart, from the stored hashes; no weights are read."""
    data = read_hashes(folder)
    text = "\n".join(f"{name} {data[name]}" for name in sorted(data))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(bundle: ModelBundle) -> dict[str, Any]:
    """Everything but the weights, as plain data."""
    described = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": next(
            name for name, kind in ARCHITECTURES.items() if isinstance(bundle.config, kind)
        ),
        "config": to_dict(bundle.config),
        "alphabet": None if bundle.alphabet is None else bundle.alphabet.to_dict(),
        "input_spec": to_dict(bundle.input_spec),
        "provenance": bundle.provenance,
    }
    # Keys that most models need not have, and that no earlier folder has.
    if bundle.labels:
        described["labels"] = list(bundle.labels)
    if bundle.adapter is not None:
        described["adapter"] = bundle.adapter
    return described


def _read_config(data: dict[str, Any], source: Path) -> NetworkConfig:
    """Read the shape of the network."""
    kind = data["architecture"]
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise FormatError(
            f"{source / CONFIG_FILE}: expected architecture {' or '.join(ARCHITECTURES)}, found "
            f"{kind!r}."
        )
    return from_dict(ARCHITECTURES[kind], data["config"])


def _check_vocabulary(config: NetworkConfig, alphabet: Alphabet | None, *, source: Path) -> None:
    """Refuse an alphabet that has not one token for each output."""
    if isinstance(config, CtcConfig) and alphabet is not None and len(alphabet) != config.vocab:
        raise CheckpointError(
            f"The alphabet of {source} does not fit its head: expected {config.vocab} tokens, "
            f"found {len(alphabet)}."
        )


def _read_labels(data: dict[str, Any], config: NetworkConfig, *, source: Path) -> tuple[str, ...]:
    """Read the names of classes, if the model has any."""
    labels = data.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise FormatError(f"{source}: expected a list of names as labels, found {labels!r}.")
    _check_labels(config, tuple(labels), source=source)
    return tuple(labels)


def _check_labels(config: NetworkConfig, labels: tuple[str, ...], *, source: Path) -> None:
    """Refuse labels that are not one for each class."""
    classes = getattr(config, "classes", 0)
    if labels and len(labels) != classes:
        raise CheckpointError(
            f"The labels of {source} do not fit its head: expected {classes} names, found "
            f"{len(labels)}."
        )


def read_hashes(
    folder: Path, *, needed: Collection[str] = (CONFIG_FILE, WEIGHTS_FILE)
) -> dict[str, Any]:
    """Read the list of hashes: file name -> SHA-256.

    Raises:
        CheckpointError: if it is missing, or does not name all files, or one of them is missing.
    """
    path = folder / HASHES_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: without it nobody can tell whether the model is whole. Copy the "
            "folder again, with all its files.",
            missing=[HASHES_FILE],
        )
    data = storage.read_json_object(path)
    if not set(needed) <= set(data):
        raise CheckpointError(
            f"{path} does not name all files: expected {' and '.join(needed)}, found "
            f"{sorted(data)}. Copy the folder again."
        )
    for name in data:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing. Copy the folder again, with all its files.",
                missing=[name],
            )
    return data


def _sha256(path: Path) -> str:
    """Hash a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
