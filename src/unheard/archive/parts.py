"""The output of an archive: part files, each whole or absent, and what is in them.

    archive.json      what made the transcripts: model, settings, their fingerprint, the input
    transcripts/      recordings that were transcribed: Parquet, or JSON lines
    dead_letters/     recordings that could not be, as JSON lines: why, bytes, sha256
    index/            the ids of each part as 16-byte hashes, so that a later run need not read
                      the transcripts; made again from a part where it is missing
    _work/            what a run needs while it lasts

A recording has one record, in exactly one of the two. Parts are never changed, save that records
which are to be made again are taken out, and so is the second of two records of one recording,
which a worker can leave that outlived its job.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unheard.archive.recordings import digest_of
from unheard.archive.stores import Store
from unheard.data.manifest import json_line
from unheard.decoding.hypothesis import ScoreParts
from unheard.errors import FormatError, MissingExtraError

Format = Literal["parquet", "jsonl"]
"""How transcripts are written."""

TRANSCRIPTS = "transcripts"
DEAD_LETTERS = "dead_letters"
INDEX = "index"

DIGEST_BYTES = 16
_READERS = 16

Digests = NDArray[np.bytes_]
"""(ids,) of 16 bytes each."""


def part_name(folder: str, stem: str, format: Format) -> str:
    """Name a part file; dead letters are always JSON lines."""
    return f"{folder}/{stem}.{format if folder == TRANSCRIPTS else 'jsonl'}"


def write_part(
    store: Store, name: str, records: Sequence[Mapping[str, Any]], *, metadata: Mapping[str, str]
) -> None:
    """Write a part, whole or not at all, and then the index of it.

    Args:
        store: the output.
        name: see `part_name`.
        records: at least one.
        metadata: kept in the file where its format has a place for it.
    """
    if name.endswith(".parquet"):
        data = _to_parquet(records, metadata)
    else:
        data = b"".join(json_line(record) for record in records)
    store.write(name, data)
    store.write(_index_name(name), b"".join(digest_of(record["id"]) for record in records))


def read_part(store: Store, name: str) -> list[dict[str, Any]]:
    """Read the records of a part.

    Raises:
        FormatError: if it is damaged.
    """
    data = store.read(name)
    try:
        if name.endswith(".parquet"):
            return _parquet().read_table(io.BytesIO(data)).to_pylist()
        return [json.loads(line) for line in data.splitlines()]
    except (ValueError, OSError) as error:
        raise FormatError(
            f"{store.address(name)} is damaged: {error}. Remove it: its recordings are then "
            "transcribed again."
        ) from error


def iter_records(store: Store, folder: str) -> Iterator[dict[str, Any]]:
    """Read all records of `TRANSCRIPTS` or `DEAD_LETTERS`, a part at a time."""
    for name in store.names(folder):
        yield from read_part(store, name)


def remove_part(store: Store, name: str) -> None:
    """Remove a part and its index; the index first, so that none is left alone."""
    store.remove(_index_name(name))
    store.remove(name)


def _index_name(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{INDEX}/{folder}-{file}.ids"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Which recordings have a record.

    Attributes:
        done: sorted digests of those with a transcript.
        failed: sorted digests of those with a dead letter.
        parts: names of all part files.
        doubled: records that were taken out because their recording had another one.
    """

    done: Digests
    failed: Digests
    parts: frozenset[str]
    doubled: int = 0

    def is_done(self, digest: bytes) -> bool:
        """Say whether a recording has a transcript."""
        return _holds(self.done, digest)

    def is_failed(self, digest: bytes) -> bool:
        """Say whether a recording has a dead letter."""
        return _holds(self.failed, digest)


def read_known(store: Store, *, metadata: Mapping[str, str]) -> Known:
    """Find which recordings have a record; 16 bytes of memory for each.

    Where a recording has two records the second is taken out: a worker that outlives its job can
    write a part that the next run does not see in time.
    """
    names = [*store.names(TRANSCRIPTS), *store.names(DEAD_LETTERS)]
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        digests = list(readers.map(lambda name: _digests(store, name), names))
    everything = np.concatenate([_EMPTY, *digests])
    values, counts = np.unique(everything, return_counts=True)
    doubled = values[counts > 1]
    if doubled.size:
        taken_out = _take_out_doubles(store, names, digests, doubled, metadata)
        known = read_known(store, metadata=metadata)
        return Known(done=known.done, failed=known.failed, parts=known.parts, doubled=taken_out)
    is_dead = [name.startswith(f"{DEAD_LETTERS}/") for name in names]
    done = [one for one, dead in zip(digests, is_dead, strict=True) if not dead]
    failed = [one for one, dead in zip(digests, is_dead, strict=True) if dead]
    return Known(
        done=np.sort(np.concatenate([_EMPTY, *done])),
        failed=np.sort(np.concatenate([_EMPTY, *failed])),
        parts=frozenset(names),
    )


