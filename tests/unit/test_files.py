"""Atomic writes, JSON lines and locks, under interruption too."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unheard import files
from unheard.errors import ConfigError, FormatError

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.txt"
    files.write_text_atomic(target, "a much longer first text\n")
    files.write_text_atomic(target, "ሰላም\n")
    assert target.read_text(encoding="utf-8") == "ሰላም\n"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    files.write_bytes_atomic(target, b"old")

    def fail_midway() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_midway()
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="Nothing was written"), files.atomic_path(tmp_path / "a"):
        pass


def test_json_refuses_what_json_has_no_form_for(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf"), {1, 2}, b"bytes"):
        with pytest.raises(FormatError, match="Cannot write as JSON"):
            files.append_jsonl(tmp_path / "a.jsonl", {"value": value})
        with pytest.raises(FormatError):
            files.write_json_atomic(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_json_reads_back_and_names_a_broken_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_json_atomic(target, {"text": "Wamazi gakulukuta", "n": [1, 2.5, None]})
    assert files.read_json(target) == {"text": "Wamazi gakulukuta", "n": [1, 2.5, None]}
    target.write_text("{")
    with pytest.raises(FormatError, match=r"a\.json is not a JSON file"):
        files.read_json(target)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    rows=st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=4), max_size=5),
    cut=st.integers(0, 200),
)
def test_appended_rows_come_back_whatever_the_tail(tmp_path: Path, rows: list, cut: int) -> None:
    target = tmp_path / "rows.jsonl"
    target.unlink(missing_ok=True)
    target.touch()
    for row in rows:
        files.append_jsonl(target, row)
    assert files.read_jsonl(target) == rows

    data = target.read_bytes()
    kept = data[: max(0, len(data) - cut)]
    target.write_bytes(kept)
    recovered = files.read_jsonl(target, repair_torn_tail=True)
    assert recovered == rows[: len(recovered)]
    assert len(recovered) >= kept.count(b"\n")
    # The file itself is whole again: the next row starts on a line of its own.
    files.append_jsonl(target, {"next": 1})
    assert files.read_jsonl(target) == [*recovered, {"next": 1}]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text('{"a": 1}\n\n[2]\n')
    with pytest.raises(
        FormatError, match=r"rows\.jsonl line 3: expected a JSON object, found list"
    ):
        files.read_jsonl(target)
    target.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(FormatError, match=r"rows\.jsonl line 2 is not JSON"):
        files.read_jsonl(target, repair_torn_tail=True)


def test_whole_files_of_rows(tmp_path: Path) -> None:
    files.write_jsonl_atomic(tmp_path / "a.jsonl", [{"a": "ŋ"}, {}])
    assert (tmp_path / "a.jsonl").read_bytes() == '{"a": "ŋ"}\n{}\n'.encode()


def _append_many(path: Path, writer: int) -> None:
    for number in range(100):
        files.append_jsonl(path, {"writer": writer, "number": number, "fill": "x" * 500})


def test_lines_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(target, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = files.read_jsonl(target)
    assert sorted((row["writer"], row["number"]) for row in rows) == [
        (writer, number) for writer in range(2) for number in range(100)
    ]


def test_a_file_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    row = {"path": os.fsdecode(b"caf\xe9.wav"), "text": "é"}
    files.append_jsonl(tmp_path / "a.jsonl", row)
    assert files.read_jsonl(tmp_path / "a.jsonl") == [row]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_a_lock_is_exclusive_and_goes_away(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "lock"
    with files.locked(lock):
        assert json.loads(lock.read_text())["process"] == os.getpid()
        with (
            pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on"),
            files.locked(lock),
        ):
            pass
    assert not lock.exists()
    with files.locked(lock):
        pass


HOLDER = """
import sys, time
from unheard import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_owner_gives_its_lock_back_at_once(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, env=environment
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=f"process {owner.pid} on"), files.locked(lock):
        pass
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert lock.exists()
    with files.locked(lock):
        assert json.loads(lock.read_text())["process"] == os.getpid()


def _take_turns(lock: Path, log: Path) -> None:
    taken = 0
    while taken < 20:
        try:
            with files.locked(lock):
                files.append_jsonl(log, {"process": os.getpid(), "event": "in"})
                time.sleep(0.001)
                files.append_jsonl(log, {"process": os.getpid(), "event": "out"})
                taken += 1
        except ConfigError:
            time.sleep(0.0005)


def test_no_two_processes_are_ever_inside_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_take_turns, args=(tmp_path / "lock", tmp_path / "log"))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = files.read_jsonl(tmp_path / "log")
    assert len(rows) == 120
    for entered, left in zip(rows[::2], rows[1::2], strict=True):
        assert (entered["event"], left["event"]) == ("in", "out")
        assert entered["process"] == left["process"]


def test_a_lock_excludes_threads_of_one_process_too(tmp_path: Path) -> None:
    """Regression: two threads could take one lock, and a file that had just gone was looked at."""
    lock = tmp_path / "lock"
    inside, most = 0, 0
    counting = threading.Lock()

    def work(_: int) -> int:
        nonlocal inside, most
        done = 0
        while done < 60:
            try:
                with files.locked(lock):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                    with counting:
                        inside -= 1
                    done += 1
            except ConfigError:
                continue
        return done

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [60] * 4
    assert most == 1
