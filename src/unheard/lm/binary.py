"""Our own file of an n-gram model: the arrays themselves, mapped into memory and used in place.

    bytes 0-15      the signature
    bytes 16-23     length of the header, unsigned, little-endian
    then            the header, JSON in UTF-8, filled up with spaces to a multiple of 64 bytes
    then            the arrays, each at a multiple of 64 bytes

The header holds `version`, `order`, `units`, `pieces` (of `lm.pieces`, or null), `size` [bytes] of
what follows it, and for each array its `dtype` in NumPy's notation, its `offset` [bytes] from the
end of the header and its `length`. The arrays are those of `lm.kernel.NgramTables`, and
`vocabulary`: the words in UTF-8, parted by line feeds.
"""

import json
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unheard.errors import FormatError
from unheard.files import atomic_path
from unheard.lm.kernel import NgramTables, find_fault
from unheard.lm.pieces import Pieces
from unheard.lm.units import UNITS, Units
from unheard.lm.vocabulary import Vocabulary

SIGNATURE = b"unheard ngrams\r\n"
"""A line end of its own kind shows where a transfer took the file for text."""

VERSION = 1
_ALIGNMENT = 64
_LONGEST_HEADER = 1 << 26
_LENGTH = struct.Struct("<Q")
_BEFORE_HEADER = len(SIGNATURE) + _LENGTH.size
_DTYPES = {
    "word": "<i4",
    "log_prob": "<f4",
    "suffix": "<i4",
    "backoff": "<f4",
    "first_child": "<i8",
    "vocabulary": "|u1",
}


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """What a file holds."""

    tables: NgramTables
    vocabulary: Vocabulary
    units: Units
    pieces: Pieces | None


def write_binary(path: str | os.PathLike[str], model: StoredModel) -> None:
    """Write a model, whole or not at all."""
    arrays: dict[str, npt.NDArray] = {
        name: getattr(model.tables, name) for name in NgramTables._fields if name in _DTYPES
    }
    words = "\n".join(model.vocabulary.words).encode()
    arrays["vocabulary"] = np.frombuffer(words, dtype=np.uint8)
    places: dict[str, dict[str, Any]] = {}
    size = 0
    for name, array in arrays.items():
        places[name] = {"dtype": _DTYPES[name], "offset": size, "length": len(array)}
        size += array.nbytes + -array.nbytes % _ALIGNMENT
    header = {
        "version": VERSION,
        "order": model.tables.order,
        "units": model.units,
        "pieces": None if model.pieces is None else model.pieces.to_dict(),
        "size": size,
        "arrays": places,
    }
    written = json.dumps(header, ensure_ascii=False).encode()
    written += b" " * (-(_BEFORE_HEADER + len(written)) % _ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(SIGNATURE + _LENGTH.pack(len(written)) + written)
        for name, array in arrays.items():
            file.write(np.ascontiguousarray(array, dtype=_DTYPES[name]).data)
            file.write(bytes(-array.nbytes % _ALIGNMENT))


def read_binary(path: str | os.PathLike[str]) -> StoredModel:
    """Map a model into memory.

    All entries that a search follows are checked, which reads the file once; processes that map
    one file share its memory.

    Raises:
        FormatError: if the file is not a whole, sound model.
        OSError: if it cannot be read.
    """
    source = Path(path)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_BEFORE_HEADER)
        if not start.startswith(SIGNATURE) or len(start) != _BEFORE_HEADER:
            raise _fault(source, f"expected {SIGNATURE!r} at its start, found {start[:16]!r}")
        (length,) = _LENGTH.unpack_from(start, len(SIGNATURE))
        end = _BEFORE_HEADER + length
        if end > min(size, _LONGEST_HEADER) or end % _ALIGNMENT:
            raise _fault(source, f"its header would take {length:,} bytes")
        header = _read_header(source, file.read(length), size - end)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {
        name: np.frombuffer(
            mapped, dtype=place["dtype"], count=place["length"], offset=end + place["offset"]
        ).astype(np.dtype(place["dtype"]).newbyteorder("="), copy=False)
        for name, place in header["arrays"].items()
    }
    try:
        vocabulary = Vocabulary(bytes(arrays.pop("vocabulary")).decode().split("\n"))
        pieces = None if header["pieces"] is None else Pieces.from_dict(header["pieces"])
    except (UnicodeDecodeError, FormatError) as error:
        raise _fault(source, str(error)) from error
    tables = NgramTables(**arrays, order=header["order"])
    nodes, inner = len(tables.word), len(tables.backoff)
    lengths = (len(tables.log_prob), len(tables.suffix), len(tables.first_child))
    if (
        lengths != (nodes, nodes, inner + 1)
        or not 0 < inner <= nodes
        or nodes < 2
        or tables.word[0] != -1
    ):
        raise _fault(source, "its arrays do not fit each other")
    fault = find_fault(tables, len(vocabulary))
    if fault >= 0 or not _has_levels(tables):
        raise _fault(source, f"its n-grams are damaged (node {max(fault, 0)})")
    return StoredModel(tables=tables, vocabulary=vocabulary, units=header["units"], pieces=pieces)


def is_binary(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as ours do."""
    with Path(path).open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def _read_header(source: Path, written: bytes, size: int) -> dict[str, Any]:
    """Read and check the header, of which `size` bytes follow."""
    try:
        header = json.loads(written)
    except ValueError as error:
        raise _fault(source, f"its header is no JSON: {error}") from error
    keys = {"version", "order", "units", "pieces", "arrays", "size"}
    if not isinstance(header, dict) or header.get("version") != VERSION:
        found = header.get("version") if isinstance(header, dict) else header
        raise _fault(source, f"expected version {VERSION}, found {found!r:.40}")
    if set(header) != keys or header["units"] not in UNITS:
        raise _fault(source, f"expected a header of {sorted(keys)}")
    if header["size"] != size:
        raise _fault(source, f"expected {header['size']:,} bytes, found {size:,}: it was cut off")
    if not _is_count(header["order"]) or not 1 <= header["order"] <= 64:
        raise _fault(source, f"expected an order of 1 to 64, found {header['order']!r:.40}")
    if not (header["pieces"] is None or isinstance(header["pieces"], dict)):
        raise _fault(source, "its word pieces are malformed")
    arrays = header["arrays"]
    if not isinstance(arrays, dict) or set(arrays) != set(_DTYPES):
        raise _fault(source, f"expected arrays {sorted(_DTYPES)}")
    for name, dtype in _DTYPES.items():
        place = arrays[name]
        if (
            not isinstance(place, dict)
            or place.get("dtype") != dtype
            or not _is_count(place.get("offset"))
            or not _is_count(place.get("length"))
            or place["offset"] % _ALIGNMENT
            or place["offset"] + place["length"] * np.dtype(dtype).itemsize > size
        ):
            raise _fault(source, f"the place of its array {name!r} is malformed")
    return header


def _has_levels(tables: NgramTables) -> bool:
    """Whether the nodes with children are those of all orders but the last."""
    inner = len(tables.backoff)
    start = 0
    for _ in range(tables.order):
        if start > inner:
            return False
        start = int(tables.first_child[start])
    return start == inner


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _fault(source: Path, what: str) -> FormatError:
    return FormatError(
        f"{source} is not a whole n-gram model of ours: {what}. Make it again with "
        '"unheard lm train", or from the ARPA file.'
    )
