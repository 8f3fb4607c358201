import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from unheard.archive.parts import (
    DEAD_LETTERS,
    INDEX,
    TRANSCRIPTS,
    iter_records,
    part_name,
    read_known,
    read_part,
    take_out,
    write_part,
)
from unheard.archive.recordings import digest_of
from unheard.archive.stores import Store, open_store
from unheard.decoding.hypothesis import ScoreParts
from unheard.errors import FormatError

METADATA = {"unheard.fingerprint": "f"}
WORD = {"text": "ሰላም", "start_seconds": 0.5, "end_seconds": 1.0, "confidence": 0.9}


def record(name: str) -> dict:
    return {
        "id": name,
        "audio": f"/a/{name}",
        "start_seconds": 0.0,
        "text": "ሰላም",
        "confidence": 0.5,
        "duration_seconds": 2.0,
        "language": None,
        "warnings": ["truncated"],
        "words": [WORD],
    }


def dead(name: str) -> dict:
    return {"id": name, "reason": "unreadable"}


@pytest.fixture(params=["path", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path if request.param == "path" else f"memory://{uuid.uuid4().hex}")


def write(store: Store, folder: str, stem: str, names: str, format="jsonl") -> str:
    name = part_name(folder, stem, format)
    make = record if folder == TRANSCRIPTS else dead
    write_part(store, name, [make(one) for one in names], metadata=METADATA)
    return name


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_records_come_back_as_they_were(format: str, store: Store) -> None:
    name = write(store, TRANSCRIPTS, "p", "ab", format)
    assert name == f"transcripts/p.{format}"
    assert read_part(store, name) == [record("a"), record("b")]
    assert list(iter_records(store, TRANSCRIPTS)) == [record("a"), record("b")]
    known = read_known(store, metadata=METADATA)
    assert known.is_done(digest_of("a"))
    assert not known.is_done(digest_of("c"))
    assert not known.is_failed(digest_of("a"))


def test_parquet_says_what_made_it_and_has_one_schema(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    name = write(store, TRANSCRIPTS, "p", "a", "parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / name)
    assert schema.metadata[b"unheard.fingerprint"] == b"f"
    # A part whose recordings are all silent has lists of the same type.
    silent = {**record("b"), "words": [], "warnings": []}
    write_part(store, part_name(TRANSCRIPTS, "q", "parquet"), [silent], metadata=METADATA)
    other = pyarrow.parquet.read_schema(tmp_path / "transcripts" / "q.parquet")
    assert other.equals(schema, check_metadata=True)


def test_readings_of_a_search_fit_into_parquet(store: Store) -> None:
    parts = asdict(ScoreParts(acoustic=-1.0, lm=-2.0))
    reading = {"text": "a", "score": -3.0, "confidence": 0.5, "parts": parts}
    row = {**record("a"), "readings": [reading, {**reading, "parts": None}]}
    name = part_name(TRANSCRIPTS, "p", "parquet")
    write_part(store, name, [row], metadata=METADATA)
    assert read_part(store, name) == [row]


def test_an_index_that_is_lost_or_wrong_is_made_again(store: Store) -> None:
    write(store, TRANSCRIPTS, "p", "ab")
    write(store, DEAD_LETTERS, "p", "c")
    names = store.names(INDEX)
    assert len(names) == 2
    store.remove(names[0])
    store.write(names[1], b"odd")
    known = read_known(store, metadata=METADATA)
    assert known.is_done(digest_of("b"))
    assert known.is_failed(digest_of("c"))
    assert [len(store.read(name)) for name in store.names(INDEX)] == [16, 32]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_the_second_record_of_a_recording_goes(format: str, store: Store) -> None:
    write(store, TRANSCRIPTS, "1", "abc", format)
    write(store, TRANSCRIPTS, "2", "cd", format)
    write(store, DEAD_LETTERS, "1", "ae")
    write(store, DEAD_LETTERS, "2", "b")
    known = read_known(store, metadata=METADATA)
    assert known.doubled == 3
    assert [one["id"] for one in iter_records(store, TRANSCRIPTS)] == ["a", "b", "c", "d"]
    assert [one["id"] for one in iter_records(store, DEAD_LETTERS)] == ["e"]
    assert (known.done.size, known.failed.size) == (4, 1)
    assert read_known(store, metadata=METADATA).doubled == 0


def test_records_are_taken_out_of_the_parts_that_hold_them(store: Store) -> None:
    write(store, DEAD_LETTERS, "1", "ab")
    write(store, DEAD_LETTERS, "2", "c")
    write(store, DEAD_LETTERS, "3", "d")
    wanted = np.sort(np.array([digest_of("b"), digest_of("c"), digest_of("z")], "S16"))
    assert take_out(store, store.names(DEAD_LETTERS), wanted, metadata=METADATA) == 2
    assert [one["id"] for one in iter_records(store, DEAD_LETTERS)] == ["a", "d"]
    assert read_known(store, metadata=METADATA).failed.size == 2


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_damaged_part_is_named(format: str, store: Store) -> None:
    name = write(store, TRANSCRIPTS, "p", "a", format)
    store.write(name, b"{damaged")
    with pytest.raises(FormatError, match=r"p\.\w+ is damaged: .* transcribed again"):
        read_part(store, name)


def test_digests_that_end_in_zeros_are_found(store: Store) -> None:
    # numpy drops zero bytes at the end of a text.
    ending = next(name for name in map(str, range(10_000)) if digest_of(name).endswith(b"\0"))
    write_part(store, "transcripts/p.jsonl", [record(ending)], metadata=METADATA)
    known = read_known(store, metadata=METADATA)
    assert known.is_done(digest_of(ending))
    assert not known.is_done(digest_of(ending)[:-1] + b"\1")
