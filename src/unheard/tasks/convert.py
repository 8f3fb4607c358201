"""The verb `convert`: a stored model of any known format in, the same model in another out.

What was written is opened again and compared, tensor by tensor and setting by setting, before it
takes its place. What the target cannot say is an error where it would change what the network
computes, and a warning by name where it would not.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unheard.errors import (
    CheckpointError,
    ConfigError,
    FormatError,
    LanguageError,
    UnheardError,
    shorten,
)
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.comparison import compare_settings, compare_weights
from unheard.interop.fairseq.adapters import DICTIONARIES
from unheard.interop.huggingface import language_model
from unheard.interop.huggingface.card import CARD_FILE
from unheard.interop.inspection import TYPE_NAMES
from unheard.interop.inspection_table import show_bytes
from unheard.interop.load import open_model, save_model
from unheard.interop.packaged import packaged_folder
from unheard.interop.reading import Reading
from unheard.interop.stored import StoredTensor, TensorStore

__all__ = ["Conversion", "convert"]

TargetFormat = Literal["native", "huggingface", "fairseq"]
"""What `convert` writes."""

Dtype = Literal["float32", "bfloat16", "float16", "float64"]
"""Types of weights that `convert` writes."""

_BAR_BYTES = 50_000_000
"""From this size on, a terminal shows how far it is [bytes]."""

_LARGE_BYTES = 500_000_000
"""From this size on, stages are told where there is no terminal [bytes]."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What `convert` wrote.

    Attributes:
        source: the model, as it was asked for.
        source_format: its format.
        target: the folder that was written.
        format: of the target.
        adapter: language that the target was written for, or None.
        dtype: type of the weights written.
        parameters: numbers written.
        tensors: tensors written, each read back and found equal.
        files: names of the files written.
        size_bytes: of them together [bytes].
        warnings: what the target does not say as the source did.
        elapsed_seconds: time it took [seconds].
    """

    source: str
    source_format: str
    target: str
    format: TargetFormat
    adapter: str | None
    dtype: str
    parameters: int
    tensors: int
    files: tuple[str, ...]
    size_bytes: int
    warnings: tuple[str, ...]
    elapsed_seconds: float

    def table(self) -> str:
        """Say it in a few lines."""
        language = f", language {self.adapter}" if self.adapter else ""
        lines = [
            f"{self.source} ({self.source_format}) -> {self.target} ({self.format}{language})",
            f"{self.parameters:,} parameters in {self.tensors} tensors, {self.dtype}; read back "
            "and equal",
            f"{show_bytes(self.size_bytes)} in {shorten(self.files, limit=8)}",
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: TargetFormat,
    adapter: str | None = None,
    dtype: Dtype | None = None,
) -> Conversion:
    """Write a stored model in another format, whole or not at all.

    The target is read back and compared with the source before it takes its place. A setting that
    the target has no place for is a warning, or an error if the network would compute otherwise.

    Args:
        source: anything that `load_model` takes: a folder or a checkpoint file of any known
            format, or a name on the Hugging Face hub.
        target: a new or empty folder, or a folder with nothing but an older model, which is
            replaced.
        to: "native" is this package's own format, "huggingface" that of transformers, "fairseq"
            that of the original implementation.
        adapter: for models with an adapter for each language, the language to open it for.
        dtype: type of the weights; that of the source unless named.

    Returns:
        What was written, and what the target does not say.

    Raises:
        FormatError: if the source is no model, the target folder holds something else, or the
            target format cannot express the model.
        ConfigError: if there is no such source or setting.
        CheckpointError: if weights are damaged or do not fit `dtype`.
    """
    started = time.monotonic()
    if to not in ("native", "huggingface", "fairseq"):
        raise ConfigError(f"to must be native, huggingface or fairseq, got {to!r}.")
    folder = Path(target)
    _check_apart(source, folder)
    _check_replaceable(folder)
    reading = open_model(source, adapter=adapter)
    used = _used_tensors(reading)
    kept = _common_type(used.values())
    wanted = kept if dtype is None else getattr(torch, dtype)
    warnings = _warn_of_source(reading, used, written=wanted)
    size = sum(tensor_bytes(tensor) for tensor in used.values())
    with storage.atomic_folder(folder, is_ours=_is_replaceable) as temporary:
        with _stage("reading", size) as advance:
            wide = torch.promote_types(kept, wanted)
            bundle = storage.load(_counted(reading, advance), dtype=wide)
        _narrow(bundle, wanted, source=os.fspath(source))
        if bundle.adapter is not None:
            bundle = replace(bundle, provenance={**bundle.provenance, "language": bundle.adapter})
        weights = bundle.model.state_dict()
        with _stage("writing", size):
            save_model(bundle, temporary, format=to)
            if to == "huggingface":
                language_model.carry(reading, temporary)
        with _stage("checking", size) as advance:
            # Our own folders keep one language, the one in use.
            language = None if to == "native" else bundle.adapter
            with _quiet():
                written = open_model(temporary, adapter=language)
            warnings += compare_settings(bundle, written)
            warnings += compare_weights(bundle, written, advance)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        names = tuple(str(path.relative_to(temporary)) for path in files)
        size_bytes = sum(path.stat().st_size for path in files)
    return Conversion(
        source=os.fspath(source),
        source_format=reading.format,
        target=str(folder),
        format=to,
        adapter=bundle.adapter,
        dtype=str(wanted).removeprefix("torch."),
        parameters=sum(weight.numel() for weight in weights.values()),
        tensors=len(weights),
        files=names,
        size_bytes=size_bytes,
        warnings=tuple(warnings),
        elapsed_seconds=time.monotonic() - started,
    )


def tensor_bytes(tensor: StoredTensor) -> int:
    """Return how much room a stored tensor takes [bytes]."""
    return torch.Size(tensor.shape).numel() * _TYPES[tensor.kind].itemsize


_TYPES: Mapping[str, torch.dtype] = {
    kind: getattr(torch, name) for kind, name in TYPE_NAMES.items()
}


def _used_tensors(reading: Reading) -> dict[str, StoredTensor]:
    """Find the stored tensor of each weight that the files have."""
    storage.compare(reading)
    return {
        place.name: reading.store.tensors[place.name]
        for name, place in reading.places.items()
        if name not in reading.initialised
    }


def _common_type(tensors: Any) -> torch.dtype:
    """Find the narrowest type that holds all stored weights exactly."""
    types = {_TYPES[tensor.kind] for tensor in tensors}
    common = types.pop()
    for other in types:
        common = torch.promote_types(common, other)
    return common


def _warn_of_source(
    reading: Reading, used: Mapping[str, StoredTensor], *, written: torch.dtype
) -> list[str]:
    """Say what becomes another thing already by being read."""
    warnings = []
    kinds = sorted({TYPE_NAMES[tensor.kind] for tensor in used.values()})
    name = str(written).removeprefix("torch.")
    rounded = [
        kind for kind in kinds if torch.promote_types(getattr(torch, kind), written) != written
    ]
    if rounded:
        warnings.append(f"weights were rounded from {' and '.join(rounded)} to {name}")
    elif len(kinds) > 1:
        warnings.append(f"weights stored as {' and '.join(kinds)} are all {name} now, exactly")
    if reading.initialised:
        warnings.append(
            "weights that the source has not were drawn afresh and written: "
            f"{shorten(sorted(reading.initialised))}"
        )
    if reading.ignored:
        warnings.append(
            f"{len(reading.ignored)} tensors of the source have no use here and were left out: "
            f"{shorten(sorted(reading.ignored))}"
        )
    return warnings


def _narrow(bundle: ModelBundle, dtype: torch.dtype, *, source: str) -> None:
    """Round weights in place, one after the other.

    Raises:
        CheckpointError: if a number is beyond what the type can hold.
    """
    beyond = []
    for name, parameter in bundle.model.named_parameters():
        if parameter.dtype == dtype:
            continue
        rounded = parameter.detach().to(dtype)
        if not torch.isfinite(rounded).all():
            beyond.append(name)
        parameter.data = rounded
    if beyond:
        raise CheckpointError(
            f"{source} cannot be written as {str(dtype).removeprefix('torch.')}: expected weights "
            f"up to {torch.finfo(dtype).max:g}, found larger ones in {shorten(beyond)}. Use "
            "bfloat16 or float32."
        )


def _check_apart(source: str | os.PathLike[str], target: Path) -> None:
    """Refuse to write over the source, or around or into it.

    Raises:
        ConfigError: saying so.
    """
    origin = packaged_folder(source) or Path(os.fspath(source))
    if not origin.exists():
        return
    one, other = origin.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ConfigError(
            f"The target {target} is, contains or lies inside the source {origin}: expected a "
            "folder beside it. Choose another target."
        )


_MODEL_FILES = (
    "config.json",
    "hashes.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter.*.safetensors",
    "vocab.json",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
    "checkpoint.pt",
    "dict.*.txt",
)
"""Patterns of the names that the writers of this package give to files."""


def _is_replaceable(folder: Path) -> bool:
    """Whether a folder holds a model and nothing else that somebody may miss."""
    for entry in folder.iterdir():
        if entry.is_dir():
            known = entry.name == DICTIONARIES and all(
                part.is_file() and part.suffix == ".txt" for part in entry.iterdir()
            )
        elif entry.name == CARD_FILE:
            known = _is_our_card(entry)
        else:
            known = any(entry.match(pattern) for pattern in _MODEL_FILES)
        if not known:
            return False
    try:
        open_model(folder)
    except LanguageError:
        return True
    except UnheardError:
        return False
    return True


def _is_our_card(path: Path) -> bool:
    """Whether a model card is one that a writer of this package made."""
    with path.open("rb") as file:
        return b"written by Unheard." in file.read(10_000)


def _check_replaceable(folder: Path) -> None:
    """Refuse a target that is something else, before work goes into it.

    Raises:
        FormatError: saying what is in the way.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FormatError(
            f"{folder} is a file: expected a new or empty folder, or a model to replace. Choose "
            "another target."
        )
    entries = sorted(entry.name for entry in folder.iterdir())
    if entries and not _is_replaceable(folder):
        raise FormatError(
            f"{folder} is not just a model: expected a new or empty folder, or a whole model and "
            f"nothing else to replace, found {shorten(entries)}. Choose another target."
        )


