"""What telephone lines and compressed files leave of a recording: encoded and decoded again."""

from dataclasses import dataclass

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray

from unheard.audio import io
from unheard.audio.augment.config import CodecKind
from unheard.audio.augment.noise import power
from unheard.audio.encode import encode_with
from unheard.audio.signal import SAMPLE_RATE, resample
from unheard.errors import ConfigError

SPEECH_LEVEL = 10 ** (-26 / 20)
"""Root mean square at which recordings are encoded, of full scale: the nominal level of speech on
telephone lines, -26 dBov (ITU-T P.830)."""
TELEPHONE_BAND_HZ = (300.0, 3400.0)
_BAND_EDGE_HZ = 100.0


@dataclass(frozen=True, kw_only=True)
class _Format:
    container: str
    encoder: str
    sample_rate: int
    bit_rates: tuple[int, ...]
    """Of which one is drawn [bit/s]; (0,) where there is no choice."""
    delay_samples: int = 0
    """By which the sound comes late, where the file does not say so itself [samples at 16 kHz]."""


_FORMATS: dict[CodecKind, tuple[_Format, ...]] = {
    "telephone": tuple(
        _Format(container="wav", encoder=law, sample_rate=8000, bit_rates=(0,))
        for law in ("pcm_mulaw", "pcm_alaw")
    ),
    "mp3": (
        _Format(
            container="mp3",
            encoder="libmp3lame",
            sample_rate=16_000,
            bit_rates=(16_000, 24_000, 32_000, 48_000, 64_000),
        ),
    ),
    "opus": (
        _Format(
            container="ogg",
            encoder="libopus",
            sample_rate=16_000,
            bit_rates=(6_000, 8_000, 12_000, 16_000, 24_000, 32_000),
        ),
    ),
    "amr": (
        _Format(
            container="amr",
            encoder="libopencore_amrnb",
            sample_rate=8000,
            bit_rates=(4_750, 5_150, 5_900, 6_700, 7_400, 7_950, 10_200, 12_200),
            delay_samples=80,
        ),
    ),
}


def available_codecs() -> tuple[CodecKind, ...]:
    """Name the codecs whose encoders are in this build of FFmpeg."""
    return tuple(
        kind
        for kind, formats in _FORMATS.items()
        if all(_has_encoder(format_.encoder) for format_ in formats)
    )


def check_codecs(kinds: tuple[CodecKind, ...]) -> None:
    """Refuse codecs that this build of FFmpeg cannot write.

    Raises:
        ConfigError: naming the first that is missing, and those that are there.
    """
    there = available_codecs()
    if missing := [kind for kind in kinds if kind not in there]:
        raise ConfigError(
            f"The FFmpeg of this installation cannot encode {missing[0]}: expected one of "
            f"{', '.join(there)}. Choose among these with codec=A+B."
        )


def through_codec(
    samples: NDArray[np.float32], kind: CodecKind, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Encode and decode at 16 kHz; length, level and place in time stay as they are.

    Args:
        samples: (samples,) of any level; digital silence stays.
        kind: what to encode with.
        generator: draws the bit rate.

    Returns:
        (samples,) float32.
    """
    before = power(samples)
    if before == 0:
        return samples
    formats = _FORMATS[kind]
    format_ = formats[int(generator.integers(len(formats)))]
    bit_rate = int(generator.choice(format_.bit_rates))
    gain = min(SPEECH_LEVEL / np.sqrt(before), 0.99 / float(np.abs(samples).max()))
    scaled = (samples * gain).astype(np.float32)
    if kind == "telephone":
        scaled = band_limited(scaled, *TELEPHONE_BAND_HZ)
    data = encode_with(
        resample(scaled, SAMPLE_RATE, format_.sample_rate),
        sample_rate=format_.sample_rate,
        container=format_.container,
        encoder=format_.encoder,
        bit_rate=bit_rate or None,
    )
    decoded = io.read(data).samples[format_.delay_samples :] / gain
    fitted = np.zeros(samples.shape[0], dtype=np.float32)
    kept = min(samples.shape[0], decoded.shape[0])
    fitted[:kept] = decoded[:kept]
    return fitted


def band_limited(
    samples: NDArray[np.float32], low_hz: float, high_hz: float, *, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """Keep a band of frequencies, with slopes of 100 Hz outside it; nothing moves in time."""
    count = samples.shape[0]
    size = 1 << (2 * count - 1).bit_length()  # room for ringing, so that the end stays the end
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    rise = np.clip((frequencies - low_hz) / _BAND_EDGE_HZ + 1, 0, 1)
    fall = np.clip((high_hz - frequencies) / _BAND_EDGE_HZ + 1, 0, 1)
    slopes = np.square(np.sin(np.pi / 2 * rise) * np.sin(np.pi / 2 * fall))
    return np.fft.irfft(np.fft.rfft(samples, size) * slopes, size)[:count].astype(np.float32)


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except UnknownCodecError:
        return False
    return True
