"""Hugging Face data sets: Parquet and Arrow tables with the sound inside, local or from the hub.

The sound is written to files of its own, as it is: nothing is decoded here, and the `datasets`
package is not needed. Folders of the "audiofolder" kind (recordings beside metadata.csv or
metadata.jsonl) hold ordinary tables, which `layouts` reads.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unheard.data.claims import BadRow, Claim, Reading, claim_of_row, split_of_name
from unheard.data.folders import Tree, split_suffix
from unheard.data.manifest import Skip
from unheard.data.tables import Role, Row, find_columns, sort_cells
from unheard.errors import ConfigError, ManifestError, MissingExtraError, shorten

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 32
"""Rows in memory together: a row holds a whole recording."""

_MAGIC = (
    (b"RIFF", ".wav"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"\xff\xf2", ".mp3"),
    (b"\x1aE\xdf\xa3", ".webm"),
)


def is_dataset(tree: Tree) -> bool:
    """Say whether a folder holds Parquet files, or Arrow files as `datasets` saves them."""
    return bool(_table_names(tree))


def _table_names(tree: Tree) -> list[str]:
    """The tables of a folder, without the caches that `datasets` leaves beside them."""
    return [
        name
        for name in tree.names
        if split_suffix(name)[1].lower() in (".parquet", ".arrow")
        and not name.rpartition("/")[2].startswith(("cache-", "tmp"))
    ]


def read_dataset(reading: Reading) -> Iterator[Claim | Skip]:
    """Read every table of a data set, writing its sound to files.

    Raises:
        ConfigError: if there is no folder to write the sound to, or it is needed to say which of
            several configurations is meant.
        MissingExtraError: if pyarrow is not installed.
    """
    _arrow()
    names = _table_names(reading.tree)
    _check_one_configuration(names, reading.tree.root)
    for name in names:
        path = reading.tree.path(name)
        try:
            yield from _read_table(name, path, reading)
        except (ManifestError, OSError, ValueError) as error:
            # pyarrow's own errors are ValueErrors and OSErrors.
            yield Skip(path=str(path), reason="not_a_table", detail=str(error))


def download(name: str, folder: Path) -> Path:
    """Bring the tables of a data set on the hub to a folder.

    Args:
        name: "owner/name", "owner/name@revision", or either with "/folder" of one configuration.
        folder: where to; a copy is made under its own name and revision.

    Raises:
        ConfigError: if the name is not of this form, the hub has no such tables, or cannot be
            reached.
        MissingExtraError: if huggingface_hub is not installed.
    """
    matched = re.fullmatch(
        r"(?P<repo>[\w.\-]+/[\w.\-]+)(?:@(?P<revision>[\w.\-/]+?))?(?:/(?P<part>[\w.\-]+))?", name
    )
    if matched is None:
        raise ConfigError(
            f'"{name}" is no data set: expected "owner/name", with "@revision" and "/folder" '
            "after it if you like."
        )
    try:
        import huggingface_hub
        from huggingface_hub.errors import RevisionNotFoundError
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            "huggingface_hub", extra="hub", purpose=f"Fetching {name}"
        ) from error
    repository, part = matched["repo"], matched["part"]
    files: dict[str, int] = {}
    commit = ""
    # The hub keeps a Parquet copy of data sets that are scripts or folders, on a branch.
    for revision in (matched["revision"], "refs/convert/parquet"):
        with _hub_errors(repository):
            try:
                info = huggingface_hub.HfApi().dataset_info(
                    repository, revision=revision, files_metadata=True
                )
            except RevisionNotFoundError:
                continue
        commit = info.sha or ""
        files = {
            file.rfilename: file.size or 0
            for file in info.siblings or ()
            if file.rfilename.endswith(".parquet")
            and (part is None or part in file.rfilename.split("/")[:-1])
        }
        if files:
            break
    if not files:
        raise ConfigError(
            f"The hub's data set {repository} has no Parquet files{f' in {part}' if part else ''}."
        )
    _check_one_configuration(sorted(files), Path(repository))
    log.info("%s: %d files, %.1f MB", repository, len(files), sum(files.values()) / 1e6)
    target = folder / "download" / f"{repository.replace('/', '--')}--{commit}"
    with _hub_errors(repository):
        huggingface_hub.snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit,
            allow_patterns=sorted(files),
            local_dir=target,
        )
    return target / part if part and (target / part).is_dir() else target


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into one error that says what to do."""
    try:
        yield
    # The client's errors derive from OSError or ValueError, those of its transport from neither.
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise ConfigError(
            f"The data set {repository} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {lines[0]}). Check the name and the connection, and whether "
            "it asks for a login."
        ) from error


