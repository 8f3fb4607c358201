import base64
import re
from pathlib import Path

import numpy as np
import pytest

from unheard.audio import io as audio_io
from unheard.report import players
from unheard.report.facts import ScoredUtterance
from unheard.report.players import Players


def utterance(
    audio: str, *, name: str = "u", seconds: float | None = 1.0, start: int = 0
) -> ScoredUtterance:
    return ScoredUtterance(
        id=name,
        audio=audio,
        start=start,
        num_samples=None if seconds is None else round(8000 * seconds),
        sample_rate=8000,
        speaker=None,
        reference="",
        hypothesis="",
        char_errors=0,
        char_total=0,
        word_errors=0,
        word_total=0,
        confidence=None,
    )


def tone(seconds: float, *, hertz: float = 400.0, rate: int = 16_000) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("f4")


def embedded(markup: str) -> bytes:
    found = re.search(r'src="data:audio/[a-z]+;base64,([A-Za-z0-9+/=]+)"', markup)
    assert found is not None
    return base64.b64decode(found[1])


@pytest.mark.parametrize("broken", [(), ("libmp3lame",), ("libmp3lame", "libopus")])
def test_every_encoding_can_be_heard_again(broken: tuple[str, ...], monkeypatch):
    whole = players._encode_with

    def encode(samples, *, codec, container):
        return whole(samples, codec="no_such" if codec in broken else codec, container=container)

    monkeypatch.setattr(players, "_encode_with", encode)
    media_type, content = players.encode(tone(2.0))
    heard = audio_io.read(content)
    assert media_type == ("audio/mpeg", "audio/ogg", "audio/wav")[len(broken)]
    assert heard.duration_seconds == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(heard.samples))
    assert np.argmax(spectrum) * 16_000 / len(heard.samples) == pytest.approx(400, abs=3)


def test_player_holds_only_the_stretch(tmp_path: Path):
    two = np.concatenate([tone(1.0, hertz=300, rate=8000), tone(1.0, hertz=900, rate=8000)])
    audio_io.write_wav(tmp_path / "two.wav", two, 8000)
    made = Players(folders=(tmp_path,)).player(utterance("two.wav", start=8000))
    heard = audio_io.read(embedded(made))
    spectrum = np.abs(np.fft.rfft(heard.samples))
    assert heard.duration_seconds == pytest.approx(1.0, abs=0.1)
    assert np.argmax(spectrum) * 16_000 / len(heard.samples) == pytest.approx(900, abs=5)


def test_long_recordings_are_cut_and_say_so(tmp_path: Path):
    audio_io.write_wav(tmp_path / "long.wav", tone(30.0, rate=8000), 8000)
    made = Players(folders=(tmp_path,)).player(utterance("long.wav", seconds=30.0))
    assert "first 20 s" in made
    assert audio_io.read(embedded(made)).duration_seconds == pytest.approx(20, abs=0.2)


def test_the_page_stays_under_its_cap(tmp_path: Path):
    audio_io.write_wav(tmp_path / "a.wav", tone(5.0, rate=8000), 8000)
    maker = Players(folders=(tmp_path,), max_total_bytes=70_000)
    made = [maker.player(utterance("a.wav", name=str(k), seconds=5.0)) for k in range(5)]
    sizes = [len(m) for m in made if "<audio" in m]
    assert maker.embedded == len(sizes) == 2
    assert maker.left_out == 3
    assert maker.used_bytes <= 70_000
    assert "page is full" in made[-1]


@pytest.mark.parametrize("name", ["absent.wav", "text.wav", "empty.wav"])
def test_unreadable_recordings_say_why(tmp_path: Path, name: str):
    (tmp_path / "text.wav").write_text("this is no sound")
    audio_io.write_wav(tmp_path / "empty.wav", tone(0.0), 8000)
    maker = Players(folders=(tmp_path,))
    made = maker.player(utterance(name))
    assert maker.unreadable == 1
    assert "<audio" not in made
    assert "No player" in made


def test_folders_are_tried_in_order(tmp_path: Path):
    (tmp_path / "second").mkdir()
    audio_io.write_wav(tmp_path / "second/a.wav", tone(1.0, rate=8000), 8000)
    maker = Players(folders=(tmp_path / "first", tmp_path / "second"))
    assert "<audio" in maker.player(utterance("a.wav"))
    assert "<audio" in maker.player(utterance(str(tmp_path / "second/a.wav"), name="v"))
