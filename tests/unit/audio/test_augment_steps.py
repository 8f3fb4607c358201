"""Each augmentation by itself: what it adds, what it keeps, against plain arithmetic."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests import recordings
from tests.small_corpora import text as write_bytes

from unheard.audio.augment import codec as codecs
from unheard.audio.augment.codec import (
    SPEECH_LEVEL,
    available_codecs,
    band_limited,
    check_codecs,
    through_codec,
)
from unheard.audio.augment.collection import Collection
from unheard.audio.augment.config import CodecKind
from unheard.audio.augment.noise import add_noise, babble, pink, power, stretch_of, white
from unheard.audio.augment.reverberation import convolve, from_direct_sound, room_response
from unheard.audio.augment.speed import change_speed, samples_after, samples_before
from unheard.audio.signal import resample
from unheard.errors import AudioError, ConfigError

RATE = 16_000


def speech(count: int = 32_000, *, seed: int = 0) -> NDArray[np.float32]:
    """A voice-like sound with wandering pitch and loudness: it matches itself nowhere else."""
    generator = np.random.default_rng(seed)
    times = np.arange(count) / RATE
    knots = np.arange(0, times[-1] + 0.2, 0.2)
    pitch = np.interp(times, knots, generator.uniform(90, 280, len(knots)))
    knots = np.arange(0, times[-1] + 0.05, 0.05)
    loudness = np.interp(times, knots, generator.uniform(0, 1, len(knots)) ** 2)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.cos(part * phase) / part for part in range(1, 14))
    return (0.1 * voice * loudness).astype(np.float32)


def db(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def lag(before: NDArray[np.floating], after: NDArray[np.floating]) -> int:
    """By how many samples `after` comes later, at the best match."""
    size = 4 * len(before)
    match = np.fft.irfft(np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size)))
    place = int(match.argmax())
    return place - size if place > size // 2 else place


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 40.0])
@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
def test_noise_lies_at_exactly_the_ratio_asked_for(kind: str, snr_db: float) -> None:
    generator = np.random.default_rng(3)
    sound = speech()
    others = [speech(20_000, seed=1), 7 * speech(50_000, seed=2)]
    drawn = {
        "white": lambda: white(len(sound), generator),
        "pink": lambda: pink(len(sound), generator),
        "babble": lambda: babble(others, len(sound), generator),
    }[kind]()
    assert drawn is not None
    mixed = add_noise(sound, drawn, snr_db=snr_db)
    assert mixed.dtype == np.float32
    noise = mixed.astype(np.float64) - sound
    assert db(power(sound) / power(noise)) == pytest.approx(snr_db, abs=1e-3)
    # It is that noise, not some other.
    assert np.corrcoef(noise, drawn)[0, 1] > 0.9999


def test_silent_noise_adds_nothing() -> None:
    sound = speech(500)
    assert add_noise(sound, np.zeros(500), snr_db=0.0) is sound


def octave_powers(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean power of the spectrum's lines in each octave from 125 to 8,000 Hz, in dB."""
    lines = np.abs(np.fft.rfft(noise)) ** 2
    frequencies = np.fft.rfftfreq(len(noise), 1 / RATE)
    edges = 125.0 * 2 ** np.arange(7)
    return np.array(
        [
            db(lines[(frequencies >= low) & (frequencies < high)].mean())
            for low, high in itertools.pairwise(edges)
        ]
    )


def test_colours_of_noise() -> None:
    generator = np.random.default_rng(0)
    flat = octave_powers(white(1 << 19, generator))
    falling = octave_powers(pink(1 << 19, generator))
    np.testing.assert_allclose(np.diff(flat), 0, atol=0.2)
    # Half the power a hertz with every octave: 3.01 dB.
    np.testing.assert_allclose(np.diff(falling), -10 * np.log10(2), atol=0.2)
    assert abs(pink(1 << 12, generator).mean()) < 1e-12
    assert pink(1, generator).tolist() == [0.0]


