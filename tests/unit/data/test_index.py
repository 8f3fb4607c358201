import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard.data.index import (
    COLUMNS,
    PackedRows,
    Rows,
    ShardIndex,
    ShardRows,
    Strings,
    build_index,
)
from unheard.errors import FormatError


def rows(first: int, count: int, *, language: str = "lg") -> Rows:
    found = Rows()
    for number in range(first, first + count):
        found.add(
            numbers={
                "offset": number << 33,
                "size": number + 1,
                "crc": (1 << 32) - 1 - number,
                "num_samples": 1000 + number,
                "mean": 0.1 * number,
                "variance": 1e-9 * number,
            },
            texts={
                "id": f"ü{number}",
                "text": "አማርኛ" * (number % 3),
                "speaker": None if number % 2 else f"s{number % 4}",
                "language": language,
            },
        )
    return found


def shard_rows(name: str, found: Rows) -> ShardRows:
    data = found.pack()
    return ShardRows(name=name, rows=len(found), load=lambda: PackedRows.unpack(data, name))


def build(folder: Path) -> ShardIndex:
    shards = [
        shard_rows("lg/a.tar", rows(0, 5)),
        shard_rows("lg/b.tar", rows(5, 0)),
        shard_rows("wo/a.tar", rows(5, 4, language="wo")),
    ]
    build_index(shards, folder, fingerprint="f")
    return ShardIndex(folder)


@given(st.lists(st.text()), st.data())
def test_strings_give_back_what_was_packed(texts: list[str], data: st.DataObject) -> None:
    packed = Strings.of(texts)
    assert list(packed) == texts
    assert packed[-2:] == texts[-2:]
    numbers = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5)) if texts else []
    chosen = packed.only(np.asarray(numbers, dtype=np.int64))
    assert list(chosen) == [texts[number] for number in numbers]
    twice = chosen.only(np.arange(len(numbers))[::-1])
    assert list(twice) == [texts[number] for number in reversed(numbers)]
    with pytest.raises(IndexError):
        packed[len(texts)]


def test_names_that_are_not_utf8_pass_through() -> None:
    assert list(Strings.of(["a\udcff", "b"])) == ["a\udcff", "b"]


def test_an_index_joins_the_rows_of_all_shards(tmp_path: Path) -> None:
    index = build(tmp_path / "index")
    expected = rows(0, 9)
    assert len(index) == 9
    assert list(index.ids) == expected.texts["id"]
    assert list(index.texts) == expected.texts["text"]
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(index.columns[name], np.asarray(column, COLUMNS[name]))

    def names(column: str) -> list[str]:
        return [index.names[column][code] for code in index.columns[column]]

    assert names("shard") == ["lg/a.tar"] * 5 + ["wo/a.tar"] * 4
    assert names("corpus") == ["lg"] * 5 + ["wo"] * 4
    assert names("language") == ["lg"] * 5 + ["wo"] * 4
    assert names("speaker") == expected.texts["speaker"]


def test_columns_are_mapped_and_not_read(tmp_path: Path) -> None:
    index = build(tmp_path / "index")
    assert all(isinstance(column, np.memmap) for column in index.columns.values())


@pytest.mark.parametrize("mutation", ["flip", "cut", "gone"])
def test_damage_to_any_file_is_found(tmp_path: Path, mutation: str) -> None:
    folder = tmp_path / "index"
    build(folder)
    files = sorted(json.loads((folder / "index.json").read_text())["files"])
    assert len(files) == len(COLUMNS) + 4 + 8
    for name in files:
        path = folder / name
        data = path.read_bytes()
        if mutation == "flip":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif mutation == "cut":
            path.write_bytes(data[:-1])
        else:
            path.unlink()
        with pytest.raises((FormatError, FileNotFoundError)):
            ShardIndex(folder)
        path.write_bytes(data)
    ShardIndex(folder)


def test_an_index_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    build_index([shard_rows("../a.tar", rows(0, 1))], tmp_path / "index", fingerprint="f")
    with pytest.raises(FormatError, match="no name of a shard"):
        ShardIndex(tmp_path / "index")


def test_a_shard_with_another_number_of_rows_than_it_said_is_refused(tmp_path: Path) -> None:
    data = rows(0, 3).pack()
    wrong = ShardRows(name="a.tar", rows=4, load=lambda: PackedRows.unpack(data, "a.tar"))
    with pytest.raises(FormatError, match="3 rows, expected 4"):
        build_index([wrong], tmp_path / "index", fingerprint="f")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all"])
def test_what_is_no_part_of_an_index_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="no part of an index"):
        PackedRows.unpack(data, "x.npz")


def test_another_version_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "index")
    record = tmp_path / "index" / "index.json"
    record.write_text(record.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FormatError, match="another version"):
        ShardIndex(tmp_path / "index")
