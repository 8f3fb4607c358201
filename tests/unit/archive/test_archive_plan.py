import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests import small_corpora

from unheard.archive.parts import DEAD_LETTERS, TRANSCRIPTS, Known, read_known, write_part
from unheard.archive.plan import (
    CPU_LIMITS,
    TICKETS_A_WORKER,
    Plan,
    TicketLimits,
    cost_seconds,
    make_plan,
    read_ticket,
)
from unheard.archive.recordings import DUPLICATE, Item, Recordings, digest_of
from unheard.archive.stores import open_store

NOTHING = Known(done=np.zeros(0, "S16"), failed=np.zeros(0, "S16"), parts=frozenset())


def plan_of(folder: Path, rows: list[dict], *, known: Known = NOTHING, **more) -> Plan:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_plan(Recordings(path), known, open_store(folder / "out"), "plan", **more)


def items_of(folder: Path, plan: Plan) -> list[list[Item]]:
    return [read_ticket(open_store(folder / "out"), "plan", one) for one in plan.tickets]


def rows_of(seconds: list[float]) -> list[dict]:
    return [{"audio": f"{i}.wav", "duration": value} for i, value in enumerate(seconds)]


@pytest.mark.parametrize("count", [0, 1, 7, 500])
@pytest.mark.parametrize("workers", [1, 4])
def test_tickets_hold_each_recording_once(count: int, workers: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(count)
    rows = rows_of(generator.uniform(0.1, 100, count).tolist())
    plan = plan_of(tmp_path, rows, workers=workers)
    found = [item.id for items in items_of(tmp_path, plan) for item in items]
    assert sorted(found) == sorted(row["audio"] for row in rows)
    assert plan.pending == count == sum(ticket.count for ticket in plan.tickets)
    assert sorted(ticket.number for ticket in plan.tickets) == list(range(len(plan.tickets)))


def test_tickets_are_of_like_cost_with_some_for_every_worker(tmp_path: Path) -> None:
    seconds = np.random.default_rng(0).uniform(1, 20, 2000).tolist()
    plan = plan_of(tmp_path, rows_of(seconds), workers=2)
    costs = [ticket.cost_seconds for ticket in plan.tickets]
    share = sum(seconds) / (2 * TICKETS_A_WORKER)
    assert len(costs) in range(2 * TICKETS_A_WORKER, 2 * TICKETS_A_WORKER + 3)
    assert max(costs) <= share
    assert costs == sorted(costs, reverse=True)
    assert np.median(costs) > share - 20


def test_a_ticket_has_limits_and_a_long_recording_is_one_alone(tmp_path: Path) -> None:
    limits = TicketLimits(recordings=3, seconds=60.0)
    plan = plan_of(tmp_path, rows_of([10, 10, 500, 10, 10, 10, 10]), limits=limits)
    assert [[item.id for item in items] for items in items_of(tmp_path, plan)] == [
        ["2.wav"],
        ["3.wav", "4.wav", "5.wav"],
        ["0.wav", "1.wav"],
        ["6.wav"],
    ]


def test_one_worker_gets_no_splinters(tmp_path: Path) -> None:
    assert len(plan_of(tmp_path, rows_of([5.0] * 1000), workers=1).tickets) == 1
    assert CPU_LIMITS.recordings >= 1000


def test_the_longest_recordings_of_a_ticket_come_first(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows_of([3, 9, 5]))
    assert [item.length_seconds for item in items_of(tmp_path, plan)[0]] == [9, 5, 3]


def test_what_has_a_record_is_left_out_and_failures_come_again_if_asked(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    write_part(store, f"{TRANSCRIPTS}/p.jsonl", [{"id": "0.wav"}], metadata={})
    write_part(store, f"{DEAD_LETTERS}/p.jsonl", [{"id": "1.wav"}, {"id": "z"}], metadata={})
    known = read_known(store, metadata={})
    rows = rows_of([1, 1, 1])
    plan = plan_of(tmp_path, rows, known=known)
    assert (plan.done, plan.failed, plan.pending) == (1, 1, 1)
    assert plan.retried.size == 0
    plan = plan_of(tmp_path, rows, known=known, retry_failed=True)
    assert (plan.done, plan.failed, plan.pending) == (1, 0, 2)
    assert plan.retried.tolist() == [digest_of("1.wav")]


def test_the_first_row_of_an_id_stands_and_the_others_are_faults(tmp_path: Path) -> None:
    rows = [{"id": "x", "audio": f"{number}.wav"} for number in range(3)]
    plan = plan_of(tmp_path, [*rows, {"id": "y", "audio": "y.wav"}])
    [items] = items_of(tmp_path, plan)
    assert {item.id for item in items} == {"x", "x#2", "x#3", "y"}
    faults = {item.id: item.fault for item in items if item.fault is not None}
    assert set(faults) == {"x#2", "x#3"}
    assert faults["x#2"][0] == DUPLICATE
    assert next(item.audio for item in items if item.id == "x").endswith("0.wav")


def test_costs_are_guessed_from_what_is_known() -> None:
    assert cost_seconds(Item(id="a", audio="a", length_seconds=5.0, num_bytes=9)) == 5.0
    assert cost_seconds(Item(id="a", audio="a", num_bytes=160_000)) == 10.0
    assert cost_seconds(Item(id="a", audio="a", num_bytes=0)) == 1.0
    assert cost_seconds(Item(id="a", audio="a")) > 1.0
    assert cost_seconds(Item(id="a", audio="a", num_bytes=1 << 40, fault=("x", "y"))) == 1.0


def test_a_folder_is_planned_like_a_manifest(tmp_path: Path) -> None:
    for name in ("a.wav", "b/c.wav"):
        small_corpora.text(tmp_path / "in" / name, b"1")
    plan = make_plan(Recordings(tmp_path / "in"), NOTHING, open_store(tmp_path / "out"), "plan")
    assert {item.id for item in items_of(tmp_path, plan)[0]} == {"a.wav", "b/c.wav"}


def test_planning_needs_few_bytes_a_recording(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(f'{{"audio": "{number:08d}.wav"}}\n' for number in range(count)))
        store = open_store(tmp_path / "out")
        tracemalloc.start()
        make_plan(Recordings(path), NOTHING, store, "plan", workers=4)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = 2_000, 12_000
    peak(few)
    assert (peak(many) - peak(few)) / (many - few) < 80
