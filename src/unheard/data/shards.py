"""Shards: tar files of samples, an audio file and a JSON file each, in the layout of WebDataset.

    shards/
      shard-000000.tar           000000-000000.flac  000000-000000.json  000000-000001.flac  ...
      shard-000000.index.npz     its part of the index
      shards.jsonl               every finished shard: size, hash, rows, what was unreadable
      index/                     the packed index over all shards, see `data.index`

Folders may lie in folders, one a corpus. Shards that others made are read too: their samples are
decoded once to be measured.
"""

import hashlib
import io
import logging
import os
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from unheard.audio.io import AUDIO_SUFFIXES
from unheard.audio.signal import SAMPLE_RATE
from unheard.data.index import (
    INDEX_RECORD,
    PackedRows,
    Rows,
    ShardIndex,
    ShardRows,
    build_index,
    fingerprint_of,
)
from unheard.data.manifest import Utterance, json_line, parse_json_line
from unheard.data.places import LocalPlace, Place, open_place
from unheard.data.sample_codec import LARGEST_SAMPLE_BYTES, Measurement, Stored
from unheard.data.store import Unreadable
from unheard.data.workers import WorkerPool
from unheard.errors import (
    AudioError,
    ConfigError,
    FormatError,
    ManifestError,
    WorkerError,
    shorten,
)
from unheard.files import (
    append_jsonl,
    atomic_path,
    locked,
    read_json,
    read_jsonl,
    sha256_file,
    write_bytes_atomic,
    write_jsonl_atomic,
)

log = logging.getLogger(__name__)

MANIFEST = "shards.jsonl"
INDEX_FOLDER = "index"
ROWS_SUFFIX = ".index.npz"
SHARD_SUFFIX = ".tar"

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_TEXT_BYTES = 16 << 20
_MEASURED_AHEAD = 64
_LONGEST_WAIT_SECONDS = 3600.0

Progress = Callable[[int, int], None]
"""Called with (done, all)."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard, as its line of the manifest says.

    Attributes:
        shard: name of the tar file, without a folder.
        bytes: its size.
        sha256: of the tar file.
        rows: samples in it.
        seconds: of sound.
        rows_bytes: size of its part of the index.
        rows_sha256: of that.
        unreadable: recordings that were met while it was made and could not be used.
    """

    shard: str
    bytes: int
    sha256: str
    rows: int
    seconds: float
    rows_bytes: int
    rows_sha256: str
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def rows_name(self) -> str:
        """Name of its part of the index."""
        return self.shard.removesuffix(SHARD_SUFFIX) + ROWS_SUFFIX

    @classmethod
    def from_row(cls, row: dict[str, Any], label: str) -> "Shard":
        """Read a line of a manifest.

        Raises:
            FormatError: if it is another thing.
        """
        try:
            unreadable = tuple(Unreadable(**one) for one in row["unreadable"])
            shard = cls(**{**row, "unreadable": unreadable})
        except (TypeError, KeyError) as error:
            raise FormatError(
                f"{label} holds a line that is no shard ({error}). Make the shards again."
            ) from error
        if PurePosixPath(shard.shard).name != shard.shard or "\\" in shard.shard:
            raise FormatError(f"{label} names a shard that lies elsewhere: {shard.shard!r}.")
        return shard


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a stretch of a recording.

    Attributes:
        utterance: the stretch.
        samples: (id, where it begins within the recording [samples at 16 kHz], audio file) of each
            piece; empty where it could not be used.
        unreadable: why it could not.
    """

    utterance: Utterance
    samples: tuple[tuple[str, int, Stored], ...] = ()
    unreadable: Unreadable | None = None


def write_shard(
    folder: Path, number: int, made: Iterator[Made], *, full_bytes: int
) -> Shard | None:
    """Write one shard and its part of the index, then its line in the manifest: so it counts.

    Args:
        folder: where it shall lie.
        number: of the shard, part of its name and of the keys in it.
        made: what goes in; as much is taken as fits.
        full_bytes: no more is taken when the shard is as large.

    Returns:
        The shard; None if there was nothing more to take.
    """
    first = next(made, None)
    if first is None:
        return None
    name = f"shard-{number:06d}{SHARD_SUFFIX}"
    rows = Rows()
    unreadable: list[Unreadable] = []
    seconds = 0.0
    with atomic_path(folder / name) as temporary, temporary.open("wb") as file:
        tar = _TarWriter(file)
        one: Made | None = first
        while one is not None:
            if one.unreadable is not None:
                unreadable.append(one.unreadable)
            for id_, start, stored in one.samples:
                key = f"{number:06d}-{len(rows):06d}"
                offset = tar.add(f"{key}.{stored.suffix}", stored.data)
                tar.add(f"{key}.json", json_line(_facts(id_, start, stored, one.utterance)))
                _add_row(rows, id_, stored, one.utterance, offset)
                seconds += stored.num_samples / SAMPLE_RATE
            one = next(made, None) if tar.bytes < full_bytes else None
        tar.end()
    packed = rows.pack()
    shard = Shard(
        shard=name,
        bytes=tar.bytes,
        sha256=tar.hash.hexdigest(),
        rows=len(rows),
        seconds=round(seconds, 3),
        rows_bytes=len(packed),
        rows_sha256=hashlib.sha256(packed).hexdigest(),
        unreadable=tuple(unreadable),
    )
    write_bytes_atomic(folder / shard.rows_name, packed)
    append_jsonl(folder / MANIFEST, asdict(shard))
    return shard


def read_shards(folder: Path) -> list[Shard]:
    """Read the manifest of a folder of shards; [] where there is none yet.

    A shard whose files are not there as written counts as not made: it leaves the manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    rows = read_jsonl(path, repair_torn_tail=True)
    shards = [Shard.from_row(row, str(path)) for row in rows]
    whole = [
        one
        for one in shards
        if _size(folder / one.shard) == one.bytes
        and _size(folder / one.rows_name) == one.rows_bytes
    ]
    if len(whole) < len(shards):
        write_jsonl_atomic(path, [asdict(one) for one in whole])
    return whole


