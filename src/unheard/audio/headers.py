"""What the first bytes of a recording, and the pages of an Ogg file, say about its length.

The decoder bounds the length of raw samples by the size of the file, guesses that of an MP3
without a length field from its bit rate, and knows only one link of a chained Ogg file. Its
answer therefore cannot tell a whole recording from one that was cut. These functions read the
few fields that can. They take bytes from strangers: nothing is believed beyond its own bounds.
"""

import os
import struct
from dataclasses import dataclass
from typing import Protocol

_UNKNOWN_LENGTH = 0x7FFF_F000
"""Recorders that cannot go back write 0, 0x7FFFFFFF or 0xFFFFFFFF (less a header) as length."""

_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_OGG_PAGE = b"OggS"
_OGG_HEADER_BYTES = 27
_OGG_FIRST = 0x02
_SCAN_BYTES = 1 << 20


class SeekableFile(Protocol):
    """A binary file that can be read from anywhere."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102
    def seek(self, offset: int, whence: int = 0, /) -> int: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class WavFormat:
    """The format chunk of a WAV file.

    Attributes:
        channels: as stored, 0 .. 65535.
        sample_rate: as stored [Hz], 0 .. 2**32 - 1.
    """

    channels: int
    sample_rate: int


def wav_format(head: bytes) -> WavFormat | None:
    """The rate and channels of a WAV file from its first bytes; None if it is not one."""
    if head[:4] not in {b"RIFF", b"RIFX", b"RF64"} or head[8:12] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    offset = 12
    while offset + 24 <= len(head):
        name, size = struct.unpack_from(f"{order}4sI", head, offset)
        if name == b"fmt ":
            channels, rate = struct.unpack_from(f"{order}HI", head, offset + 10)
            return WavFormat(channels=channels, sample_rate=rate)
        offset += 8 + size + size % 2
    return None


def data_bytes_missing(head: bytes, num_bytes: int) -> int:
    """How many bytes of samples a header promises beyond the end of the file.

    Args:
        head: the first bytes of a WAV, Wave64 or CAF file.
        num_bytes: size of the whole file.

    Returns:
        0 for other formats, for whole files, and where the header leaves the length open.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        start, size = _find_chunk(head, offset=12, layout="<4sI", name=b"data", align=2)
        if size >= _UNKNOWN_LENGTH:
            return 0
    elif head[:16] == _W64_RIFF:
        start, size = _find_chunk(
            head, offset=40, layout="<16sq", name=_W64_DATA, align=8, counts_itself=True
        )
    elif head[:4] == b"caff":
        start, size = _find_chunk(head, offset=8, layout=">4sq", name=b"data", align=1)
    else:
        return 0
    return max(0, start + size - num_bytes) if size > 0 else 0


def _find_chunk(
    head: bytes,
    *,
    offset: int,
    layout: str,
    name: bytes,
    align: int,
    counts_itself: bool = False,
) -> tuple[int, int]:
    """Where the content of a chunk starts and how long it says it is; (0, 0) if not seen."""
    header = struct.calcsize(layout)
    while 0 <= offset <= len(head) - header:
        found, size = struct.unpack_from(layout, head, offset)
        content = size - header if counts_itself else size
        if found == name:
            return offset + header, content
        if content < 0:
            break
        offset += header + content + -content % align
    return 0, 0


def mp3_states_length(head: bytes) -> bool | None:
    """Whether the first frame of an MP3 file holds a length field (Xing, Info or VBRI).

    Returns:
        None when the first frame lies behind a tag longer than `head`.
    """
    start = _id3_bytes(head)
    if start + 512 > len(head) and start:
        return None
    frame = head[start : start + 512]
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def starts_with_frame(head: bytes) -> bool:
    """Whether an MP3 or ADTS file begins as it should: with a tag or a frame, not with junk."""
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def _id3_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag at the start [bytes]."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


@dataclass(frozen=True, kw_only=True)
class OggLinks:
    """The links of a (chained) Ogg file.

    Attributes:
        starts: where each link begins [bytes], ascending.
        is_cut: whether the file ends inside a page.
    """

    starts: tuple[int, ...]
    is_cut: bool


def ogg_links(file: SeekableFile) -> OggLinks:
    """Find the links of an Ogg file by walking over its pages.

    A link begins with a page marked as the first of its stream that follows pages that are not.
    Damaged stretches are skipped to the next page.

    Args:
        file: the head of every page is read; its position afterwards is undefined.
    """
    starts = [0]
    position = 0
    in_first_pages = True
    while True:
        file.seek(position, os.SEEK_SET)
        head = file.read(_OGG_HEADER_BYTES + 255)
        if not head:
            return OggLinks(starts=tuple(starts), is_cut=False)
        segments = head[26] if len(head) >= _OGG_HEADER_BYTES else 0
        content = _OGG_HEADER_BYTES + segments
        if head[:4] != _OGG_PAGE or len(head) < content:
            skipped = _next_page(file, position + 1)
            if skipped is None:
                # The start of a page, and not something appended behind the last one.
                is_cut = _OGG_PAGE.startswith(head[:4])
                return OggLinks(starts=tuple(starts), is_cut=is_cut)
            position = skipped
            continue
        is_first = bool(head[5] & _OGG_FIRST)
        if is_first and not in_first_pages:
            starts.append(position)
        in_first_pages = is_first
        size = content + sum(head[_OGG_HEADER_BYTES:content])
        if size > len(head):
            file.seek(position + size - 1, os.SEEK_SET)
            if not file.read(1):
                return OggLinks(starts=tuple(starts), is_cut=True)
        position += size


def _next_page(file: SeekableFile, position: int) -> int | None:
    """Where the next page begins at or after `position`; None if there is none."""
    file.seek(position, os.SEEK_SET)
    tail = b""
    while chunk := file.read(_SCAN_BYTES):
        window = tail + chunk
        found = window.find(_OGG_PAGE)
        if found >= 0:
            return position - len(tail) + found
        position += len(chunk)
        tail = window[-3:]
    return None
