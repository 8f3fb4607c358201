"""Which recordings a folder holds, and which of them a name in a table means.

The rule for paths: a table may name recordings under the declared roots only, which are the
folder of recordings, the folder of the table, and whatever else the caller declares (or an
earlier scan, in the scan.json beside its manifests). A path with "..", an absolute path elsewhere,
and a symbolic link that leads out of the roots are never opened. An absolute path from another
machine may still mean a recording here: by its file name, if only one recording has it.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from unheard.data.manifest import Skip, has_parent_step, is_absolute, printable


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files under one folder.

    Attributes:
        root: the folder, links resolved.
        audio: recordings, in the order of their relative paths. A link within the folder is
            one too, unless it leads to a recording that is listed anyway.
        names: paths relative to `root` of all regular files, recordings or not, in order.
        links: where those of `names` that are links lead.
        skipped: what could not be used, and why.
        other_suffixes: how many files of each other suffix there are.
    """

    root: Path
    audio: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    links: dict[str, Path] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    other_suffixes: dict[str, int] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The full path of one of `names`, links resolved."""
        return self.links.get(name) or self.root / name


def walk(
    root: Path,
    *,
    audio_suffixes: frozenset[str],
    exclude: Iterable[Path] = (),
) -> Tree:
    """List a folder and everything under it, whatever it holds.

    Hidden files and folders, folders that may not be read, links that lead out of the folder,
    and recordings that are empty or no regular files are skipped and listed as such. Links to
    folders are not followed: what they show within the root is met at its own place.

    Args:
        root: the folder.
        audio_suffixes: lower-case suffixes of recordings, with the dot.
        exclude: folders under it that are not looked into, such as the output folder.
    """
    root = root.resolve()
    excluded = {folder.resolve() for folder in exclude}
    audio: list[str] = []
    names: list[str] = []
    links: list[tuple[str, Path]] = []
    skipped: list[Skip] = []
    other_suffixes: Counter[str] = Counter()

    def skip(path: str, reason: str, detail: str) -> None:
        skipped.append(Skip(path=path, reason=reason, detail=detail))

    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skip(str(root / folder), os_reason(error), f"the folder cannot be listed: {error}")
            continue
        for entry in listed:
            name = f"{folder}/{entry.name}" if folder else entry.name
            suffix = split_suffix(entry.name)[1].lower()
            is_audio = suffix in audio_suffixes
            try:
                if entry.is_symlink():
                    target = _link_target(Path(entry.path), root)
                    if target is None:
                        if is_audio or Path(entry.path).is_dir():
                            skip(entry.path, "outside", "a link that leads out of the folder")
                    elif target.is_file() and not entry.name.startswith("."):
                        links.append((name, target))
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if Path(entry.path) in excluded:
                        continue
                    if entry.name.startswith("."):
                        skip(entry.path, "hidden", "a hidden folder")
                    else:
                        folders.append(name)
                    continue
                if entry.name.startswith("."):
                    if is_audio:
                        skip(entry.path, "hidden", "a hidden file")
                    continue
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                skip(entry.path, os_reason(error), str(error))
                continue
            if not stat.S_ISREG(status.st_mode):
                if is_audio:
                    skip(entry.path, "not_regular", "not a regular file")
                continue
            names.append(name)
            if not is_audio:
                other_suffixes[suffix] += 1
            elif status.st_size == 0:
                skip(entry.path, "empty", "the file has no bytes")
            else:
                audio.append(name)
    if links:
        listed_audio = {root / name for name in audio}
        for name, target in sorted(links):
            names.append(name)
            is_audio = split_suffix(name)[1].lower() in audio_suffixes
            if is_audio and target not in listed_audio:
                listed_audio.add(target)
                audio.append(name)
    return Tree(
        root=root,
        audio=tuple(sorted(audio)),
        names=tuple(sorted(names)),
        links=dict(links),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
        other_suffixes=dict(sorted(other_suffixes.items())),
    )


class AudioFinder:
    """Turns a name that a table gives into a recording under the declared roots.

    A name is tried, in this order, as a path from each folder given and from each root; the same
    without regard to its suffix; and as a file name that only one recording under the roots has,
    again with or without its suffix.

    Args:
        trees: roots that are walked already.
        roots: further roots, which are walked only when a name is not found as a path.
        audio_suffixes: lower-case suffixes of recordings, with the dot.
        exclude: folders that are not walked.
    """

    def __init__(
        self,
        trees: Iterable[Tree],
        *,
        roots: Iterable[Path],
        audio_suffixes: frozenset[str],
        exclude: Iterable[Path] = (),
    ) -> None:
        trees = tuple(trees)
        walked = [tree.root for tree in trees]
        self._roots = tuple(dict.fromkeys([*walked, *(root.resolve() for root in roots)]))
        self._not_walked = [root for root in self._roots if root not in walked]
        self._exclude = tuple(exclude)
        self._suffixes = audio_suffixes
        self._known: dict[str, Path] = {}
        self._by_path: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for tree in trees:
            self._enter(tree)

    def find(self, name: str, *folders: Path) -> Path | Skip:
        """Find the recording that a table means.

        Args:
            name: as it stands in the table.
            folders: where a relative name starts from, before the roots; the table's own folder.

        Returns:
            The resolved path of an existing file under the roots; or a Skip with the reason and
            detail filled in, whose path and line are the caller's to add.
        """
        if not name.strip() or "\0" in name:
            return _no("bad_path", f"not a file name: {printable(name)!r}")
        if has_parent_step(name):
            return _no("outside", f'a path with "..": {printable(name)}')
        left_roots = False
        bases = (Path(),) if is_absolute(name) else (*folders, *self._roots)
        for base in bases:
            path = base / name
            if str(path) in self._known:
                return path
            try:
                status = path.stat()
                real = path.resolve()
            except (OSError, ValueError):
                continue
            if not any(real.is_relative_to(root) for root in self._roots):
                left_roots = True
            elif stat.S_ISREG(status.st_mode):
                return real
            elif not stat.S_ISDIR(status.st_mode):
                return _no("not_regular", f"not a regular file: {printable(name)}")
        found = self._find_loosely(name)
        while found is None and self._not_walked:
            root = self._not_walked.pop(0)
            self._enter(walk(root, audio_suffixes=self._suffixes, exclude=self._exclude))
            found = self._find_loosely(name)
        if found is not None:
            return found
        if left_roots:
            return _no(
                "outside", f"{printable(name)} lies outside the folders of recordings and table"
            )
        return _no("missing", f"no recording {printable(name)} here")

    def _find_loosely(self, name: str) -> Path | Skip | None:
        """Find a recording by path or file name, with or without suffix, in what was walked."""
        posix = name.replace("\\", "/").removeprefix("./")
        base = posix.rpartition("/")[2]
        for index, key in (
            (self._by_path, posix),
            (self._by_path, self._without_suffix(posix)),
            (self._by_name, base),
            (self._by_stem, self._without_suffix(base)),
        ):
            found = index.get(_key(key), [])
            if len(found) == 1:
                return found[0]
            if len(found) > 1:
                some = ", ".join(printable(str(path)) for path in found[:3])
                return _no("ambiguous", f"{printable(name)} may be any of {len(found)}: {some}")
        return None

    def _enter(self, tree: Tree) -> None:
        """Make the recordings of a walked root known by all their names."""
        for name in tree.audio:
            path = tree.path(name)
            self._known[str(path)] = path
            self._add(self._by_path, name, path)
            self._add(self._by_path, self._without_suffix(name), path)
            base = name.rpartition("/")[2]
            self._add(self._by_name, base, path)
            self._add(self._by_stem, self._without_suffix(base), path)

    def _without_suffix(self, name: str) -> str:
        """Drop a suffix of recordings; another one, as in "a.b", belongs to the name."""
        stem, suffix = split_suffix(name)
        return stem if suffix.lower() in self._suffixes else name

    @staticmethod
    def _add(index: dict[str, list[Path]], name: str, path: Path) -> None:
        """Enter a recording under a name, once."""
        found = index.setdefault(_key(name), [])
        if path not in found:
            found.append(path)


def os_reason(error: OSError) -> str:
    """Give the reason code of a system error."""
    if isinstance(error, PermissionError):
        return "permission"
    if isinstance(error, FileNotFoundError):
        return "vanished"
    return "unreadable"


def split_suffix(name: str) -> tuple[str, str]:
    """Split a path into what stands before its last suffix, and that suffix with its dot."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or "/" in suffix or stem.endswith("/"):
        return name, ""
    return stem, dot + suffix


def relative_id(path: Path, root: Path) -> str:
    """Make a readable id of a path: relative to `root` where it lies under it.

    Bytes that are not UTF-8 become visible escapes, so that an id is always proper text.
    """
    name = path.relative_to(root) if path.is_relative_to(root) else path
    return os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")


def _key(name: str) -> str:
    """Fold what file systems change in names: the composition of accents."""
    return unicodedata.normalize("NFC", name)


def _no(reason: str, detail: str) -> Skip:
    """A Skip whose place is not known yet."""
    return Skip(path="", reason=reason, detail=detail)


def _link_target(link: Path, root: Path) -> Path | None:
    """Where a link leads, if that is within the root; None where it leads out or in circles."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return target if target.is_relative_to(root) else None
