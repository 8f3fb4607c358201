"""torch checkpoints (.pt, .pth, .bin, .ckpt), read without running a byte of them.

A checkpoint of torch is a pickle with numbers beside it, and a pickle is a program. Here it is run
by a machine of our own that knows only what plain data and tensors need (`pickles.machine`), over
a file whose structure has been checked first (`pickles.archive`, `pickles.legacy`). Tensors stay
in the file until they are asked for, one by one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any

from torch import Tensor

from unheard.errors import CheckpointError, FormatError, shorten
from unheard.interop.pickles.archive import Archive, check_entries, read_archive, read_entry
from unheard.interop.pickles.budget import Budget
from unheard.interop.pickles.legacy import read_legacy
from unheard.interop.pickles.machine import Machine
from unheard.interop.pickles.plain import plain
from unheard.interop.pickles.refusals import damaged
from unheard.interop.pickles.storages import Span, Storages, identify, open_regular
from unheard.interop.pickles.tables import KIND_BYTES, STORAGES
from unheard.interop.pickles.values import Named, Record, Storage, TensorHandle
from unheard.interop.stored import StoredTensor

__all__ = ["PickleStore", "PickledFile", "Record", "TensorHandle", "open_pickle"]

ZIP_MARK = b"PK\x03\x04"


class PickleStore:
    """Tensors of one checkpoint, by name (see `stored.TensorStore`)."""

    def __init__(
        self, handles: Mapping[str, TensorHandle], storages: Storages, archive: Archive | None
    ) -> None:
        self._handles = dict(handles)
        self._storages = storages
        self._archive = archive
        self._tensors = {
            name: StoredTensor(file=storages.file, shape=handle.shape, kind=handle.kind)
            for name, handle in self._handles.items()
        }

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its name."""
        return self._tensors

    def verify(self) -> None:
        """Read the whole file and compare it with the CRC-32 of each entry.

        Files of torch before version 1.6 carry no checksums: of these only the sizes are known,
        and they were checked when the file was opened.

        Raises:
            CheckpointError: naming the file, and the entry that is damaged.
        """
        with self._storages.open() as source:
            if self._archive is not None:
                check_entries(source, self._archive)

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Read one tensor, contiguous, into memory of its own, on the CPU.

        Args:
            name: as in `tensors`.
            out: a contiguous tensor of the stored shape and type to fill instead of a new one.

        Raises:
            CheckpointError: if there is no such tensor, or the file has changed since.
            ShapeError: if `out` has another shape or type.
        """
        if name not in self._handles:
            raise CheckpointError(f"{self._storages.file} has no tensor {name}.", missing=[name])
        return self._storages.read(self._handles[name], out=out)


@dataclass(frozen=True, kw_only=True, eq=False)
class PickledFile:
    """A checkpoint whose description has been read and whose tensors have not.

    Attributes:
        path: the file.
        objects: what was saved, as plain data: dict, list, tuple, set, str, bytes, int, float,
            bool, None. Tensors are `TensorHandle`s, configurations of omegaconf the dicts and
            lists they stand for, objects of other known classes `Record`s (argparse.Namespace,
            fairseq's Dictionary), numpy's numbers Python's, its arrays read-only arrays; classes,
            types of numbers, devices and paths are texts.
        storages: where the numbers are in the file.
        archive: directory of the zip file; None for files older than version 1.6 of torch.
    """

    path: Path
    objects: Any
    storages: Storages
    archive: Archive | None

    @cached_property
    def store(self) -> PickleStore:
        """All tensors of the file, by their full names.

        Raises:
            CheckpointError: if two tensors have one name.
        """
        return self.tensors_at()

    def tensors_at(self, *keys: str | int) -> PickleStore:
        """Return the tensors of one part of the file, such as `tensors_at("model")`.

        The names are the keys below that part, joined by dots; what is no tensor has no name.

        Args:
            keys: the way to the part; none for the whole file.

        Raises:
            CheckpointError: if there is no such part, or two of its tensors have one name.
        """
        part: Any = self.objects
        for position, key in enumerate(keys):
            part = _inside(part)
            if _has(part, key):
                part = part[key]
            else:
                way = ".".join(map(str, keys[: position + 1]))
                found = [str(name) for name in part] if isinstance(part, dict) else []
                raise CheckpointError(
                    f"{self.path} has no part {way}; found: {shorten(found) or 'nothing'}."
                )
        handles: dict[str, TensorHandle] = {}
        budget = Budget(self.path, self.storages.identity[2])
        for name, handle in _named(part, "", budget):
            if name in handles:
                raise CheckpointError(f"{self.path} has two tensors called {name}.")
            handles[name] = handle
        return PickleStore(handles, self.storages, self.archive)


def open_pickle(path: Path) -> PickledFile:
    """Read what a torch checkpoint holds, without its tensors and without running any of it.

    Reads the zip files of torch >= 1.6 and the older ones. The file is checked from the outside
    in: its kind, the directory of the zip file, the pickle's checksum, each step and each class
    of the pickle, and the view that each tensor has of its numbers. Time and memory are bounded
    by the size of the file.

    Raises:
        FormatError: if it is not such a file, or holds what is not read: other classes than
            those of `pickles.classes`, compiled programs, sparse, quantized or complex tensors.
        CheckpointError: if it is damaged, cut short, or claims what cannot be.
        OSError: if it cannot be opened.
    """
    with open_regular(path) as source:
        identity = identify(source)
        size = identity[2]
        head = source.read(512)
        _check_kind(head, path)
        source.seek(0)
        budget = Budget(path, size)
        if head.startswith(ZIP_MARK):
            archive = read_archive(source, file=path, size=size, budget=budget)
            value, spans = _read_zip(source, archive, budget)
            big_endian = archive.big_endian
        else:
            archive = None
            with BufferedReader(source) as buffered:
                value, spans = read_legacy(buffered, file=path, size=size, budget=budget)
            big_endian = False
    return PickledFile(
        path=path,
        objects=plain(value, file=path, budget=budget),
        storages=Storages(path, identity, spans, big_endian),
        archive=archive,
    )


def _check_kind(head: bytes, path: Path) -> None:
    """Say what a file is that is no checkpoint at all."""
    text = head.lstrip().lower()
    if not head:
        found = "is empty"
    elif text.startswith(b"<"):
        found = "is a web page: the download went wrong, or asked for a login"
    elif text.startswith(b"version https://git-lfs"):
        found = "is a pointer of git-lfs: get the file itself with git lfs pull"
    elif head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        found = "is a safetensors file: give it the suffix .safetensors"
    elif text.startswith((b"{", b"[")):
        found = "is a JSON file"
    elif head[257:262] == b"ustar":
        found = "is a tar file, as torch wrote before version 0.2: save it with a newer torch"
    elif not head.startswith((ZIP_MARK, b"\x80", b"c", b"(")):
        found = "is neither a zip file nor a pickle"
    else:
        return
    raise FormatError(f"{path} {found}. Expected a file written by torch.save.")


def _read_zip(source: FileIO, archive: Archive, budget: Budget) -> tuple[Any, dict[str, Span]]:
    """Run the pickle of an archive: its value, and key of a storage -> its bytes."""
    spans = {
        name.removeprefix("data/"): Span(entry.offset, entry.size)
        for name, entry in archive.entries.items()
        if name.startswith("data/")
    }

    def storage(words: object) -> Storage:
        match words:
            case ("storage", Named(name), str(key), str(), int(count)) if name in STORAGES:
                kind = STORAGES[name]
            case _:
                raise damaged(
                    archive.file, "a storage of the pickle is not described as storages are"
                )
        size = count * (1 if kind is None else KIND_BYTES[kind])
        if key not in spans or spans[key].size != size:
            found = f"{spans[key].size} bytes" if key in spans else "none"
            raise damaged(
                archive.file,
                f"its pickle expects a storage data/{key} of {size} bytes, found {found}",
            )
        return Storage(key, kind, 0, size)

    pickle = BytesIO(read_entry(source, archive, "data.pkl", budget=budget))
    machine = Machine(pickle, file=archive.file, budget=budget, persistent=storage)
    value = machine.run()
    if pickle.read(1):
        raise damaged(archive.file, "something follows the end of its pickle")
    return value, spans


def _inside(part: Any) -> Any:
    """Return the attributes of a record, and everything else as it is."""
    return part.state if isinstance(part, Record) else part


def _has(part: Any, key: str | int) -> bool:
    """Whether plain data has a key or a position."""
    if isinstance(part, dict):
        return key in part
    return isinstance(part, list | tuple) and type(key) is int and 0 <= key < len(part)


def _named(part: Any, name: str, budget: Budget) -> Iterator[tuple[str, TensorHandle]]:
    """Yield the tensors of plain data with their names; the depth has been checked."""
    if isinstance(part, TensorHandle):
        yield name, part
        return
    part = _inside(part)
    if isinstance(part, dict):
        items: Any = part.items()
    elif isinstance(part, list | tuple):
        items = enumerate(part)
    else:
        return
    for key, item in items:
        if isinstance(item, TensorHandle | Record | dict | list | tuple):
            budget.spend(len(name) + 128)
            last = key if type(key) is str else repr(key)
            yield from _named(item, f"{name}.{last}" if name else last, budget)