def _counted(reading: Reading, advance: Callable[[int], None]) -> Reading:
    """Watch the store of a reading, which has been compared with its network."""
    # A store of all languages holds those that are not read now, and is known by its identity.
    rest = dict.fromkeys(reading.store.tensors, "not read now")
    return replace(
        reading,
        store=_CountedStore(reading.store, advance),
        ignored={**rest, **reading.ignored},
    )


class _CountedStore:
    """A store that tells how much of it has been read (a `TensorStore`)."""

    def __init__(self, store: TensorStore, advance: Callable[[int], None]) -> None:
        self._store = store
        self._advance = advance

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """As in the store."""
        return self._store.tensors

    def verify(self) -> None:
        """As the store does."""
        self._store.verify()

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """As the store does."""
        tensor = self._store.read(name, out=out)
        self._advance(tensor.numel() * tensor.element_size())
        return tensor


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence remarks about a folder that has not its name yet; its source has had them."""
    remarks = logging.getLogger("unheard.interop")
    before = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        yield
    finally:
        remarks.setLevel(before)


@contextlib.contextmanager
def _stage(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how far a stage is; gives a function to be called with each number of bytes done."""
    if sys.stderr.isatty() and size_bytes >= _BAR_BYTES:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn(f"{name:<8}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=None if name == "writing" else size_bytes)
            yield lambda done: bar.advance(task, done)
    else:
        if size_bytes >= _LARGE_BYTES:
            logger.info("%s %s", name, show_bytes(size_bytes))
        yield lambda _: None
