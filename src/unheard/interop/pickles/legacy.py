"""The files that torch.save wrote before version 1.6: pickles one after the other, then bytes."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from unheard.errors import CheckpointError, FormatError
from unheard.interop.pickles.budget import Budget
from unheard.interop.pickles.machine import Machine
from unheard.interop.pickles.refusals import ADVICE, damaged, whole_network
from unheard.interop.pickles.storages import Span
from unheard.interop.pickles.tables import KIND_BYTES, STORAGES
from unheard.interop.pickles.values import Named, Storage

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
COUNT = struct.Struct("<q")


class _Declared:
    """The storages that the pickle speaks of, each with the bytes it must have in the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.sizes: dict[str, tuple[str | None, int]] = {}

    def storage(self, words: object) -> Storage:
        """Turn what the pickle says of a storage into a storage."""
        match words:
            case ("module", *_):
                raise whole_network(self._file)
            case (
                "storage",
                Named(name),
                str(key),
                str(),
                int(count),
                None,
            ) if name in STORAGES:
                kind, first, length = STORAGES[name], 0, count
            case (
                "storage",
                Named(name),
                str(key),
                str(),
                int(count),
                (str(), int(first), int(length)),
            ) if name in STORAGES:
                kind = STORAGES[name]
            case _:
                raise damaged(
                    self._file, "a storage of the pickle is not described as storages are"
                )
        width = 1 if kind is None else KIND_BYTES[kind]
        if self.sizes.setdefault(key, (kind, count)) != (kind, count):
            raise damaged(self._file, f"the storage {key} is described in two ways")
        if min(first, length) < 0 or first + length > count:
            raise damaged(self._file, f"a part of the storage {key} lies outside of it")
        return Storage(key, kind, first * width, length * width)


def read_legacy(
    source: BinaryIO, *, file: Path, size: int, budget: Budget
) -> tuple[Any, dict[str, Span]]:
    """Read the pickles of a file, and find the storages behind them.

    Args:
        source: the file, opened, at its beginning.
        file: its name for messages.
        size: its bytes.
        budget: pays for what is made of the pickles.

    Returns:
        The value that was saved, with tensors not yet read; key of a storage -> its bytes. The
        numbers have their low byte first, on every machine.

    Raises:
        FormatError: if it is not such a file, or needs what is not read here.
        CheckpointError: if it is cut short, damaged or lies.
    """
    declared = _Declared(file)
    machine = Machine(source, file=file, budget=budget, persistent=declared.storage)
    magic = machine.run()
    if magic != MAGIC:
        raise FormatError(
            f"{file} is a pickle of something else than a torch checkpoint: expected a file "
            f"written by torch.save. {ADVICE}"
        )
    if machine.run() != PROTOCOL:
        raise FormatError(
            f"{file} is a torch file of an unknown protocol: expected {PROTOCOL}, as torch "
            "wrote it before version 1.6."
        )
    machine.run()  # facts of the machine that wrote it; sizes and byte order are always the same
    value = machine.run()
    keys = machine.run()
    if (
        type(keys) is not list
        or not all(type(key) is str for key in keys)
        or sorted(keys) != sorted(declared.sizes)
    ):
        raise damaged(file, "the storages that it lists are not those that its tensors need")
    spans: dict[str, Span] = {}
    for key in keys:
        kind, count = declared.sizes[key]
        head = source.read(COUNT.size)
        length = count * (1 if kind is None else KIND_BYTES[kind])
        first = source.tell()
        if len(head) != COUNT.size or first + length > size:
            raise CheckpointError(
                f"{file} is cut short: it has {size} bytes and its storage {key} would end at "
                f"{first + length}. Copy or download the file again."
            )
        if COUNT.unpack(head)[0] != count:
            raise damaged(
                file,
                f"its storage {key} has {COUNT.unpack(head)[0]} numbers where its "
                f"tensors expect {count}",
            )
        spans[key] = Span(first, length)
        source.seek(first + length)
    if source.tell() != size:
        raise damaged(file, f"it has {size - source.tell()} bytes behind its last storage")
    return value, spans
