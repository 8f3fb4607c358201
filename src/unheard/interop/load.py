"""One way in for every kind of stored model: what it is shows in its content."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from unheard.errors import ConfigError, FormatError, shorten
from unheard.files import sha256_file
from unheard.interop import fairseq2, native, storage, torchaudio
from unheard.interop.adapters import with_adapter
from unheard.interop.bundle import ModelBundle
from unheard.interop.fairseq import reader as fairseq_reader
from unheard.interop.fairseq import writer as fairseq_writer
from unheard.interop.huggingface import hub
from unheard.interop.huggingface import reader as huggingface_reader
from unheard.interop.huggingface import writer as huggingface_writer
from unheard.interop.onnx.folder import is_exported_folder
from unheard.interop.packaged import NAMES, advising, packaged_folder, warn_of_namesake
from unheard.interop.pickle_store import open_pickle
from unheard.interop.reading import Reading
from unheard.interop.sidecar import read_sidecar
from unheard.interop.state_dict import is_safetensors, open_store

HUB_PREFIX = "hf:"
"""Says that a name is meant on the Hugging Face hub, whatever lies in the current folder."""

RESULT_FOLDER = "model"
"""Where the folder that a training verb wrote to keeps its model."""

_WRITERS: Mapping[str, Callable[[ModelBundle, Path], Path]] = MappingProxyType(
    {
        "native": native.save_model,
        "huggingface": huggingface_writer.save,
        "fairseq": fairseq_writer.save,
    }
)


def load_model(
    source: str | os.PathLike[str] | ModelBundle,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    adapter: str | None = None,
    mapped: bool | None = None,
) -> ModelBundle:
    """Load a model.

    Args:
        source: a folder (ours, one of transformers, or the one that `learn` wrote to), a
            checkpoint of fairseq, a state dict of torchaudio or fairseq2, "unheard-mini", which
            comes with this package, a name on the Hugging Face hub such as
            "facebook/wav2vec2-base-960h" (or "hf:name@revision"), or a loaded model, which is put
            onto the device and switched to the adapter. What a file is shows in its content.
        device: where the weights go.
        dtype: type of the weights; None keeps float64 and makes everything else float32.
        adapter: for models with an adapter for each language, the language: an ISO 639-3 code
            such as "kmr", as the model spells it.
        mapped: whether weights that stay on the CPU in the type they are stored in may stay in
            their files until they are used, which saves memory and time. Nobody may write into
            the files then while the model lives; to replace or delete them does no harm. None:
            if there is a gigabyte of them.

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
        if adapter not in (None, source.adapter):
            source = with_adapter(source, adapter)
        source.model.to(device=device, dtype=dtype)
        return source
    reading = open_model(source, adapter=adapter)
    with advising(source):
        return storage.load(reading, device=device, dtype=dtype, mapped=mapped)


def open_model(source: str | os.PathLike[str], *, adapter: str | None = None) -> Reading:
    """Understand a stored model and check all that can be checked without its weights.

    Args:
        source: as for `load_model`.
        adapter: as for `load_model`.

    Raises:
        UnheardError: as `load_model`.
    """
    warn_of_namesake(source)
    with advising(source):
        return _open(source, adapter=adapter)


def _open(source: str | os.PathLike[str], *, adapter: str | None) -> Reading:
    """Open a source with the reader of its format."""
    found, provenance = _find(source, adapter=adapter)
    if found.is_file():
        return _open_file(found, adapter=adapter)
    if _is_native(found):
        return native.open_model(found, adapter=adapter)
    if (found / storage.CONFIG_FILE).is_file():
        return huggingface_reader.open_model(found, adapter=adapter, provenance=provenance)
    if fairseq2.is_checkpoint_folder(found):
        return fairseq2.open_model(found, adapter=adapter)
    return fairseq_reader.open_model(found, adapter=adapter)


