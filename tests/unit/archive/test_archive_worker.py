import json
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from tests.mixed_recordings import make_bundle, write_wav

from unheard.archive import stores, worker
from unheard.archive.cluster import Board, RayWorker
from unheard.archive.parts import DEAD_LETTERS, TRANSCRIPTS, iter_records, read_known
from unheard.archive.plan import Ticket, make_plan
from unheard.archive.recordings import Recordings
from unheard.archive.stores import open_store
from unheard.archive.worker import CRASHED, HUNG, STORE, Job, Outcome, Worker, model_folder
from unheard.errors import ConfigError, UnheardError
from unheard.inference.pipeline import Heard, Source, hear
from unheard.interop.native import save_model
from unheard.tasks.searching import SearchOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and eight recordings."""
    root = tmp_path_factory.mktemp("worker")
    save_model(make_bundle(), root / "model")
    for number in range(8):
        write_wav(root / "in" / f"{number}.wav", seconds=0.3 + 0.1 * number, seed=number)
    return root


def job_of(folder: Path, output: str, **more) -> Job:
    job = Job(
        run="run",
        output=output,
        list_name="_work/list",
        owner_name="_work/owner",
        marks="_work/marks",
        source=str(folder / "in"),
        model=str(folder / "model"),
        search=SearchOptions(),
        settings={},
        metadata={"a": "b"},
        format="jsonl",
        word_times=True,
        keep_readings=False,
        adapter=None,
        device="cpu",
        padding=None,
        dtype="float32",
        batch_seconds=None,
        threads=1,
    )
    return replace(job, **more)


class Run:
    """A job with one ticket, and who may write."""

    def __init__(self, folder: Path, output: Path | str, *, source: str | None = None, **more):
        self.job = job_of(folder, str(output), **more)
        self.store = open_store(output)
        self.store.write("_work/owner", b'{"run": "run"}')
        known = read_known(self.store, metadata={})
        recordings = Recordings(source or folder / "in")
        plan = make_plan(recordings, known, self.store, self.job.list_name)
        self.ticket: Ticket = plan.tickets[0]

    def work(self, **more) -> Outcome:
        return Worker(self.job, **more).work(self.ticket)

    def texts(self) -> dict[str, str]:
        return {one["id"]: one["text"] for one in iter_records(self.store, TRANSCRIPTS)}

    def dead(self) -> dict[str, str]:
        return {one["id"]: one["reason"] for one in iter_records(self.store, DEAD_LETTERS)}

    def records(self) -> list[str]:
        return sorted(
            one["id"]
            for kind in (TRANSCRIPTS, DEAD_LETTERS)
            for one in iter_records(self.store, kind)
        )


class Killed(BaseException):
    """Ends a worker as a signal would: nothing of ours catches it."""


def deadly(monkeypatch: pytest.MonkeyPatch, *names: str, once: bool = False) -> list[list[str]]:
    """Let recordings take along the process that hears them; returns what each try was given."""
    tries: list[list[str]] = []
    died: set[str] = set()

    def hear_and_die(engine, sources: Iterable[Source], decoder, **named) -> Iterator[Heard]:
        given: list[str] = []
        tries.append(given)

        def watched() -> Iterator[Source]:
            for source in sources:
                name = Path(str(source.audio)).name
                given.append(name)
                if name in names and not (once and name in died):
                    died.add(name)
                    raise Killed(name)
                yield source

        # In pools of two, so that some results are there when it ends.
        return hear(engine, watched(), decoder, **{**named, "pool": 2})

    monkeypatch.setattr(worker, "hear", hear_and_die)
    return tries


@pytest.fixture(scope="module")
def calm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = Run(folder, tmp_path_factory.mktemp("calm"))
    run.work()
    return run.texts()


def test_a_ticket_becomes_one_part(folder: Path, tmp_path: Path) -> None:
    run = Run(folder, tmp_path)
    outcome = run.work()
    assert (outcome.done, outcome.failed) == (8, 0)
    assert outcome.audio_seconds == pytest.approx(sum(0.3 + 0.1 * n for n in range(8)), abs=0.01)
    assert run.store.names(TRANSCRIPTS) == ["transcripts/run-000000-0.jsonl"]
    assert run.records() == [f"{number}.wav" for number in range(8)]
    first = next(iter_records(run.store, TRANSCRIPTS))
    assert list(first)[:4] == ["id", "audio", "start_seconds", "text"]
    assert "path" not in first
    assert first["language"] == "x-test"
    assert list(first)[-1] == "words"


def test_a_ticket_that_is_finished_is_not_done_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(folder, tmp_path)
    before = run.work()
    tries = deadly(monkeypatch)
    assert run.work() == before
    assert tries == []


def test_parts_are_written_as_time_goes_by(folder: Path, tmp_path: Path) -> None:
    run = Run(folder, tmp_path, commit_seconds=0.0)
    outcome = run.work()
    assert outcome.done == 8
    assert len(run.store.names(TRANSCRIPTS)) == 8
    assert len(run.records()) == 8


def test_what_a_killed_worker_wrote_is_kept_and_the_rest_done_by_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, str]
) -> None:
    run = Run(folder, tmp_path, commit_seconds=0.0)
    # The longest come first: 7, 6, 5, 4, 3, ...
    tries = deadly(monkeypatch, "3.wav", once=True)
    with pytest.raises(Killed):
        run.work()
    written = run.records()
    assert 0 < len(written) < 8
    outcome = run.work()
    assert (outcome.done, outcome.failed) == (8, 0)
    assert run.texts() == calm
    assert run.dead() == {}
    assert len(run.records()) == 8
    # With care: one at a time, and none that has a record.
    assert all(len(given) == 1 for given in tries[1:])
    assert not {given[0] for given in tries[1:]} & set(written)


def test_a_recording_that_kills_twice_is_a_dead_letter_and_the_rest_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, str]
) -> None:
    run = Run(folder, tmp_path)
    deadly(monkeypatch, "3.wav", "5.wav")
    deaths = 0
    while True:
        try:
            outcome = run.work()
            break
        except Killed:
            deaths += 1
            assert deaths < 10
    # Once with others, and then each alone.
    assert deaths == 3
    assert (outcome.done, outcome.failed) == (6, 2)
    assert run.dead() == {"3.wav": CRASHED, "5.wav": CRASHED}
    assert run.texts() == {name: calm[name] for name in calm if name not in run.dead()}
    assert len(run.records()) == 8
    letter = next(iter_records(run.store, DEAD_LETTERS))
    assert "for the second time" in letter["detail"]
    assert letter["bytes"] > 0
    # It is not touched again, not even to be hashed.
    assert letter["sha256"] is None


def test_workers_that_end_for_ever_stop_the_job(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(folder, tmp_path)

    def die(*_, **__):
        raise Killed

    monkeypatch.setattr(worker, "read_ticket", die)
    for _ in range(8 + worker.SPARE_ATTEMPTS + 1):
        with pytest.raises(Killed):
            run.work()
    with pytest.raises(UnheardError, match="too little memory"):
        run.work()


@pytest.mark.parametrize("deaths", [1, 2, 3, 4, 5])
def test_killed_at_any_write_leaves_one_record_each(
    deaths: int,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calm: dict[str, str],
) -> None:
    run = Run(folder, tmp_path, commit_seconds=0.0)
    plain = stores.LocalStore.write
    left = [deaths * 3]

    def write(self, name, data):
        left[0] -= 1
        if left[0] == 0:
            raise Killed(name)
        plain(self, name, data)

    monkeypatch.setattr(stores.LocalStore, "write", write)
    for _ in range(5):
        try:
            run.work()
            break
        except Killed:
            left[0] = 0
    assert run.texts() == calm
    assert len(run.records()) == 8


def test_a_worker_that_hangs_ends_itself_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(folder, tmp_path, is_guarded=True, patience_seconds=1.0)
    ended = threading.Event()
    monkeypatch.setattr(worker.os, "_exit", lambda code: ended.set())

    def hang(engine, sources, decoder, **named):
        for source in sources:
            if Path(str(source.audio)).name == "7.wav":
                assert ended.wait(20)
                raise Killed
        return hear(engine, [Source(audio=source.audio)], decoder, **named)

    monkeypatch.setattr(worker, "hear", hang)
    for attempt in (0, 1):
        ended.clear()
        with pytest.raises(Killed):
            run.work()
        mark = json.loads(run.store.read("_work/marks/000000.json"))
        assert mark == {
            "attempt": attempt,
            "trying": "7.wav" if attempt else None,
            "hung": True,
            "outcome": None,
        }
    outcome = run.work()
    assert (outcome.done, outcome.failed) == (7, 1)
    assert run.dead() == {"7.wav": HUNG}


def test_a_long_recording_is_no_hang(folder: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "in" / "long.wav", seconds=60.0)
    run = Run(folder, tmp_path / "out", source=str(tmp_path / "in"))
    loaded = Worker(run.job)
    ticks: list[None] = []
    loaded._watch.tick = lambda: ticks.append(None)  # type: ignore[method-assign]
    assert loaded.work(run.ticket).done == 1
    # One for its end, and one for each of its windows.
    assert len(ticks) >= 4


def test_another_run_stops_a_worker_before_it_writes(folder: Path, tmp_path: Path) -> None:
    run = Run(folder, tmp_path)
    run.store.write("_work/owner", b'{"run": "another"}')
    with pytest.raises(UnheardError, match="Another run writes"):
        run.work()
    assert run.records() == []


def test_recordings_of_a_store_are_heard_alike(
    folder: Path, tmp_path: Path, calm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = uuid.uuid4().hex
    system = fsspec.filesystem("memory")
    for path in (folder / "in").iterdir():
        system.pipe_file(f"/{root}/{path.name}", path.read_bytes())
    write_wav(tmp_path / "long.wav", seconds=40.0)
    system.pipe_file(f"/{root}/long.wav", (tmp_path / "long.wav").read_bytes())
    # Small enough that the long one comes in blocks.
    monkeypatch.setattr(stores, "BYTES_AT_ONCE", 100_000)
    run = Run(folder, f"memory://{root}-out", source=f"memory://{root}")
    outcome = run.work()
    assert (outcome.done, outcome.failed) == (9, 0)
    texts = run.texts()
    near = Run(folder, tmp_path / "near", source=str(tmp_path))
    near.work()
    assert texts.pop("long.wav") == near.texts()["long.wav"]
    assert texts == calm


def test_a_store_that_is_gone_stops_the_job_and_kills_no_recording(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(worker, "STORE_FAULTS", 5)
    root = uuid.uuid4().hex
    system = fsspec.filesystem("memory")
    for path in (folder / "in").iterdir():
        system.pipe_file(f"/{root}/{path.name}", path.read_bytes())
    run = Run(folder, tmp_path, source=f"memory://{root}", commit_seconds=0.0)
    plain = type(system).cat_file

    def gone(self, path, **named):
        if root in path and not path.endswith(tuple(working)):
            raise ConnectionResetError("gone")
        return plain(self, path, **named)

    monkeypatch.setattr(type(system), "cat_file", gone)
    working: set[str] = set()
    with pytest.raises(UnheardError, match=r"none of the last 5 recordings.*gone"):
        run.work()
    assert run.records() == []
    # One that cannot be had while others can is a dead letter.
    working = {f"{number}.wav" for number in range(8) if number != 6}
    outcome = run.work()
    assert (outcome.done, outcome.failed) == (7, 1)
    assert run.dead() == {"6.wav": STORE}


def test_a_disk_that_is_taken_away_stops_the_job(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav(tmp_path / "in" / "a.wav", seconds=0.3)
    run = Run(folder, tmp_path / "out", source=str(tmp_path / "in"))
    run.job = replace(run.job, source=str(tmp_path / "in"))
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(UnheardError, match=r"is not there any more.*Mount it again"):
        run.work()
    assert run.records() == []


def test_words_and_readings_are_kept_as_asked(folder: Path, tmp_path: Path) -> None:
    run = Run(folder, tmp_path, word_times=False, keep_readings=True)
    run.work()
    first = next(iter_records(run.store, TRANSCRIPTS))
    assert "words" not in first
    assert first["readings"][0]["text"] == first["text"]


def test_a_model_in_a_store_is_fetched_and_removed(folder: Path, calm: dict[str, str], tmp_path):
    root = uuid.uuid4().hex
    system = fsspec.filesystem("memory")
    for path in (folder / "model").iterdir():
        system.pipe_file(f"/{root}/model/{path.name}", path.read_bytes())
    with model_folder(f"memory://{root}/model") as fetched:
        assert sorted(path.name for path in Path(fetched).iterdir()) == sorted(
            path.name for path in (folder / "model").iterdir()
        )
    assert not Path(fetched).exists()
    run = Run(folder, tmp_path, model=f"memory://{root}/model")
    run.work()
    assert run.texts() == calm
    with (
        pytest.raises(ConfigError, match="There is no model at"),
        model_folder(f"memory://{root}/nothing"),
    ):
        pass


def test_another_model_on_another_machine_is_refused(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, str(tmp_path), is_elsewhere=True, settings={"model": "other"})
    with pytest.raises(ConfigError, match=r"differ from those .*: .*model.* Put the same files"):
        Worker(job)


def test_progress_is_reported(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0.0)
    seen: list[int] = []
    Run(folder, tmp_path).work(report=lambda outcome: seen.append(outcome.done))
    assert seen == sorted(seen)
    assert seen[-1] == 8


def test_a_worker_of_ray_answers_with_a_row(folder: Path, tmp_path: Path) -> None:
    run = Run(folder, tmp_path)
    batch = {name: np.array([value]) for name, value in asdict(run.ticket).items()}
    row = RayWorker(run.job, None)(batch)
    assert (row["ticket"], row["done"], row["failed"], row["error"]) == ([0], [8], [0], [""])
    # What we raise on purpose is a row too: Ray would start the worker again and again.
    broken = RayWorker(replace(run.job, model=str(tmp_path / "nothing")), None)(batch)
    assert "nothing" in broken["error"][0]
    run.store.write("_work/owner", b"{}")
    run.store.remove_folder("_work/marks")
    assert "Another run" in RayWorker(run.job, None)(batch)["error"][0]


def test_a_board_forgets_what_is_finished() -> None:
    board = Board()
    board.put(1, {"done": 2})
    board.put(1, {"done": 3})
    board.put(2, {"done": 1})
    assert board.look() == [{"done": 3}, {"done": 1}]
    board.drop(1)
    board.drop(1)
    assert board.look() == [{"done": 1}]
