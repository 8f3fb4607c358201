"""Sources, blocks, parts and settings of audio input."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from tests.recordings import encode, pcm16, sound, wav

from unheard.audio import io as audio_io
from unheard.audio.io import DecodeLimits
from unheard.errors import AudioError, ConfigError, ShapeError

FORMATS = [
    ("pcm_s16le", "wav", 16_000),
    ("flac", "flac", 44_100),
    ("libmp3lame", "mp3", 44_100),
    ("aac", "mp4", 44_100),
    ("libopus", "ogg", 48_000),
    ("libopus", "webm", 48_000),
]


class ForwardOnly:
    """A file object that can only be read onwards, a little at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 1_000))


@pytest.mark.parametrize(("codec", "container", "rate"), FORMATS)
def test_path_bytes_and_file_objects_are_equal(
    tmp_path: Path, codec: str, container: str, rate: int
) -> None:
    data = encode(sound(2, rate, channels=2), rate, codec, container)
    path = tmp_path / "a"
    path.write_bytes(data)
    expected = audio_io.read(path).samples
    assert expected.shape[0] > 31_000
    sources = [str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)]
    if container not in {"mp4", "mp3"}:  # an MP3's padding is cut where its size is known
        sources.append(ForwardOnly(data))
    with path.open("rb") as file:
        file.seek(7)
        for source in [*sources, file]:
            np.testing.assert_array_equal(audio_io.read(source).samples, expected)
        assert not file.closed
    assert audio_io.probe(path) == audio_io.probe(data)


def test_index_at_the_end_needs_a_seekable_source() -> None:
    data = encode(sound(1, 44_100), 44_100, "aac", "mp4")
    with pytest.raises(AudioError) as caught:
        audio_io.read(ForwardOnly(data))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("codec", "container", "rate"), FORMATS)
def test_blocks_are_the_whole_bit_for_bit(codec: str, container: str, rate: int) -> None:
    data = encode(sound(7, rate, channels=2), rate, codec, container)
    whole = audio_io.read(data)
    with audio_io.stream(data) as stream:
        assert stream.info == audio_io.probe(data)
        blocks = list(stream)
        assert stream.num_samples == whole.samples.shape[0]
    assert len(blocks) > 1
    assert {(block.dtype, block.ndim) for block in blocks} == {(np.dtype(np.float32), 1)}
    np.testing.assert_array_equal(np.concatenate(blocks), whole.samples)
    assert stream.warnings == whole.warnings == ()


def test_a_stream_can_be_left_early(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(pcm16(sound(30, 16_000))))
    with audio_io.stream(path) as stream:
        first = next(stream)
    assert 0 < stream.num_samples == first.shape[0] < 480_000
    path.unlink()


PARTS = [*FORMATS, ("aac", "adts", 44_100), ("vorbis", "ogg", 44_100), ("flac", "ogg", 44_100)]


@functools.cache
def thirteen_seconds(codec: str, container: str, rate: int) -> bytes:
    return encode(sound(13, rate, channels=2), rate, codec, container)


@pytest.mark.parametrize(("codec", "container", "rate"), PARTS)
@pytest.mark.parametrize("start", [0.0, 1.2345, 9.8765])
def test_a_part_is_a_slice_of_the_whole(
    codec: str, container: str, rate: int, start: float
) -> None:
    data = thirteen_seconds(codec, container, rate)
    whole = audio_io.read(data).samples
    part = audio_io.read(data, start_seconds=start, max_seconds=2.5)
    begin = round(start * 16_000)
    expected = whole[begin : begin + 40_000]
    assert part.samples.shape == expected.shape
    assert part.warnings == ()
    if start < 5:  # decoded from the beginning
        np.testing.assert_array_equal(part.samples, expected)
    elif container == "webm":  # whose clock ticks in milliseconds
        shifted = [whole[begin + s : begin + s + 40_000] for s in range(-16, 17)]
        assert min(np.abs(part.samples - x).max() for x in shifted) < 1e-5
    else:  # found by seeking; AAC's noise is drawn anew
        tolerance = 0.02 if codec == "aac" else 1e-5
        np.testing.assert_allclose(part.samples, expected, atol=tolerance)


