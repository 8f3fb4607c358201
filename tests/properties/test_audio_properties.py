"""Whatever is done to a file, reading it gives finite samples or an AudioError."""

import contextlib
import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recordings import encode, sound

from unheard.audio import io as audio_io
from unheard.audio.io import DecodeLimits
from unheard.errors import AudioError

FORMATS = (
    ("pcm_s16le", "wav", 16_000),
    ("pcm_f32le", "wav", 16_000),
    ("flac", "flac", 16_000),
    ("libmp3lame", "mp3", 44_100),
    ("aac", "mp4", 44_100),
    ("aac", "adts", 44_100),
    ("libopus", "ogg", 48_000),
    ("libopus", "webm", 48_000),
    ("vorbis", "ogg", 44_100),
    ("pcm_s16be", "aiff", 16_000),
    ("pcm_s16le", "caf", 16_000),
)
LIMITS = DecodeLimits(max_seconds=60, max_pcm_bytes=50_000_000)
formats = st.sampled_from(FORMATS)


@functools.cache
def whole(codec: str, container: str, rate: int) -> bytes:
    return encode(sound(0.6, rate, channels=2), rate, codec, container)


def finite_or_refused(data: bytes) -> None:
    with contextlib.suppress(AudioError):
        waveform = audio_io.read(data, limits=LIMITS)
        assert waveform.samples.dtype == np.float32
        assert np.isfinite(waveform.samples).all()
    with contextlib.suppress(AudioError):
        info = audio_io.probe(data)
        assert info.num_samples is None or info.num_samples >= 0


@settings(max_examples=80, deadline=None)
@given(formats, st.floats(0, 1))
def test_any_cut(form: tuple[str, str, int], where: float) -> None:
    data = whole(*form)
    finite_or_refused(data[: int(where * len(data))])


@settings(max_examples=100, deadline=None)
@given(formats, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_any_changed_bytes(form: tuple[str, str, int], changes: list[tuple[float, int]]) -> None:
    data = bytearray(whole(*form))
    for where, value in changes:  # most of what matters stands at the front
        data[int(where**3 * (len(data) - 1))] = value
    finite_or_refused(bytes(data))


@settings(max_examples=60, deadline=None)
@given(formats, formats, st.floats(0, 1), st.binary(max_size=300))
def test_any_splice(
    form: tuple[str, str, int], other: tuple[str, str, int], where: float, junk: bytes
) -> None:
    data = whole(*form)
    finite_or_refused(data[: int(where * len(data))] + junk + whole(*other))
