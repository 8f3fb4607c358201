"""The verb, without Ray: in this process."""

import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.mixed_recordings import make_bundle, write_corpus, write_wav

from unheard.archive import cluster, job, worker
from unheard.archive.cluster import Pool
from unheard.archive.job import ArchiveSummary
from unheard.archive.meter import describe_rate
from unheard.archive.parts import DEAD_LETTERS, TRANSCRIPTS, iter_records
from unheard.archive.stores import open_store
from unheard.errors import ConfigError, FormatError, Interrupted, MissingExtraError, UnheardError
from unheard.inference.pipeline import Heard, Source, hear
from unheard.interop.native import save_model
from unheard.tasks.transcribe import transcribe_files


class Corpus:
    """A model, an archive with ten hostile files, and what `transcribe` makes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.input = root / "in"
        self.model = root / "model"
        save_model(make_bundle(), self.model)
        reasons = write_corpus(self.input, good=12)
        # An overlong one: windows.
        write_wav(self.input / "long.wav", seconds=35.0)
        self.reasons = {str(Path(path).relative_to(self.input)): r for path, r in reasons.items()}
        plain = root / "plain"
        transcribe_files(
            self.model, [self.input], out=plain, format="jsonl", dtype="float32", progress=False
        )
        rows = map(json.loads, (plain / "transcripts.jsonl").read_text().splitlines())
        self.rows = {str(Path(row["path"]).relative_to(self.input)): row for row in rows}
        self.texts = {name: row["text"] for name, row in self.rows.items()}

    def run(self, output: Path | str, **more: Any) -> ArchiveSummary:
        settings: dict[str, Any] = {"workers": 0, "dtype": "float32", "progress": False, **more}
        source = settings.pop("input", self.input)
        return job.archive(source, output, settings.pop("model", self.model), **settings)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("archive"))


def texts(output: Path | str) -> dict[str, str]:
    rows = list(iter_records(open_store(output), TRANSCRIPTS))
    found = {row["id"]: row["text"] for row in rows}
    assert len(found) == len(rows)
    return found


def dead(output: Path | str) -> dict[str, str]:
    rows = list(iter_records(open_store(output), DEAD_LETTERS))
    found = {row["id"]: row["reason"] for row in rows}
    assert len(found) == len(rows)
    return found


def check_whole(output: Path | str, corpus: Corpus) -> None:
    assert texts(output) == corpus.texts
    assert dead(output) == corpus.reasons


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may load a model."""
    monkeypatch.setattr(job, "Worker", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_an_archive_is_transcribed_as_the_plain_command_does(
    format: str, corpus: Corpus, tmp_path: Path
) -> None:
    summary = corpus.run(tmp_path, format=format)
    assert (summary.done, summary.skipped, summary.failed) == (13, 0, 10)
    check_whole(tmp_path, corpus)
    for row in iter_records(open_store(tmp_path), TRANSCRIPTS):
        plain = corpus.rows[row["id"]]
        for name in ("words", "confidence", "duration_seconds", "language", "warnings"):
            assert row[name] == plain[name], (row["id"], name)
    # Nothing of the work is left.
    assert [path.name for path in (tmp_path / "_work").iterdir()] == []
    header = json.loads((tmp_path / "archive.json").read_text())
    assert header["input"] == str(corpus.input)
    assert header["settings"]["format"] == format


def test_the_same_command_again_does_nothing(
    corpus: Corpus, tmp_path: Path, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "Worker", worker.Worker)
        corpus.run(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for workers in (0, 2, None):
        summary = corpus.run(tmp_path, workers=workers)
        assert (summary.done, summary.skipped, summary.failed) == (0, 13, 10)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_from_store_to_store(corpus: Corpus) -> None:
    root = uuid.uuid4().hex
    system = fsspec.filesystem("memory")
    for path in corpus.input.rglob("*"):
        if path.is_file():
            name = path.relative_to(corpus.input).as_posix()
            system.pipe_file(f"/{root}/in/{name}", path.read_bytes())
    output = f"memory://{root}/in/out"
    assert corpus.run(output, input=f"memory://{root}/in").done == 13
    assert texts(output) == corpus.texts
    links = {"odd/gone.ogg", "odd/loop.opus"}
    assert dead(output) == {key: value for key, value in corpus.reasons.items() if key not in links}
    again = corpus.run(output, input=f"memory://{root}/in")
    assert (again.done, again.skipped) == (0, 13)


def test_a_manifest_with_stretches(corpus: Corpus, tmp_path: Path) -> None:
    rows = [
        {"id": "whole", "audio": "in/long.wav"},
        {"id": "part", "audio": "in/long.wav", "start_seconds": 5.0, "duration": 2.0},
        {"id": "part", "audio": "in/long.wav"},
        {"audio": "../x.wav"},
        {"id": "none", "audio": "in/nowhere.wav"},
    ]
    listed = corpus.root / "list.jsonl"
    listed.write_text("\n".join(map(json.dumps, rows)))
    summary = corpus.run(tmp_path, input=listed)
    assert (summary.done, summary.failed) == (2, 3)
    found = {row["id"]: row for row in iter_records(open_store(tmp_path), TRANSCRIPTS)}
    assert found["whole"]["text"] == corpus.texts["long.wav"]
    assert found["part"]["duration_seconds"] == 2.0
    assert found["part"]["start_seconds"] == 5.0
    assert dead(tmp_path) == {
        "part#3": "duplicate_id",
        "list.jsonl:4": "manifest",
        "none": "vanished",
    }


class Stop(KeyboardInterrupt):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, sources_left: int) -> None:
    """Press Ctrl-C when so many more recordings have been begun."""
    left = [sources_left]

    def hear_and_stop(engine, sources: Iterable[Source], decoder, **named) -> Iterator[Heard]:
        def watched() -> Iterator[Source]:
            for source in sources:
                left[0] -= 1
                if left[0] < 0:
                    raise Stop
                yield source

        return hear(engine, watched(), decoder, **{**named, "pool": 2})

    monkeypatch.setattr(worker, "hear", hear_and_stop)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_stopped_again_and_again_it_comes_to_the_same_end(
    format: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CPU_LIMITS", job.CPU_LIMITS.__class__(recordings=4, seconds=1e9))
    monkeypatch.setattr(job, "Job", lambda **named: worker.Job(**named, commit_seconds=0.0))
    stops = 0
    while True:
        stop_after(monkeypatch, 5)
        try:
            summary = corpus.run(tmp_path, format=format)
            break
        except Stop:
            stops += 1
            texts(tmp_path)
            dead(tmp_path)
            assert stops < 30
    assert stops >= 2
    assert (summary.done + summary.skipped, summary.failed) == (13, 10)
    check_whole(tmp_path, corpus)


def test_other_settings_another_model_or_input_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    corpus.run(tmp_path)
    for more, complaint in (
        ({"dtype": "bfloat16"}, r"other settings: dtype \(there 'float32', now 'bfloat16'\)"),
        ({"format": "jsonl"}, "other settings: format"),
        ({"beam": 5}, "other settings: beam|other settings: .*decoder"),
        ({"word_times": False}, "other settings: word_times"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            corpus.run(tmp_path, **more)
    save_model(make_bundle(seed=5), corpus.root / "other")
    with pytest.raises(ConfigError, match="other settings: model"):
        corpus.run(tmp_path, model=corpus.root / "other")
    moved = tmp_path.parent / "moved"
    if not moved.exists():
        shutil.copytree(corpus.input, moved, symlinks=True)
    with pytest.raises(ConfigError, match=r"another input: there .*--input-moved"):
        corpus.run(tmp_path, input=moved)
    summary = corpus.run(tmp_path, input=moved, input_moved=True)
    assert (summary.done, summary.skipped, summary.failed) == (0, 13, 10)
    (tmp_path / "archive.json").write_text("{")
    with pytest.raises(FormatError, match="is damaged"):
        corpus.run(tmp_path)
    (tmp_path / "archive.json").unlink()
    with pytest.raises(ConfigError, match=r"no archive\.json that says how"):
        corpus.run(tmp_path)
    summary = corpus.run(tmp_path, overwrite=True)
    assert (summary.done, summary.failed) == (13, 10)
    check_whole(tmp_path, corpus)


def test_failures_are_tried_again_when_asked(corpus: Corpus, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.wav").write_bytes(b"no sound")
    out = tmp_path / "out"
    assert corpus.run(out, input=source).failed == 2
    write_wav(source / "a.wav", seconds=0.5)
    summary = corpus.run(out, input=source)
    assert (summary.done, summary.failed) == (0, 2)
    summary = corpus.run(out, input=source, retry_failed=True)
    assert (summary.done, summary.failed) == (1, 1)
    assert set(texts(out)) == {"a.wav"}
    assert dead(out) == {"b.wav": "unreadable"}


def test_shards_make_one_archive(corpus: Corpus, tmp_path: Path) -> None:
    parts = [corpus.run(tmp_path, shard=f"{number}/3") for number in (1, 2, 3)]
    assert sum(one.done for one in parts) == 13
    assert sum(one.failed for one in parts) == 10
    check_whole(tmp_path, corpus)
    # However it is shared out next time, nothing is done twice.
    assert sum(corpus.run(tmp_path, shard=f"{number}/2").skipped for number in (1, 2)) == 13
    assert corpus.run(tmp_path).done == 0
    with pytest.raises(ConfigError, match="1 <= i <= n"):
        corpus.run(tmp_path, shard="4/3")


def test_what_a_worker_left_that_outlived_its_job_is_no_second_record(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = job._run

    def run_beside_a_ghost(*arguments, **named):
        outcome = plain(*arguments, **named)
        [name] = [one for one in (tmp_path / TRANSCRIPTS).iterdir() if "jsonl" in one.name]
        ghost = name.with_name("20200101T000000-1of1-abcdef-000000-0.jsonl")
        ghost.write_text("".join(name.read_text().splitlines(keepends=True)[:5]))
        return outcome

    monkeypatch.setattr(job, "_run", run_beside_a_ghost)
    corpus.run(tmp_path, format="jsonl")
    check_whole(tmp_path, corpus)


def test_an_archive_that_grows_is_gone_on_with(corpus: Corpus, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_wav(source / "a.wav", seconds=0.4)
    assert corpus.run(tmp_path / "out", input=source).done == 1
    write_wav(source / "b" / "c.wav", seconds=0.4)
    summary = corpus.run(tmp_path / "out", input=source)
    assert (summary.done, summary.skipped) == (1, 1)


def test_an_output_inside_the_input_is_not_looked_into(corpus: Corpus, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", seconds=0.4)
    out = tmp_path / "out"
    write_wav(out / "not-mine.wav", seconds=0.4)
    assert corpus.run(out, input=tmp_path).done == 1
    assert (out / "not-mine.wav").exists()
    corpus.run(out, input=tmp_path, overwrite=True)
    assert (out / "not-mine.wav").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"format": "csv"}, "format must be parquet or jsonl"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"workers": 4, "max_workers": 2}, "max_workers must be at least"),
        ({"threads": 0}, "threads and workers_per_device must be 1"),
        ({"shard": "1-2"}, "must be i/n"),
        ({"shard": "1/2", "overwrite": True}, "that of all shards"),
        ({"input": "/nowhere/at/all"}, "found nothing"),
        ({"beam": -3}, "beam"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    more: dict, complaint: str, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        corpus.run(tmp_path / "out", **more)
    assert not (tmp_path / "out" / "archive.json").exists()


def test_an_empty_folder_is_an_error_and_an_empty_shard_is_none(
    corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="No recordings found"):
        corpus.run(tmp_path / "out", input=tmp_path / "in")
    assert corpus.run(tmp_path / "out", input=tmp_path / "in", shard="1/9").done == 0


def test_an_output_that_is_a_file_is_a_message(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UnheardError, match="Cannot work in"):
        corpus.run(tmp_path / "out")


def test_a_scheduler_stops_it_as_ctrl_c_does(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(job, "_run", stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        corpus.run(tmp_path)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "_work" / "owner-1of1.json").exists()


def test_without_ray_it_says_what_to_install(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"unheard\[ray\]"):
        corpus.run(tmp_path, workers=2)
    assert corpus.run(tmp_path, workers=0).done == 13


def test_workers_by_machine_and_by_wish(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(address=None, share=1, device="cpu", threads=1, **wish) -> Pool | None:
        made = worker.Job(
            **{
                **dict.fromkeys(worker.Job.__dataclass_fields__, ""),  # type: ignore[arg-type]
                "device": device,
                "threads": threads,
            }
        )
        return job._pool(
            made, wish.get("workers"), wish.get("max_workers"), address=address, share=share
        )

    monkeypatch.setattr(job.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(job.os, "sysconf", lambda name: 1 << 20)
    assert pool(workers=0) is None
    here = {"address": None, "threads": 1, "gpus": 0.0}
    assert pool() == Pool(least=8, most=8, **here)
    assert pool(threads=4) == Pool(least=2, most=2, **{**here, "threads": 4})
    assert pool(workers=3) == Pool(least=3, most=3, **here)
    assert pool(max_workers=5) == Pool(least=1, most=5, **here)
    assert pool(workers=2, max_workers=5) == Pool(least=2, most=5, **here)
    there = {**here, "address": "auto"}
    assert pool("auto") == Pool(least=1, most=None, **there)
    assert pool("auto", workers=3) == Pool(least=3, most=3, **there)
    assert pool("auto", workers=3, max_workers=9) == Pool(least=3, most=9, **there)
    gpu = pool("auto", device="cuda", share=4)
    assert gpu is not None
    assert gpu.gpus == 0.25
    # Little memory, few workers.
    monkeypatch.setattr(job.os, "sysconf", lambda name: 60_000)
    small = pool()
    assert small is not None
    assert small.most == 2


def test_rates_are_said_in_words() -> None:
    said = describe_rate(ended=10, total=40, failed=2, sound=7200.0, elapsed=600.0)
    assert said == "2 failed, 2.0 h of sound, 12.0 times real time, about 30 min left"
    assert "left" not in describe_rate(ended=4, total=4, failed=0, sound=1.0, elapsed=1.0)
    far = describe_rate(ended=1, total=101, failed=0, sound=0.0, elapsed=360.0)
    assert "about 10.0 h left" in far


def test_folders_of_local_rays_that_were_killed_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    stem = f"{cluster._FOLDER_PREFIX}{cluster._host()}"
    for name in (f"{stem}-999999999-abcd", f"{stem}-{os.getpid()}-abcd", "unheard-other"):
        (tmp_path / name).mkdir()
    cluster._sweep()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}-{os.getpid()}-abcd",
        "unheard-other",
    }
    # The longest socket of a session must fit into 107 bytes.
    folder = cluster._folder()
    longest = f"{folder}/session_2026-01-01_00-00-00_000000_9999999/sockets/plasma_store"
    assert len(longest) <= 107
    folder.rmdir()
