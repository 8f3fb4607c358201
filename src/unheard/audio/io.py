"""Guarded decoding of any recording to mono samples, and writing of WAV files.

A recording is untrusted input: unheard.audio.guard opens it, unheard.audio.decode checks rates,
channel counts, decoded bytes and seconds on the way, never believing a header. What was odd about
a recording comes back as short codes in `warnings`; what cannot be read raises `AudioError` with a
reason.

Warning codes, in the order in which they are given:

    truncated        shorter than its header says, or cut in the middle of a packet
    header_mismatch  longer than its header says
    decode_errors    packets that could not be decoded were left out
    format_changed   rate, channels or sample format changed on the way
    partial          decoding stopped before the end of the recording
    nonfinite        NaN or infinite samples were replaced by zero
    clipped          absurdly large samples were replaced by full scale
    too_short        less than 25 ms of sound

Reasons of `AudioError`: "unreadable", "no_audio_stream", "codec_not_allowed", "sample_rate",
"channels", "too_long", "not_regular", "permission", "vanished".
"""

import contextlib
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unheard.audio.decode import (
    DecodeLimits,
    Decoder,
    duration_from_packets,
    pcm_bits,
    stated_duration,
)
from unheard.audio.guard import (
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    AudioSource,
    Opened,
    check_format,
    open_recording,
    quoted,
)
from unheard.audio.signal import SAMPLE_RATE, Waveform
from unheard.errors import AudioError, ConfigError, ShapeError
from unheard.files import atomic_path

AUDIO_SUFFIXES = frozenset(
    {
        ".3gp",
        ".aac",
        ".aif",
        ".aifc",
        ".aiff",
        ".amr",
        ".au",
        ".caf",
        ".flac",
        ".m4a",
        ".m4b",
        ".mka",
        ".mkv",
        ".mov",
        ".mp3",
        ".mp4",
        ".oga",
        ".ogg",
        ".opus",
        ".snd",
        ".spx",
        ".w64",
        ".wav",
        ".wave",
        ".webm",
    }
)
"""Lower-case suffixes of the files that walks through a folder pick up."""

MIN_SECONDS = 0.025
"""The receptive field of the wav2vec family; less sound makes no frame."""

_WARNING_ORDER = (
    "truncated",
    "header_mismatch",
    "decode_errors",
    "format_changed",
    "partial",
    "nonfinite",
    "clipped",
    "too_short",
)
READ_LIMITS = DecodeLimits(max_seconds=6 * 3600.0)
"""Default of `read`, which holds the whole recording in memory (64 kB a second at 16 kHz)."""

STREAM_LIMITS = DecodeLimits()
"""Default of `stream`, which needs the same memory for any length."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What the header of a recording says; nothing here is checked by decoding.

    Attributes:
        codec: name of the decoder, such as "flac", "mp3float", "pcm_s16le".
        container: name of the container, such as "wav", "ogg", "mov".
        sample_rate: as stored [Hz].
        channels: as stored.
        duration_seconds: None when neither header nor packets tell.
        num_samples: the same at the stored rate; None when the duration is unknown.
    """

    codec: str
    container: str
    sample_rate: int
    channels: int
    duration_seconds: float | None
    num_samples: int | None


def read(
    source: AudioSource,
    *,
    sample_rate: int = SAMPLE_RATE,
    start_seconds: float = 0.0,
    max_seconds: float | None = None,
    limits: DecodeLimits = READ_LIMITS,
) -> Waveform:
    """Decode a recording, or a part of it, into memory.

    The channels are averaged and the result is resampled. A part is cut on the output grid:
    samples `round(start_seconds * sample_rate)` onwards, at most
    `round(max_seconds * sample_rate)` of them. Parts that begin far into a recording are found by
    seeking; their samples then differ from those of the whole by rounding, in AAC also by the noise
    that its decoder draws, and in Matroska and WebM they lie within a millisecond.

    Args:
        source: path, bytes, or binary file object (read from its beginning where it can seek).
        sample_rate: of the result [Hz].
        start_seconds: where the part begins [s]; past the end gives no samples.
        max_seconds: length of the part at most [s]; None is to the end.
        limits: when to refuse.

    Returns:
        The mono waveform with its warnings. Its samples are always finite.

    Raises:
        AudioError: if the source cannot be read; `reason` says why in one word.
        ConfigError: if a setting is out of range.
    """
    _check_settings(sample_rate, start_seconds, max_seconds)
    skip = round(start_seconds * sample_rate)
    wanted = None if max_seconds is None else round(max_seconds * sample_rate)
    with open_recording(source, whole=True) as opened:
        decoder = Decoder(opened, sample_rate=sample_rate, limits=limits)
        blocks: list[NDArray[np.float32]] = []
        collected = 0
        with contextlib.closing(decoder.blocks(skip_samples=skip)) as parts:
            for block in parts:
                blocks.append(block)
                collected += block.shape[0]
                if wanted is not None and collected >= wanted:
                    break
    if not blocks:
        samples = np.zeros(0, dtype=np.float32)
    elif len(blocks) == 1:
        samples = blocks[0]
    else:
        samples = np.concatenate(blocks)
    if wanted is not None:
        samples = samples[:wanted]
    warnings = decoder.warnings
    if samples.shape[0] < MIN_SECONDS * sample_rate:
        warnings |= {"too_short"}
    return Waveform(
        samples=np.ascontiguousarray(samples),
        sample_rate=sample_rate,
        warnings=_in_order(warnings),
    )


