"""The verb listen: files, pipes, a microphone; what it writes; how it ends."""

import contextlib
import io as stdlib_io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.mixed_recordings import make_bundle, make_sound

import unheard
from unheard import cli
from unheard.audio import io
from unheard.audio.signal import Waveform
from unheard.decoding.hypothesis import Word
from unheard.errors import AudioError, ConfigError, FormatError, MissingExtraError
from unheard.inference.streaming import StreamSegment, StreamUpdate
from unheard.tasks.listen import _screen, _Session, _tell, last_cells, listen
from unheard.tasks.live_source import LiveSource, Piece, open_source
from unheard.tasks.stream import Stream

RATE = 16_000
SETTINGS = {"window_seconds": 1.5, "context_seconds": 0.2}


@pytest.fixture(autouse=True)
def _restore_logging():
    """The command line sets up its own."""
    logger = logging.getLogger("unheard")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A recording of 4 seconds, as a file; its samples are those of 16 bits."""
    generator = np.random.default_rng(7)
    sound = np.concatenate([make_sound(generator, seconds=1.0) for _ in range(4)])
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    io.write_wav(path, sound, RATE)
    return path


@pytest.fixture(scope="module")
def expected(bundle, talk):
    """What a stream says of it."""
    stream = unheard.Stream(bundle, hop_seconds=None, **SETTINGS)
    stream.feed(io.read(talk).samples)
    return stream.finish()


@pytest.fixture
def standard_input(monkeypatch):
    """Make a file the standard input."""

    class Input:
        def __init__(self, buffer):
            self.buffer = buffer

    with contextlib.ExitStack() as files:

        def give(path):
            monkeypatch.setattr(sys, "stdin", Input(files.enter_context(path.open("rb"))))

        yield give


def heard(capsys):
    return " ".join(capsys.readouterr().out.split("\n")).strip()


@pytest.mark.parametrize("fast", [True, False])
def test_a_file_is_written_as_it_is_heard(bundle, talk, expected, capsys, tmp_path, fast):
    out = tmp_path / "talk.jsonl"
    if not fast:
        samples = io.read(talk).samples[: 2 * RATE]
        talk = tmp_path / "short.wav"
        io.write_wav(talk, samples, RATE)
        stream = Stream(bundle, hop_seconds=None, **SETTINGS)
        stream.feed(samples)
        expected = stream.finish()
    seconds = expected.duration_seconds
    started = time.monotonic()
    summary = listen(bundle, file=talk, fast=fast, out=out, stats=True, **SETTINGS)
    elapsed = time.monotonic() - started
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert shown.out.splitlines() == [row["text"] for row in rows]
    assert " ".join(row["text"] for row in rows) == expected.text
    words = [word for row in rows for word in row["words"]]
    assert [word["text"] for word in words] == [word.text for word in expected.words]
    assert summary.words == len(words)
    assert summary.audio_seconds == seconds
    assert f"{seconds} s of sound" in shown.err
    assert "p95" in shown.err
    assert summary.partials > 1
    assert fast or elapsed >= seconds - 0.1, "the speed of sound"


@pytest.mark.parametrize("form", ["raw", "wav", "stereo"])
def test_a_pipe(bundle, talk, expected, capsys, tmp_path, monkeypatch, standard_input, form):
    values = (io.read(talk).samples * 32_768).astype("<i2")
    path = tmp_path / "pipe"
    if form == "raw":
        path.write_bytes(values.tobytes())
    else:
        channels = 2 if form == "stereo" else 1
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(np.repeat(values, channels).tobytes())
    standard_input(path)
    words = ["listen", "MODEL", "-", "--window-seconds", "1.5", "--context-seconds", "0.2"]
    monkeypatch.setattr("unheard.tasks.stream.as_bundle", lambda *_, **__: bundle)
    assert cli.main(words) == 0
    assert heard(capsys) == expected.text


def test_a_pipe_that_is_no_sound(tmp_path, standard_input):
    def read(data):
        path = tmp_path / "pipe"
        path.write_bytes(data)
        standard_input(path)
        with pytest.raises(FormatError) as caught:
            open_source("-", RATE, None, False, threading.Event()).__enter__()
        return str(caught.value)

    assert "compressed" in read(b"fLaC" + bytes(100))
    assert "compressed" in read(b"\0\0\0\x18ftypM4A " + bytes(100))
    riff = b"RIFF\xff\xff\xff\xffWAVE"
    assert "ends within its header" in read(riff + b"fmt \x10\0\0\0\1\0")
    floating = riff + b"fmt \x10\0\0\0\3\0\1\0" + bytes(10) + b"\x20\0" + b"data\0\0\0\0"
    assert "16-bit" in read(floating)
    assert "chunk" in read(riff + b"LIST\xff\xff\xff\x7f")


def test_no_sound_is_said_and_no_error(bundle, tmp_path, standard_input, capsys, caplog):
    empty = tmp_path / "nothing"
    empty.write_bytes(b"")
    standard_input(empty)
    with caplog.at_level(logging.WARNING):
        summary = listen(bundle, file="-")
    assert (summary.words, summary.audio_seconds) == (0, 0.0)
    assert capsys.readouterr().out == ""
    assert "no sound came" in caplog.text


def test_json_lines(bundle, talk, expected, capsys):
    listen(bundle, file=talk, fast=True, json=True, hop_seconds=0.25, **SETTINGS)
    *updates, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert last["transcript"]["text"] == expected.text
    segments = [segment["text"] for update in updates for segment in update["segments"]]
    assert " ".join(segments) == expected.text
    assert any(update["partial_text"] for update in updates)
    assert updates[-1]["seconds"] == 4.0


def test_nobody_watches_partial_texts_in_a_pipe(bundle, talk, capsys):
    summary = listen(bundle, file=talk, fast=True, **SETTINGS)
    assert summary.partials == 0
    assert summary.partial_p50_seconds is None
    assert "p50" not in summary.table()


@pytest.mark.parametrize("suffix", ["srt", "vtt", "txt"])
def test_subtitles_grow_as_they_are_spoken(bundle, talk, expected, tmp_path, suffix, capsys):
    out = tmp_path / f"talk.{suffix}"
    listen(bundle, file=talk, fast=True, out=out, **SETTINGS)
    if suffix == "txt":
        assert " ".join(out.read_text().split("\n")).strip() == expected.text
    else:
        head, point = ("", ",") if suffix == "srt" else ("WEBVTT\n\n", r"\.")
        number = r"(\d+)\n" if suffix == "srt" else "()"
        clock = rf"(\d\d:\d\d:\d\d{point}\d\d\d)"
        cue = re.compile(rf"{number}{clock} --> {clock}\n((?:.+\n)+)(?:\n|\Z)")
        written = out.read_text()
        assert written.startswith(head)
        cues = cue.findall(written.removeprefix(head))
        assert "".join(cue.split(written.removeprefix(head))[::5]) == "", "nothing between cues"
        assert " ".join(" ".join(text.split()) for *_, text in cues) == expected.text
        assert [begin for _, begin, *_ in cues] == sorted(begin for _, begin, *_ in cues)
        if suffix == "srt":
            assert [int(place) for place, *_ in cues] == list(range(1, len(cues) + 1))
        assert len(cues) > 1
    with pytest.raises(ConfigError, match="exists"):
        listen(bundle, file=talk, fast=True, out=out, **SETTINGS)
    listen(bundle, file=talk, fast=True, out=out, overwrite=True, **SETTINGS)


def test_wrong_usage(bundle, talk, tmp_path):
    with pytest.raises(ConfigError, match="suffix"):
        listen(bundle, file=talk, out=tmp_path / "talk.doc")
    with pytest.raises(ConfigError, match="fast"):
        listen(bundle, fast=True)
    with pytest.raises(AudioError, match="nowhere"):
        listen("no model is looked for yet", file=tmp_path / "nowhere.wav")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_with_all_that_was_said(bundle, talk, tmp_path):
    model, out = tmp_path / "model", tmp_path / "talk.txt"
    unheard.save_model(bundle, model)
    # What a shell starts in the background ignores interrupts, and so do its children.
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from unheard import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["listen", str(model), "-", "--out", str(out), "--json", "--window-seconds", "1.5"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words, "--context-seconds", "0.2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    values = (io.read(talk).samples[: 3 * RATE] * 32_768).astype("<i2")
    process.stdin.write(values.tobytes())
    process.stdin.flush()
    told = b""
    while b'"seconds": 3.0' not in told:
        told = process.stdout.readline()
        assert told, "it ended before it was asked to"
    # The pipe stays open: only the signal can end it.
    process.send_signal(signal.SIGINT)
    rest, complaint = process.stdout.read(), process.stderr.read()  # pyright: ignore
    assert process.wait() == 0, complaint
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()  # pyright: ignore
    assert b"Traceback" not in complaint
    stream = Stream(bundle, hop_seconds=None, **SETTINGS)
    stream.feed(values)
    transcript = stream.finish()
    assert json.loads(rest.splitlines()[-1])["transcript"]["text"] == transcript.text
    assert " ".join(out.read_text().split("\n")).strip() == transcript.text


def update_of(stable="", partial="", segments=()):
    return StreamUpdate(
        segments=segments, stable_text=stable, partial_text=partial, seconds=1.0, changed=True
    )


def test_a_terminal_shows_what_is_said_in_one_line(monkeypatch):
    class Terminal(stdlib_io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    word = Word(text="habari", start_seconds=0.0, end_seconds=1.0, confidence=1.0)
    segment = StreamSegment(text="habari", words=(word,), start_seconds=0.0, end_seconds=1.0)
    with _screen(stream, as_json=False) as screen:
        screen.show(update_of("za", "asub"))
        screen.show(update_of("za asubuhi", "[red]", (segment,)))
        screen.show(update_of("x" * 100, "y" * 20))
    shown = stream.getvalue()
    assert "habari" in shown
    assert "\x1b[2masub" in shown, "what may change is fainter"
    assert "[red]" in shown, "text is no markup"
    assert "…" + "x" * 17 in shown


def test_the_end_of_a_long_line_is_shown():
    assert last_cells("ab", "cd", width=10).plain == "ab cd"
    assert last_cells("ab", "", width=10).plain == "ab"
    assert last_cells("", "cd", width=10).plain == "cd"
    assert last_cells("abcdef", "ghij", width=8).plain == "…ef ghij"
    assert last_cells("abcdef", "ghijklmnop", width=6).plain == "…lmnop"
    wide = last_cells("語" * 10, "", width=8)
    assert wide.plain == "…語語語"
    for line in (last_cells("abcdef", "ghij", width=8), last_cells("a", "ghijklmnop", width=6)):
        (span,) = [span for span in line.spans if span.style == "dim"]
        assert set(line.plain[span.start : span.end]) <= set("ghijklmnop")


def test_a_machine_that_is_too_slow_says_so_and_nothing_is_lost(bundle, talk, expected, caplog):
    samples = io.read(talk).samples
    stream = Stream(bundle, hop_seconds=0.25, **SETTINGS)
    source = LiveSource(RATE, is_live=True)
    updates = []
    session = _Session(stream, source, updates.append)
    now = time.monotonic()
    source.dropped = 3
    with caplog.at_level(logging.WARNING):
        for start in range(0, len(samples), 1600):
            late = 5.0 if start < len(samples) // 2 else 0.0
            source.put(samples[start : start + 1600])
            piece = source.take()
            assert piece is not None
            session._hear([Piece(samples=piece[0].samples, arrived=now - late)])
            now = time.monotonic()
        source.end()
        transcript = session.run(threading.Event())
    assert transcript.text == expected.text
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(":")[0] for text in told] == [
        "the microphone's buffer ran over 3 times",
        "this machine is too slow",
        "the text has caught up with the sound",
    ]
    assert session.summary(out=None).longest_wait_seconds >= 5.0


def test_what_waits_is_heard_at_once(bundle, talk):
    """With ten seconds behind, one partial text is computed, not twenty."""
    samples = io.read(talk).samples
    stream = Stream(bundle, hop_seconds=0.25, window_seconds=15.0)
    source = LiveSource(RATE, is_live=True)
    for start in range(0, len(samples), 1600):
        source.put(samples[start : start + 1600])
    source.end()
    session = _Session(stream, source, lambda update: None)
    session.run(threading.Event())
    assert stream.stats.partials == 1


def test_a_fault_of_the_sound_is_raised_where_it_is_taken():
    source = LiveSource(RATE, is_live=True)
    source.put(np.zeros(10, np.float32))
    source.end(AudioError("torn", reason="unreadable"))
    assert len(source.take()) == 1
    with pytest.raises(AudioError, match="torn"):
        source.take()


_FAKE = """
import threading
class PortAudioError(Exception): pass
def query_devices(device=None, kind=None):
    listed = [{"name": "Mic", "max_input_channels": 1, "default_samplerate": 8000.0},
              {"name": "Speaker", "max_input_channels": 0, "default_samplerate": 8000.0}]
    if kind is None: return listed
    if device not in (None, 0): raise ValueError(f"No input device matching {device!r}")
    return listed[0]