def forget_unfinished(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what a killed process left: parts of shards, and shards without a line."""
    counted = {name for one in shards for name in (one.shard, one.rows_name)}
    for path in folder.glob("shard-*"):
        if path.name not in counted:
            path.unlink()


def ids_of(folder: Path, shard: Shard) -> Iterator[str]:
    """Names of the samples of a shard, and of what could not be used while it was made."""
    data = (folder / shard.rows_name).read_bytes()
    yield from PackedRows.unpack(data, shard.rows_name).texts["id"]
    yield from (one.id for one in shard.unreadable)


def damaged(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """Read every shard and name those that do not have the hash of the manifest."""
    return [
        one.shard
        for one in shards
        if sha256_file(folder / one.shard) != one.sha256
        or sha256_file(folder / one.rows_name) != one.rows_sha256
    ]


def is_shard_folder(source: str | os.PathLike[str]) -> bool:
    """Say whether a folder holds shards, or folders of shards, and not recordings."""
    folder = Path(source)
    if not folder.is_dir():
        return False
    if (folder / MANIFEST).is_file() or (folder / INDEX_FOLDER / INDEX_RECORD).is_file():
        return True
    listed = list(folder.iterdir())
    if any((one / MANIFEST).is_file() for one in listed if one.is_dir()):
        return True
    suffixes = {one.suffix.lower() for one in listed if one.is_file()}
    return SHARD_SUFFIX in suffixes and not suffixes & AUDIO_SUFFIXES


def open_index(
    source: str | os.PathLike[str],
    folder: Path,
    *,
    pool: WorkerPool,
    progress: Progress | None = None,
) -> ShardIndex:
    """Open the index of a folder of shards, building it first where there is none that fits.

    Args:
        source: path or address of the folder.
        folder: where an index is kept that does not lie with the shards.
        pool: decodes the samples of shards that others made.
        progress: called with (shards looked at, all).

    Raises:
        ConfigError: if there are no shards.
        FormatError: if a shard is not what it should be.
    """
    with closing(open_place(source)) as place:
        found = _find_shards(place)
        fingerprint = fingerprint_of(
            [[name, size, _hash_of(shard)] for name, (size, shard) in found.items()]
        )
        beside = place.folder / INDEX_FOLDER if isinstance(place, LocalPlace) else None
        for candidate in (beside, folder / INDEX_FOLDER):
            if candidate is not None and _fits(candidate, fingerprint):
                return ShardIndex(candidate)
        target = folder / INDEX_FOLDER
        with _alone(folder, target, fingerprint) as build:
            if build:
                rows: list[ShardRows] = []
                for name, (size, shard) in found.items():
                    rows.append(_rows_of(place, name, size, shard, folder, pool))
                    if progress is not None:
                        progress(len(rows), len(found))
                build_index(rows, target, fingerprint=fingerprint)
        return ShardIndex(target)


class _TarWriter:
    """Appends files to a tar file; the same files give the same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self.hash = hashlib.sha256()
        self._file = file

    def add(self, name: str, data: bytes) -> int:
        """Append a file; returns where its bytes begin."""
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._write(entry.tobuf(tarfile.USTAR_FORMAT))
        offset = self.bytes
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def end(self) -> None:
        """Append the two empty blocks that end a tar file."""
        self._write(bytes(2 * _BLOCK))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.hash.update(data)
        self.bytes += len(data)


def _facts(id_: str, start: int, stored: Stored, utterance: Utterance) -> dict[str, Any]:
    """Make the JSON object of a sample; what is not known is left out."""
    facts = {
        "id": id_,
        "num_samples": stored.num_samples,
        "sample_rate": SAMPLE_RATE,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "label": utterance.label,
        "extra": utterance.extra or None,
        "recording": PurePosixPath(utterance.audio.replace("\\", "/")).name,
        "start": start,
        "mean": stored.mean,
        "variance": stored.variance,
        "crc32": stored.crc,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _add_row(rows: Rows, id_: str, stored: Stored, utterance: Utterance, offset: int) -> None:
    size = len(stored.data)
    rows.add(
        numbers={"offset": offset, "size": size, **_measured(stored)},
        texts={
            "id": id_,
            "text": utterance.text,
            "speaker": utterance.speaker,
            "language": utterance.language,
        },
    )


def _measured(stored: Stored) -> dict[str, float]:
    return {
        "crc": stored.crc,
        "num_samples": stored.num_samples,
        "mean": stored.mean,
        "variance": stored.variance,
    }


def _find_shards(place: Place) -> dict[str, tuple[int, Shard | None]]:
    """List the shards of a place: their sizes, and what a manifest beside them says."""
    files = place.files(SHARD_SUFFIX)
    if not files:
        raise ConfigError(
            f"There are no shards in {place.url}: expected files named *{SHARD_SUFFIX}. "
            "Make some with: unheard shard"
        )
    known: dict[str, Shard] = {}
    for manifest in place.files(MANIFEST):
        folder = manifest.removesuffix(MANIFEST)
        if folder and not folder.endswith("/"):
            continue
        for line in place.read(manifest).splitlines():
            shard = Shard.from_row(parse_json_line(line) or {}, f"{place.url}/{manifest}")
            known[folder + shard.shard] = shard
    found: dict[str, tuple[int, Shard | None]] = {}
    for name, size in files.items():
        shard = known.pop(name, None)
        if shard is not None and shard.bytes != size:
            raise FormatError(
                f"{place.url}/{name} is damaged: expected {shard.bytes} bytes, found {size}. Copy "
                "it again, or repeat the unheard shard that made it."
            )
        found[name] = (size, shard)
    if known:
        raise FormatError(
            f"{place.url} lacks {len(known)} shards that its manifest names: "
            f"{shorten(sorted(known))}. Copy them, or repeat the unheard shard that made them."
        )
    return found


def _hash_of(shard: Shard | None) -> str | None:
    return None if shard is None else shard.rows_sha256


def _fits(folder: Path, fingerprint: str) -> bool:
    """Whether there is an index, made from what is there now."""
    record = folder / INDEX_RECORD
    return record.exists() and read_json(record).get("fingerprint") == fingerprint


@contextmanager
def _alone(folder: Path, index: Path, fingerprint: str) -> Iterator[bool]:
    """Give True to the one process that shall build an index; the others wait for it."""
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder / f"{INDEX_FOLDER}.lock"))
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
                continue
            break
        yield not _fits(index, fingerprint)