def take_out(
    store: Store, parts: Iterable[str], digests: Digests, *, metadata: Mapping[str, str]
) -> int:
    """Take records out of parts, a part in one step.

    Args:
        store: the output.
        parts: names of the part files to look into.
        digests: sorted; of the ids whose records go.
        metadata: see `write_part`.

    Returns:
        How many there were.
    """
    taken = 0
    for name in parts:
        if not np.isin(_digests(store, name), digests).any():
            continue
        records = read_part(store, name)
        kept = [one for one in records if not _holds(digests, digest_of(one["id"]))]
        taken += len(records) - len(kept)
        _rewrite(store, name, kept, metadata)
    return taken


def _take_out_doubles(
    store: Store,
    names: Sequence[str],
    digests: Sequence[Digests],
    doubled: Digests,
    metadata: Mapping[str, str],
) -> int:
    """Keep the first record of each id: transcripts before dead letters, then by name."""
    taken = 0
    seen: set[bytes] = set()
    for name, found in zip(names, digests, strict=True):
        if not np.isin(found, doubled).any():
            continue
        kept = []
        records = read_part(store, name)
        for record in records:
            digest = digest_of(record["id"])
            if digest in seen:
                continue
            if _holds(doubled, digest):
                seen.add(digest)
            kept.append(record)
        if len(kept) < len(records):
            taken += len(records) - len(kept)
            _rewrite(store, name, kept, metadata)
    return taken


def _rewrite(
    store: Store, name: str, records: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> None:
    """Put other records into a part; the index goes first, as it would be wrong."""
    if not records:
        remove_part(store, name)
        return
    store.remove(_index_name(name))
    write_part(store, name, records, metadata=metadata)


_EMPTY: Digests = np.zeros(0, f"S{DIGEST_BYTES}")


def _digests(store: Store, name: str) -> Digests:
    """Read which ids a part holds, from its index or else from itself."""
    try:
        data = store.read(_index_name(name))
    except FileNotFoundError:
        data = b""
    if not data or len(data) % DIGEST_BYTES:
        try:
            records = read_part(store, name)
        except FileNotFoundError:
            # Another shard has just taken the last record out of it.
            return _EMPTY
        data = b"".join(digest_of(record["id"]) for record in records)
        store.write(_index_name(name), data)
    return np.frombuffer(data, f"S{DIGEST_BYTES}")


def _holds(digests: Digests, digest: bytes) -> bool:
    """Look a digest up among sorted ones."""
    if not digests.shape[0]:
        return False
    # numpy drops zero bytes at the end of texts; all of ours are of one length.
    wanted = np.frombuffer(digest, f"S{DIGEST_BYTES}")
    place = int(np.searchsorted(digests, wanted)[0])
    return place < digests.shape[0] and bool(digests[place] == wanted[0])


def _to_parquet(records: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> bytes:
    import pyarrow

    schema = _schema(with_words="words" in records[0], with_readings="readings" in records[0])
    # A row a recording, whatever scripts its text is in: Parquet's texts are UTF-8.
    table = pyarrow.Table.from_pylist(list(records), schema=schema)
    table = table.replace_schema_metadata(dict(metadata))
    buffer = io.BytesIO()
    _parquet().write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _schema(*, with_words: bool, with_readings: bool) -> Any:
    """Columns of the transcripts; the same for every part of an archive."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    word = pyarrow.struct(
        {"text": text, "start_seconds": number, "end_seconds": number, "confidence": number}
    )
    parts = pyarrow.struct({field.name: number for field in fields(ScoreParts)})
    reading = pyarrow.struct({"text": text, "score": number, "confidence": number, "parts": parts})
    columns = {
        "id": text,
        "audio": text,
        "start_seconds": number,
        "text": text,
        "confidence": number,
        "duration_seconds": number,
        "language": text,
        "warnings": pyarrow.list_(text),
        **({"readings": pyarrow.list_(reading)} if with_readings else {}),
        **({"words": pyarrow.list_(word)} if with_words else {}),
    }
    return pyarrow.schema(list(columns.items()))


def _parquet() -> Any:
    """Import pyarrow, which is optional."""
    try:
        import pyarrow.parquet
    except (ImportError, OSError) as error:
        raise MissingExtraError("pyarrow", extra="data", purpose="Parquet") from error
    return pyarrow.parquet
