"""The zip files that torch.save writes: their directory, checked before anything is believed."""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Never

from unheard.errors import CheckpointError, FormatError
from unheard.interop.pickles.budget import Budget
from unheard.interop.pickles.refusals import damaged

LOCAL = struct.Struct("<IHHHHHIIIHH")
ENTRY = struct.Struct("<IHHHHHHIIIHHHHHII")
END = struct.Struct("<IHHHHIIH")
LOCATOR = struct.Struct("<IIQI")
END64 = struct.Struct("<IQHHIIQQQQ")
UINT64 = struct.Struct("<Q")
LOCAL_MARK, ENTRY_MARK, END_MARK = 0x04034B50, 0x02014B50, 0x06054B50
LOCATOR_MARK, END64_MARK = 0x07064B50, 0x06064B50

DRIVE = re.compile("[A-Za-z]:")
STORED = 0
ENCRYPTED = 0x1
ZIP64_FIELD = 1
BLOCK_BYTES = 1 << 20
"""How much of a file is read at a time to check it [bytes]."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive: its bytes as they are, not compressed.

    Attributes:
        offset: where its first byte is in the archive.
        size: its bytes.
        crc: their CRC-32; 0 where none was computed.
    """

    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The directory of a checkpoint.

    Attributes:
        file: the zip file.
        entries: name below the folder that all entries are in -> where it is.
        big_endian: whether the numbers of tensors are stored with the high byte first.
    """

    file: Path
    entries: Mapping[str, Entry]
    big_endian: bool


def read_archive(source: FileIO, *, file: Path, size: int, budget: Budget) -> Archive:
    """Read and check the directory of a zip file written by torch.save.

    Every entry must be stored as it is, have a name of its own inside the archive's folder, and
    lie within the file without sharing a byte with another.

    Args:
        source: the file, opened; its position is moved.
        file: its name for messages.
        size: its bytes.
        budget: pays for the directory.

    Raises:
        FormatError: if the zip file is no checkpoint of tensors, or is compressed.
        CheckpointError: if it is cut short, damaged or lies.

    Source: PKWARE, APPNOTE.TXT 6.3, sections 4.3 and 4.5.3.
    """
    reader = _Reader(source, file, size)
    listed = reader.directory(budget)
    names = [entry.name for entry in listed]
    pickles = [name for name in names if name.rsplit("/", 1)[-1] == "data.pkl"]
    if any(name.partition("/")[2].startswith(("code/", "constants.pkl")) for name in names):
        raise FormatError(
            f"{file} is a TorchScript program, not a file of weights: it is not opened, and "
            "nothing of it was run. Load it with the program that wrote it and save "
            "model.state_dict()."
        )
    if len(pickles) != 1:
        raise FormatError(
            f"{file} is a zip file with {len(pickles)} entries called data.pkl: expected one, as "
            "torch.save writes it."
        )
    folder = pickles[0].removesuffix("data.pkl")
    if folder.count("/") != 1 or not all(name.startswith(folder) for name in names):
        raise FormatError(
            f"{file} is a zip file with entries in several folders: expected all in one, as "
            "torch.save writes it."
        )
    entries = reader.entries(listed)
    inner = {name.removeprefix(folder): entry for name, entry in entries.items()}
    order = b"little"
    if "byteorder" in inner:
        entry = inner["byteorder"]
        if entry.size > 16:
            reader.fail('the entry "byteorder" is too long')
        order = reader.bytes_at(entry.offset, entry.size)
        if order not in (b"little", b"big"):
            reader.fail('the entry "byteorder" is neither "little" nor "big"')
    return Archive(file=file, entries=inner, big_endian=order == b"big")


def read_entry(source: FileIO, archive: Archive, name: str, *, budget: Budget) -> bytes:
    """Read a whole entry and compare it with its checksum.

    Raises:
        CheckpointError: if it is cut short or damaged.
    """
    entry = archive.entries[name]
    budget.spend(entry.size)
    source.seek(entry.offset)
    data = source.read(entry.size)
    if len(data) != entry.size or (entry.crc and zlib.crc32(data) != entry.crc):
        raise _altered(archive.file, name)
    return data


def check_entries(source: FileIO, archive: Archive) -> None:
    """Read every byte of an archive and compare it with the checksums.

    Raises:
        CheckpointError: naming the file and the entry that is damaged.
    """
    for name, entry in archive.entries.items():
        if entry.crc == 0:
            continue
        source.seek(entry.offset)
        crc = 0
        for block in _blocks(source, entry.size):
            crc = zlib.crc32(block, crc)
        if crc != entry.crc:
            raise _altered(archive.file, name)


def _altered(file: Path, name: str) -> CheckpointError:
    return damaged(
        file, f"the bytes of its entry {name} are not those that were written (the CRC-32 differs)"
    )


def _blocks(source: FileIO, size: int) -> Iterator[memoryview]:
    """Yield the next `size` bytes in pieces, in one buffer that is filled again and again."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, size)))
    while size:
        read = source.readinto(buffer[: min(len(buffer), size)])
        if not read:
            return
        yield buffer[:read]
        size -= read


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the directory says of one entry."""

    name: str
    raw: bytes
    header: int
    size: int
    crc: int
    stored: bool
    encrypted: bool


class _Reader:
    """Reads the structures of one zip file."""

    def __init__(self, source: FileIO, file: Path, size: int) -> None:
        self._source = source
        self._file = file
        self._size = size
        self._limit = size

    def fail(self, what: str) -> Never:
        raise damaged(self._file, what)

    def bytes_at(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self._size - size:
            self.fail("a part of the zip file lies outside of it")
        self._source.seek(offset)
        data = self._source.read(size)
        if len(data) != size:
            self.fail("it is cut short")
        return data

    def directory(self, budget: Budget) -> list[_Listed]:
        """Read the directory, entry by entry."""
        count, start, end = self._directory()
        budget.spend(end - start)
        data = self.bytes_at(start, end - start)
        listed: list[_Listed] = []
        position = 0
        for _ in range(count):
            budget.spend(640)
            if position + ENTRY.size > len(data):
                self.fail("the directory of the zip file is cut short")
            (mark, _, _, flags, method, _, _, crc, packed, size, names, extras, comments, disk,
             _, _, header) = ENTRY.unpack_from(data, position)  # fmt: skip
            after = position + ENTRY.size + names + extras + comments
            if mark != ENTRY_MARK or after > len(data):
                self.fail("the directory of the zip file makes no sense")
            raw = data[position + ENTRY.size : position + ENTRY.size + names]
            extra = data[position + ENTRY.size + names : after - comments]
            position = after
            size, packed, header, disk = self._wide(extra, size, packed, header, disk)
            if disk:
                self.fail("the zip file is one part of several")
            stored = method == STORED and packed == size
            listed.append(
                _Listed(self._name(raw), raw, header, size, crc, stored, bool(flags & ENCRYPTED))
            )
        if position != len(data):
            self.fail("the directory of the zip file has something after its last entry")
        self._limit = start
        return listed

    def entries(self, listed: list[_Listed]) -> dict[str, Entry]:
        """Find the bytes of every entry: full name -> where they are."""
        entries: dict[str, Entry] = {}
        ranges: list[tuple[int, int, str]] = []
        for item in listed:
            if item.name in entries:
                self.fail(f"two entries of the zip file are called {item.name}")
            if item.encrypted:
                raise FormatError(f"{self._file} is an encrypted zip file: it cannot be read.")
            if not item.stored:
                raise FormatError(
                    f"{self._file}: the entry {item.name} is compressed: expected entries stored "
                    "as they are, as torch.save writes them. A few bytes of a compressed file can "
                    "become more than memory holds. Unpack it and pack it again with zip -0."
                )
            first = self._first_byte(item.header, item.raw)
            entries[item.name] = Entry(first, item.size, item.crc)
            ranges.append((item.header, first + item.size, item.name))
        self._check_overlaps(ranges)
        return entries

    def _directory(self) -> tuple[int, int, int]:
        """Find the directory: number of entries, first byte, byte after the last."""
        if self._size < END.size:
            self.fail("it is cut short")
        at = self._size - END.size
        mark, disk, first_disk, here, count, size, start, comment = END.unpack(
            self.bytes_at(at, END.size)
        )
        if mark != END_MARK or comment:
            self.fail("the zip file does not end with its directory: it is cut short, or longer")
        limit = at
        if at >= LOCATOR.size:
            mark, disk64, at64, _ = LOCATOR.unpack(self.bytes_at(at - LOCATOR.size, LOCATOR.size))
            if mark == LOCATOR_MARK:
                found = END64.unpack(self.bytes_at(at64, END64.size))
                if found[0] != END64_MARK or disk64 or at64 + END64.size > at - LOCATOR.size:
                    self.fail("the directory of the zip file makes no sense")
                disk, first_disk, here, count, size, start = found[4:]
                limit = at64
        if disk or first_disk or here != count:
            self.fail("the zip file is one part of several")
        if start + size > limit:
            self.fail("the directory of the zip file lies outside of it")
        return count, start, start + size

    def _wide(
        self, extra: bytes, size: int, packed: int, header: int, disk: int
    ) -> tuple[int, int, int, int]:
        """Replace numbers that did not fit by those of the zip64 field."""
        numbers: list[int] = []
        position = 0
        while position + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, position)
            position += 4
            if position + length > len(extra):
                self.fail("the directory of the zip file makes no sense")
            if kind == ZIP64_FIELD:
                whole = length // 8
                numbers = [UINT64.unpack_from(extra, position + 8 * i)[0] for i in range(whole)]
                break
            position += length
        wide = []
        for value in (size, packed, header):
            if value == 0xFFFFFFFF:
                if not numbers:
                    self.fail("the directory of the zip file makes no sense")
                value = numbers.pop(0)
            wide.append(value)
        return wide[0], wide[1], wide[2], 0 if disk == 0xFFFF else disk

    def _name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail("an entry of the zip file has a name that is not UTF-8")
        if (
            DRIVE.match(name)
            or "\\" in name
            or any(character < " " or character == "\x7f" for character in name)
            or any(part in ("", ".", "..") for part in name.split("/"))
        ):
            raise CheckpointError(
                f"{self._file}: an entry of the zip file is called {name!a}, a name that leads "
                "out of the archive or nowhere. The file is damaged or made to harm."
            )
        return name

    def _first_byte(self, header: int, name: bytes) -> int:
        """Find the first byte of an entry behind the header in front of it."""
        data = self.bytes_at(header, LOCAL.size + len(name))
        mark, _, flags, method, _, _, _, _, _, names, extras = LOCAL.unpack_from(data)
        if (
            mark != LOCAL_MARK
            or method != STORED
            or flags & ENCRYPTED
            or names != len(name)
            or data[LOCAL.size :] != name
        ):
            self.fail("an entry of the zip file is not what its directory says")
        return header + LOCAL.size + names + extras

    def _check_overlaps(self, ranges: list[tuple[int, int, str]]) -> None:
        """Check that entries share no byte with each other or with the directory."""
        ranges.sort()
        starts = [*(start for start, _, _ in ranges[1:]), self._limit]
        for (_, end, name), start in zip(ranges, starts, strict=True):
            if end > start:
                self.fail(f"the entry {name} of the zip file is larger than its place")
