"""Mono samples to the bytes of a FLAC or Opus file."""

import io
from typing import Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from unheard.audio.signal import SAMPLE_RATE
from unheard.errors import ShapeError

Codec = Literal["flac", "opus"]

SUFFIXES: dict[Codec, str] = {"flac": "flac", "opus": "opus"}
"""Suffix of the files of each codec."""

_CONTAINERS = {"flac": "flac", "opus": "ogg"}
_ENCODERS = {"flac": "flac", "opus": "libopus"}
_OPTIONS = {
    # Without it the numbers of Ogg streams are drawn at random.
    "fflags": "bitexact",
    # FLAC files otherwise get 8 kB of room for tags.
    "metadata_header_padding": "0",
}


def encode(samples: NDArray[np.floating], codec: Codec, *, opus_kilobits: int = 32) -> bytes:
    """Encode speech at 16 kHz; the same samples give the same bytes.

    Args:
        samples: (samples,) mono at 16 kHz, nominally within -1 .. 1; more is clipped.
        codec: "flac" keeps 16 bits exactly; "opus" keeps what is heard, in a tenth of the bytes.
        opus_kilobits: bit rate of Opus [kbit/s].

    Raises:
        ShapeError: if there are no samples, or they are not one-dimensional.
    """
    if samples.ndim != 1 or samples.shape[0] == 0:
        raise ShapeError(
            f"encode takes mono sound: expected shape (samples,) with at least one, found "
            f"{samples.shape}."
        )
    return encode_with(
        samples,
        sample_rate=SAMPLE_RATE,
        container=_CONTAINERS[codec],
        encoder=_ENCODERS[codec],
        bit_rate=opus_kilobits * 1000 if codec == "opus" else None,
    )


def encode_with(
    samples: NDArray[np.floating],
    *,
    sample_rate: int,
    container: str,
    encoder: str,
    bit_rate: int | None,
) -> bytes:
    """Encode with any encoder of FFmpeg that takes 16-bit samples.

    Args:
        samples: (samples,) mono, nominally within -1 .. 1; more is clipped.
        sample_rate: of the samples and of the file [Hz].
        container: FFmpeg's name of the format.
        encoder: FFmpeg's name of the encoder.
        bit_rate: [bit/s]; None leaves it to the encoder.
    """
    scaled = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    memory = io.BytesIO()
    with av.open(memory, "w", format=container, container_options=_OPTIONS) as file:
        stream = file.add_stream(encoder, rate=sample_rate, layout="mono")
        if not isinstance(stream, AudioStream):
            raise RuntimeError(f"the encoder {encoder} makes no sound")
        stream.codec_context.format = av.AudioFormat(_sample_format(encoder))
        stream.codec_context.thread_count = 1
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(scaled[None], format="s16", layout="mono")
        frame.sample_rate = sample_rate
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return memory.getvalue()


def _sample_format(encoder: str) -> str:
    """Choose the 16-bit form that an encoder takes: packed, or one channel after another."""
    formats = [form.name for form in av.Codec(encoder, "w").audio_formats or ()]
    return "s16" if "s16" in formats or "s16p" not in formats else "s16p"
