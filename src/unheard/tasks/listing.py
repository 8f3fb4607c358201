"""Which recordings the paths of a command line mean, each once, with a name for its output."""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unheard.audio.io import AUDIO_SUFFIXES
from unheard.errors import AudioError, ConfigError

LONGEST_NAME_BYTES = 220
"""Longest last part of an output name: room for suffixes within the 255 of file systems."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One recording to transcribe.

    Attributes:
        path: absolute, links as they are; names the recording in all records.
        name: relative path that names its outputs, with the recording's own suffix.
        num_bytes: size when listed; None when that cannot be told.
        modified_ns: modification time when listed [ns]; None when that cannot be told.
        error: why it cannot be read, where that is known already.
    """

    path: str
    name: str
    num_bytes: int | None
    modified_ns: int | None
    error: AudioError | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The recordings that some paths mean.

    Attributes:
        recordings: each file once.
        duplicates: paths that lead to a file that is listed by another path.
    """

    recordings: tuple[Listed, ...]
    duplicates: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A path before it is known to be the only one for its file."""

    path: str
    name: str
    is_link: bool
    error: AudioError | None = None


def list_recordings(
    paths: Sequence[str | os.PathLike[str]],
    *,
    exclude: str | os.PathLike[str] | None = None,
    shard: tuple[int, int] | None = None,
) -> Listing:
    """List files, and the recordings in folders and everything under them.

    A file that is named is always listed, whatever its suffix, even when it is not there. In
    folders, files with a suffix of recordings are listed; hidden files and folders are not; links
    are followed, each folder once. A folder that may not be read is listed with its error.

    Names are relative to the folder that was named; with the folder's own name before them when
    several folders are; plain file names for files.

    Args:
        paths: files and folders.
        exclude: a folder that is not looked into: where the outputs go.
        shard: (i, n) keeps the i-th of n parts, 1 <= i <= n. The part of a recording depends on
            its relative name alone, so it stays when others come or go.

    Raises:
        ConfigError: if the shard is out of range.
    """
    if shard is not None:
        _check_shard(*shard)
    excluded = None if exclude is None else os.path.realpath(exclude)
    folders = [path for path in paths if Path(path).is_dir()]
    found: list[_Found] = []
    for path in paths:
        absolute = os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps "..")
        if not Path(absolute).is_dir():
            base = Path(absolute).name
            found.append(_Found(path=absolute, name=base, is_link=Path(absolute).is_symlink()))
            continue
        prefix = Path(absolute).name if len(folders) > 1 else ""
        found.extend(_walk(absolute, prefix=prefix, excluded=excluded, visited=set()))
    if shard is not None:
        found = [one for one in found if part_of(one.name, shard[1]) == shard[0] - 1]
    return _deduplicate(found)


def walk_recordings(
    folder: str | os.PathLike[str], *, exclude: str | os.PathLike[str] | None = None
) -> Iterator[Listed]:
    """List the recordings of one folder and all under it, one after the other.

    As `list_recordings`, in memory that does not grow with their number: two links to one file
    are two recordings here.

    Args:
        folder: the folder.
        exclude: a folder that is not looked into.
    """
    excluded = None if exclude is None else os.path.realpath(exclude)
    root = os.path.abspath(folder)  # noqa: PTH100 (Path.absolute keeps "..")
    for found in _walk(root, prefix="", excluded=excluded, visited=set()):
        yield _listed(found)


def parse_shard(text: str) -> tuple[int, int]:
    """Read a shard such as "1/4", the first of four parts.

    Raises:
        ConfigError: if it is not of that form, or there is no such part.
    """
    first, slash, parts = text.partition("/")
    if not (slash and first.isdecimal() and parts.isdecimal()):
        raise ConfigError(f'A shard must be i/n, such as 1/4, got "{text}".')
    shard = int(first), int(parts)
    _check_shard(*shard)
    return shard


def part_of(name: str, parts: int) -> int:
    """Say which of `parts` parts a name belongs to: 0 .. parts - 1."""
    value = hashlib.sha256(os.fsencode(fold_name(name))).digest()[:8]
    return int.from_bytes(value, "big") % parts


def shorten_name(name: str) -> str:
    """Cut a name that leaves no room for a suffix; a hash keeps it apart from others."""
    folder, slash, base = name.rpartition("/")
    if len(os.fsencode(base)) <= LONGEST_NAME_BYTES:
        return name
    kept = os.fsencode(base)[: LONGEST_NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{folder}{slash}{kept}~{digest(base)}"


def fold_name(name: str) -> str:
    """Fold what some file systems do not tell apart: case and the composition of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def digest(text: str) -> str:
    """Eight hexadecimal digits that stand for a path."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _check_shard(part: int, parts: int) -> None:
    """Refuse a part that there is not."""
    if not 1 <= part <= parts:
        raise ConfigError(
            f"A shard must be i/n with 1 <= i <= n, got {part}/{parts}. "
            "The first of four parts is 1/4."
        )


def _walk(root: str, *, prefix: str, excluded: str | None, visited: set[str]) -> Iterator[_Found]:
    """List one folder and all under it, in the order of names."""
    pending = [(root, prefix)]
    while pending:
        folder, name = pending.pop()
        real = os.path.realpath(folder)
        if real == excluded or real in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield _Found(
                path=folder,
                name=name or Path(folder).name,
                is_link=False,
                error=_folder_error(folder, error),
            )
            continue
        below: list[tuple[str, str]] = []
        for entry in listed:
            if entry.name.startswith("."):
                continue
            inner = f"{name}/{entry.name}" if name else entry.name
            if _is_folder(entry):
                below.append((entry.path, inner))
            elif Path(entry.name).suffix.lower() in AUDIO_SUFFIXES:
                yield _Found(path=entry.path, name=inner, is_link=entry.is_symlink())
        pending.extend(reversed(below))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder or leads to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _folder_error(folder: str, error: OSError) -> AudioError:
    """The error of a folder that cannot be listed."""
    reason = "permission" if isinstance(error, PermissionError) else "unreadable"
    if isinstance(error, FileNotFoundError):
        reason = "vanished"
    return AudioError(
        f"The folder {folder!r} cannot be listed: {error.strerror}. Change its permissions.",
        reason=reason,
    )


def _deduplicate(found: Iterable[_Found]) -> Listing:
    """Keep one path for each file: a plain one rather than a link, then the first."""
    kept: dict[str, _Found] = {}
    duplicates: list[str] = []
    seen: set[str] = set()
    for one in found:
        if one.path in seen:
            continue
        seen.add(one.path)
        real = os.path.realpath(one.path)
        other = kept.get(real)
        if other is None:
            kept[real] = one
        elif other.is_link and not one.is_link:
            duplicates.append(other.path)
            kept[real] = one
        else:
            duplicates.append(one.path)
    return Listing(
        recordings=tuple(_listed(one) for one in kept.values()), duplicates=tuple(duplicates)
    )


def _listed(found: _Found) -> Listed:
    """Look at a file's size and time; one that cannot be looked at fails when it is read."""
    num_bytes, modified_ns = None, None
    try:
        status = Path(found.path).stat()
    except (OSError, ValueError):
        status = None
    if status is not None and stat.S_ISREG(status.st_mode):
        num_bytes, modified_ns = status.st_size, status.st_mtime_ns
    return Listed(
        path=found.path,
        name=found.name,
        num_bytes=num_bytes,
        modified_ns=modified_ns,
        error=found.error,
    )
