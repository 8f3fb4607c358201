"""The packed index over all shards: one row an utterance, in arrays on disk, mapped into memory.

    index.json          version, rows, what it was made from, size and hash of every file
    offset.npy, ...     one column each, see COLUMNS
    id.bytes.npy        texts behind each other in UTF-8, and
    id.ends.npy         where each ends; the same for text, speaker, language, corpus, shard

Ten million rows take a gigabyte of disk. Opening reads nothing but what it checks; rows cost memory
where they are looked at, and processes on one machine share it.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0
from numpy.typing import NDArray

from unheard.data.places import checked_name
from unheard.errors import FormatError
from unheard.files import read_json, sha256_file, write_json_atomic

VERSION = 1
INDEX_RECORD = "index.json"

COLUMNS: Mapping[str, str] = {
    "shard": "<u4",
    "offset": "<u8",
    "size": "<u4",
    "crc": "<u4",
    "num_samples": "<u4",
    "mean": "<f8",
    "variance": "<f8",
    "language": "<u4",
    "corpus": "<u4",
    "speaker": "<u4",
}
"""Name and type of each column. `offset` and `size` [bytes] say where the audio file lies in its
shard, `crc` is its CRC-32, `num_samples` is at 16 kHz, mean and variance are of the decoded sound;
the last three and `shard` are numbers in the lists of names."""

NAMES = ("shard", "language", "corpus", "speaker")
"""Columns that are numbers in a list of names."""

TEXTS = ("id", "text")
"""What every row has a text of its own for; an empty `text` means that none is known."""


class Strings(Sequence[str]):
    """Many texts in two arrays, decoded when they are looked at."""

    def __init__(
        self,
        data: NDArray[np.uint8],
        ends: NDArray[np.uint64],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """Keep the arrays.

        Args:
            data: (bytes,) UTF-8 of all texts.
            ends: (texts,) where each ends in `data`.
            rows: numbers of the texts to give, in order; None for all.
        """
        self._data = data
        self._ends = ends
        self._rows = rows

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """Pack texts."""
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(part) for part in parts], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), ends)

    @property
    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """The bytes and the ends."""
        return self._data, self._ends

    def only(self, rows: NDArray[np.int64]) -> "Strings":
        """Give some of the texts, in the given order."""
        chosen = rows if self._rows is None else self._rows[rows]
        return Strings(self._data, self._ends, chosen)

    def __len__(self) -> int:
        """Count the texts."""
        return len(self._ends) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, number: int) -> str: ...

    @overload
    def __getitem__(self, number: slice) -> list[str]: ...

    def __getitem__(self, number: int | slice) -> str | list[str]:
        """Decode one text, or some."""
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} texts, not one at {number}")
        row = number % len(self)
        if self._rows is not None:
            row = int(self._rows[row])
        start = int(self._ends[row - 1]) if row else 0
        return self._data[start : int(self._ends[row])].tobytes().decode("utf-8", "surrogatepass")


@dataclass(kw_only=True)
class Rows:
    """Rows of one shard, being collected.

    Attributes:
        columns: lists of numbers; those of NAMES but for "shard" are kept as texts instead.
        texts: lists of texts: id, text, speaker, language; "" where not known.
    """

    columns: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in COLUMNS if name not in NAMES}
    )
    texts: dict[str, list[str]] = field(
        default_factory=lambda: {name: [] for name in (*TEXTS, "speaker", "language")}
    )

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.texts["id"])

    def add(self, *, numbers: Mapping[str, float], texts: Mapping[str, str | None]) -> None:
        """Add a row."""
        for name, column in self.columns.items():
            column.append(numbers[name])
        for name, column in self.texts.items():
            column.append(texts[name] or "")

    def pack(self) -> bytes:
        """Give the content of the file that lies beside a shard and holds its part of the index."""
        arrays: dict[str, NDArray[Any]] = {
            name: np.asarray(column, dtype=COLUMNS[name]) for name, column in self.columns.items()
        }
        for name, column in self.texts.items():
            arrays[f"{name}.bytes"], arrays[f"{name}.ends"] = Strings.of(column).arrays
        memory = io.BytesIO()
        np.savez(memory, **arrays)  # pyright: ignore[reportArgumentType]
        return memory.getvalue()


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The rows of one shard.

    Attributes:
        columns: the numbers, see COLUMNS.
        texts: id, text, speaker, language of each row.
    """

    columns: dict[str, NDArray[Any]]
    texts: dict[str, Strings]

    @classmethod
    def unpack(cls, data: bytes, label: str) -> "PackedRows":
        """Read what `Rows.pack` gave.

        Raises:
            FormatError: if it is something else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in COLUMNS if name not in NAMES}
                texts = {
                    name: Strings(arrays[f"{name}.bytes"], arrays[f"{name}.ends"])
                    for name in (*TEXTS, "speaker", "language")
                }
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise FormatError(
                f"{label} is no part of an index: {error}. Make the shards again."
            ) from error
        counts = {len(column) for column in (*columns.values(), *texts.values())}
        if len(counts) != 1:
            raise FormatError(f"{label} has columns of different lengths. Make the shards again.")
        for name, column in columns.items():
            if column.dtype != np.dtype(COLUMNS[name]):
                raise FormatError(f"{label} has a column {name} of type {column.dtype}.")
        return cls(columns=columns, texts=texts)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.texts["id"])


class ShardIndex:
    """All rows, mapped into memory.

    Attributes:
        folder: where it lies.
        fingerprint: says what it was made from.
        columns: arrays on disk, see COLUMNS.
        ids: of the utterances.
        texts: transcripts, "" where not known.
        names: the lists behind the columns of NAMES.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        """Open an index.

        Args:
            folder: where it lies.
            verify: compare every file with its hash (a second a gigabyte), not only its size.

        Raises:
            FormatError: if it is damaged, of another version, or points out of its folder.
        """
        record = read_json(folder / INDEX_RECORD)
        if not isinstance(record, dict) or record.get("version") != VERSION:
            raise FormatError(
                f"{folder / INDEX_RECORD} is of another version: expected {VERSION}. Delete "
                f"{folder}; it is made again from the shards."
            )
        self.folder = folder
        self.fingerprint: str = record["fingerprint"]
        rows: int = record["rows"]
        for name, facts in record["files"].items():
            path = folder / checked_name(name)
            if path.stat().st_size != facts["bytes"] or (
                verify and sha256_file(path) != facts["sha256"]
            ):
                raise FormatError(
                    f"{path} is damaged: its size or hash is not what {INDEX_RECORD} says. Delete "
                    f"{folder}; it is made again from the shards."
                )
        self.columns = {
            name: _load(folder / f"{name}.npy", type_) for name, type_ in COLUMNS.items()
        }
        self.ids = self._strings("id")
        self.texts = self._strings("text")
        self.names = {name: self._strings(name) for name in NAMES}
        if {rows} != {len(column) for column in (*self.columns.values(), self.ids, self.texts)}:
            raise FormatError(
                f"{folder} has columns of different lengths: expected {rows} rows. Delete it; it "
                "is made again from the shards."
            )
        for name in self.names["shard"]:
            checked_name(name)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.ids)

    def _strings(self, name: str) -> Strings:
        return Strings(
            _load(self.folder / f"{name}.bytes.npy", "|u1"),
            _load(self.folder / f"{name}.ends.npy", "<u8"),
        )


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """A shard, and how to get its rows.

    Attributes:
        name: of the tar file, relative to the folder of all shards.
        rows: how many.
        load: reads them.
    """

    name: str
    rows: int
    load: Callable[[], PackedRows]

    @property
    def corpus(self) -> str:
        """The folder that the shard lies in, "" for the uppermost."""
        return self.name.rpartition("/")[0]


