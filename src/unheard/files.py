"""Files that are whole or absent: atomic writes, JSON lines, hashes and locks."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unheard.errors import ConfigError, DiskFullError, FormatError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` when the block succeeds.

    The block writes one regular file at the path it is given. On success the file is flushed
    to the disk and renamed over `path` in one step; on any exception it is removed and `path`
    stays as it was. Missing parent folders are made.

    Args:
        path: where the finished file shall be.
        durable: wait until it is on the disk. Without, a power cut may leave an empty file, and
            a thousand small files are written in a second instead of minutes.

    Yields:
        The temporary path, `<name>.tmp-<process id>`.

    Raises:
        FormatError: if the block wrote nothing there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        if not temporary.is_file():
            raise FormatError(
                f"Nothing was written for {target}: expected a file at {temporary}, found none. "
                "Write to the path that atomic_path gives."
            )
        if durable:
            _sync_file(temporary)
        temporary.replace(target)
        if durable:
            _sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the whole new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8, line ends as given, so that a reader never sees a part of it."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | os.PathLike[str], data: Any) -> None:
    """Write plain data as indented JSON, readable in any script, atomically.

    Raises:
        FormatError: if `data` holds what JSON has no form for, such as NaN or an array.
    """
    write_text_atomic(path, _dump_json(data, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read one JSON file.

    Raises:
        FormatError: if the file is not UTF-8 JSON.
        OSError: if it cannot be read at all.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise FormatError(
            f"{path} is not a JSON file: {error}. Delete it, or restore it from a copy."
        ) from error


def append_jsonl(path: str | os.PathLike[str], row: dict[str, Any]) -> None:
    """Add one line of JSON to the end of a file and wait until it is on the disk.

    The line goes out in a single write() on a descriptor opened for appending, so lines of
    several processes do not mix on a local file system. A last line left unfinished by a killed
    process is the reader's to repair: see `read_jsonl`.

    Raises:
        FormatError: if `row` holds what JSON has no form for.
        DiskFullError: if there is no room for the line; a part of it may be there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    line = (_dump_json(row) + "\n").encode("utf-8")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise DiskFullError(_no_room(target, f"{written} of {len(line)} bytes went in"))
        os.fsync(descriptor)
    except OSError as error:
        if is_disk_full(error) and not isinstance(error, DiskFullError):
            raise DiskFullError(_no_room(target, str(error))) from error
        raise
    finally:
        os.close(descriptor)


def write_jsonl_atomic(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Write a whole JSON-lines file atomically.

    Raises:
        FormatError: if a row holds what JSON has no form for.
    """
    write_text_atomic(path, "".join(_dump_json(row) + "\n" for row in rows))


def read_jsonl(
    path: str | os.PathLike[str], *, repair_torn_tail: bool = False
) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one a line; blank lines are passed over.

    Args:
        path: the file.
        repair_torn_tail: for logs that a killed process may have left unfinished. Bytes after
            the last line end are cut off, in the file too, unless they are a whole object, which
            then gets its line end.

    Returns:
        The objects, in the order of the file.

    Raises:
        FormatError: if a line is not a JSON object; the message names the line.
        OSError: if the file cannot be read.
    """
    source = Path(path)
    data = source.read_bytes()
    if repair_torn_tail and data and not data.endswith(b"\n"):
        data = _repair_tail(source, data)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FormatError(
                f"{source} line {number} is not JSON: {error}. Mend or remove the line."
            ) from error
        if not isinstance(row, dict):
            raise FormatError(
                f"{source} line {number}: expected a JSON object, found "
                f"{type(row).__name__}. Mend or remove the line."
            )
        rows.append(row)
    return rows


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of room: a full disk, a quota, a limit on file sizes."""
    return isinstance(error, DiskFullError) or error.errno in _NO_ROOM


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _no_room(target: Path, detail: str) -> str:
    return (
        f"There is no room to write {target}: {detail}. Make room on that disk and repeat the "
        "command."
    )


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock file, so that two processes do not write to one folder.

    The operating system holds the lock and drops it when its owner ends, however it ends: a lock
    file that a killed process left behind is taken over. The file names its owner by process id
    and host, for the message to whoever comes second. Child processes do not share the lock.

    Args:
        path: the lock file; its folder is made.

    Raises:
        ConfigError: if another process, or this one, holds the lock.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _THREADS:
        if target in _HELD:
            # Opening and closing the file once more would drop the lock this process has.
            raise _in_use(target, json.dumps(_owner()).encode())
        descriptor = _acquire(target)
        _HELD.add(target)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_owner()).encode())
        yield
    finally:
        with _THREADS:
            _HELD.discard(target)
            # Removed while still locked, so that nobody locks a file that is about to go; an open
            # file cannot be removed on Windows, where an empty lock file stays behind.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                target.unlink()
            os.close(descriptor)


_HELD: set[Path] = set()
"""Lock files this process holds: the system's locks do not exclude their own process."""

_THREADS = threading.Lock()
"""Lets one thread at a time take or give back a lock file."""


def _acquire(target: Path) -> int:
    """Open and lock a file that is still the one at `target`; return its descriptor."""
    while True:
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            content = os.read(descriptor, 4096)
            os.close(descriptor)
            raise _in_use(target, content) from None
        # The owner before us may have removed the file between our open and our lock, or another
        # process may do so with a newer one at any time.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), target.stat()):
                return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open file for this process, or raise at once."""
    if sys.platform == "win32":
        # Beyond the content, which others must be able to read.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner() -> dict[str, Any]:
    """Name this process."""
    return {"process": os.getpid(), "host": socket.gethostname()}


def _in_use(target: Path, content: bytes) -> ConfigError:
    """Say who holds a lock, as far as its file tells."""
    try:
        holder = json.loads(content)
        name = f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        name = "another process"
    return ConfigError(
        f"{target.parent} is in use by {name}: expected no other writer (lock file {target}). "
        "Wait for it to end, or choose another folder."
    )


def _dump_json(data: Any, *, indent: int | None = None) -> str:
    """Serialise strictly: no NaN, no infinity, any script readable.

    File names that are not UTF-8 hold lone surrogates, which only an escape can carry.
    """
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            text = json.dumps(data, allow_nan=False, indent=indent)
        return text
    except (TypeError, ValueError) as error:
        raise FormatError(
            f"Cannot write as JSON: {error}. Expected plain data: text, finite numbers, lists, "
            "objects, true, false, null."
        ) from error


def _repair_tail(source: Path, data: bytes) -> bytes:
    """Finish or cut off the bytes after the last line end, in the file as well."""
    whole, _, tail = data.rpartition(b"\n")
    whole = whole + b"\n" if whole or data.startswith(b"\n") else b""
    try:
        complete = isinstance(json.loads(tail), dict)
    except ValueError:
        complete = False
    repaired = data + b"\n" if complete else whole
    with source.open("r+b") as file:
        if complete:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(len(whole))
        file.flush()
        os.fsync(file.fileno())
    return repaired


def _sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until a rename within a folder is on the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems cannot sync a folder; the rename itself has happened.
        return
    finally:
        os.close(descriptor)
