"""Files of weights in a folder of transformers, seen as one store of tensors."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from unheard.errors import CheckpointError, FormatError
from unheard.interop import storage
from unheard.interop.pickle_store import open_pickle
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.stored import StoredTensor, TensorStore

SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

FORMS: Mapping[str, tuple[str, str]] = {
    ".safetensors": SAFETENSORS_FILES,
    ".bin": PICKLE_FILES,
}
"""End of file names -> the whole file, and the index of the same weights in several files. The
first that is there is read: a pickle only where there is nothing better."""


def weight_files(folder: Path) -> list[Path]:
    """Find the files of weights of a folder: one, or all that an index names.

    Raises:
        CheckpointError: if there are none, or a part is missing.
        FormatError: if an index names what is not a file of weights beside it.
    """
    return _find(folder)[0]


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """Read which file holds which tensor.

    Raises:
        FormatError: if the index names anything but files beside it.
        CheckpointError: if such a file is missing.
    """
    table = storage.read_json_object(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise FormatError(f"{path} has no weight_map: expected name -> file of each tensor.")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise FormatError(
                f"{path} names {name!r}: expected {suffix} files beside it, nothing else."
            )
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path.parent} is incomplete: expected {len(names)} files of weights. Fetch the "
            "missing ones.",
            missing=missing,
        )
    return {tensor: str(name) for tensor, name in table.items()}


def open_weights(folder: Path) -> TensorStore:
    """Open the weights of a folder by their headers.

    Raises:
        CheckpointError: if a file is damaged, or an index and its files disagree.
        FormatError: if an index or a pickle holds what it must not.
    """
    files, table = _find(folder)
    store = open_files(files)
    if table is not None:
        missing = [name for name in table if name not in store.tensors]
        unexpected = [name for name in store.tensors if name not in table]
        if missing or unexpected:
            raise CheckpointError(
                f"The index of {folder} and its {len(files)} files disagree: expected "
                f"{len(table)} tensors, found {len(store.tensors)}. Fetch them again.",
                missing=missing,
                unexpected=unexpected,
            )
    return store


def _find(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Find the files of weights, and the index that names them if one does."""
    for suffix, (whole, index) in FORMS.items():
        if (folder / whole).is_file():
            return [folder / whole], None
        if (folder / index).is_file():
            table = read_index(folder / index, suffix)
            return [folder / name for name in sorted(set(table.values()))], table
    raise CheckpointError(
        f"{folder} has no weights: expected {SAFETENSORS_FILES[0]} or {PICKLE_FILES[0]}, whole or "
        "in parts with an index.",
        missing=[SAFETENSORS_FILES[0]],
    )


def open_files(files: list[Path]) -> TensorStore:
    """Open files of one form, safetensors or pickles, as one store."""
    if files[0].suffix == ".safetensors":
        return SafetensorsStore(files)
    stores = [open_pickle(path).store for path in files]
    if len(stores) == 1:
        return stores[0]
    seen: dict[str, Path] = {}
    for path, store in zip(files, stores, strict=True):
        for name in store.tensors:
            if name in seen:
                raise CheckpointError(
                    f"The tensor {name} is stored twice: in {seen[name]} and {path}."
                )
            seen[name] = path
    return StackedStore(stores)


class StackedStore:
    """Several stores as one (a `TensorStore`); a later one hides names of those before it."""

    def __init__(self, stores: Sequence[TensorStore]) -> None:
        self._stores = stores
        self._owners = {name: store for store in stores for name in store.tensors}
        self._tensors = {name: store.tensors[name] for name, store in self._owners.items()}

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor that is not hidden."""
        return self._tensors

    def verify(self) -> None:
        """Compare every file with its checksums, if any."""
        for store in self._stores:
            store.verify()

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor from the store that has it."""
        return self._owners[name].read(name, out=out)


class LazyStore:
    """A store that opens its files when it is first asked for something (a `TensorStore`).

    A model may have an adapter for each of a thousand languages and be used with one.
    """

    def __init__(self, opener: Callable[[], TensorStore]) -> None:
        self._opener = opener

    @cached_property
    def _store(self) -> TensorStore:
        return self._opener()

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its name in the files."""
        return self._store.tensors

    def verify(self) -> None:
        """Compare every file with its checksums, if any."""
        self._store.verify()

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor."""
        return self._store.read(name, out=out)
