"""Files that are whole or absent: atomic writes, JSON lines, hashes and locks."""

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unheard.errors import ConfigError, FormatError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` when the block succeeds.

    The block writes one regular file at the path it is given. On success the file is flushed
    to the disk and renamed over `path` in one step; on any exception it is removed and `path`
    stays as it was. Missing parent folders are made.

    Args:
        path: where the finished file shall be.

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
        _sync_file(temporary)
        temporary.replace(target)
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
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    line = (_dump_json(row) + "\n").encode("utf-8")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"{target}: wrote {written} of {len(line)} bytes; is the disk full?")
        os.fsync(descriptor)
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


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock file, so that two processes do not write to one folder.

    The file names its owner by process id and host. A lock whose owner runs on this host is
    respected; one whose owner is dead is taken over. A lock of another host cannot be checked
    and is respected.

    Args:
        path: the lock file; its folder is made.

    Raises:
        ConfigError: if a live process, or one of another host, holds the lock.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    owner = {"process": os.getpid(), "host": socket.gethostname(), "started": _start_ticks()}
    content = json.dumps(owner).encode()
    while not _create_exclusively(target, content):
        holder = _read_lock(target)
        if holder is None:
            # Its owner let go, or died before it could write its name: an unreadable lock is
            # moved aside under a name of our own, so that only one taker wins.
            _set_aside(target)
            continue
        process, host, started = holder
        if host != owner["host"] or _is_running(process, started):
            raise ConfigError(
                f"{target.parent} is in use by process {process} on {host}: expected no other "
                f"writer (lock file {target}). Wait for it to end, or choose another folder; if "
                "that process is gone, delete the lock file."
            )
        _set_aside(target)
    try:
        yield
    finally:
        target.unlink(missing_ok=True)


def _create_exclusively(target: Path, content: bytes) -> bool:
    """Create a file that appears with its whole content; False if there is one already."""
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    temporary.write_bytes(content)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links (FAT, some network shares).
        try:
            with target.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _set_aside(target: Path) -> None:
    """Remove a stale lock; of several processes that try, one succeeds and none fails."""
    aside = target.with_name(f"{target.name}.tmp-{os.getpid()}-stale")
    with contextlib.suppress(FileNotFoundError):
        target.rename(aside)
        aside.unlink(missing_ok=True)


def _read_lock(target: Path) -> tuple[int, str, int | None] | None:
    """Return (process, host, start tick) of a lock, or None when it is gone or unreadable."""
    try:
        data = json.loads(target.read_bytes())
        return int(data["process"]), str(data["host"]), data.get("started")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_running(process: int, started: int | None) -> bool:
    """Whether a process of this host lives and is the one that started then."""
    if os.name == "nt":
        return _is_running_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = _start_ticks(process)
    return started is None or now is None or now == started


def _is_running_windows(process: int) -> bool:
    """Ask Windows for a handle; os.kill with signal 0 would end the process there."""
    import ctypes

    synchronize = 0x0010_0000
    kernel32 = ctypes.windll.kernel32  # pyright: ignore[reportAttributeAccessIssue]
    handle = kernel32.OpenProcess(synchronize, False, process)
    if not handle:
        return False
    kernel32.CloseHandle(handle)
    return True


def _start_ticks(process: int | None = None) -> int | None:
    """Return when a process started [clock ticks since boot], where the system tells.

    A process id is used again after a while; with its start time it is not.
    """
    try:
        stat = Path(f"/proc/{process or os.getpid()}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _dump_json(data: Any, *, indent: int | None = None) -> str:
    """Serialise strictly: no NaN, no infinity, keys as given, any script readable."""
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
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