def _check_one_configuration(names: list[str], root: Path) -> None:
    """Refuse to mix the configurations of a data set, which are often languages."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    configurations = sorted(
        top for top in tops if top not in ("data", "default") and split_of_name(top) is None
    )
    if len(configurations) > 1:
        raise ConfigError(
            f"{root} holds {len(configurations)} configurations: expected one, found "
            f"{shorten(configurations, limit=20)}. Add the folder of one to the name."
        )


def _arrow() -> Any:
    """Import pyarrow, which is optional."""
    try:
        import pyarrow
        import pyarrow.parquet
    except (ImportError, OSError) as error:
        raise MissingExtraError("pyarrow", extra="data", purpose="Reading Parquet") from error
    return pyarrow


def _batches(path: Path) -> Iterator[Any]:
    """Read a table in small record batches; the first says what columns there are."""
    arrow = _arrow()
    if path.suffix.lower() == ".parquet":
        with arrow.parquet.ParquetFile(path) as file:
            yield file.schema_arrow
            yield from file.iter_batches(batch_size=_ROWS_AT_ONCE)
        return
    with arrow.memory_map(str(path)) as source:
        try:
            reader = arrow.ipc.open_stream(source)
            batches = iter(reader)
        except arrow.ArrowInvalid:
            reader = arrow.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        yield reader.schema
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield batch.slice(start, _ROWS_AT_ONCE)


def _read_table(name: str, path: Path, reading: Reading) -> Iterator[Claim | Skip]:
    """Read one table, writing the sound of each row to a file."""
    batches = _batches(path)
    schema = next(batches)
    columns = _columns(schema, path, reading)
    reading.note_table(path, kind=path.suffix[1:].lower(), columns=columns, has_header=True)
    base = name.rpartition("/")[2]
    split = split_of_name(base) or next(
        (found for folder in name.split("/")[-2::-1] if (found := split_of_name(folder))), None
    )
    line = 0
    for batch in batches:
        for values in batch.to_pylist():
            line += 1
            cells, others = sort_cells(values, columns)
            row = Row(line=line, cells=cells, others=others)
            try:
                audio = _extract(cells.get("audio"), f"{split_suffix(name)[0]}/{line:06d}", reading)
                yield claim_of_row(row, path, reading, split=split, audio=audio)
            except BadRow as bad:
                yield Skip(path=str(path), line=line, reason=bad.reason, detail=str(bad))


def _columns(schema: Any, path: Path, reading: Reading) -> dict[Role, str]:
    """Find the columns: by name, and the sound by its type where no name says so."""
    told = reading.columns.told()
    columns: dict[Role, str] = find_columns(schema.names, told, where=str(path))
    if "audio" not in told:
        types = _arrow().types
        for field in schema:
            is_struct = types.is_struct(field.type)
            if is_struct and {"bytes", "path"} <= {part.name for part in field.type}:
                columns = {role: name for role, name in columns.items() if name != field.name}
                columns["audio"] = field.name
                break
    if "audio" not in columns:
        raise ManifestError(
            f"No column of {path} holds recordings: found {shorten(schema.names, limit=20)}. "
            "Say which one does."
        )
    return columns


def _extract(cell: Any, name: str, reading: Reading) -> Path | None:
    """Write the sound of a row to a file; None where the row only names a file.

    Raises:
        ConfigError: if there is no folder to write to.
        BadRow: if the sound is empty.
    """
    data, stored_name = cell, ""
    if isinstance(cell, Mapping):
        data, stored_name = cell.get("bytes"), cell.get("path") or ""
    if not isinstance(data, bytes):
        return None
    if not data:
        raise BadRow("empty", "the recording has no bytes")
    if reading.extract_to is None:
        raise ConfigError(
            "The recordings lie inside the tables of the data set: expected a folder to write "
            "them to, found none. Say where the output goes."
        )
    base = re.sub(r"[^\w.\-]+", "_", str(stored_name).replace("\\", "/").rpartition("/")[2])
    stem, suffix = split_suffix(base)
    if suffix.lower() not in reading.audio_suffixes:
        magic = next((known for start, known in _MAGIC if data.startswith(start)), ".audio")
        stem, suffix = base, magic
    path = reading.extract_to / "audio" / f"{name}{'_' if stem else ''}{stem[:80]}{suffix}"
    if not path.is_file() or path.stat().st_size != len(data):
        # Written by renaming, but not flushed to the disk one by one: they can be made again,
        # and a file that a power cut left short is.
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(path)
    return path.resolve()
