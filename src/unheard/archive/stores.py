"""Where archives are read from and written to: folders, or object stores through fsspec.

What is written here is whole or absent, on every kind of store. A store that does not answer is
asked again; one that still does not is a `StoreError`, which is no fault of a recording.
"""

import contextlib
import functools
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from unheard import files
from unheard.data.manifest import printable
from unheard.data.places import is_url, open_system

TRIES = 5
FIRST_WAIT_SECONDS = 0.25
"""Before the second try; twice as long before each further one [seconds]."""

BYTES_AT_ONCE = 4 << 20
"""A recording in a store is fetched whole up to this size, and in blocks above it [bytes]."""

_WHOLE_PROTOCOLS = frozenset(
    ("memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "adl", "az", "oci", "oss", "r2", "tos")
)
"""Stores on which an object appears only when all of it is there."""

_HALF = ".tmp-"
"""Within the name of a file that is being written."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

T = TypeVar("T")


class StoreError(OSError):
    """A store did not do what it was asked, several times."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a store.

    Attributes:
        name: relative to the store, with slashes.
        num_bytes: its size; None when the store does not tell.
    """

    name: str
    num_bytes: int | None


class Store(Protocol):
    """A folder and all under it; names are relative, with slashes."""

    @property
    def url(self) -> str:
        """What opens the store again, in another process and on another machine too."""
        ...

    def address(self, name: str) -> str:
        """Return the path or address of a file."""
        ...

    def walk(self) -> Iterator[Entry]:
        """List all files, a folder after the other; hidden files and folders are left out."""
        ...

    def names(self, folder: str) -> list[str]:
        """List the files of one folder, sorted; none if there is no such folder."""
        ...

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        ...

    def read(self, name: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read a file, or a stretch of it.

        Raises:
            FileNotFoundError: if there is none.
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file to be read."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: whoever looks sees the old one or all of the new one."""
        ...

    def writing(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Write a large file piece by piece; not whole until the block ends."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def sweep(self, folder: str, mark: str) -> None:
        """Remove what was left half written in a folder, of files with `mark` in their names."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""
        ...


def open_store(source: str | os.PathLike[str]) -> Store:
    """Open a folder by its path, or by an address; neither has to exist.

    Raises:
        ConfigError: if the address needs a package that is missing.
        MissingExtraError: if it needs fsspec and that is missing.
    """
    if not is_url(source):
        return LocalStore(Path(source))
    url = str(source)
    if url.startswith(("file://", "local://")):
        return LocalStore(Path(unquote(urlsplit(url).path)))
    return RemoteStore(url)


class LocalStore:
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 (Path.absolute keeps "..")
        self._prefix = os.path.join(self.folder, "")  # noqa: PTH118 (ends with a slash)

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def address(self, name: str) -> str:
        """Return the path of a file."""
        return f"{self._prefix}{name}"

    def walk(self) -> Iterator[Entry]:
        """List all files, a folder after the other; hidden files and folders are left out."""
        pending = [self.folder]
        while pending:
            folder = pending.pop()
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            below = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
                elif entry.is_file():
                    name = Path(entry.path).relative_to(self.folder).as_posix()
                    yield Entry(name=name, num_bytes=entry.stat().st_size)
            pending.extend(reversed(below))

    def names(self, folder: str) -> list[str]:
        """List the files of one folder, sorted; none if there is no such folder."""
        return [name for name in self._all_names(folder) if _HALF not in name]

    def sweep(self, folder: str, mark: str) -> None:
        """Remove what was left half written in a folder, of files with `mark` in their names."""
        for name in self._all_names(folder):
            if _HALF in name and mark in name:
                self.remove(name)

    def _all_names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.folder / folder) as entries:
                return sorted(f"{folder}/{one.name}" for one in entries if one.is_file())
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        return (self.folder / name).is_file()

    def read(self, name: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read a file, or a stretch of it."""
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read() if size is None else file.read(size)

    def open(self, name: str) -> BinaryIO:
        """Open a file to be read."""
        return (self.folder / name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, and wait until it is on the disk."""
        files.write_bytes_atomic(self.folder / name, data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a large file piece by piece."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder / folder)


class RemoteStore:
    """A prefix in an object store, or a folder behind anything else that fsspec reaches."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.system, root = open_system(self._url, remembers_listings=False)
        self._root = root.rstrip("/")
        protocols = self.system.protocol
        protocols = {protocols} if isinstance(protocols, str) else set(protocols)
        self._appears_whole = bool(protocols & _WHOLE_PROTOCOLS)

    @property
    def url(self) -> str:
        """The address of the folder."""
        return self._url

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self._url}/{name}"

    def walk(self) -> Iterator[Entry]:
        """List all files, a folder after the other; hidden files and folders are left out."""
        pending = [self._root]
        while pending:
            folder = pending.pop()
            below = []
            for facts in self._list(folder):
                path = str(facts["name"]).rstrip("/")
                name = path.removeprefix(self._root).lstrip("/")
                # Some stores have empty objects that stand for folders.
                if not name or name.rpartition("/")[2].startswith(".") or path == folder:
                    continue
                if facts["type"] == "directory":
                    below.append(path)
                else:
                    size = facts.get("size")
                    yield Entry(name=name, num_bytes=None if size is None else int(size))
            pending.extend(reversed(below))

    def names(self, folder: str) -> list[str]:
        """List the files of one folder, sorted; none if there is no such folder."""
        return [name for name in self._all_names(folder) if _HALF not in name]

    def sweep(self, folder: str, mark: str) -> None:
        """Remove what was left half written in a folder, of files with `mark` in their names."""
        if self._appears_whole:
            return
        for name in self._all_names(folder):
            if _HALF in name and mark in name:
                self.remove(name)

    def _all_names(self, folder: str) -> list[str]:
        found = (
            str(facts["name"]).rstrip("/").rpartition("/")[2]
            for facts in self._list(self._path(folder))
            if facts["type"] != "directory"
        )
        return sorted(f"{folder}/{name}" for name in found if name)

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        return bool(_patiently(self.system.exists, self._path(name)))

    def read(self, name: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read a file, or a stretch of it."""
        end = None if size is None else start + size
        read = functools.partial(self.system.cat_file, start=start or None, end=end)
        return bytes(_patiently(read, self._path(name)))

    def open(self, name: str) -> BinaryIO:
        """Open a file to be read."""
        opened = functools.partial(self.system.open, mode="rb")
        return _patiently(opened, self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, by way of another name where the store shows parts of files."""
        path = self._path(name)
        if self._appears_whole:
            _patiently(self.system.pipe_file, path, data)
            return
        temporary = f"{path}{_HALF}{os.getpid()}"
        self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
        _patiently(self.system.pipe_file, temporary, data)
        _patiently(self.system.mv, temporary, path)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a large file piece by piece."""
        path = self._path(name)
        if not self._appears_whole:
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self.system.open(path, mode="wb") as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            _patiently(self.system.rm_file, self._path(name))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            _patiently(functools.partial(self.system.rm, recursive=True), self._path(folder))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _list(self, path: str) -> list[dict[str, Any]]:
        """List one folder, sorted; nothing for one that is not there."""
        try:
            found = _patiently(functools.partial(self.system.ls, detail=True), path)
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda facts: str(facts["name"]))


class RemoteRecording(io.RawIOBase):
    """A recording in a store, fetched when it is first read; it can be read again.

    Attributes:
        fault: why the store did not give it, if that is no fault of the recording.
    """

    def __init__(self, address: str) -> None:
        """Name the recording; nothing is fetched yet."""
        super().__init__()
        self.address = address
        self.fault: StoreError | None = None
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""
        return self._patiently(lambda file: file.seek(offset, whence))

    def tell(self) -> int:
        """Say which place it is at."""
        return self._patiently(lambda file: file.tell())

    def read(self, size: int = -1, /) -> bytes:
        """Read from there."""
        return self._patiently(lambda file: file.read(size))

    def close(self) -> None:
        """Let go of what was fetched."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _patiently(self, action: Callable[[BinaryIO], T]) -> T:
        try:
            if self._file is None:
                self._file = _patiently(self._fetch)
            return action(self._file)
        except _FINAL:
            raise
        except StoreError as error:
            self.fault = error
            raise
        except Exception as error:  # (each kind of store has its own)
            self.fault = StoreError(f"{printable(self.address)}: {error}")
            raise self.fault from error

    def _fetch(self) -> BinaryIO:
        system, path = open_system(self.address, remembers_listings=False)
        num_bytes = int(system.size(path) or 0)
        if num_bytes <= BYTES_AT_ONCE:
            return io.BytesIO(system.cat_file(path))
        return system.open(path, mode="rb", block_size=BYTES_AT_ONCE, cache_type="readahead")


def _patiently(action: Callable[..., T], *arguments: Any) -> T:
    """Ask a store, and again if it fails.

    Raises:
        StoreError: if it fails each time.
        OSError: of the kinds that asking again does not change.
    """
    wait_seconds = FIRST_WAIT_SECONDS
    for left in reversed(range(TRIES)):
        try:
            return action(*arguments)
        except _FINAL:
            raise
        except Exception as error:
            # Each kind of store has errors of its own; all of them may be those of a moment.
            if not left:
                shown = printable(str(arguments[0])) if arguments else "a recording"
                raise StoreError(
                    f"The store failed {TRIES} times at {shown}: {type(error).__name__}: {error}"
                ) from error
        time.sleep(wait_seconds)
        wait_seconds *= 2
    raise RuntimeError("the last try neither succeeded nor failed")
