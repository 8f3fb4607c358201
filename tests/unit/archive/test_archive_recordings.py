import json
import os
import uuid
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from tests import small_corpora

from unheard.archive.recordings import BAD_ROW, Item, Recordings
from unheard.archive.stores import open_store
from unheard.errors import ConfigError, ManifestError


def rows(source: str | Path, **more) -> list[Item]:
    return list(Recordings(source).items(**more))


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_folder_is_listed_with_all_below_it_but_the_output(tmp_path: Path) -> None:
    for name in ("b.wav", "a/c.flac", "a/notes.txt", ".x/d.wav", "out/e.wav"):
        small_corpora.text(tmp_path / name, b"12345")
    found = list(Recordings(tmp_path, exclude=open_store(tmp_path / "out")).items())
    assert [(one.id, one.audio, one.num_bytes) for one in found] == [
        ("b.wav", str(tmp_path / "b.wav"), 5),
        ("a/c.flac", str(tmp_path / "a" / "c.flac"), 5),
    ]


def test_a_prefix_of_a_store_is_listed_alike() -> None:
    root = uuid.uuid4().hex
    system = fsspec.filesystem("memory")
    for name in ("b.WAV", "a/c.flac", "a/notes.txt", ".x/d.wav", "out/e.wav"):
        system.pipe_file(f"/{root}/{name}", b"12345")
    url = f"memory://{root}"
    found = list(Recordings(url, exclude=open_store(f"{url}/out")).items())
    assert [(one.id, one.audio, one.num_bytes) for one in found] == [
        ("b.WAV", f"{url}/b.WAV", 5),
        ("a/c.flac", f"{url}/a/c.flac", 5),
    ]


def test_names_of_any_bytes_become_ids_that_stay_apart(tmp_path: Path) -> None:
    for name in (b"a\xff.wav", b"a\xfe.wav", "é.wav".encode(), "e\u0301.wav".encode()):
        (tmp_path / os.fsdecode(name)).touch()
    found = rows(tmp_path)
    ids = [one.id for one in found]
    assert len(set(ids)) == 4
    for one in found:
        one.id.encode("utf-8")
        assert Item.from_line(one.to_line()) == one
        assert Path(one.audio).exists()


def test_a_manifest_names_recordings_and_stretches(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        '{"id": "u1", "audio": "a.wav"}',
        "",
        '{"audio": "b.wav", "start_seconds": 2.5, "duration": 4}',
        '{"id": 7, "audio": "/abs/c.wav", "start": 3, "end": 5}',
        '{"id": "n", "audio": "s3://x/d.wav", "start": 8000, "num_samples": 4000, '
        '"sample_rate": 8000}',
    )
    assert rows(path) == [
        Item(id="u1", audio=str(tmp_path / "a.wav")),
        Item(id="b.wav#2.5", audio=str(tmp_path / "b.wav"), start_seconds=2.5, length_seconds=4.0),
        Item(id="7", audio="/abs/c.wav", start_seconds=3.0, length_seconds=2.0),
        Item(id="n", audio="s3://x/d.wav", start_seconds=1.0, length_seconds=0.5),
    ]


def test_tables_and_parquet_say_the_same(tmp_path: Path) -> None:
    columns = {"id": ["1", "2"], "path": ["a.wav", "b,c.wav"], "offset": ["", "1.5"]}
    (tmp_path / "l.csv").write_text('\ufeffid,path,offset\n1,a.wav,\n2,"b,c.wav",1.5\n')
    (tmp_path / "l.tsv").write_text("id\tpath\toffset\r\n1\ta.wav\t\r\n2\tb,c.wav\t1.5\r\n")
    table = pyarrow.table({**columns, "offset": [None, 1.5], "text": ["not", "needed"]})
    pyarrow.parquet.write_table(table, tmp_path / "l.parquet")
    expected = [
        Item(id="1", audio=str(tmp_path / "a.wav")),
        Item(id="2", audio=str(tmp_path / "b,c.wav"), start_seconds=1.5),
    ]
    for name in ("l.csv", "l.tsv", "l.parquet"):
        assert rows(tmp_path / name) == expected, name


def test_a_manifest_in_a_store(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe_file(
        f"/{url.removeprefix('memory://')}/m/list.jsonl", b'{"audio": "x/a.wav"}\n'
    )
    assert rows(f"{url}/m/list.jsonl") == [Item(id="x/a.wav", audio=f"{url}/m/x/a.wav")]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"id": "x"}', '"audio" must be a path'),
        ('{"audio": ""}', '"audio" must be a path'),
        ('{"audio": 5}', '"audio" must be a path'),
        ('{"audio": "a\\u0000.wav"}', '"audio" must be a path'),
        ('{"audio": "../a.wav"}', 'must not hold ".."'),
        ('{"audio": "a.wav", "id": ""}', '"id" is empty'),
        ('{"audio": "a.wav", "start": -1}', '"start" must be a number of at least 0'),
        ('{"audio": "a.wav", "start": NaN}', '"start" must be a number'),
        ('{"audio": "a.wav", "start": true}', '"start" must be a number'),
        ('{"audio": "a.wav", "duration": "x"}', '"duration" must be a number'),
        ('{"audio": "a.wav", "duration": 1e9}', "which no recording has"),
        ('{"audio": "a.wav", "start": 5, "end": 4}', '"end" must be after'),
        ('{"audio": "a.wav", "num_samples": 5}', '"sample_rate" must be a number'),
        ("[1]", "must be a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_row_is_a_fault_with_its_line(row: str, complaint: str, tmp_path: Path) -> None:
    good = '{"audio": "ok.wav"}'
    found = rows(manifest(tmp_path, good, row, good.replace("ok", "too")))
    assert [one.fault is None for one in found] == [True, False, True]
    assert found[1].id == "list.jsonl:2"
    assert found[1].fault is not None
    assert found[1].fault[0] == BAD_ROW
    assert "row 2" in found[1].fault[1]
    assert complaint in found[1].fault[1]


def test_rows_of_a_table_that_do_not_fit_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(b"audio,id\na.wav,1\nb.wav\nc.wav,2,3\n\xff.wav,4\nd.wav,5\n")
    assert [one.fault is None for one in rows(path)] == [True, False, False, False, True]


def test_what_is_no_manifest_as_a_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ManifestError, match='"audio" among its'):
        rows(tmp_path / "l.csv")
    (tmp_path / "l.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(ManifestError, match="is not a Parquet file"):
        rows(tmp_path / "l.parquet")
    with pytest.raises(ConfigError, match="There is no manifest"):
        rows(tmp_path / "other.jsonl")
    with pytest.raises(ConfigError, match="found nothing"):
        rows(tmp_path / "nowhere")
    small_corpora.text(tmp_path / "a.wav", b"")
    with pytest.raises(ConfigError, match="unheard transcribe"):
        rows(tmp_path / "a.wav")


def test_shards_are_disjoint_whole_and_stay_when_others_come(tmp_path: Path) -> None:
    lines = [json.dumps({"audio": f"{number}.wav"}) for number in range(200)]
    few, many = manifest(tmp_path, *lines[:120]), tmp_path / "many.jsonl"
    many.write_text("\n".join(lines))
    for parts in (1, 2, 7):
        shares = [{one.id for one in rows(many, shard=(i + 1, parts))} for i in range(parts)]
        assert sum(map(len, shares)) == 200
        assert set().union(*shares) == {one.id for one in rows(many)}
        for number, share in enumerate(shares):
            before = {one.id for one in rows(few, shard=(number + 1, parts))}
            assert before == share & {one.id for one in rows(few)}