def stream(
    source: AudioSource,
    *,
    sample_rate: int = SAMPLE_RATE,
    limits: DecodeLimits = STREAM_LIMITS,
) -> "AudioStream":
    """Decode a recording block by block, in the same memory for any length.

    Args:
        source: path, bytes, or binary file object (read from its beginning where it can seek).
        sample_rate: of the blocks [Hz].
        limits: when to refuse.

    Returns:
        A context manager that is iterated once. The concatenation of its blocks is bit for bit
        what `read` returns.

    Raises:
        AudioError: if the source cannot be opened; later ones are raised by the iteration.
        ConfigError: if a setting is out of range.
    """
    _check_settings(sample_rate, 0.0, None)
    return AudioStream(source, sample_rate=sample_rate, limits=limits)


class AudioStream:
    """A recording being decoded: iterate for float32 mono blocks (samples,), then see warnings.

    Attributes:
        info: what the header says.
        sample_rate: of the blocks [Hz].
        num_samples: given so far.
    """

    def __init__(self, source: AudioSource, *, sample_rate: int, limits: DecodeLimits) -> None:
        self.sample_rate = sample_rate
        self.num_samples = 0
        self._finished = False
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(open_recording(source, whole=True))
            self.info = _describe(opened)
            self._decoder = Decoder(opened, sample_rate=sample_rate, limits=limits)
            self._blocks = self._decoder.blocks()
            stack.callback(self._blocks.close)
            self._stack = stack.pop_all()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd so far; complete once the iteration has ended."""
        found = self._decoder.warnings
        if self._finished and self.num_samples < MIN_SECONDS * self.sample_rate:
            found |= {"too_short"}
        return _in_order(found)

    def close(self) -> None:
        """Stop decoding and release the source."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self

    def __next__(self) -> NDArray[np.float32]:
        try:
            block = next(self._blocks)
        except StopIteration:
            self._finished = True
            self.close()
            raise
        self.num_samples += block.shape[0]
        return block


def probe(source: AudioSource) -> AudioInfo:
    """Say what a recording is from its header, without decoding it.

    When the header has no duration (a browser's WebM, for one) the timestamps of the packets are
    read through to the end, still without decoding.

    Args:
        source: path, bytes, or binary file object (read from its beginning where it can seek).

    Raises:
        AudioError: if it is no recording that `read` would take.
    """
    with open_recording(source, whole=False) as opened:
        check_format(opened.context.sample_rate, opened.context.channels, opened.file.label)
        info = _describe(opened)
        if info.duration_seconds is not None:
            return info
        duration = duration_from_packets(opened)
    if duration is None:
        return info
    return AudioInfo(
        codec=info.codec,
        container=info.container,
        sample_rate=info.sample_rate,
        channels=info.channels,
        duration_seconds=float(duration),
        num_samples=round(duration * info.sample_rate),
    )


def write_wav(
    path: str | os.PathLike[str],
    samples: NDArray[np.floating],
    sample_rate: int,
    *,
    durable: bool = True,
) -> None:
    """Write mono samples as 16-bit PCM, whole or not at all.

    Args:
        path: of the file; replaced if there is one.
        samples: (samples,) nominally within -1 .. 1; more is clipped.
        sample_rate: [Hz].
        durable: wait until the file is on the disk (see `files.atomic_path`).

    Raises:
        ShapeError: if `samples` is not one-dimensional.
        AudioError: if a sample is not finite (reason "nonfinite").
        ConfigError: if the rate is out of range.
    """
    _check_settings(sample_rate, 0.0, None)
    values = np.asarray(samples)
    if values.ndim != 1:
        raise ShapeError(
            f"write_wav takes mono sound: expected shape (samples,), found {values.shape}. "
            "Average the channels first."
        )
    if not np.isfinite(values).all():
        raise AudioError(
            f"{quoted(path)} was not written: expected finite samples, found NaN or infinity.",
            reason="nonfinite",
        )
    scaled = np.clip(np.rint(values * 32768.0), -32768, 32767).astype("<i2")
    with (
        atomic_path(path, durable=durable) as temporary,
        wave.open(str(temporary), "wb") as file,
    ):
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(scaled.tobytes())


def _describe(opened: Opened) -> AudioInfo:
    """The header of a recording; a rate or channel count of 0 is not known before decoding."""
    rate, channels = opened.context.sample_rate, opened.context.channels
    duration = stated_duration(opened)
    frame_bits = (pcm_bits(opened.context.name) or 0) * channels
    if duration is not None and frame_bits and rate and opened.file.num_bytes is not None:
        # A cut file holds less than its header says.
        held = opened.file.num_bytes * 8 // frame_bits
        duration = min(duration, Fraction(held, rate))
    return AudioInfo(
        codec=opened.context.name,
        container=opened.container.format.name.split(",")[0],
        sample_rate=rate,
        channels=channels,
        duration_seconds=None if duration is None else float(duration),
        num_samples=None if duration is None else round(duration * rate),
    )


def _in_order(warnings: set[str]) -> tuple[str, ...]:
    return tuple(code for code in _WARNING_ORDER if code in warnings)


def _check_settings(sample_rate: int, start_seconds: float, max_seconds: float | None) -> None:
    if not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ:
        raise ConfigError(
            f"The sample rate is out of range: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, "
            f"found {sample_rate}."
        )
    if not 0.0 <= start_seconds < float("inf"):
        raise ConfigError(f"start_seconds must be 0 or more and finite, found {start_seconds}.")
    if max_seconds is not None and not max_seconds >= 0.0:
        raise ConfigError(f"max_seconds must be 0 or more, found {max_seconds}.")