def test_a_part_far_into_a_file_is_found_without_decoding_what_precedes() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    data = wav(pcm16(sound(120, 16_000)))
    file = Counting(data)
    part = audio_io.read(file, start_seconds=100, max_seconds=1)
    np.testing.assert_array_equal(
        part.samples, np.frombuffer(data, "<i2", offset=44)[1_600_000:1_616_000] / 32768
    )
    assert file.read_bytes < len(data) / 3


def test_parts_at_and_past_the_end() -> None:
    data = wav(pcm16(sound(10, 16_000)))
    assert audio_io.read(data, start_seconds=9.5, max_seconds=2).samples.shape == (8_000,)
    assert audio_io.read(data, start_seconds=9.5).samples.shape == (8_000,)
    for start in (10.0, 1e6):
        past = audio_io.read(data, start_seconds=start)
        assert past.samples.shape == (0,)
        assert "too_short" in past.warnings
    assert audio_io.read(data, max_seconds=0).samples.shape == (0,)


def test_a_part_of_a_recording_that_cannot_be_sought() -> None:
    data = wav(pcm16(sound(10, 16_000)))
    expected = audio_io.read(data).samples[128_000:144_000]
    part = audio_io.read(ForwardOnly(data), start_seconds=8, max_seconds=1)
    np.testing.assert_array_equal(part.samples, expected)


def test_limits_on_seconds_and_decoded_bytes() -> None:
    data = encode(sound(20, 16_000), 16_000, "flac", "flac")
    for limits in (DecodeLimits(max_seconds=19), DecodeLimits(max_pcm_bytes=600_000)):
        with pytest.raises(AudioError, match="too long") as caught:
            audio_io.read(data, limits=limits)
        assert caught.value.reason == "too_long"
        with pytest.raises(AudioError), audio_io.stream(data, limits=limits) as stream:
            list(stream)
    enough = DecodeLimits(max_seconds=20, max_pcm_bytes=640_000)
    assert audio_io.read(data, limits=enough).samples.shape == (320_000,)
    part = audio_io.read(data, start_seconds=15, max_seconds=2, limits=DecodeLimits(max_seconds=8))
    assert part.samples.shape == (32_000,)


def test_settings_out_of_range() -> None:
    data = wav(pcm16(sound(1, 16_000)))
    with pytest.raises(ConfigError, match="sample rate"):
        audio_io.read(data, sample_rate=0)
    with pytest.raises(ConfigError, match="start_seconds"):
        audio_io.read(data, start_seconds=-1)
    with pytest.raises(ConfigError, match="start_seconds"):
        audio_io.read(data, start_seconds=float("nan"))
    with pytest.raises(ConfigError, match="max_seconds"):
        audio_io.read(data, max_seconds=-1)
    with pytest.raises(ConfigError, match="StringIO"):
        audio_io.read(io.StringIO("RIFF"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="int"):
        audio_io.read(3)  # type: ignore[arg-type]


def test_write_wav_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(ShapeError):
        audio_io.write_wav(path, np.zeros((2, 5), np.float32), 16_000)
    with pytest.raises(AudioError, match="NaN"):
        audio_io.write_wav(path, np.full(5, np.nan, np.float32), 16_000)
    with pytest.raises(ConfigError):
        audio_io.write_wav(path, np.zeros(5, np.float32), 0)
    assert list(tmp_path.iterdir()) == []


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert all(s == s.lower() and s.startswith(".") for s in audio_io.AUDIO_SUFFIXES)
    assert {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm"} <= audio_io.AUDIO_SUFFIXES


def test_probe_reads_the_head_only() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    for codec, container in (("pcm_s16le", "wav"), ("flac", "flac"), ("libmp3lame", "mp3")):
        data = encode(sound(20, 48_000, channels=2), 48_000, codec, container, bit_rate=320_000)
        file = Counting(data)
        assert audio_io.probe(file).duration_seconds == pytest.approx(20, abs=0.01)
        assert file.read_bytes < len(data) / 2.5


def test_duration_of_a_container_without_one() -> None:
    # As a browser's recorder writes it: a live stream that nobody went back to.
    data = encode(sound(3, 48_000), 48_000, "libopus", "webm", options={"live": "1"})
    info = audio_io.probe(data)
    assert info.duration_seconds == pytest.approx(3, abs=0.03)
    waveform = audio_io.read(data)
    assert waveform.samples.shape == (48_000,)
    assert waveform.warnings == ()
