import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from unheard.errors import ConfigError
from unheard.training import distributed
from unheard.training.distributed import ALONE, Pulse, join_ranks, refuse_several

PATIENCE = 0.6


class Heart:
    """A pulse, and what it heard of the other."""

    def __init__(self, server: TCPStore, rank: int) -> None:
        self.lost: list[str] = []
        self.pulse = Pulse(
            connect(server),
            rank=rank,
            world=2,
            on_loss=self.lost.append,
            beat_seconds=0.05,
            patience_seconds=PATIENCE,
        )


def connect(server: TCPStore) -> TCPStore:
    return TCPStore(
        "127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=5), use_libuv=True
    )


@pytest.fixture
def hearts() -> Iterator[list[Heart]]:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = [Heart(server, rank) for rank in range(2)]
    meet = threading.Barrier(2)
    starters = [threading.Thread(target=one.pulse.start, args=(meet.wait,)) for one in both]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    yield both
    for one in both:
        one.pulse.stop(in_order=True)


def wait_for(what: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_process_that_falls_silent_is_missed(hearts: list[Heart]) -> None:
    time.sleep(2 * PATIENCE)
    assert hearts[0].lost == hearts[1].lost == []
    hearts[1].pulse._stopped.set()  # as if it were killed: nothing more is said
    began = time.monotonic()
    wait_for(lambda: hearts[0].lost)
    assert time.monotonic() - began > PATIENCE / 2
    assert len(hearts[0].lost) == 1
    assert "process 1 has not been heard of" in hearts[0].lost[0]


def test_a_process_that_failed_is_missed_at_once(hearts: list[Heart]) -> None:
    hearts[0].pulse.stop(in_order=False)
    wait_for(lambda: hearts[1].lost)
    assert hearts[1].lost == ["process 0 failed"]


def test_a_process_that_left_in_order_is_not_missed(hearts: list[Heart]) -> None:
    hearts[0].pulse.stop(in_order=True)
    time.sleep(2 * PATIENCE)
    assert hearts[1].lost == []


def test_one_process_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "dist", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_ranks(torch.device("cpu")) as ranks:
        assert ranks.alone
        assert ranks.first
    assert ALONE.any(True)
    assert ALONE.of_first(0.1) == 0.1
    assert ALONE.tell_all("a") == ["a"]
    assert ALONE.ask_first(lambda: "b") == "b"
    assert ALONE.first_then(lambda: "c", lambda: "d") == "c"
    values = torch.ones(2)
    assert ALONE.sum(values) is values
    ALONE.wait()
    with pytest.raises(ZeroDivisionError), ALONE.same_fate(OSError):
        _ = 1 // 0


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"WORLD_SIZE": "2"}, "as RANK too, found None"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, r"RANK must be within 0 \.\. 1, got 2"),
        ({"WORLD_SIZE": "two"}, "as WORLD_SIZE too, found 'two'"),
    ],
)
def test_an_environment_that_is_no_place_among_several_is_refused(
    environment: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=complaint), join_ranks(torch.device("cpu")):
        pass


def test_several_processes_of_a_verb_for_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="learn is the work of one process, 4 were started"):
        refuse_several("learn")
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_several("learn")
