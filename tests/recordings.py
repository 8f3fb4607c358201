"""Recordings made by code at test time: sound, encoded files, and headers written by hand."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def sound(seconds: float, rate: int, *, channels: int = 1, seed: int = 0) -> NDArray[np.float64]:
    """Sweeps below 3 kHz and a little noise: (channels, samples), peak below 0.7."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    rows = []
    for channel in range(channels):
        low, high = 150 + 60 * channel, 900 + 200 * channel
        phase = 2 * np.pi * (low * time + (high - low) * np.sin(time) ** 2)
        rows.append(0.4 * np.sin(phase) * np.sin(3 * time + channel) ** 2)
    noise = 0.005 * generator.standard_normal((channels, time.shape[0]))
    return np.stack(rows) + noise


def encode(
    samples: NDArray[np.floating],
    rate: int,
    codec: str,
    container: str,
    *,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    path: Path | None = None,
    tracks: int = 1,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Encode (channels, samples) with PyAV; through `path` where a muxer must read back."""
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[samples.shape[0]]
    memory = io.BytesIO()
    output = av.open(
        str(path) if path else memory, "w", format=container, options=dict(options or {})
    )
    output.metadata.update(metadata or {})
    streams = []
    for _ in range(tracks):
        stream = output.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        if bit_rate:
            stream.bit_rate = bit_rate
        streams.append(stream)
    for stream in streams:
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=stream.codec_context.sample_rate
        )
        step = rate
        for start in range(0, samples.shape[1], step):
            chunk = samples[:, start : start + step].T.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(chunk.reshape(1, -1), format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            frame.time_base = Fraction(1, rate)
            for converted in resampler.resample(frame):
                output.mux(stream.encode(converted))
        for converted in resampler.resample(None):
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    output.close()
    return path.read_bytes() if path else memory.getvalue()


def video_without_sound() -> bytes:
    """A quarter of a second of grey MPEG-4 video."""
    memory = io.BytesIO()
    output = av.open(memory, "w", format="mp4")
    stream = output.add_stream("mpeg4", rate=8)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    for index in range(2):
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24")
        frame.pts = index
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    output.close()
    return memory.getvalue()


def wav(
    data: bytes,
    *,
    rate: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    data_bytes: int | None = None,
    riff_bytes: int | None = None,
    valid_bits: int | None = None,
) -> bytes:
    """A WAV file with any header at all; `valid_bits` writes the extensible form."""
    block = channels * ((bits + 7) // 8)
    layout = struct.pack(
        "<HHIIHH",
        0xFFFE if valid_bits else tag,
        channels,
        rate,
        rate * block & 0xFFFFFFFF,
        block & 0xFFFF,
        bits,
    )
    if valid_bits:
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        layout += struct.pack("<HHI", 22, valid_bits, 0) + guid
    size = len(data) if data_bytes is None else data_bytes
    riff = 4 + 8 + len(layout) + 8 + size if riff_bytes is None else riff_bytes
    return (
        b"RIFF"
        + struct.pack("<I", riff & 0xFFFFFFFF)
        + b"WAVEfmt "
        + struct.pack("<I", len(layout))
        + layout
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def pcm16(samples: NDArray[np.floating]) -> bytes:
    """(channels, samples) as interleaved little-endian 16-bit samples."""
    return np.clip(np.rint(samples.T * 32768), -32768, 32767).astype("<i2").tobytes()
