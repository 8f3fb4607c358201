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

from unheard.config import to_dict
from unheard.errors import CheckpointError, ConfigError, FormatError, UnheardError, shorten
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.inspection import TYPE_NAMES
from unheard.interop.inspection_table import show_bytes
from unheard.interop.load import open_model, save_model
from unheard.interop.reading import Reading
from unheard.interop.stored import StoredTensor, TensorStore

__all__ = ["Conversion", "convert"]

TargetFormat = Literal["native", "huggingface", "fairseq"]
"""What `convert` writes."""

Dtype = Literal["float32", "bfloat16", "float16", "float64"]
"""Types of weights that `convert` writes."""

_LARGE_BYTES = 500_000_000
"""From this size on, stages are told where there is no terminal [bytes]."""

_TRAINING_SETTINGS = frozenset(
    {
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "input_dropout",
        "layer_drop",
        "feature_grad_scale",
        "head_dropout",
        "feature_dropout",
        "distractors",
        "contrastive_temperature",
        "diversity_weight",
        "feature_penalty_weight",
        "unmasked_weight",
        "temperature_start",
        "temperature_end",
        "temperature_floor_at",
        "masking",
    }
)
"""Settings that no result of a finished model depends on: losing one is a warning."""

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
        dtype: type of the weights; None keeps the source's.

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
            counted = _CountedStore(reading.store, advance)
            wide = torch.promote_types(kept, wanted)
            bundle = storage.load(replace(reading, store=counted), dtype=wide)
        _narrow(bundle, wanted, source=os.fspath(source))
        weights = bundle.model.state_dict()
        with _stage("writing", size):
            save_model(bundle, temporary, format="unheard" if to == "native" else to)
        with _stage("checking", size) as advance:
            written = open_model(temporary, adapter=bundle.adapter)
            warnings += _compare_settings(bundle, written)
            warnings += _compare_weights(weights, written, advance)
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


def _compare_weights(
    weights: Mapping[str, Tensor], written: Reading, advance: Callable[[int], None]
) -> list[str]:
    """Read back what was written.

    Raises:
        CheckpointError: if a tensor is not the one that was to be written.
    """
    written.store.verify()
    lost = [name for name in weights if name in written.initialised]
    different = []
    for name, expected in weights.items():
        if name in written.initialised:
            continue
        place = written.places[name]
        found = written.store.read(place.name)
        advance(found.numel() * found.element_size())
        if place.row is not None:
            found = found[place.row]
        if found.dtype != expected.dtype or not torch.equal(
            found.reshape(expected.shape), expected
        ):
            different.append(name)
    if different:
        raise CheckpointError(
            "What was written is not what was read: expected equal weights, found others in "
            f"{shorten(different)}. Nothing was kept; this is a defect of this package or of the "
            "disk."
        )
    if lost:
        return [f"the target has no place for the weights {shorten(lost)}"]
    return []


def _compare_settings(bundle: ModelBundle, written: Reading) -> list[str]:
    """Find settings that the target does not say as the source did.

    Raises:
        FormatError: if the network that is read back would compute or write something else.
    """
    errors, warnings = [], []
    if type(written.config) is not type(bundle.config):
        errors.append(
            f"the network {type(bundle.config).__name__} (read back: "
            f"{type(written.config).__name__})"
        )
    else:
        for key, (before, after) in _differences(to_dict(bundle.config), to_dict(written.config)):
            said = f"{key} {before!r} (read back: {after!r})"
            is_harmless = not _TRAINING_SETTINGS.isdisjoint(key.split("."))
            (warnings if is_harmless else errors).append(said)
    spec, found = bundle.input_spec, written.input_spec
    for key, (before, after) in _differences(to_dict(spec), to_dict(found)):
        # The epsilon is far below the loudness of any recording; padding is the reader's choice.
        harmless = key in ("normalize_epsilon", "padding", "attention_mask")
        (warnings if harmless else errors).append(f"{key} {before!r} (read back: {after!r})")
    alphabet = bundle.alphabet
    if alphabet is not None and written.alphabet is None:
        warnings.append(f"the alphabet of {len(alphabet)} symbols")
    elif alphabet is not None and written.alphabet is not None:
        for key, (before, after) in _differences(alphabet.to_dict(), written.alphabet.to_dict()):
            harmless = key in ("case", "special", "unknown")
            said = f"{key} of the alphabet" + (
                f" {before!r} (read back: {after!r})" if harmless else ""
            )
            (warnings if harmless else errors).append(said)
    if bundle.labels != written.labels:
        (errors if written.labels else warnings).append("the names of the classes")
    if lost := sorted(set(bundle.adapters) - set(written.adapters)):
        warnings.append(f"{len(lost)} languages: {shorten(lost)}")
    for key in ("licence", "license", "language"):
        if bundle.provenance.get(key) not in (None, written.provenance.get(key)):
            warnings.append(f"the {key} {bundle.provenance[key]}")
    if errors:
        raise FormatError(
            "This model cannot be expressed in the target's format, which would say otherwise: "
            f"{shorten(errors)}. Nothing was written."
        )
    return [f"not kept in the target: {warning}" for warning in warnings]


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Give the dotted names of values that differ, with both."""
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", (one, other)


def _check_apart(source: str | os.PathLike[str], target: Path) -> None:
    """Refuse to write over the source, or around or into it.

    Raises:
        ConfigError: saying so.
    """
    origin = Path(os.fspath(source))
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
    "*.pt",
    "dict.*.txt",
)
"""Patterns of the names that the writers of this package give to files."""


def _is_replaceable(folder: Path) -> bool:
    """Whether a folder holds a model and nothing else that somebody may miss."""
    for entry in folder.iterdir():
        if not entry.is_file() or not any(entry.match(pattern) for pattern in _MODEL_FILES):
            return False
    try:
        open_model(folder)
    except UnheardError:
        return False
    return True


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
def _stage(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how far a stage is; gives a function to be called with each number of bytes done."""
    if sys.stderr.isatty():
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
