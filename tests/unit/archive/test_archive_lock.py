import json
import threading
import uuid
from pathlib import Path

import pytest

from unheard.archive import lock
from unheard.archive.lock import label_of, owned, owner_name
from unheard.archive.stores import Store, open_store
from unheard.errors import ConfigError


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.5)


@pytest.fixture(params=["path", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path if request.param == "path" else f"memory://{uuid.uuid4().hex}")


def test_an_output_says_who_writes_and_forgets_it(store: Store) -> None:
    with owned(store, run="a", label="1of1"):
        owner = json.loads(store.read(owner_name("1of1")))
        assert owner["run"] == "a"
        assert owner["beat"] >= 1
    assert not store.exists(owner_name("1of1"))


def test_a_second_run_is_refused_by_name(store: Store) -> None:
    with (
        owned(store, run="a", label="1of2"),
        pytest.raises(ConfigError, match=r"in use.*process \d+ on "),
        owned(store, run="b", label="1of2"),
    ):
        pytest.fail("two runs at once")


def test_shards_of_one_kind_share_an_output_and_of_two_kinds_do_not(store: Store) -> None:
    with owned(store, run="a", label="1of2"), owned(store, run="b", label="2of2"):
        with (
            pytest.raises(ConfigError, match=r"in use.*with the shard 1of2"),
            owned(store, run="c", label="1of3"),
        ):
            pytest.fail("1of3 beside 1of2")
        with pytest.raises(ConfigError, match="in use"), owned(store, run="c", label="1of1"):
            pytest.fail("all beside 1of2")


def test_what_a_killed_run_left_is_taken_over(store: Store) -> None:
    left = {"run": "old", "host": "x", "process": 1, "beat": 7}
    for label in ("1of1", "3of4"):
        store.write(owner_name(label), json.dumps(left).encode())
    with owned(store, run="new", label="1of1"):
        assert json.loads(store.read(owner_name("1of1")))["run"] == "new"


def test_a_beat_goes_on_until_the_end(store: Store) -> None:
    before = threading.active_count()
    with owned(store, run="a", label="1of1"):
        first = json.loads(store.read(owner_name("1of1")))["beat"]
        deadline = threading.Event()
        for _ in range(100):
            deadline.wait(0.05)
            if json.loads(store.read(owner_name("1of1")))["beat"] > first + 1:
                break
        else:
            pytest.fail("no beat")
    assert threading.active_count() == before


def test_labels() -> None:
    assert label_of(None) == "1of1"
    assert label_of((2, 5)) == "2of5"
