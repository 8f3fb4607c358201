"""The folder of a Transformer language model: safetensors and JSON, every byte accounted for.

    folder/
      config.json         format, version, shape, units, provenance
      pieces.json         characters and merges that split a text into pieces
      model.safetensors   the weights, under the names of the network
      hashes.json         SHA-256 of the three

A later format gets a higher version; this reader refuses what it does not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unheard.config import from_dict, to_dict
from unheard.errors import CheckpointError, ConfigError, FormatError, UnheardError
from unheard.files import sha256_file, write_json_atomic
from unheard.interop import storage
from unheard.interop.load import RESULT_FOLDER
from unheard.interop.native import HASHES_FILE, WEIGHTS_FILE, read_hashes
from unheard.interop.networks import NoDraws
from unheard.interop.safetensors_store import SafetensorsStore, check_hash
from unheard.interop.stored import Place
from unheard.lm.pieces import Pieces, PieceUnits
from unheard.models.language_model import LanguageModel, LanguageModelConfig

FORMAT = "unheard-language-model"
VERSION = 1

CONFIG_FILE = storage.CONFIG_FILE
PIECES_FILE = "pieces.json"
_FILES = (CONFIG_FILE, PIECES_FILE, WEIGHTS_FILE)

_LARGEST = {"layers": 1_000, "dim": 100_000, "ffn_dim": 1_000_000, "context": 1_000_000}
"""Sizes beyond which no network is built."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelBundle:
    """A Transformer language model with all that is needed to use it.

    Attributes:
        model: the network, in evaluation mode unless somebody trains it.
        pieces: what its numbers stand for.
        units: "piece", or "character" when no piece is longer than one.
        normalizer: what was done to the text that it learnt from; nothing is done to what it
            scores.
        provenance: where it came from, as plain data.
    """

    model: LanguageModel
    pieces: Pieces
    units: PieceUnits
    normalizer: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse pieces that are not those of the network."""
        _check_vocabulary(self.model.config, self.pieces, source="the language model")


def save_language_model(bundle: LanguageModelBundle, folder: str | Path) -> Path:
    """Write the folder of a language model, whole or not at all.

    Args:
        bundle: what to store.
        folder: where; a new or empty folder, or an older language model.

    Returns:
        The folder.

    Raises:
        CheckpointError: if a weight is not finite.
        FormatError: if the folder holds something else, or the provenance is not plain data.
    """
    target = Path(folder)
    weights = bundle.model.state_dict()
    storage.check_finite(weights, source=f"the language model for {target}")
    described = {
        "format": FORMAT,
        "version": VERSION,
        "config": to_dict(bundle.model.config),
        "units": bundle.units,
        "normalizer": bundle.normalizer,
        "provenance": dict(bundle.provenance),
    }
    with storage.atomic_folder(target, is_ours=is_language_model_folder) as temporary:
        storage.write_tensors(temporary / WEIGHTS_FILE, weights)
        write_json_atomic(temporary / PIECES_FILE, bundle.pieces.to_dict())
        write_json_atomic(temporary / CONFIG_FILE, described)
        hashes = {name: sha256_file(temporary / name) for name in _FILES}
        write_json_atomic(temporary / HASHES_FILE, hashes)
    return target


def load_language_model(
    folder: str | Path, *, device: torch.device | str = "cpu"
) -> LanguageModelBundle:
    """Read the folder of a language model; all is checked before weights are read.

    Args:
        folder: that `save_language_model` wrote, or the run folder that has it as "model".
        device: where the weights go.

    Returns:
        The model in evaluation mode, in float32.

    Raises:
        CheckpointError: if a file is missing or not the one that was written, or weights do not
            fit.
        FormatError: if it is not such a folder, or of a later version.
        ConfigError: if a setting in it is not valid.
    """
    source = find_language_model(folder)
    hashes = read_hashes(source, needed=_FILES)
    for name in (CONFIG_FILE, PIECES_FILE):
        check_hash(
            source / name,
            expected=hashes[name],
            found=sha256_file(source / name),
            kept_in=source / HASHES_FILE,
        )
    data = _read_config(source)
    config = _read_shape(source, data["config"])
    pieces = _read_pieces(source)
    _check_vocabulary(config, pieces, source=source)
    if data["units"] not in ("piece", "character"):
        raise FormatError(
            f"{source / CONFIG_FILE}: expected units piece or character, found {data['units']!r}."
        )
    return LanguageModelBundle(
        model=_read_network(source, config, hashes, device=device),
        pieces=pieces,
        units=data["units"],
        normalizer=data.get("normalizer"),
        provenance=data.get("provenance", {}),
    )


def find_language_model(folder: str | Path) -> Path:
    """Find the model's own folder: this one, or "model" in the folder of its training.

    Raises:
        FormatError: if there is no such folder.
    """
    source = Path(folder)
    if not (source / HASHES_FILE).is_file() and (source / RESULT_FOLDER).is_dir():
        return source / RESULT_FOLDER
    if not source.is_dir():
        raise FormatError(
            f"{source} is not the folder of a language model: expected one that `unheard lm train "
            "--kind transformer` wrote."
        )
    return source


def is_language_model_folder(folder: Path) -> bool:
    """Whether a folder says that it is such a model."""
    try:
        return storage.read_json_object(folder / CONFIG_FILE).get("format") == FORMAT
    except (OSError, UnheardError):
        return False


def _read_config(source: Path) -> dict[str, Any]:
    """Read config.json, of a format and version that is known, with all keys."""
    path = source / CONFIG_FILE
    data = storage.read_json_object(path)
    if data.get("format") != FORMAT:
        raise FormatError(
            f"{path} is not of a language model of this package: expected format {FORMAT!r}, "
            f"found {data.get('format')!r}."
        )
    if data.get("version") != VERSION:
        raise FormatError(
            f"{source} is of another version: expected {VERSION}, found {data.get('version')!r}. "
            "Install a newer release of this package."
        )
    for key in ("config", "units"):
        if key not in data:
            raise FormatError(f"{path} lacks the key {key!r}.")
    return data


def _read_shape(source: Path, data: Any) -> LanguageModelConfig:
    """Read the shape of the network and refuse sizes beyond reason."""
    path = source / CONFIG_FILE
    try:
        config = from_dict(LanguageModelConfig, data)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for name, largest in _LARGEST.items():
        size = getattr(config, name)
        if size > largest:
            raise ConfigError(
                f"{path}: {name} is out of range: expected 1 to {largest}, found {size}."
            )
    return config


def _read_pieces(source: Path) -> Pieces:
    """Read pieces.json."""
    path = source / PIECES_FILE
    try:
        return Pieces.from_dict(storage.read_json_object(path))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _read_network(
    source: Path,
    config: LanguageModelConfig,
    hashes: Mapping[str, str],
    *,
    device: torch.device | str,
) -> LanguageModel:
    """Compare names and shapes, then the file's hash, then read the weights."""
    path = source / WEIGHTS_FILE
    store = SafetensorsStore(
        [path], hashes={path: hashes[WEIGHTS_FILE]}, hashes_file=source / HASHES_FILE
    )
    with torch.device("meta"), NoDraws():
        model = LanguageModel(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in store.tensors.items()}
    if found != shapes:
        raise CheckpointError(
            f"The weights of {source} do not fit their configuration.",
            missing=sorted(shapes.keys() - found.keys()),
            unexpected=sorted(found.keys() - shapes.keys()),
            mismatched=[
                f"{name}: expected {shapes[name]}, found {found[name]}"
                for name in sorted(shapes.keys() & found.keys())
                if shapes[name] != found[name]
            ],
        )
    odd = sorted(n for n, t in store.tensors.items() if t.kind not in storage.FLOAT_TYPES)
    if odd:
        raise CheckpointError(f"The weights of {source} are not floating-point numbers: {odd[0]}.")
    store.verify()
    places = {name: Place(name=name) for name in shapes}
    weights = storage.read_weights(store, places, shapes, source=path, device=device)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def _check_vocabulary(config: LanguageModelConfig, pieces: Pieces, *, source: object) -> None:
    """Refuse pieces that are not one for each row of the embedding."""
    if len(pieces) != config.vocab:
        raise CheckpointError(
            f"The pieces of {source} do not fit its network: expected {config.vocab}, found "
            f"{len(pieces)}."
        )