def test_babble_is_made_of_the_others_and_of_a_few() -> None:
    generator = np.random.default_rng(0)
    tones = [np.sin(2 * np.pi * hertz * np.arange(4000) / RATE) for hertz in range(400, 4000, 400)]
    others = [(tone * 10.0**number).astype(np.float32) for number, tone in enumerate(tones)]
    voices: list[int] = []
    for _ in range(40):
        mixed = babble(others, 16_000, generator)
        assert mixed is not None
        lines = np.abs(np.fft.rfft(mixed))[400:4000:400] / 16_000
        # However loud they were, all talk alike.
        assert set(np.round(lines[lines > 0.1] / np.sqrt(0.5), 1)) == {1.0}
        voices.append(int((lines > 0.1).sum()))
    assert set(voices) == {3, 4, 5, 6, 7}
    few = babble(others[:2], 1000, generator)
    assert few is not None
    assert babble([np.zeros(9, dtype=np.float32)], 1000, generator) is None
    assert babble([], 1000, generator) is None


@given(length=st.integers(1, 50), count=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_a_stretch_is_a_place_in_a_recording_that_may_begin_again(
    length: int, count: int, seed: int
) -> None:
    found = stretch_of(np.arange(length, dtype=np.float32), count, np.random.default_rng(seed))
    assert found.shape == (count,)
    np.testing.assert_array_equal(np.diff(found) % length, 1 % length)
    if count <= length:
        assert found[0] <= length - count


@given(
    count=st.integers(1, 400),
    taps=st.integers(1, 500),
    seed=st.integers(0, 2**32),
)
def test_convolution_is_numpys(count: int, taps: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sound, response = generator.standard_normal(count), generator.standard_normal(taps)
    expected = np.convolve(sound, response)[:count]
    np.testing.assert_allclose(convolve(sound, response), expected, atol=1e-11 * taps)
    if count > 1 and taps > 1:
        shifted = np.convolve(sound, response)[1 : count + 1]
        assert not np.allclose(convolve(sound, response), shifted, atol=1e-6)


@pytest.mark.parametrize(("seconds", "direct_db"), [(0.2, 0.0), (0.5, 10.0), (0.8, -3.0)])
def test_rooms_fade_by_60_db_in_their_time(seconds: float, direct_db: float) -> None:
    generator = np.random.default_rng(0)
    responses = [
        room_response(seconds=seconds, direct_db=direct_db, generator=generator) for _ in range(50)
    ]
    for response in responses:
        assert response[0] == 1
        assert db(1 / np.square(response[1:]).sum()) == pytest.approx(direct_db)
    squares = np.mean(np.square(responses), axis=0)
    eighth = len(squares) // 8
    energies = [db(squares[first : first + eighth].mean()) for first in (eighth, 6 * eighth)]
    # Five eighths of the time take five eighths of 60 dB.
    assert energies[0] - energies[1] == pytest.approx(60 * 5 / 8, abs=0.5)


def test_recorded_responses_begin_with_their_direct_sound() -> None:
    response = np.array([0.0, 0.1, -0.5, 0.25, 0.0], dtype=np.float32)
    cut = from_direct_sound(response)
    assert cut is not None
    np.testing.assert_allclose(cut, [-1.0, 0.5, 0.0])
    assert from_direct_sound(np.zeros(5)) is None
    assert from_direct_sound(np.zeros(0)) is None


@given(
    count=st.integers(0, 3000),
    factor=st.sampled_from([0.5, 0.9, 0.95, 1.0, 1.07, 1.1, 2.0]),
)
def test_speed_changes_the_length_as_resampling_does(count: int, factor: float) -> None:
    sound = speech(3001)[:count]
    found = change_speed(sound, factor)
    assert (
        len(found) == samples_after(count, factor) == len(resample(sound, round(factor * 100), 100))
    )
    assert samples_after(samples_before(count, factor), factor) >= count
    assert samples_before(count, factor) <= count * factor + 1


def test_faster_is_higher_and_shorter() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / RATE).astype(np.float32)
    fast = change_speed(tone, 1.1)
    assert len(fast) == 14_545
    hertz = np.abs(np.fft.rfft(fast, RATE)).argmax()
    assert hertz == 1100
    assert power(fast[500:-500]) == pytest.approx(power(tone), rel=1e-3)
    assert change_speed(tone, 1.0) is tone


@pytest.mark.parametrize("kind", available_codecs())
@pytest.mark.parametrize("level", [1.0, 40.0, 1e-3])
def test_codecs_keep_length_place_and_level(kind: CodecKind, level: float) -> None:
    sound = band_limited(speech(), 400, 3000)
    found = through_codec(level * sound, kind, np.random.default_rng(0))
    assert found.dtype == np.float32
    assert found.shape == sound.shape
    assert abs(lag(sound, found)) <= 1
    assert np.corrcoef(sound, found)[0, 1] > (0.4 if kind == "amr" else 0.95)
    assert abs(db(power(found) / power(level * sound))) < 3
    assert not np.array_equal(found, level * sound)
    again = through_codec(level * sound, kind, np.random.default_rng(0))
    np.testing.assert_array_equal(found, again)


def test_bit_rates_are_drawn() -> None:
    sound = speech()
    found = [through_codec(sound, "opus", np.random.default_rng(seed)) for seed in range(6)]
    errors = {round(power(one - sound), 9) for one in found}
    assert len(errors) > 2


@pytest.mark.parametrize("count", [1, 10, 399])
@pytest.mark.parametrize("kind", available_codecs())
def test_codecs_take_very_short_sounds(kind: CodecKind, count: int) -> None:
    assert through_codec(speech(count), kind, np.random.default_rng(0)).shape == (count,)


def test_silence_goes_through_no_codec() -> None:
    silence = np.zeros(100, dtype=np.float32)
    assert through_codec(silence, "mp3", np.random.default_rng(0)) is silence


def test_telephones_cut_the_band() -> None:
    noise = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
    lines = np.abs(np.fft.rfft(through_codec(noise, "telephone", np.random.default_rng(0)))) ** 2
    frequencies = np.fft.rfftfreq(1 << 16, 1 / RATE)

    def loudness(low: float, high: float) -> float:
        return db(lines[(frequencies >= low) & (frequencies < high)].mean())

    inside = loudness(500, 3200)
    assert inside - loudness(0, 150) > 25
    assert inside - loudness(3700, 8000) > 25
    clean = np.abs(np.fft.rfft(band_limited(noise, 300, 3400))) ** 2
    assert clean[frequencies < 200].max() < 1e-3 * clean.max()
    np.testing.assert_allclose(
        clean[(frequencies > 400) & (frequencies < 3300)],
        (np.abs(np.fft.rfft(noise)) ** 2)[(frequencies > 400) & (frequencies < 3300)],
        rtol=0.5,
    )


def test_codecs_hear_speech_at_its_usual_level(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[float] = []

    def watched(samples: NDArray[np.floating], **more: object) -> bytes:
        levels.append(float(np.sqrt(power(samples))))
        assert np.abs(samples).max() <= 1
        return b""

    monkeypatch.setattr(codecs, "encode_with", watched)
    for sound in (speech(), 100 * speech(), 0.01 * speech()):
        with pytest.raises(AudioError):
            through_codec(sound, "mp3", np.random.default_rng(0))
    assert levels == pytest.approx([SPEECH_LEVEL] * 3, rel=1e-3)


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"telephone", "mp3", "opus"} <= set(available_codecs())
    monkeypatch.setattr(codecs, "_has_encoder", lambda name: name != "libopencore_amrnb")
    assert available_codecs() == ("telephone", "mp3", "opus")
    with pytest.raises(ConfigError, match="cannot encode amr: expected one of telephone, mp3"):
        check_codecs(("opus", "amr"))
    check_codecs(("opus", "mp3"))


def test_a_build_without_an_encoder_is_recognised() -> None:
    assert codecs._has_encoder("pcm_mulaw")
    assert not codecs._has_encoder("no_such_encoder")


def test_recordings_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def put(name: str, level: float) -> None:
        sound = np.full((1, 800), level)
        write_bytes(tmp_path / name, recordings.wav(recordings.pcm16(sound), rate=RATE))

    put("a/one.wav", 0.25)
    put("b/two.wav", 0.5)
    put("silent.wav", 0.0)
    write_bytes(tmp_path / "broken.wav", b"no recording")
    write_bytes(tmp_path / "notes.txt", b"no recording either")
    collection = Collection(tmp_path, max_seconds=0.03)
    assert len(collection) == 4
    found = [collection.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert {round(float(one[0]), 2) for one in found} == {0.25, 0.5}
    assert {len(one) for one in found} == {480}
    again = [collection.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))
    assert len(caplog.records) == 2  # each is named once
    assert "broken.wav is left out" in caplog.text
    assert "silent.wav is left out: it holds nothing but silence" in caplog.text


def test_folders_without_recordings_are_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "notes.txt", b"nothing")
    with pytest.raises(ConfigError, match="Expected recordings in"):
        Collection(tmp_path, max_seconds=1.0)
    write_bytes(tmp_path / "broken.wav", b"no recording")
    with pytest.raises(AudioError, match="None of the 1 recordings"):
        Collection(tmp_path, max_seconds=1.0).draw(np.random.default_rng(0))
