"""One way in for every kind of stored model: what it is shows in its content."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from unheard.errors import ConfigError, FormatError
from unheard.files import sha256_file
from unheard.interop import native, storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import hub
from unheard.interop.huggingface import reader as huggingface_reader
from unheard.interop.huggingface import writer as huggingface_writer
from unheard.interop.reading import Reading

HUB_PREFIX = "hf:"
"""Says that a name is meant on the Hugging Face hub, whatever lies in the current folder."""

RESULT_FOLDER = "model"
"""Where the folder that a training verb wrote to keeps its model."""

_WRITERS: Mapping[str, Callable[[ModelBundle, Path], Path]] = MappingProxyType(
    {"unheard": native.save_model, "huggingface": huggingface_writer.save}
)


def load_model(
    source: str | os.PathLike[str] | ModelBundle,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    adapter: str | None = None,
) -> ModelBundle:
    """Load a model.

    Args:
        source: a folder (ours, one of transformers, or the one that `learn` wrote to), a name on
            the Hugging Face hub such as "facebook/wav2vec2-base-960h" (or "hf:name@revision"), or
            a loaded model, which is put onto the device.
        device: where the weights go.
        dtype: type of the weights; None keeps float64 and makes everything else float32.
        adapter: for models with an adapter for each language, the language: an ISO 639-3 code
            such as "kmr", as the model spells it.

    Returns:
        The model in evaluation mode, with its alphabet, input spec and provenance.

    Raises:
        ConfigError: if there is no such folder, name or adapter, the name is ambiguous, or a
            setting is not valid.
        FormatError: if the folder is not of a known kind.
        CheckpointError: if weights are damaged or do not fit their configuration.
        AlphabetError: if the vocabulary does not fit the model.
        MissingExtraError: if the hub is needed and its client is not installed.
    """
    if isinstance(source, ModelBundle):
        if adapter is not None and adapter != source.adapter:
            raise ConfigError(
                f"The model given has the adapter {source.adapter!r}, not {adapter!r}. Switch it "
                "with `with_adapter`, or leave it out."
            )
        source.model.to(device=device, dtype=dtype)
        return source
    return storage.load(open_model(source, adapter=adapter), device=device, dtype=dtype)


def open_model(source: str | os.PathLike[str], *, adapter: str | None = None) -> Reading:
    """Understand a stored model and check all that can be checked without its weights.

    Args:
        source: as for `load_model`.
        adapter: as for `load_model`.

    Raises:
        UnheardError: as `load_model`.
    """
    folder, provenance = _find(source, adapter=adapter)
    if _is_native(folder):
        return native.open_model(folder, adapter=adapter)
    return huggingface_reader.open_model(folder, adapter=adapter, provenance=provenance)


def save_model(
    bundle: ModelBundle,
    folder: str | os.PathLike[str],
    *,
    format: Literal["unheard", "huggingface"] = "unheard",
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        bundle: what to store.
        folder: where; a new or empty folder, or an older model folder of the same format.
        format: "unheard": this package's own, which keeps everything and checks every byte;
            "huggingface": what transformers loads.

    Returns:
        The folder.

    Raises:
        ConfigError: if there is no such format.
        CheckpointError: if a weight is not finite.
        FormatError: if the folder holds something else, or the format cannot express the model.
    """
    if format not in _WRITERS:
        raise ConfigError(
            f"There is no model format {format!r}: expected {' or '.join(map(repr, _WRITERS))}."
        )
    return _WRITERS[format](bundle, Path(folder))


def model_fingerprint(source: str | os.PathLike[str]) -> str:
    """Return a hash that tells models apart: equal for equal files, in any place.

    Args:
        source: as for `load_model`.
    """
    folder, _ = _find(source)
    if _is_native(folder):
        return native.fingerprint(folder)
    files = huggingface_reader.model_files(folder)
    text = "\n".join(f"{file.name} {sha256_file(file)}" for file in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def _find(
    source: str | os.PathLike[str], *, adapter: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Find the folder of a source, fetching it from the hub if it must be."""
    name = os.fspath(source)
    if isinstance(source, str) and name.startswith(HUB_PREFIX):
        return hub.fetch(name.removeprefix(HUB_PREFIX), adapter=adapter)
    path = Path(name)
    if path.is_dir():
        for folder in (path, path / RESULT_FOLDER):
            if (folder / storage.CONFIG_FILE).is_file() or _is_native(folder):
                return folder, {"source": str(folder)}
        hint = ""
        if isinstance(source, str) and hub.is_hub_name(name):
            hint = f' If the model of that name on the hub is meant, write "{HUB_PREFIX}{name}".'
        raise FormatError(
            f"{path} is not a model folder: expected a {storage.CONFIG_FILE} in it, found "
            f"{_listed(path)}.{hint}"
        )
    if path.exists():
        raise FormatError(_explain_file(path))
    if isinstance(source, str) and hub.is_hub_name(name):
        return hub.fetch(name, adapter=adapter)
    raise ConfigError(
        f"There is no model {name!r}: expected a model folder, or a name on the Hugging Face hub "
        "such as facebook/wav2vec2-base-960h. Check the path."
    )


def _is_native(folder: Path) -> bool:
    """Whether a folder is one of ours, even with a damaged configuration."""
    return (folder / native.HASHES_FILE).is_file() or native.is_model_folder(folder)


def _listed(folder: Path) -> str:
    """Say what a folder holds."""
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or (
        "nothing"
    )


def _explain_file(path: Path) -> str:
    """Say what to do with a path that is a file."""
    if path.suffix == ".safetensors" or path.name == storage.CONFIG_FILE:
        return f"{path} is a file of a model: expected its folder. Give {path.parent} instead."
    if path.suffix in (".pt", ".bin", ".ckpt", ".pth"):
        return (
            f"{path} is a pickled checkpoint: expected a model folder with safetensors weights. "
            "Convert it with the program that wrote it; this version does not read pickles."
        )
    return f"{path} is not a model: expected a model folder, found a file."
