"""What stored models have in common: guarded settings, one way to a network, an atomic writer.

A stored model is untrusted input. Nothing here runs code from a file, every size is checked
before memory is taken for it, and a file that is cut, altered or not what it says is refused.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unheard.errors import CheckpointError, FormatError, LanguageError, shorten
from unheard.interop.bundle import ModelBundle
from unheard.interop.finite import check_finite, refuse_broken
from unheard.interop.networks import build, draw, shapes_of
from unheard.interop.reading import Reading
from unheard.interop.stored import KINDS, MappableStore, Place, StoredTensor, TensorStore

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
"""The file that says what a model folder holds, in our folders and those of transformers."""

MAX_JSON_BYTES = 8 << 20
"""Largest settings or vocabulary file that is read [bytes]: four times the vocabularies of the
1,162 languages of MMS."""

READERS = 2
"""Threads that read tensors."""

MAPPED_BYTES = 1 << 30
"""From this size on, weights are left in their files unless somebody says otherwise [bytes].
Copying less is a matter of a second."""

_MODEL_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".pt", ".json", ".h5", ".msgpack", ".onnx", ".data")
)
"""Of weights and settings: these would contradict a model that is written over them."""

MAX_JSON_PARTS = 500_000
"""Most values in such a file; a list of empty lists would take forty times its bytes in memory."""

FLOAT_TYPES = ("F16", "BF16", "F32", "F64")
"""Types of numbers that weights may have, as safetensors spells them."""


ALIGNMENT_BYTES = 64
"""What the addresses of tensors are multiples of, in memory that torch gives."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file that nobody vouches for.

    Raises:
        FormatError: if the file is too large, not JSON, nested too deeply, not an object, or
            names a key twice.
        OSError: if it cannot be read at all.
    """
    if path.exists() and not path.is_file():
        raise FormatError(f"{path} is not a file: expected settings as JSON.")
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise FormatError(
            f"{path} is too large: expected at most {MAX_JSON_BYTES} bytes of settings, found "
            f"{size}. This is not a file of a model folder."
        )
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise FormatError(
            f"{path} is not a JSON file of settings: {error}. Restore it from a copy of the model."
        ) from error
    if not isinstance(data, dict):
        raise FormatError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data


def parse_json(data: bytes) -> Any:
    """Read JSON that nobody vouches for, in bounded memory.

    Raises:
        ValueError: if it is not JSON, has too many parts, is nested too deeply, or names a key
            twice.
    """
    parts = data.count(b",") + data.count(b"{") + data.count(b"[")
    if parts > MAX_JSON_PARTS:
        raise ValueError(f"expected at most {MAX_JSON_PARTS} values, found about {parts}")
    try:
        return json.loads(data, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def compare(reading: Reading) -> None:
    """Compare what a network needs with what the files hold, by their headers alone.

    Raises:
        CheckpointError: with the full lists of missing, unexpected and mis-shaped tensors, or if
            a weight is not floating point.
        ConfigError: if a size is beyond what any model has.
    """
    _compare(reading, shapes_of(reading.config, source=_where(reading)))


def load(
    reading: Reading,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    mapped: bool | None = None,
) -> ModelBundle:
    """Make the network of a reading and give it its weights, strictly: every name, every shape.

    All names, shapes and types are compared before the first tensor is read, and checksums before
    the model is given out. Beyond the weights themselves, memory is taken for one tensor at a time.

    Args:
        reading: what a reader of a format found.
        device: where the weights go.
        dtype: type of the weights; None keeps float64 and makes everything else float32.
        mapped: whether weights that stay on the CPU as they are may stay in their files, which
            takes no memory before they are used, and no time. The files may then be replaced or
            deleted, but nobody may write into them while the model lives. None: if they are
            large (`MAPPED_BYTES`). All checks are the same.

    Raises:
        CheckpointError: on a missing, unexpected or mis-shaped name, a damaged file, or weights
            that are not finite.
        ConfigError: if a size is beyond what any model has, or there are several languages and
            none was chosen.
    """
    source = _where(reading)
    if reading.adapters and reading.adapter is None:
        raise LanguageError(
            f"{source} has a part for each of {len(reading.adapters)} languages: expected one of "
            f"them as adapter, such as {shorten(sorted(reading.adapters))}, found none.",
            languages=reading.adapters,
        )
    wanted = shapes_of(reading.config, source=source)
    _compare(reading, wanted)
    model = build(reading.config, source=source)
    places = {name: reading.places[name] for name in wanted if name not in reading.initialised}
    kind = dtype or common_type(reading.store.tensors[place.name] for place in places.values())
    with ThreadPoolExecutor(max_workers=1) as pool:
        verdict = pool.submit(reading.store.verify)
        try:
            weights = read_weights(
                reading.store,
                places,
                wanted,
                source=source,
                device=device,
                dtype=kind,
                mapped=_is_large(wanted, kind) if mapped is None else mapped,
            )
        finally:
            # A damaged file is the better explanation of whatever else was found in it.
            verdict.result()
    for name in reading.initialised:
        weights[name] = draw(name, wanted[name]).to(device=device, dtype=kind)
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval()
    provenance = dict(reading.provenance)
    if reading.initialised:
        provenance["initialised"] = sorted(reading.initialised)
        logger.warning(
            "%s: not in the files, so freshly initialised: %s",
            source,
            shorten(sorted(reading.initialised)),
        )
    return ModelBundle(
        model=model,
        alphabet=reading.alphabet,
        input_spec=reading.input_spec,
        provenance=provenance,
        labels=reading.labels,
        adapters=reading.adapters,
        adapter=reading.adapter,
    )


def common_type(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """Type that stored weights get when nobody asks for one: float64 if any has it, or float32."""
    wide = any(tensor.kind == "F64" for tensor in tensors)
    return torch.float64 if wide else torch.float32


def read_weights(
    store: TensorStore,
    places: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    source: object,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    mapped: bool = False,
) -> dict[str, Tensor]:
    """Read weights out of files, each once, into memory of their own unless `mapped`.

    Args:
        store: the files; their names and shapes have been compared, their checksums verified.
        places: name of a weight -> where it is.
        shapes: name of a weight -> its shape in our network.
        source: what to call the files in messages.
        device: where the weights go, one after the other.
        dtype: their type.
        mapped: as for `load`.

    Returns:
        The weights by name.

    Raises:
        CheckpointError: if a file cannot be read, or weights are not finite.
    """
    target = torch.device(device)
    names: dict[str, list[str]] = {}
    for name, place in places.items():
        names.setdefault(place.name, []).append(name)
    # In the order of the files, so that a disk reads on and on.
    ordered = [name for stored_name in store.tensors for name in names.get(stored_name, ())]
    as_they_are = [
        name
        for name in ordered
        if target.type == "cpu"
        and places[name].row is None
        and KINDS[store.tensors[places[name].name].kind] == dtype
    ]
    weights: dict[str, Tensor] = {}
    if mapped and isinstance(store, MappableStore):
        for name in as_they_are:
            if (weight := store.map(places[name].name)) is not None:
                weights[name] = weight.reshape(shapes[name])
        refuse_broken(
            store.not_finite({places[name].name for name in weights}), len(weights), source=source
        )
        as_they_are = [name for name in as_they_are if name not in weights]
    with _pool(READERS) as pool:
        read = pool.map(lambda name: store.read(places[name].name), as_they_are)
        for name, weight in zip(as_they_are, read, strict=True):
            check_finite({name: weight}, source=source)
            weights[name] = weight.reshape(shapes[name])
    spare = _Spare()
    for name in ordered:
        if name not in weights:
            weight = _convert(store, places[name], spare, dtype)
            check_finite({name: weight}, source=source)
            weights[name] = weight.reshape(shapes[name]).to(target)
    return weights


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, one after the other, and wait for the disk.

    Nearly all of them begin at multiples of `ALIGNMENT_BYTES`, so that they can be used where they
    are; only those of odd sizes, which come last, may not.
    """
    kinds = {dtype: kind for kind, dtype in KINDS.items()}
    sizes = {name: tensor.numel() * tensor.itemsize for name, tensor in tensors.items()}
    ordered = sorted(tensors, key=lambda name: -min(sizes[name] & -sizes[name], ALIGNMENT_BYTES))
    # "pt" is what transformers demands of files that it reads.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        header[name] = {
            "dtype": kinds[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [end, end + sizes[name]],
        }
        end += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            flat = tensors[name].detach().cpu().contiguous().view(-1)
            file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(folder: Path, *, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes `folder` when the block succeeds.

    A reader sees the old folder or the whole new one. A folder that is there is replaced only if
    it is empty or `is_ours` says it is a model folder of the same kind. Whatever else somebody
    keeps in it, a page about the model or its history, stays.

    Args:
        folder: where the finished folder shall be.
        is_ours: whether an existing folder may be replaced.

    Raises:
        FormatError: if `folder` is something else; nothing is written then.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or is_ours(folder))):
        raise FormatError(
            f"{folder} is not a model folder: expected a new or empty folder, or a model to "
            "replace, found other files. Choose another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    retired = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(retired)
        try:
            temporary.rename(folder)
        except OSError:
            if retired.exists():
                retired.rename(folder)
            raise
        if retired.exists():
            _keep_others(retired, folder)
            shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _keep_others(retired: Path, folder: Path) -> None:
    """Move what is no file of a model, and not written anew, from the old folder to the new."""
    for entry in retired.iterdir():
        kept = folder / entry.name
        is_model_file = entry.suffix in _MODEL_SUFFIXES or entry.name.split(".")[0] == "dict"
        if not kept.exists() and not is_model_file:
            entry.rename(kept)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads that drop the work still waiting when the block fails."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _convert(store: TensorStore, place: Place, spare: "_Spare", dtype: torch.dtype) -> Tensor:
    """Read one tensor into spare memory and copy what is wanted of it into memory of its own."""
    stored = store.tensors[place.name]
    read = store.read(place.name, out=spare.tensor(stored.shape, KINDS[stored.kind]))
    wanted = read if place.row is None else read[place.row]
    return wanted.to(dtype, copy=True)


class _Spare:
    """Memory for one tensor at a time, taken once for the largest."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Give a tensor that lives until the next is asked for."""
        size = math.prod(shape) * dtype.itemsize
        if size > self._bytes.numel():
            self._bytes = torch.empty(size, dtype=torch.uint8)
        return self._bytes[:size].view(dtype).view(shape)


def _is_large(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bool:
    """Whether weights are worth leaving in their files; not where these cannot be replaced then."""
    return (
        sys.platform != "win32"
        and sum(map(math.prod, shapes.values())) * dtype.itemsize >= MAPPED_BYTES
    )


def _where(reading: Reading) -> object:
    """What to call the files of a reading in messages: the file, or the folder of several."""
    files = {tensor.file for tensor in reading.store.tensors.values()}
    if len(files) == 1:
        return next(iter(files))
    return next(iter(files)).parent if files else reading.provenance.get("source", "the model")


def _unused(reading: Reading, used: set[str]) -> list[str]:
    """Names in the files that nothing needs: not the network, nor a language of it."""
    unused = dict.fromkeys(
        name for name in reading.store.tensors if name not in used and name not in reading.ignored
    )
    for language in reading.adapters:  # which may be costly to look into, and seldom has to be
        if not unused:
            break
        adapter = reading.adapters[language]
        if adapter.store is reading.store:
            for place in adapter.places.values():
                unused.pop(place.name, None)
    return list(unused)


def _compare(reading: Reading, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names, shapes and types; raise with the whole lists."""
    source, stored = _where(reading), reading.store.tensors
    wanted = {
        name: reading.shapes.get(name, shape)
        for name, shape in shapes.items()
        if name not in reading.initialised
    }
    places = {name: reading.places.get(name, Place(name=name)) for name in wanted}
    missing = [place.name for place in places.values() if place.name not in stored]
    unexpected = _unused(reading, {place.name for place in places.values()})
    mismatched: list[str] = []
    odd: list[str] = []
    for name, shape in wanted.items():
        place = places[name]
        if place.name not in stored:
            continue
        found = stored[place.name]
        if place.row is None and found.shape != shape:
            mismatched.append(f"{place.name}: expected {shape}, found {found.shape}")
        elif place.row is not None and (
            found.shape[1:] != shape or not 0 <= place.row < found.shape[0]
        ):
            mismatched.append(
                f"{place.name}: expected {shape} in row {place.row}, found {found.shape}"
            )
        if found.kind not in FLOAT_TYPES:
            odd.append(f"{place.name}: {found.kind}")
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"The weights of {source} do not fit their configuration: expected {len(wanted)} "
            f"tensors, found {len(stored)}. The files belong to different models or are "
            "incomplete.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )
    if odd:
        raise CheckpointError(
            f"The weights of {source} are not floating-point numbers: expected "
            f"{', '.join(FLOAT_TYPES)}, found {odd[0]} and {len(odd) - 1} more. Quantised models "
            "are not read; use the original."
        )
    if sum(math.prod(shape) for shape in wanted.values()) == 0:
        raise CheckpointError(f"The weights of {source} are empty.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing a key that comes twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} comes twice")
    return result
