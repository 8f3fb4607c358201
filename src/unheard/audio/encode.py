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
    scaled = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    memory = io.BytesIO()
    with av.open(memory, "w", format=_CONTAINERS[codec], container_options=_OPTIONS) as container:
        stream = container.add_stream(_ENCODERS[codec], rate=SAMPLE_RATE, layout="mono")
        if not isinstance(stream, AudioStream):
            raise RuntimeError(f"the encoder {_ENCODERS[codec]} makes no sound")
        stream.codec_context.format = av.AudioFormat("s16")
        stream.codec_context.thread_count = 1
        if codec == "opus":
            stream.bit_rate = opus_kilobits * 1000
        frame = av.AudioFrame.from_ndarray(scaled[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return memory.getvalue()
