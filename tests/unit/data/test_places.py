import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from tests import small_corpora
from tests.shard_folders import make

from unheard.data.places import LocalPlace, Place, RemotePlace, is_url, open_place
from unheard.data.shard_store import open_shards
from unheard.errors import ConfigError, FormatError, MissingExtraError

CONTENT = {"a.tar": b"0123456789", "x/b.tar": b"abc", "x/shards.jsonl": b"{}"}


@pytest.fixture(params=["path", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        system = fsspec.filesystem("memory")
        for name, data in CONTENT.items():
            system.pipe_file(f"{url.removeprefix('memory:/')}/{name}", data)
    else:
        for name, data in CONTENT.items():
            small_corpora.text(tmp_path / name, data)
        url = str(tmp_path) if request.param == "path" else f"file://{tmp_path}/"
    opened = open_place(url)
    yield opened
    opened.close()


def test_files_are_listed_and_read_wherever_they_are(place: Place) -> None:
    assert place.files(".tar") == {"a.tar": 10, "x/b.tar": 3}
    assert place.files("shards.jsonl") == {"x/shards.jsonl": 2}
    assert place.read("a.tar") == b"0123456789"
    assert place.read("a.tar", start=3, size=4) == b"3456"
    assert place.read("a.tar", start=8) == b"89"
    assert place.read("x/b.tar", start=3, size=0) == b""
    again = open_place(place.url)
    assert again.read("x/b.tar") == b"abc"
    again.close()
    with pytest.raises(FormatError, match="ends too soon: expected 5 bytes, found 2"):
        place.read("a.tar", start=8, size=5)
    with pytest.raises(FileNotFoundError):
        place.read("b.tar", start=0, size=1)
    for name in ("../a.tar", "/etc/passwd", "x/../../a", "file:///etc/passwd", "", "a\0b"):
        with pytest.raises(FormatError, match="no name of a shard"):
            place.read(name)


def test_a_failed_read_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_corpora.text(tmp_path / "a.tar", b"abc")
    place = RemotePlace(f"file://{tmp_path}")
    tries: list[int] = []

    def read(path: str, start: int, end: int | None) -> bytes:
        tries.append(len(tries))
        if len(tries) <= failures:
            raise TimeoutError("the connection was lost")
        return Path(path).read_bytes()[start:end]

    monkeypatch.setattr(place._system, "cat_file", read)
    failures = 2
    assert place.read("a.tar", start=1, size=2) == b"bc"
    assert len(tries) == 3
    tries.clear()
    failures = 3
    with pytest.raises(TimeoutError):
        place.read("a.tar", start=1, size=2)
    assert len(tries) == 3


def test_what_is_missing_is_said_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_place("nonsense://bucket/shards")
    with pytest.raises(ConfigError, match="nothing at memory://"):
        open_place(f"memory://{uuid.uuid4().hex}").files(".tar")
    with pytest.raises(ConfigError, match="There is no folder"):
        LocalPlace(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"unheard\[remote\]"):
        open_place("s3://bucket/shards")


def test_paths_are_no_addresses(tmp_path: Path) -> None:
    assert [is_url(one) for one in ("s3://b/x", "a/b", "C:\\a", os.fspath(tmp_path))] == [
        True,
        False,
        False,
        False,
    ]
    assert not is_url(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_read_through_an_address_as_from_a_folder(tmp_path: Path, workers: int) -> None:
    make(tmp_path, [5000, 6000, 7000])
    with open_shards(tmp_path / "shards", tmp_path / "w", workers=0) as store:
        expected = [store.samples(number) for number in range(3)]
    with open_shards(f"file://{tmp_path}/shards", tmp_path / "w", workers=workers) as store:
        assert store.index.folder == tmp_path / "w" / "index"
        for number, samples in enumerate(expected):
            np.testing.assert_array_equal(store.samples(number), samples)
