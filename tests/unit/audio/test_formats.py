"""Every format, rate, channel count and sample format comes out as the sound that went in."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from tests.recordings import encode, pcm16, sound, wav

from unheard.audio import io as audio_io

LOSSLESS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ALAW"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_S8"),
    ("AIFF", "PCM_16"),
    ("AIFF", "PCM_24"),
    ("AIFF", "FLOAT"),
    ("AIFF", "ULAW"),
    ("AU", "PCM_16"),
    ("AU", "ALAW"),
    ("W64", "PCM_24"),
    ("CAF", "PCM_16"),
    ("CAF", "FLOAT"),
    ("FLAC", "PCM_S8"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
]


def reference(data: bytes) -> np.ndarray:
    """The same file read by libsndfile, averaged and resampled in one piece."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, 16_000, quality="HQ")


def as_file(samples: np.ndarray, rate: int, container: str, subtype: str) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, samples.T, rate, format=container, subtype=subtype)
    return memory.getvalue()


@pytest.mark.parametrize(("container", "subtype"), LOSSLESS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_lossless_formats_equal_libsndfile(
    container: str, subtype: str, rate: int, channels: int
) -> None:
    data = as_file(sound(1.3, rate, channels=channels), rate, container, subtype)
    waveform = audio_io.read(data)
    expected = reference(data)
    assert waveform.warnings == ()
    assert waveform.samples.dtype == np.float32
    assert waveform.samples.shape == expected.shape
    np.testing.assert_allclose(waveform.samples, expected, atol=2e-6)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_101, 48_000, 192_000, 768_000])
@pytest.mark.parametrize("channels", [1, 3, 8, 32])
def test_any_rate_and_channel_count(rate: int, channels: int) -> None:
    seconds = 0.4 if rate * channels < 1e6 else 0.05
    data = as_file(sound(seconds, rate, channels=channels), rate, "WAV", "PCM_24")
    waveform = audio_io.read(data)
    expected = reference(data)
    assert waveform.samples.shape == expected.shape
    np.testing.assert_allclose(waveform.samples, expected, atol=2e-6)
    info = audio_io.probe(data)
    assert (info.sample_rate, info.channels) == (rate, channels)
    assert info.num_samples == round(seconds * rate)


@pytest.mark.parametrize("valid_bits", [None, 13])
def test_thirteen_bits(valid_bits: int | None) -> None:
    stored = (np.frombuffer(pcm16(sound(1, 16_000)), "<i2") >> 3) << 3
    bits = 16 if valid_bits else 13
    data = wav(stored.tobytes(), bits=bits, valid_bits=valid_bits)
    np.testing.assert_allclose(audio_io.read(data).samples, stored / 32768, atol=1e-6)


# The decoder's own Vorbis encoder is poor, and AMR keeps the sound, not the wave.
LEAST_SIMILARITY = {"vorbis": 0.7, "libopencore_amrnb": 0.5}
LOSSY = [
    ("libmp3lame", "mp3", 44_100, "mp3float", 96_000),
    ("libmp3lame", "mp3", 16_000, "mp3float", 48_000),
    ("aac", "mp4", 44_100, "aac", 96_000),
    ("aac", "adts", 44_100, "aac", 96_000),
    ("aac", "mov", 48_000, "aac", 96_000),
    ("aac", "matroska", 44_100, "aac", 96_000),
    ("alac", "mp4", 44_100, "alac", None),
    ("libopus", "ogg", 48_000, "opus", 64_000),
    ("libopus", "webm", 48_000, "opus", 64_000),
    ("libopus", "matroska", 48_000, "opus", 64_000),
    ("libopus", "mp4", 48_000, "opus", 64_000),
    ("vorbis", "ogg", 44_100, "vorbis", 128_000),
    ("vorbis", "webm", 44_100, "vorbis", 128_000),
    ("flac", "ogg", 44_100, "flac", None),
    ("flac", "matroska", 44_100, "flac", None),
    ("mp2", "matroska", 44_100, "mp2", 192_000),
    ("adpcm_ima_wav", "wav", 22_050, "adpcm_ima_wav", None),
    ("adpcm_ms", "wav", 22_050, "adpcm_ms", None),
    ("libopencore_amrnb", "amr", 8_000, "amrnb", 12_200),
    ("libopencore_amrnb", "3gp", 8_000, "amrnb", 12_200),
    ("pcm_mulaw", "caf", 8_000, "pcm_mulaw", None),
]


@pytest.mark.parametrize(("encoder", "container", "rate", "codec", "bit_rate"), LOSSY)
def test_lossy_formats_sound_like_the_source(
    encoder: str, container: str, rate: int, codec: str, bit_rate: int | None
) -> None:
    channels = 1 if "amr" in encoder else 2
    source = sound(3, rate, channels=channels)
    data = encode(source, rate, encoder, container, bit_rate=bit_rate)
    waveform = audio_io.read(data)
    assert waveform.warnings == ()
    assert abs(waveform.duration_seconds - 3) < 0.08
    assert similarity(source.mean(axis=0), rate, waveform.samples) > LEAST_SIMILARITY.get(
        encoder, 0.97
    )
    info = audio_io.probe(data)
    assert (info.codec, info.sample_rate, info.channels) == (codec, rate, channels)
    assert info.duration_seconds == pytest.approx(3, abs=0.08)