def build_index(shards: Sequence[ShardRows], folder: Path, *, fingerprint: str) -> None:
    """Write the index of some shards; it is there whole or not at all.

    Rows go from a shard's own part straight to their place on disk, so memory stays small.

    Args:
        shards: in the order in which their rows shall stand.
        folder: where it shall lie; an index that is there is replaced.
        fingerprint: of what it is made from.

    Raises:
        FormatError: if a shard has another number of rows than it said.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    rows = sum(shard.rows for shard in shards)
    columns = {
        name: _new(temporary / f"{name}.npy", type_, rows) for name, type_ in COLUMNS.items()
    }
    ends = {name: _new(temporary / f"{name}.ends.npy", "<u8", rows) for name in TEXTS}
    numbers: dict[str, dict[str, int]] = {name: {} for name in NAMES}
    first = 0
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(_BytesWriter(temporary / f"{name}.bytes.npy"))
            for name in TEXTS
        }
        for shard in shards:
            part = shard.load()
            if len(part) != shard.rows:
                raise FormatError(
                    f"{shard.name} has {len(part)} rows, expected {shard.rows}. Make it again."
                )
            here = slice(first, first + len(part))
            first += len(part)
            for name, column in part.columns.items():
                columns[name][here] = column
            for name, text in (("shard", shard.name), ("corpus", shard.corpus)):
                columns[name][here] = numbers[name].setdefault(text, len(numbers[name]))
            for name in ("language", "speaker"):
                known = numbers[name]
                columns[name][here] = [
                    known.setdefault(text, len(known)) for text in part.texts[name]
                ]
            for name, pool in pools.items():
                data, own_ends = part.texts[name].arrays
                ends[name][here] = own_ends + np.uint64(pool.size)
                pool.add(data)
    for name, known in numbers.items():
        data, own_ends = Strings.of(known).arrays
        np.save(temporary / f"{name}.bytes.npy", data)
        np.save(temporary / f"{name}.ends.npy", own_ends)
    for array in (*columns.values(), *ends.values()):
        if isinstance(array, np.memmap):
            array.flush()
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(temporary.iterdir())
    }
    write_json_atomic(
        temporary / INDEX_RECORD,
        {"version": VERSION, "rows": rows, "fingerprint": fingerprint, "files": files},
    )
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def fingerprint_of(facts: Any) -> str:
    """Hash plain data that says what an index is made from."""
    text = json.dumps([VERSION, facts], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _BytesWriter:
    """Writes an array of bytes whose length is known only at the end."""

    _HEADER_BYTES = 128

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(bytes(self._HEADER_BYTES))
        self.size = 0

    def add(self, data: NDArray[np.uint8]) -> None:
        """Write some more."""
        self._file.write(data.tobytes())
        self.size += data.shape[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write the header in its place."""
        header = io.BytesIO()
        write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (self.size,)}
        )
        if header.tell() != self._HEADER_BYTES:
            raise RuntimeError(f"an array's header takes {header.tell()} bytes, not 128")
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()


def _load(path: Path, type_: str) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        # An array of nothing cannot be mapped.
        array = np.load(path, allow_pickle=False) if path.stat().st_size <= 256 else None
        if array is None:
            raise FormatError(f"{path} is no array: {error}. Make the index again.") from error
    if array.ndim != 1 or array.dtype != np.dtype(type_):
        raise FormatError(
            f"{path} should be a plain list of {type_}, and is {array.dtype} of {array.ndim} "
            "dimensions. Make the index again."
        )
    return array


def _new(path: Path, type_: str, rows: int) -> NDArray[Any]:
    if rows == 0:
        np.save(path, np.zeros(0, dtype=type_))
        return np.zeros(0, dtype=type_)
    return open_memmap(path, mode="w+", dtype=np.dtype(type_), shape=(rows,))