class Status: input_overflow = False
class RawInputStream:
    def __init__(self, *, samplerate, channels, dtype, device, blocksize, callback):
        assert (samplerate, channels, dtype) == (8000, 1, "int16")
        self.callback, self.blocksize = callback, blocksize
    def __enter__(self):
        lost = Status(); lost.input_overflow = True
        def run():
            for status in (Status(), lost, Status()):
                self.callback(b"\\0\\x40" * self.blocksize, self.blocksize, None, status)
        self.thread = threading.Thread(target=run); self.thread.start()
        return self
    def stop(self): self.thread.join()
    def __exit__(self, *_): pass
"""


@pytest.fixture
def sounddevice(tmp_path, monkeypatch):
    """Put a module of this name before any that is installed."""

    def install(text):
        (tmp_path / "sounddevice.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "sounddevice", raising=False)

    yield install
    sys.modules.pop("sounddevice", None)


def test_a_microphone_is_heard_at_its_own_rate(sounddevice):
    sounddevice(_FAKE)
    with open_source(None, RATE, None, False, threading.Event()) as source:
        pieces = []
        while len(pieces) < 3:
            pieces += source.take() or []
        assert (source.sample_rate, source.is_live) == (8_000, True)
        assert source.dropped_since() == 1
        assert source.dropped_since() == 0
        assert all((piece.samples == 0.5).all() for piece in pieces)
        assert pieces[0].samples.dtype == np.float32


def test_microphones_that_are_not_there(sounddevice, monkeypatch):
    def open_one(name=None):
        with open_source(None, RATE, name, False, threading.Event()):
            pass

    sounddevice(_FAKE)
    with pytest.raises(AudioError, match="No input device matching 'Other'") as caught:
        open_one("Other")
    assert str(caught.value).endswith("Found these:\n  0  Mic")
    with pytest.raises(AudioError, match="No input device matching 7"):
        open_one("7")
    sounddevice("raise OSError('PortAudio library not found')")
    with pytest.raises(AudioError, match="libportaudio2"):
        open_one()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"unheard\[microphone\]"):
        open_one()


def test_a_segment_is_safe_before_it_is_shown():
    told = []

    class Spy:
        def __init__(self, name):
            self.name = name

        def write(self, segment):
            told.append((self.name, segment.text))

        def show(self, update):
            told.append((self.name, update.segments[0].text))

    word = Word(text="a", start_seconds=0.0, end_seconds=1.0, confidence=1.0)
    segment = StreamSegment(text="a", words=(word,), start_seconds=0.0, end_seconds=1.0)
    _tell(update_of(segments=(segment,)), Spy("screen"), Spy("file"))
    assert told == [("file", "a"), ("screen", "a")]


def test_streams_share_a_model(bundle, talk, expected):
    first = Stream(bundle, hop_seconds=0.5, **SETTINGS)
    second = first.another()
    samples = io.read(talk).samples
    turned = samples[::-1].copy()

    def hear(stream, sound):
        for start in range(0, len(sound), 8_000):
            stream.feed(sound[start : start + 8_000])
        return stream.finish()

    with ThreadPoolExecutor(2) as threads:
        heard, other = threads.map(hear, (first, second), (samples, turned))
    assert heard == expected
    assert other == hear(first.another(), turned)
    assert other.text != expected.text
    assert first.finished
    assert first.update.segments
    assert not first.another().finished


def test_a_stream_is_the_transcript_of_the_windows(bundle, talk):
    samples = io.read(talk).samples
    long = np.tile(samples, 9)  # longer than what transcribe takes whole
    stream = Stream(bundle)
    for start in range(0, len(long), 50_000):
        stream.feed(long[start : start + 50_000])
    assert stream.finish() == unheard.transcribe(bundle, Waveform(samples=long))
    for samples in (long[: 20 * RATE], long[: 5 * RATE], long[: 2 * RATE], long[:100]):
        stream = Stream(bundle, window_seconds=5.0, hop_seconds=None)
        stream.feed(samples)
        whole = unheard.transcribe(bundle, Waveform(samples=samples), window_seconds=5.0)
        assert stream.finish() == whole
