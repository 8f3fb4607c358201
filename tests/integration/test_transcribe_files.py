"""The verb `transcribe` over folders: one record for each recording, whatever happens."""

import io as stdlib_io
import json
import os
import threading
from pathlib import Path

import pytest
from benchmarks.transcribe_kill import records, run
from tests.mixed_recordings import make_bundle, write_corpus, write_hostile, write_wav

from unheard.errors import ConfigError, FormatError, UnheardError
from unheard.files import locked
from unheard.interop.native import save_model
from unheard.tasks import transcribe as task
from unheard.tasks.transcribe import transcribe_files


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(make_bundle(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.wav", "b.wav", "deep/a.wav")):
        write_wav(folder / name, seconds=0.4 + 0.3 * number, seed=number)
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refuse_to_load(*arguments, **named):
    raise AssertionError("the model was loaded although there was nothing to do")


def test_mixed_formats_with_hostile_files_among_them(model, tmp_path):
    reasons = write_corpus(tmp_path / "in", good=20)
    summary = transcribe_files(model, [tmp_path / "in"], out=tmp_path / "out")
    assert (summary.done, summary.failed, summary.skipped) == (20, 10, 0)
    dead = rows(tmp_path / "out/dead_letters.jsonl")
    assert {row["path"]: row["reason"] for row in dead} == reasons
    for row in dead:
        assert {"path", "reason", "detail", "bytes", "sha256"} <= set(row)
        is_file = Path(row["path"]).is_file()
        assert (row["sha256"] is not None) == is_file
        assert row["bytes"] == (Path(row["path"]).stat().st_size if is_file else None)
    done = rows(tmp_path / "out/transcripts.jsonl")
    assert len({row["path"] for row in done}) == 20
    for row in done:
        assert row["text"]
        assert row["warnings"] == []
        assert (tmp_path / "out" / f"{row['output']}.txt").read_text() == row["text"] + "\n"
        assert row["words"][0]["text"] == row["text"].split()[0]


@pytest.mark.timeout(600)
def test_killed_and_started_again_it_ends_as_if_undisturbed(tmp_path):
    outcome = run(tmp_path, good=30, kills=3, seed=1)
    assert outcome.broken_promises == ()
    assert (outcome.transcripts, outcome.dead_letters, outcome.exit_code) == (30, 10, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_files_and_five_kills(tmp_path):
    outcome = run(tmp_path, good=190, kills=5, seed=0)
    assert outcome.broken_promises == ()
    assert (outcome.transcripts, outcome.dead_letters, outcome.exit_code) == (190, 10, 3)


def test_a_second_run_does_nothing(model, recordings, tmp_path, monkeypatch):
    write_hostile(recordings / "odd")
    first = transcribe_files(model, [recordings], out=tmp_path / "out")
    before = (tmp_path / "out/transcripts.jsonl").read_bytes()
    monkeypatch.setattr(task, "as_bundle", refuse_to_load)
    second = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (first.done, first.failed) == (3, 10)
    assert (second.done, second.skipped, second.failed) == (0, 3, 10)
    assert (tmp_path / "out/transcripts.jsonl").read_bytes() == before


def test_new_changed_and_failed_recordings_are_done(model, recordings, tmp_path):
    (recordings / "bad.wav").write_bytes(b"nothing")
    transcribe_files(model, [recordings], out=tmp_path / "out")
    before = {row["path"]: row for row in records(tmp_path / "out")}
    write_wav(recordings / "new.wav", seconds=0.3)
    write_wav(recordings / "a.wav", seconds=1.7, seed=9)
    summary = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (summary.done, summary.skipped, summary.failed) == (2, 2, 1)
    after = {row["path"]: row for row in records(tmp_path / "out")}
    assert len(records(tmp_path / "out")) == 5
    changed = str(recordings / "a.wav")
    assert after[changed]["text"] != before[changed]["text"]
    assert after[changed]["output"] == before[changed]["output"]
    # A dead letter is final until the file changes or somebody asks.
    write_wav(recordings / "bad.wav", seconds=0.5)
    summary = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (summary.done, summary.skipped, summary.failed) == (1, 4, 0)
    assert rows(tmp_path / "out/dead_letters.jsonl") == []


def test_failed_recordings_are_tried_again_when_asked(model, recordings, tmp_path):
    (recordings / "bad.wav").write_bytes(b"nothing")
    transcribe_files(model, [recordings], out=tmp_path / "out")
    summary = transcribe_files(model, [recordings], out=tmp_path / "out", retry_failed=True)
    assert (summary.done, summary.skipped, summary.failed) == (0, 3, 1)
    assert len(rows(tmp_path / "out/dead_letters.jsonl")) == 1


def test_a_torn_last_line_is_repaired(model, recordings, tmp_path):
    out = tmp_path / "out"
    transcribe_files(model, [recordings], out=out)
    whole = (out / "transcripts.jsonl").read_bytes()
    expected = {row["path"]: row["text"] for row in rows(out / "transcripts.jsonl")}
    for cut in (1, 20, len(whole.splitlines()[-1])):
        (out / "transcripts.jsonl").write_bytes(whole[:-cut])
        summary = transcribe_files(model, [recordings], out=out)
        assert (summary.done, summary.skipped) == (1, 2)
        found = rows(out / "transcripts.jsonl")
        assert len(found) == 3
        assert {row["path"]: row["text"] for row in found} == expected


def test_a_damaged_line_is_named(model, recordings, tmp_path):
    out = tmp_path / "out"
    transcribe_files(model, [recordings], out=out)
    lines = (out / "transcripts.jsonl").read_bytes().splitlines(keepends=True)
    (out / "transcripts.jsonl").write_bytes(lines[0] + lines[1][:10] + b"\n" + lines[2])
    with pytest.raises(FormatError, match="line 2"):
        transcribe_files(model, [recordings], out=out)


def test_other_settings_are_refused_unless_told_to_overwrite(model, recordings, tmp_path):
    out = tmp_path / "out"
    transcribe_files(model, [recordings], out=out)
    other = save_model(make_bundle(seed=5), tmp_path / "other")
    with pytest.raises(ConfigError, match="model"):
        transcribe_files(other, [recordings], out=out)
    with pytest.raises(ConfigError, match="padding"):
        transcribe_files(model, [recordings], out=out, padding="zeros")
    summary = transcribe_files(other, [recordings], out=out, overwrite=True)
    assert (summary.done, summary.skipped) == (3, 0)
    assert len(rows(out / "transcripts.jsonl")) == 3
    assert transcribe_files(other, [recordings], out=out).skipped == 3


def test_another_format_is_made_from_the_records(model, recordings, tmp_path, monkeypatch):
    out = tmp_path / "out"
    transcribe_files(model, [recordings], out=out)
    monkeypatch.setattr(task, "as_bundle", refuse_to_load)
    for format, first in (("srt", "1\n00:00:00,0"), ("vtt", "WEBVTT\n\n00:00:00.0")):
        summary = transcribe_files(model, [recordings], out=out, format=format)
        assert (summary.done, summary.skipped) == (0, 3)
        for name in ("a.wav", "b.wav", "deep/a.wav"):
            assert (out / f"{name}.{format}").read_text(encoding="utf-8").startswith(first)
    (out / "a.wav.srt").unlink()
    transcribe_files(model, [recordings], out=out, format="srt")
    assert (out / "a.wav.srt").exists()


def test_two_runs_cannot_share_a_folder(model, recordings, tmp_path):
    with (
        locked(tmp_path / "out" / ".transcribe.lock"),
        pytest.raises(ConfigError, match="in use"),
    ):
        transcribe_files(model, [recordings], out=tmp_path / "out")


def test_names_that_would_collide_are_kept_apart(model, tmp_path):
    for name in ("x/a.wav", "y/a.wav", "y/A.WAV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_wav(tmp_path / name, seconds=0.3)
    paths = [tmp_path / "x/a.wav", tmp_path / "y/a.wav", tmp_path / "y/A.WAV"]
    transcribe_files(model, paths, out=tmp_path / "out")
    outputs = [row["output"] for row in rows(tmp_path / "out/transcripts.jsonl")]
    assert len({output.casefold() for output in outputs}) == 3
    assert len(list((tmp_path / "out").glob("*.txt"))) == 3
    again = transcribe_files(model, paths[::-1], out=tmp_path / "out")
    assert (again.done, again.skipped) == (0, 3)


ODD_NAMES = (
    "http:foo.wav",
    "-dash.wav",
    "a|b.wav",
    "new\nline.wav",
    "#?%20.wav",
    " space .wav",
    "ŋ" * 125 + ".wav",
    os.fsdecode(b"\xff\xfe.wav"),
    "e\u0301.wav",
    "\u202egnp.wav",
    "CON.wav",
)


def test_odd_names(model, tmp_path):
    (tmp_path / "in").mkdir()
    source = write_wav(tmp_path / "plain.wav", seconds=0.3)
    for name in ODD_NAMES:
        os.link(source, tmp_path / "in" / name)
    summary = transcribe_files(model, [tmp_path / "in"], out=tmp_path / "out")
    assert (summary.done, summary.failed) == (len(ODD_NAMES), 0)
    data = (tmp_path / "out/transcripts.jsonl").read_bytes()
    assert len(data.decode("utf-8").splitlines()) == len(ODD_NAMES)
    found = {Path(json.loads(line)["path"]).name for line in data.splitlines()}
    assert found == set(ODD_NAMES)
    assert len(list((tmp_path / "out").glob("*.txt"))) == len(ODD_NAMES)
    assert transcribe_files(model, [tmp_path / "in"], out=tmp_path / "out").skipped == len(
        ODD_NAMES
    )


def test_a_pipe_and_a_file_that_goes_away(model, recordings, tmp_path, monkeypatch):
    os.mkfifo(recordings / "pipe.wav")
    listing = task.list_recordings

    def remove_one_after_listing(*arguments, **named):
        listed = listing(*arguments, **named)
        (recordings / "b.wav").unlink()
        return listed

    monkeypatch.setattr(task, "list_recordings", remove_one_after_listing)
    summary = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (summary.done, summary.failed) == (2, 2)
    dead = {Path(row["path"]).name: row for row in rows(tmp_path / "out/dead_letters.jsonl")}
    assert (dead["pipe.wav"]["reason"], dead["b.wav"]["reason"]) == ("not_regular", "vanished")
    assert dead["b.wav"]["sha256"] is None


def test_an_unexpected_fault_stays_with_its_recording(model, recordings, tmp_path, monkeypatch):
    from unheard.inference import pipeline

    stream = pipeline.io.stream

    def fail_on_one(source, **named):
        if str(source).endswith("b.wav"):
            raise RuntimeError("a fault nobody thought of")
        return stream(source, **named)

    monkeypatch.setattr(pipeline.io, "stream", fail_on_one)
    summary = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (summary.done, summary.failed) == (2, 1)
    (dead,) = rows(tmp_path / "out/dead_letters.jsonl")
    assert dead["reason"] == "internal_error"
    assert "nobody thought of" in dead["detail"]


def test_a_long_recording_beside_short_ones(model, recordings, tmp_path):
    write_wav(recordings / "long.wav", seconds=55)
    (recordings / "half.flac").write_bytes(b"fLaC")
    summary = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (summary.done, summary.failed) == (4, 1)
    long = next(
        row for row in rows(tmp_path / "out/transcripts.jsonl") if row["path"].endswith("long.wav")
    )
    assert long["duration_seconds"] == 55
    assert long["words"][-1]["end_seconds"] > 54


def test_shards_do_all_between_them(model, recordings, tmp_path):
    done = [
        transcribe_files(model, [recordings], out=tmp_path / f"out{part}", shard=f"{part}/2").done
        for part in (1, 2)
    ]
    assert sum(done) == 3


def test_nothing_found_is_an_error(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="No recordings found"):
        transcribe_files(model, [tmp_path / "empty"], out=tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_a_message(model, recordings, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnheardError, match="Cannot write"):
        transcribe_files(model, [recordings], out=tmp_path / "file")


def test_a_full_disk_is_a_message_and_the_run_goes_on_later(
    model, recordings, tmp_path, monkeypatch
):
    from unheard.tasks import transcripts_folder

    append = transcripts_folder.files.append_jsonl
    written = []

    def fail_on_second(path, row):
        if written:
            raise OSError(28, "No space left on device")
        written.append(row)
        append(path, row)

    monkeypatch.setattr(transcripts_folder.files, "append_jsonl", fail_on_second)
    with pytest.raises(UnheardError, match="No space left"):
        transcribe_files(model, [recordings], out=tmp_path / "out")
    monkeypatch.undo()
    summary = transcribe_files(model, [recordings], out=tmp_path / "out")
    assert (summary.done, summary.skipped) == (2, 1)
    assert len(rows(tmp_path / "out/transcripts.jsonl")) == 3


def test_standard_output_keeps_the_order_of_the_inputs(model, recordings, capsys):
    (recordings / "bad.wav").write_bytes(b"nothing")
    stream = stdlib_io.StringIO()
    summary = transcribe_files(model, [recordings], stdout=stream, progress=False)
    assert (summary.done, summary.failed) == (3, 1)
    assert summary.table() == ""
    lines = [line.split("\t") for line in stream.getvalue().splitlines()]
    assert [Path(path).name for path, _ in lines] == ["a.wav", "b.wav", "a.wav"]
    assert "bad.wav: unreadable:" in capsys.readouterr().err
    one = stdlib_io.StringIO()
    transcribe_files(model, [recordings / "a.wav"], stdout=one, progress=False)
    assert one.getvalue() == lines[0][1] + "\n"
    with pytest.raises(ConfigError, match="--out"):
        transcribe_files(model, [recordings], format="srt")
    records_stream = stdlib_io.StringIO()
    transcribe_files(model, [recordings], format="jsonl", stdout=records_stream, progress=False)
    parsed = [json.loads(line) for line in records_stream.getvalue().splitlines()]
    assert [row["text"] for row in parsed] == [text for _, text in lines]


def test_a_reader_never_sees_a_part(model, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(40):
        write_wav(tmp_path / "in" / f"{number:02}.wav", seconds=0.2, seed=number)
    stop, seen, torn = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            for path in (tmp_path / "out").glob("*.txt"):
                seen.add(path)
                if not path.read_bytes().endswith(b"\n"):
                    torn.append(path)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        transcribe_files(model, [tmp_path / "in"], out=tmp_path / "out")
    finally:
        stop.set()
        reader.join()
    assert torn == []
    assert seen