def similarity(source: np.ndarray, rate: int, decoded: np.ndarray) -> float:
    """Highest correlation within the run-in of a codec (0.1 s), scale 1 demanded."""
    expected = soxr.resample(source, rate, 16_000)
    best = 0.0
    for shift in range(-200, 1_700):
        a = expected[max(0, -shift) :][:40_000:3]
        b = decoded[max(0, shift) :][:40_000:3]
        n = min(len(a), len(b))
        error = np.sum((a[:n] - b[:n]) ** 2) / np.sum(a[:n] ** 2)
        best = max(best, 1 - error)
    return best


@pytest.mark.parametrize(("encoder", "container"), [("libmp3lame", "mp3"), ("aac", "mp4")])
def test_equal_channels_keep_their_level(encoder: str, container: str) -> None:
    mono = sound(2, 44_100)
    data = encode(np.repeat(mono, 2, axis=0), 44_100, encoder, container, bit_rate=192_000)
    power = float(np.mean(mono**2))  # LAME makes everything 3 % quieter
    assert np.mean(audio_io.read(data).samples ** 2) == pytest.approx(power, rel=0.1)

    with av.open(io.BytesIO(data)) as container_:  # the decoder's own way is 3 dB louder
        mixer = av.AudioResampler(format="flt", layout="mono", rate=44_100)
        mixed = [f.to_ndarray() for x in container_.decode(audio=0) for f in mixer.resample(x)]
    assert np.mean(np.concatenate(mixed, axis=1) ** 2) == pytest.approx(2 * power, rel=0.1)


@pytest.mark.parametrize("codec", ["aac", "libopus"])
def test_eight_planar_channels(codec: str) -> None:
    source = sound(2, 48_000, channels=8)
    data = encode(source, 48_000, codec, "matroska", bit_rate=768_000)
    assert audio_io.probe(data).channels == 8
    waveform = audio_io.read(data)
    assert similarity(source.mean(axis=0), 48_000, waveform.samples) > 0.9


def test_more_planar_channels_than_any_layout_has() -> None:
    source = sound(2, 44_100, channels=12)
    data = as_file(source, 44_100, "OGG", "VORBIS")
    waveform = audio_io.read(data)
    assert similarity(source.mean(axis=0), 44_100, waveform.samples) > 0.9


def test_sound_of_a_video() -> None:
    source = sound(2, 48_000, channels=2)
    memory = io.BytesIO()
    output = av.open(memory, "w", format="matroska")
    pictures = output.add_stream("mpeg4", rate=8)
    pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
    track = output.add_stream("aac", rate=48_000, layout="stereo")
    for index in range(24):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index, np.uint8), format="rgb24")
        frame.pts = index
        output.mux(pictures.encode(frame))
    output.mux(pictures.encode(None))
    frame = av.AudioFrame.from_ndarray(source.astype(np.float32), format="fltp", layout="stereo")
    frame.sample_rate = 48_000
    output.mux(track.encode(frame))
    output.mux(track.encode(None))
    output.close()
    waveform = audio_io.read(memory.getvalue())
    assert waveform.duration_seconds == pytest.approx(2, abs=0.05)
    assert waveform.warnings == ()


@pytest.mark.parametrize(
    ("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
)
def test_second_decoder_agrees_on_lossy_files(container: str, subtype: str) -> None:
    data = as_file(sound(2, 48_000, channels=2), 48_000, container, subtype)
    decoded = audio_io.read(data, sample_rate=48_000).samples
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    expected = expected.mean(axis=1)
    n = min(len(decoded), len(expected))
    assert abs(len(decoded) - len(expected)) < 1_200
    np.testing.assert_allclose(decoded[:n], expected[:n], atol=2e-3)


def test_other_output_rates() -> None:
    data = as_file(sound(1, 16_000), 16_000, "WAV", "PCM_16")
    assert audio_io.read(data, sample_rate=8_000).samples.shape == (8_000,)
    assert audio_io.read(data, sample_rate=48_000).samples.shape == (48_000,)


def test_write_wav_and_read_back(tmp_path: Path) -> None:
    samples = np.clip(sound(1, 16_000)[0].astype(np.float32), -1, 1)
    samples[:3] = (1.5, -1.5, -1.0)
    path = tmp_path / "new folder" / "a.wav"
    audio_io.write_wav(path, samples, 16_000)
    back = audio_io.read(path)
    np.testing.assert_allclose(back.samples[3:], samples[3:], atol=0.51 / 32768)
    np.testing.assert_array_equal(back.samples[:3], np.float32([32767 / 32768, -1, -1]))
    audio_io.write_wav(path, back.samples, 16_000)
    np.testing.assert_array_equal(audio_io.read(path).samples, back.samples)
    assert [p.name for p in path.parent.iterdir()] == ["a.wav"]
