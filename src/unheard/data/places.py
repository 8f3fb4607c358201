"""Folders of shards, on a disk or in an object store: list files, read stretches of them.

What is written "s3://bucket/shards", or with any other scheme, is read through fsspec.
"""

import os
import threading
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from unheard.data.manifest import has_parent_step, is_absolute, printable
from unheard.errors import ConfigError, FormatError, MissingExtraError

_FILES_OPEN = 64
_TRIES = 3


class Place(Protocol):
    """A folder with everything below it; names are relative, with slashes."""

    @property
    def url(self) -> str:
        """What opens the place again, in another process too."""
        ...

    def files(self, suffix: str) -> dict[str, int]:
        """List the files whose names end so, sorted, with their sizes [bytes]."""
        ...

    def read(self, name: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read a file or a stretch of it.

        Raises:
            FormatError: if the file ends before the stretch does.
            OSError: if it cannot be read.
        """
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


def is_url(source: str | os.PathLike[str]) -> bool:
    """Say whether a source is an address for fsspec and not a path."""
    return isinstance(source, str) and "://" in source


def open_place(source: str | os.PathLike[str]) -> Place:
    """Open a folder by its path, or by an address such as "s3://bucket/shards".

    Raises:
        ConfigError: if there is no such folder, or the address needs a package that is missing.
        MissingExtraError: if the address needs fsspec and it is missing.
    """
    return RemotePlace(str(source)) if is_url(source) else LocalPlace(Path(source))


def open_system(url: str, *, remembers_listings: bool = True) -> tuple[Any, str]:
    """Connect to what an address names.

    Args:
        url: such as "s3://bucket/shards".
        remembers_listings: keep what folders hold; without, memory does not grow with what is
            listed, and what others write is seen.

    Returns:
        A file system of fsspec, and the path of the address in it.

    Raises:
        ConfigError: if the address needs a package that is missing, or cannot be understood.
        MissingExtraError: if fsspec is missing.
    """
    try:
        from fsspec.core import url_to_fs
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            "fsspec", extra="remote", purpose=f"Reading {printable(url)}"
        ) from error
    # In a chain such as "filecache::s3://", options belong to one link by name.
    options = {} if remembers_listings or "::" in url else {"use_listings_cache": False}
    try:
        return url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{printable(url)} cannot be opened: {error}. fsspec needs a package of its own "
            "for each kind of address: s3fs for s3://, gcsfs for gs://, adlfs for abfs://."
        ) from error


def checked_name(name: str) -> str:
    """Refuse a name that leads out of its place.

    Raises:
        FormatError: if it is absolute or holds "..".
    """
    if not name or is_absolute(name) or has_parent_step(name) or "\0" in name or "://" in name:
        raise FormatError(
            f"{printable(name)!r} is no name of a shard: expected a relative path without '..'. "
            "Make the index again from shards that you trust."
        )
    return name


class LocalPlace:
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"There is no folder {folder}: expected one that holds shards.")
        self.folder = folder.resolve()
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def files(self, suffix: str) -> dict[str, int]:
        """List the files whose names end so, sorted, with their sizes [bytes]."""
        found = {
            path.relative_to(self.folder).as_posix(): path.stat().st_size
            for path in self.folder.rglob(f"*{suffix}")
            if path.is_file()
        }
        return dict(sorted(found.items()))

    def read(self, name: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read a file or a stretch of it; a few files stay open."""
        parts: list[bytes] = []
        left = size
        with self._lock:
            file = self._opened(name)
            file.seek(start)
            # One read gives at most 2 GiB.
            while left is None or left > 0:
                part = file.read(-1 if left is None else left)
                if not part:
                    break
                parts.append(part)
                left = None if left is None else left - len(part)
        return _whole(b"".join(parts), f"{self.folder / name}", size)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _opened(self, name: str) -> BinaryIO:
        file = self._open.pop(name, None)
        if file is None:
            file = (self.folder / checked_name(name)).open("rb", buffering=0)
            while len(self._open) >= _FILES_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open[name] = file
        return file


class RemotePlace:
    """A folder in an object store, or behind anything else that fsspec can read."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system, root = open_system(self.url)
        self._root = root.rstrip("/")

    def files(self, suffix: str) -> dict[str, int]:
        """List the files whose names end so, sorted, with their sizes [bytes]."""
        found = self._system.find(self._root, detail=True)
        if not found:
            raise ConfigError(f"There is nothing at {self.url}: expected a folder of shards.")
        return {
            str(PurePosixPath(path).relative_to(self._root)): int(facts["size"])
            for path, facts in sorted(found.items())
            if path.endswith(suffix)
        }

    def read(self, name: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read a file or a stretch of it, trying again after a failure."""
        path = f"{self._root}/{checked_name(name)}"
        end = None if size is None else start + size
        for left in reversed(range(_TRIES)):
            try:
                data = self._system.cat_file(path, start=start, end=end)
            except FileNotFoundError:
                raise
            except OSError:
                if not left:
                    raise
                continue
            return _whole(bytes(data), f"{self.url}/{name}", size)
        raise RuntimeError("the last try neither gave data nor failed")

    def close(self) -> None:
        """Keep the connection: fsspec shares it."""


def _whole(data: bytes, label: str, size: int | None) -> bytes:
    if size is not None and len(data) != size:
        raise FormatError(
            f"{label} ends too soon: expected {size} bytes, found {len(data)}. The shard was cut; "
            "copy it again."
        )
    return data