def _rows_of(
    place: Place,
    name: str,
    size: int,
    shard: Shard | None,
    folder: Path,
    pool: WorkerPool,
) -> ShardRows:
    """Say how to get the rows of a shard."""
    if shard is not None:

        def load() -> PackedRows:
            rows_name = name.removesuffix(SHARD_SUFFIX) + ROWS_SUFFIX
            data = place.read(rows_name)
            if hashlib.sha256(data).hexdigest() != shard.rows_sha256:
                raise FormatError(
                    f"{place.url}/{rows_name} is damaged: its hash is not what {MANIFEST} says. "
                    "Copy it again, or delete it and its shard and repeat unheard shard."
                )
            return PackedRows.unpack(data, rows_name)

        return ShardRows(name=name, rows=shard.rows, load=load)
    measured = _measure_shard(place, name, size, pool)
    path = folder / "measured" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{ROWS_SUFFIX}"
    write_bytes_atomic(path, measured.pack())
    return ShardRows(
        name=name,
        rows=len(measured),
        load=lambda: PackedRows.unpack(path.read_bytes(), name),
    )


def _measure_shard(place: Place, name: str, size: int, pool: WorkerPool) -> Rows:
    """Decode every sample of a shard that others made; what cannot be decoded is left out."""
    rows = Rows()
    waiting: deque[tuple[Measurement, dict[str, Any], Future[Stored]]] = deque()

    def take() -> None:
        wanted, facts, future = waiting.popleft()
        try:
            stored = future.result()
        except (AudioError, WorkerError) as error:
            log.warning("Left out: %s", error)
            return
        texts = {key: _text(facts.get(key)) for key in ("text", "speaker", "language")}
        rows.add(
            numbers={"offset": wanted.offset, "size": wanted.size, **_measured(stored)},
            texts={"id": _text(facts.get("id")) or wanted.id, **texts},
        )

    for wanted, facts in _samples_of_tar(place, name, size):
        if len(waiting) == _MEASURED_AHEAD:
            take()
        waiting.append((wanted, facts, pool.submit(wanted)))
    while waiting:
        take()
    return rows


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _samples_of_tar(
    place: Place, name: str, size: int
) -> Iterator[tuple[Measurement, dict[str, Any]]]:
    """List the samples of a tar file: files that follow each other with the same key.

    Nothing is unpacked; names are labels only.
    """
    key: str | None = None
    audio: Measurement | None = None
    facts: dict[str, Any] = {}
    file = io.BufferedReader(_PlaceFile(place, name, size), 1 << 16)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                own = f"{folder}/{stem}" if folder else stem
                if own != key:
                    if audio is not None:
                        yield audio, facts
                    key, audio, facts = own, None, {}
                last = "." + suffix.lower().rpartition(".")[2]
                if last in AUDIO_SUFFIXES and 0 < member.size < LARGEST_SAMPLE_BYTES:
                    audio = Measurement(
                        place=place.url,
                        shard=name,
                        offset=member.offset_data,
                        size=member.size,
                        suffix=last[1:],
                        id=own,
                    )
                elif last in (".json", ".txt") and member.size <= _LONGEST_TEXT_BYTES:
                    data = place.read(name, start=member.offset_data, size=member.size)
                    facts |= _read_facts(data, last, f"{place.url}/{name}: {member.name!r}")
            if audio is not None:
                yield audio, facts
    except tarfile.TarError as error:
        raise FormatError(
            f"{place.url}/{name} is no tar file that can be read: {error}. Copy it again."
        ) from error


def _read_facts(data: bytes, suffix: str, label: str) -> dict[str, Any]:
    """Read what a sample says of itself: a JSON object, or its text."""
    try:
        if suffix == ".txt":
            return {"text": data.decode("utf-8").strip()}
        return parse_json_line(data) or {}
    except (UnicodeDecodeError, ManifestError) as error:
        raise FormatError(f"{label} cannot be read: {error}.") from error


class _PlaceFile(io.RawIOBase):
    """A file of a place, for what wants a file object."""

    def __init__(self, place: Place, name: str, size: int) -> None:
        self._place = place
        self._name = name
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the file."""
        self._position = offset + {0: 0, 1: self._position, 2: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        count = max(0, min(len(buffer), self._size - self._position))
        if count:
            buffer[:count] = self._place.read(self._name, start=self._position, size=count)
            self._position += count
        return count


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
