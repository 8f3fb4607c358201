import os
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from unheard.archive import stores
from unheard.archive.stores import (
    LocalStore,
    RemoteRecording,
    RemoteStore,
    Store,
    StoreError,
    open_store,
)
from unheard.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture(params=["path", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}/out/")
    return open_store(tmp_path / "out" if request.param == "path" else f"file://{tmp_path}/o%20ut")


def test_what_is_written_is_there_and_listed(store: Store) -> None:
    assert store.names("a") == []
    assert not store.exists("a/x.bin")
    store.write("a/x.bin", b"0123456789")
    store.write("a/x.bin", b"9876543210")
    store.write("a/b/y.bin", b"abc")
    store.write("a/.hidden", b"")
    with store.writing("long") as file:
        file.write(b"1")
        file.write(b"23")
    assert store.read("a/x.bin") == b"9876543210"
    assert store.read("a/x.bin", start=2, size=3) == b"765"
    assert store.read("long") == b"123"
    assert store.names("a") == ["a/.hidden", "a/x.bin"]
    assert [(one.name, one.num_bytes) for one in store.walk()] == [
        ("long", 3),
        ("a/x.bin", 10),
        ("a/b/y.bin", 3),
    ]
    with store.open("a/b/y.bin") as file:
        assert file.read() == b"abc"
    assert open_store(store.url).read("long") == b"123"
    store.remove("long")
    store.remove("long")
    assert not store.exists("long")
    store.remove_folder("a")
    store.remove_folder("a")
    assert list(store.walk()) == []
    with pytest.raises(FileNotFoundError):
        store.read("a/x.bin")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    opened = open_store(f"file://{tmp_path}/with%20space")
    assert isinstance(opened, LocalStore)
    assert opened.url == f"{tmp_path}/with space"
    assert opened.address("x") == f"{tmp_path}/with space/x"


def test_half_written_files_of_others_are_not_listed(tmp_path: Path) -> None:
    opened = open_store(tmp_path)
    opened.write("parts/a", b"")
    (tmp_path / "parts" / "b.tmp-123").write_bytes(b"half")
    assert opened.names("parts") == ["parts/a"]
    opened.sweep("parts", "-other-")
    assert (tmp_path / "parts" / "b.tmp-123").exists()
    opened.sweep("parts", "b")
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["a"]


def test_a_store_that_shows_parts_of_files_gets_another_name_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stores, "_WHOLE_PROTOCOLS", frozenset())
    opened = RemoteStore(f"memory://{uuid.uuid4().hex}")
    seen: list[str] = []
    plain = opened.system.pipe_file
    monkeypatch.setattr(
        opened.system, "pipe_file", lambda path, data: (seen.append(path), plain(path, data))
    )
    opened.write("a/x", b"whole")
    assert [path.rpartition("/")[2] for path in seen] == [f"x.tmp-{os.getpid()}"]
    assert opened.names("a") == ["a/x"]
    assert opened.read("a/x") == b"whole"


class Flaky:
    """Fails a few times, then does what it should."""

    def __init__(self, failures: int, action) -> None:
        self.left = failures
        self.calls = 0
        self.action = action

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise RuntimeError("503 slow down")
        return self.action(*arguments, **named)


def test_a_store_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = RemoteStore(f"memory://{uuid.uuid4().hex}")
    flaky = Flaky(stores.TRIES - 1, opened.system.pipe_file)
    monkeypatch.setattr(opened.system, "pipe_file", flaky)
    opened.write("x", b"1")
    assert flaky.calls == stores.TRIES
    assert opened.read("x") == b"1"
    flaky.left = stores.TRIES
    with pytest.raises(StoreError, match=r"failed 5 times at .*/x: RuntimeError: 503 slow down"):
        opened.write("x", b"2")


def test_what_asking_again_does_not_change_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = RemoteStore(f"memory://{uuid.uuid4().hex}")
    calls = []

    def refuse(path, **_):
        calls.append(path)
        raise PermissionError("no")

    monkeypatch.setattr(opened.system, "cat_file", refuse)
    with pytest.raises(PermissionError):
        opened.read("x")
    assert len(calls) == 1


def test_an_address_without_its_package_says_which() -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_store("nowhere://bucket/x")


@pytest.mark.parametrize("at_once", [1 << 20, 4])
def test_a_recording_is_fetched_when_it_is_read(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "BYTES_AT_ONCE", at_once)
    address = f"memory://{uuid.uuid4().hex}/a.wav"
    recording = RemoteRecording(address)
    fsspec.filesystem("memory").pipe_file(address.removeprefix("memory:/"), b"0123456789")
    assert recording.seekable()
    assert recording.seek(0, os.SEEK_END) == 10
    assert recording.seek(2) == 2
    assert recording.read(3) == b"234"
    assert recording.tell() == 5
    recording.seek(0)
    assert recording.read() == b"0123456789"
    assert recording.fault is None
    recording.close()


def test_a_recording_knows_whose_fault_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = RemoteRecording(f"memory://{uuid.uuid4().hex}/a.wav")
    with pytest.raises(FileNotFoundError):
        missing.read()
    assert missing.fault is None

    def refuse(self, path, **_):
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(MemoryFileSystem, "size", refuse)
    unreachable = RemoteRecording(f"memory://{uuid.uuid4().hex}/a.wav")
    with pytest.raises(StoreError):
        unreachable.read()
    assert unreachable.fault is not None
    assert "reset by peer" in str(unreachable.fault)