def save_model(
    bundle: ModelBundle,
    folder: str | os.PathLike[str],
    *,
    format: Literal["native", "huggingface", "fairseq"] = "native",
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        bundle: what to store.
        folder: where; a new or empty folder, or an older model folder of the same format.
        format: "native": this package's own, which keeps everything and checks every byte;
            "huggingface": what transformers loads; "fairseq": a checkpoint of fairseq.

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
    if folder.is_file():
        _, sidecar = read_sidecar(folder)
        files = [folder] if sidecar is None else [folder, sidecar]
    elif (folder / storage.CONFIG_FILE).is_file():
        files = huggingface_reader.model_files(folder)
    else:
        files = [path for path in folder.rglob("*") if path.is_file()]
    text = "\n".join(f"{file.name} {sha256_file(file)}" for file in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def _find(
    source: str | os.PathLike[str], *, adapter: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Find the folder of a source, fetching it from the hub if it must be."""
    if (packaged := packaged_folder(source)) is not None:
        return packaged, {"source": os.fspath(source)}
    name = os.fspath(source)
    if isinstance(source, str) and name.startswith(HUB_PREFIX):
        return hub.fetch(name.removeprefix(HUB_PREFIX), adapter=adapter)
    path = Path(name)
    if path.is_dir():
        for folder in (path, path / RESULT_FOLDER):
            if (
                (folder / storage.CONFIG_FILE).is_file()
                or _is_native(folder)
                or fairseq_reader.is_checkpoint_folder(folder)
                or fairseq2.is_checkpoint_folder(folder)
            ):
                return folder, {"source": str(folder)}
        if is_exported_folder(path):
            raise _exported(path)
        hint = ""
        if isinstance(source, str) and hub.is_hub_name(name):
            hint = f' If the model of that name on the hub is meant, write "{HUB_PREFIX}{name}".'
        raise FormatError(
            f"{path} is not a model folder: expected a {storage.CONFIG_FILE} in it, found "
            f"{_listed(path)}.{hint}"
        )
    if path.is_file():
        return path, {"source": str(path)}
    if path.exists():
        raise FormatError(f"{path} is not a model: expected a file or a folder.")
    if isinstance(source, str) and hub.is_hub_name(name):
        return hub.fetch(name, adapter=adapter)
    raise ConfigError(
        f"There is no model {name!r}: expected a model folder, {' or '.join(NAMES)}, or a name on "
        "the Hugging Face hub such as facebook/wav2vec2-base-960h. Check the path."
    )


def _is_native(folder: Path) -> bool:
    """Whether a folder is one of ours, even with a damaged configuration."""
    return (folder / native.HASHES_FILE).is_file() or native.is_model_folder(folder)


def _exported(path: Path) -> FormatError:
    """Say that a path is a graph for other programs."""
    return FormatError(
        f"{path} is an exported model, for ONNX Runtime and sherpa-onnx: expected a model that was "
        "not exported. Give the one it was made of; docs/export.md and the README.md beside the "
        "graph say how to run this one."
    )


def _listed(folder: Path) -> str:
    """Say what a folder holds."""
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or (
        "nothing"
    )


def _open_file(path: Path, *, adapter: str | None) -> Reading:
    """Open a file of weights by what is in it: their names, or the settings beside them."""
    if path.suffix == ".onnx":
        raise _exported(path)
    has_settings = (path.parent / storage.CONFIG_FILE).is_file()
    if path.suffix == ".json" or (has_settings and path.suffix in (".safetensors", ".bin")):
        raise FormatError(
            f"{path} is a file of a model: expected its folder. Give {path.parent} instead."
        )
    if not is_safetensors(path):
        pickled = open_pickle(path)
        if fairseq_reader.recognises(pickled.objects):
            return fairseq_reader.understand(pickled, adapter=adapter)
    store = open_store(path)
    for known in (fairseq2, torchaudio):
        if known.recognises(store.tensors):
            return known.understand(store, path=path, adapter=adapter)
    raise FormatError(
        f"{path} holds no network that is known: expected a checkpoint of fairseq, or a state "
        f"dict of torchaudio or fairseq2, found {shorten(store.tensors) or 'no tensors'}."
    )
