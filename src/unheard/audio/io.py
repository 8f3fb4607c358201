"""Guarded decoding of any recording to mono samples, and writing of WAV files.

A recording is untrusted input. Every source, whatever it was given as, reaches the decoder as an
object that can read, seek and tell and nothing else: no name, no path, no URL. Containers and
codecs are taken from lists of allowed ones; rates, channel counts, decoded bytes and seconds are
checked while decoding, never believed from a header. What was odd about a recording comes back
as short codes in `warnings`; what cannot be read raises `AudioError` with a reason.

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
import errno
import io
import math
import os
import stat
import wave
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
import av.error
import numpy as np
import soxr
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream as AvAudioStream
from av.container import InputContainer
from av.stream import Discard
from numpy.typing import NDArray

from unheard.audio import headers
from unheard.audio.signal import SAMPLE_RATE, Waveform
from unheard.errors import AudioError, ConfigError, ShapeError
from unheard.files import atomic_path

AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""What a recording may be given as: a path, the bytes of a file, or a binary file object."""

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

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 32
MIN_SECONDS = 0.025
"""The receptive field of the wav2vec family; less sound makes no frame."""

_DEMUXERS = "wav,w64,aiff,flac,ogg,mp3,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,amr,caf,au"
_CODECS = frozenset(
    {
        "aac",
        "aac_fixed",
        "aac_latm",
        "alac",
        "amrnb",
        "amrwb",
        "flac",
        "gsm",
        "gsm_ms",
        "libgsm",
        "libgsm_ms",
        "libopencore_amrnb",
        "libopencore_amrwb",
        "libopus",
        "libspeex",
        "libvorbis",
        "mp1",
        "mp1float",
        "mp2",
        "mp2float",
        "mp3",
        "mp3float",
        "opus",
        "speex",
        "vorbis",
    }
)
_CODEC_FAMILIES = ("pcm_", "adpcm_")
_NO_STATED_LENGTH = frozenset({"aac", "amr"})
"""Containers without a length in their header: the decoder guesses one from the bit rate."""

_OPEN_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    "protocol_whitelist": "",
    "probesize": "5000000",
    "max_streams": "64",
    # Raw samples in a WAV file are otherwise searched for hidden DTS: 4 ms a file.
    "max_probe_packets": "1",
}
_TIMEOUT_SECONDS = 20.0
_READ_BYTES = 1 << 16
_HEAD_BYTES = 1 << 16
_BLOCK_SAMPLES = 1 << 16
_ABSURD = float(1 << 16)
"""Beyond the largest sample that a float file with 16-bit integer scale holds."""

_EXACT_SECONDS = 0.2
"""An exact header agrees with the samples within the run-in of any codec."""

_SEEK_SECONDS = 5.0
_PREROLL_SECONDS = 1
_RESAMPLER_SECONDS = 0.1
_RUN_IN_ERRORS = 8

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
_DECODER_ERRORS = (
    av.error.FFmpegError,
    ValueError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
)
_VANISHED = frozenset({errno.ENOENT, errno.ESTALE, errno.ENODEV, errno.ENXIO})


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """How much of one recording is decoded at most; None is no limit.

    Attributes:
        max_seconds: decoded sound; more is refused as "too_long".
        max_pcm_bytes: decoded samples in the codec's own format, all channels; more is refused
            as "too_long". Bounds the work that a small forged file can ask for.
        max_consecutive_errors: bad packets in a row after which decoding stops; what was decoded
            before them is kept, with the warning "partial".
    """

    max_seconds: float | None = None
    max_pcm_bytes: int | None = None
    max_consecutive_errors: int = 200


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
    seeking; their samples then differ from those of the whole by rounding (PCM, FLAC) or by the
    memory of the codec (lossy formats).

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
    with _open(source, whole=True) as opened:
        decoder = _Decoder(opened, sample_rate=sample_rate, limits=limits)
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
        self._stack = contextlib.ExitStack()
        opened = self._stack.enter_context(_open(source, whole=True))
        self.info = _describe(opened)
        self._decoder = _Decoder(opened, sample_rate=sample_rate, limits=limits)
        self._blocks = self._decoder.blocks()
        self._stack.callback(self._blocks.close)

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
    with _open(source, whole=False) as opened:
        info = _describe(opened)
        if info.duration_seconds is not None:
            return info
        duration = _duration_from_packets(opened)
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
    path: str | os.PathLike[str], samples: NDArray[np.floating], sample_rate: int
) -> None:
    """Write mono samples as 16-bit PCM, whole or not at all.

    Args:
        path: of the file; replaced if there is one.
        samples: (samples,) nominally within -1 .. 1; more is clipped.
        sample_rate: [Hz].

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
            f"{_quoted(path)} was not written: expected finite samples, found NaN or infinity.",
            reason="nonfinite",
        )
    scaled = np.clip(np.rint(values * 32768.0), -32768, 32767).astype("<i2")
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(scaled.tobytes())


class _GuardedSource:
    """All that the decoder ever sees of a recording: read, seek and tell.

    The first error of the underlying file is kept in `error`, because the decoder may turn it
    into an end of file.
    """

    __slots__ = ("_file", "error")

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        # The decoder copies what is returned into a buffer of `size` bytes without a check.
        try:
            data = bytes(self._file.read(size) or b"")
        except Exception as error:
            self.error = self.error or error
            raise
        if len(data) > size:
            self.error = ValueError(f"read({size}) returned {len(data)} bytes")
            raise self.error
        return data


class _GuardedSeekableSource(_GuardedSource):
    __slots__ = ()

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except Exception as error:
            self.error = self.error or error
            raise

    def tell(self) -> int:
        return self._file.tell()


class _Window:
    """A stretch of a seekable file as a file of its own."""

    def __init__(self, file: Any, start: int, end: int) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._position = 0

    def read(self, size: int) -> bytes:
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(size, self._end - self._start - self._position)))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._position, 2: self._end - self._start}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position


@dataclass(frozen=True, kw_only=True)
class _File:
    """A source as a file object, with what its first bytes are.

    Attributes:
        file: read, and where `num_bytes` is known also seek and tell.
        label: for messages.
        num_bytes: None for a file object that cannot seek.
        head: the first bytes; empty for a file object that cannot seek.
    """

    file: Any
    label: str
    num_bytes: int | None
    head: bytes


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A container with the stream to decode.

    Attributes:
        later: further links of a chained Ogg file.
        is_cut: whether an Ogg file ends inside a page.
    """

    container: InputContainer
    stream: AvAudioStream
    context: AudioCodecContext
    source: _GuardedSource
    file: _File
    later: tuple[_File, ...] = ()
    is_cut: bool = False


@contextlib.contextmanager
def _open(source: AudioSource, *, whole: bool) -> Generator[_Opened]:
    """Open a source under the guard and choose its audio stream.

    Args:
        source: path, bytes or binary file object.
        whole: find the links of a chained Ogg file, which takes a walk through it.
    """
    with contextlib.ExitStack() as stack:
        file = _open_file(source, stack)
        wav = headers.wav_format(file.head)
        if wav is not None:
            _check_format(wav.sample_rate, wav.channels, file.label)
        if not (whole and file.head.startswith(b"OggS") and file.num_bytes):
            yield stack.enter_context(_open_container(file))
            return
        try:
            links = headers.ogg_links(file.file)
        except OSError as error:
            raise _os_error(file.label, error) from error
        files = _split(file, links.starts)
        opened = stack.enter_context(_open_container(files[0]))
        yield replace(opened, later=files[1:], is_cut=links.is_cut)


def _split(file: _File, starts: tuple[int, ...]) -> tuple[_File, ...]:
    """The links of a chained file as files; the file itself if there is one link."""
    if len(starts) == 1 or file.num_bytes is None:
        return (file,)
    ends = (*starts[1:], file.num_bytes)
    return tuple(
        _File(
            file=_Window(file.file, start, end),
            label=file.label,
            num_bytes=end - start,
            head=file.head if start == 0 else b"",
        )
        for start, end in zip(starts, ends, strict=True)
    )


def _open_file(source: AudioSource, stack: contextlib.ExitStack) -> _File:
    file, label = _binary_file(source, stack)
    if not _is_seekable(file):
        return _File(file=file, label=label, num_bytes=None, head=b"")
    try:
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        file.seek(0)
    except OSError as error:
        raise _os_error(label, error) from error
    if num_bytes == len(head):
        file = io.BytesIO(head)
    return _File(file=file, label=label, num_bytes=num_bytes, head=head)


@contextlib.contextmanager
def _open_container(file: _File) -> Generator[_Opened]:
    guarded = (_GuardedSource if file.num_bytes is None else _GuardedSeekableSource)(file.file)
    with contextlib.ExitStack() as stack:
        try:
            if file.num_bytes is not None:
                file.file.seek(0)
            container = stack.enter_context(
                av.open(
                    guarded,
                    mode="r",
                    container_options=_OPEN_OPTIONS,
                    metadata_errors="replace",
                    buffer_size=_READ_BYTES,
                    timeout=_TIMEOUT_SECONDS,
                    io_open=_refuse_to_open,
                )
            )
        except (*_DECODER_ERRORS, OSError) as error:
            raise _unreadable(file.label, guarded, error) from error
        stream, context = _choose_stream(container, file.label)
        context.thread_count = 1
        for other in container.streams:
            other.discard = Discard.default if other is stream else Discard.all
        yield _Opened(
            container=container, stream=stream, context=context, source=guarded, file=file
        )


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:  # noqa: ARG001
    """Called by the decoder when a file refers to another one; there are no others."""
    raise PermissionError("a recording may not refer to other files")


def _binary_file(source: AudioSource, stack: contextlib.ExitStack) -> tuple[Any, str]:
    """Turn any kind of source into a file object and a label for messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), f"{len(source)} bytes of audio"
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(_open_regular(source)), _quoted(source)
    if not callable(getattr(source, "read", None)) or isinstance(source, io.TextIOBase):
        raise ConfigError(
            "A recording was given as something unknown: expected a path, bytes or a binary file "
            f"object, found {type(source).__name__}."
        )
    return source, "the given file object"


def _open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a path if it is a regular file; never wait for a pipe or touch a device.

    Raises:
        AudioError: "vanished", "permission" or "not_regular".
    """
    label = _quoted(path)
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    try:
        # Looked at before opening, since opening a device can do things; and after, since the
        # name may mean something else by then.
        _check_regular(Path(path).stat().st_mode, label)
        descriptor = os.open(path, flags)
        try:
            _check_regular(os.fstat(descriptor).st_mode, label)
            return io.FileIO(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:
        raise _os_error(label, error) from error


def _check_regular(mode: int, label: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise AudioError(
            f"{label} is not a regular file: expected a recording, found {kind}. "
            "Copy the sound to a file first.",
            reason="not_regular",
        )


def _os_error(label: str, error: Exception) -> AudioError:
    """The AudioError for a failed open or read of a file."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, PermissionError):
        return AudioError(
            f"{label} may not be read: {_reason_text(error)}. Change its permissions.",
            reason="permission",
        )
    if number == errno.ELOOP:
        return AudioError(
            f"{label} is a symbolic link that leads back to itself. Remove the link.",
            reason="not_regular",
        )
    if number in _VANISHED or isinstance(error, FileNotFoundError | NotADirectoryError):
        return AudioError(
            f"{label} is not there: {_reason_text(error)}. Check the path, or scan again.",
            reason="vanished",
        )
    return AudioError(
        f"{label} could not be read: {_reason_text(error)}.",
        reason="unreadable",
    )


def _reason_text(error: BaseException) -> str:
    """What an error says, without the file name that the label already has."""
    text = getattr(error, "strerror", None)
    return str(text) if text else str(error) or type(error).__name__


def _quoted(path: str | os.PathLike[str]) -> str:
    """A path for messages: on one line, with odd characters escaped."""
    return repr(os.fspath(path))


def _is_seekable(file: Any) -> bool:
    if not (callable(getattr(file, "seek", None)) and callable(getattr(file, "tell", None))):
        return False
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if callable(seekable) else True


def _unreadable(label: str, source: _GuardedSource, error: Exception) -> AudioError:
    """The AudioError for a container that does not open or yields nothing."""
    if isinstance(source.error, OSError):
        return _os_error(label, source.error)
    return AudioError(
        f"{label} cannot be read as sound: expected one of wav, flac, mp3, m4a, ogg, webm, mp4, "
        f"mkv, aiff, au, amr, caf; the decoder says: {_reason_text(error)}. "
        "Play it, or convert it to FLAC or WAV.",
        reason="unreadable",
    )


def _choose_stream(
    container: InputContainer, label: str
) -> tuple[AvAudioStream, AudioCodecContext]:
    """The first audio stream whose codec is allowed, with a plausible rate and channel count."""
    refused: list[str] = []
    for stream in container.streams:
        if stream.type != "audio":
            continue
        context = stream.codec_context
        if not isinstance(stream, AvAudioStream) or not isinstance(context, AudioCodecContext):
            refused.append("one that this build cannot decode")
            continue
        name = context.name
        if name not in _CODECS and not name.startswith(_CODEC_FAMILIES):
            refused.append(name)
            continue
        # A stream without parameters yet (0) gets them from its first frame.
        _check_format(context.sample_rate, context.channels, label, header=True)
        return stream, context
    if refused:
        raise AudioError(
            f"{label} holds sound in a codec that is not allowed: found {', '.join(refused[:5])}. "
            "Convert it to FLAC or WAV.",
            reason="codec_not_allowed",
        )
    raise AudioError(
        f"{label} holds no sound: expected an audio stream, found "
        f"{', '.join(sorted({s.type for s in container.streams})) or 'none'}.",
        reason="no_audio_stream",
    )


def _check_format(rate: int, channels: int, label: str, *, header: bool = False) -> None:
    if not (MIN_RATE_HZ <= rate <= MAX_RATE_HZ) and not (header and rate == 0):
        raise AudioError(
            f"{label} has a sample rate that no recording has: expected {MIN_RATE_HZ} to "
            f"{MAX_RATE_HZ} Hz, found {rate} Hz. Its header may be damaged.",
            reason="sample_rate",
        )
    if not (1 <= channels <= MAX_CHANNELS) and not (header and channels == 0):
        raise AudioError(
            f"{label} has a channel count that no recording has: expected 1 to {MAX_CHANNELS}, "
            f"found {channels}. Its header may be damaged.",
            reason="channels",
        )


def _describe(opened: _Opened) -> AudioInfo:
    rate, channels = opened.context.sample_rate, opened.context.channels
    _check_format(rate, channels, opened.file.label)
    duration = _stated_duration(opened)
    frame_bits = (_pcm_bits(opened.context.name) or 0) * channels
    if duration is not None and frame_bits and opened.file.num_bytes is not None:
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


def _stated_duration(opened: _Opened) -> Fraction | None:
    """What the header says [s]."""
    stream, container, context = opened.stream, opened.container, opened.context
    if container.format.name in _NO_STATED_LENGTH:
        return None
    if stream.duration is not None and stream.time_base is not None:
        duration = stream.duration * stream.time_base
    elif container.duration is not None:
        duration = Fraction(container.duration, av.time_base)
    else:
        return None
    if context.name.endswith("opus") and container.format.name != "mov,mp4,m4a,3gp,3g2,mj2":
        duration -= _opus_pre_skip(context)
    return duration if duration > 0 else None


def _opus_pre_skip(context: AudioCodecContext) -> Fraction:
    """The decoder's run-in, which Ogg and Matroska count as part of the length [s].

    Source: RFC 7845, sec. 5.1: bytes 10 and 11 of the identification header, at 48 kHz.
    """
    header = context.extradata or b""
    return Fraction(int.from_bytes(header[10:12], "little"), 48_000)


def _pcm_bits(codec: str) -> int | None:
    """Bits of one stored sample of a PCM codec, from its name; None for other codecs."""
    if codec in {"pcm_alaw", "pcm_mulaw"}:
        return 8
    digits = "".join(c for c in codec.removeprefix("pcm_").split("_")[0] if c.isdigit())
    return int(digits) if codec.startswith("pcm_") and digits else None


def _duration_from_packets(opened: _Opened) -> Fraction | None:
    """The end of the last packet minus the start of the first [s]."""
    first: int | None = None
    end: int | None = None
    try:
        for packet in opened.container.demux(opened.stream):
            if packet.pts is None:
                continue
            first = packet.pts if first is None else min(first, packet.pts)
            last = packet.pts + (packet.duration or 0)
            end = last if end is None else max(end, last)
    except (*_DECODER_ERRORS, OSError) as error:
        if isinstance(opened.source.error, OSError):
            raise _unreadable(opened.file.label, opened.source, error) from error
    if first is None or end is None or opened.stream.time_base is None:
        return None
    return (end - first) * opened.stream.time_base


class _Decoder:
    """The state of decoding one recording to mono at one rate."""

    def __init__(self, opened: _Opened, *, sample_rate: int, limits: DecodeLimits) -> None:
        self.warnings: set[str] = set()
        self._opened = opened
        self._rate_out = sample_rate
        self._limits = limits
        self._errors = 0
        self._is_cut = opened.is_cut
        self._start_seconds = 0.0
        self._seconds = 0.0
        self._pcm_bytes = 0
        self._claims: list[tuple[float, float] | None] = []

    def blocks(self, *, skip_samples: int = 0) -> Generator[NDArray[np.float32]]:
        """Mono blocks at the output rate, the first `skip_samples` left out."""
        skip, drop = skip_samples, 0
        with contextlib.ExitStack() as stack:
            if skip > _SEEK_SECONDS * self._rate_out and self._can_seek():
                landed = self._seek(skip)
                if landed is None:
                    self._opened = stack.enter_context(_open_container(self._opened.file))
                else:
                    skip, drop = landed
            for block in self._resampled(drop):
                if skip >= block.shape[0]:
                    skip -= block.shape[0]
                    continue
                yield block[skip:] if skip else block
                skip = 0

    def _can_seek(self) -> bool:
        return self._opened.file.num_bytes is not None and not self._opened.later

    def _seek(self, skip: int) -> tuple[int, int] | None:
        """Go to shortly before output sample `skip`.

        Returns:
            How many samples to leave out: after resampling, and before; None if the container
            does not say where it is. The second count ends on the grid that both rates share, so
            that the output samples stay where they are in the whole recording.
        """
        container, stream = self._opened.container, self._opened.stream
        first = self._next_frame()
        if first is None or first.pts is None or first.time_base is None:
            return None
        rate_in = first.sample_rate
        grid_in = rate_in // math.gcd(rate_in, self._rate_out)
        grid_out = self._rate_out // math.gcd(rate_in, self._rate_out)
        grids = int((skip / self._rate_out - _RESAMPLER_SECONDS) * rate_in / grid_in)
        start_seconds = Fraction(grids * grid_in, rate_in)
        target = first.pts + math.floor((start_seconds - _PREROLL_SECONDS) / first.time_base)
        landed: AudioFrame | None = None
        try:
            container.seek(target, stream=stream)
            landed = self._next_frame()
            container.seek(target, stream=stream)
        except _DECODER_ERRORS:
            return None
        if landed is None or landed.pts is None or landed.time_base != first.time_base:
            return None
        position = round((landed.pts - first.pts) * first.time_base * rate_in)
        if not 0 <= position <= grids * grid_in or landed.sample_rate != rate_in:
            return None
        self._start_seconds = float(start_seconds)
        return skip - grids * grid_out, grids * grid_in - position

    def _next_frame(self) -> AudioFrame | None:
        """The next frame that can be decoded, a few damaged packets on."""
        damaged = 0
        for packet in self._opened.container.demux(self._opened.stream):
            try:
                frames = packet.decode()
            except _DECODER_ERRORS:
                damaged += 1
                if damaged > _RUN_IN_ERRORS:
                    return None
                continue
            if frames:
                return frames[0]
        return None

    def _resampled(self, drop: int) -> Generator[NDArray[np.float32]]:
        resampler: soxr.ResampleStream | None = None
        rate_in = self._rate_out
        for block, rate in self._mono_blocks():
            mono = block
            if drop:
                mono = block[drop:]
                drop -= block.shape[0] - mono.shape[0]
            if rate != rate_in:
                if resampler is not None:
                    yield from _flush(resampler)
                rate_in = rate
                resampler = None
                if rate != self._rate_out:
                    resampler = soxr.ResampleStream(
                        rate, self._rate_out, 1, dtype="float32", quality="HQ"
                    )
            if resampler is not None:
                mono = resampler.resample_chunk(mono)
            if mono.shape[0]:
                yield mono
        if resampler is not None:
            yield from _flush(resampler)

    def _mono_blocks(self) -> Generator[tuple[NDArray[np.float32], int]]:
        """Mono blocks at the rate of the recording, with that rate [Hz]."""
        fifo = AudioFifo()
        rate = channels = 0
        sample_format = ""
        for frame in self._frames():
            # The buffer copies as many planes as its first frame had, so a change must be seen.
            if (
                frame.sample_rate != rate
                or frame.layout.nb_channels != channels
                or frame.format.name != sample_format
            ):
                if rate:
                    self.warnings.add("format_changed")
                    if fifo.samples:
                        yield self._to_mono(fifo.read()), rate
                fifo = AudioFifo()
                rate, channels = frame.sample_rate, frame.layout.nb_channels
                sample_format = frame.format.name
                _check_format(rate, channels, self._opened.file.label)
            frame.pts = None
            fifo.write(frame)
            if fifo.samples >= _BLOCK_SAMPLES:
                yield self._to_mono(fifo.read()), rate
        if rate and fifo.samples:
            yield self._to_mono(fifo.read()), rate
        self._finish()

    def _frames(self) -> Generator[AudioFrame]:
        """Every frame of every link that can be decoded; what cannot is counted."""
        later = self._opened.later
        yield from self._frames_of_link()
        for link in later:
            try:
                with _open_container(link) as opened:
                    self._opened = opened
                    yield from self._frames_of_link()
            except AudioError as error:
                if error.reason not in {"unreadable", "no_audio_stream", "codec_not_allowed"}:
                    raise
                self._count(error)
                self.warnings.add("partial")

    def _frames_of_link(self) -> Generator[AudioFrame]:
        opened = self._opened
        self._claims.append(_claim(opened))
        # After a seek the first packets may lack what they lean on.
        forgiven = _RUN_IN_ERRORS if self._start_seconds else 0
        in_a_row = 0
        while in_a_row <= self._limits.max_consecutive_errors:
            try:
                for packet in opened.container.demux(opened.stream):
                    try:
                        frames = packet.decode()
                    except (av.error.PatchWelcomeError, EOFError):
                        raise
                    except _DECODER_ERRORS as error:
                        if forgiven:
                            forgiven -= 1
                            continue
                        self._count(error)
                        in_a_row += 1
                        if in_a_row > self._limits.max_consecutive_errors:
                            break
                        continue
                    if frames:
                        in_a_row = forgiven = 0
                        yield from frames
                else:
                    return
            except EOFError:
                return
            except av.error.PatchWelcomeError as error:
                self._count(error)
                break
            except (*_DECODER_ERRORS, OSError) as error:
                self._count(error)
                in_a_row += 1
        self.warnings.add("partial")

    def _count(self, error: Exception) -> None:
        if isinstance(self._opened.source.error, OSError):
            raise _os_error(self._opened.file.label, self._opened.source.error) from error
        self._errors += 1
        self.warnings.add("decode_errors")

    def _to_mono(self, frame: AudioFrame | None) -> NDArray[np.float32]:
        if frame is None:
            return np.zeros(0, dtype=np.float32)
        channels = _channels(frame)
        self._check_limits(frame, channels)
        with np.errstate(over="ignore", invalid="ignore"):
            mono = _average(channels)
            if channels[0].dtype.kind == "f":
                peak = max(mono.max(), -mono.min())
                if not peak <= _ABSURD:
                    mono = _average([self._repaired(channel) for channel in channels])
        return mono

    def _repaired(self, channel: NDArray[np.floating]) -> NDArray[np.floating]:
        finite = np.isfinite(channel)
        if not finite.all():
            self.warnings.add("nonfinite")
            channel = np.where(finite, channel, 0)
        absurd = np.abs(channel) > _ABSURD
        if absurd.any():
            self.warnings.add("clipped")
            channel = np.where(absurd, np.sign(channel), channel)
        return channel

    def _check_limits(self, frame: AudioFrame, channels: list[NDArray[Any]]) -> None:
        limits, label = self._limits, self._opened.file.label
        self._seconds += frame.samples / frame.sample_rate
        self._pcm_bytes += frame.samples * len(channels) * channels[0].itemsize
        if limits.max_seconds is not None and self._seconds > limits.max_seconds:
            raise AudioError(
                f"{label} is too long: expected at most {limits.max_seconds:g} s of "
                "sound, found more. Cut it, or raise the limit.",
                reason="too_long",
            )
        if limits.max_pcm_bytes is not None and self._pcm_bytes > limits.max_pcm_bytes:
            raise AudioError(
                f"{label} is too long: expected at most {limits.max_pcm_bytes} "
                "decoded bytes, found more. Cut it, or raise the limit.",
                reason="too_long",
            )

    def _finish(self) -> None:
        """Compare what was decoded with what the header said."""
        opened = self._opened
        if isinstance(opened.source.error, OSError):
            raise _os_error(opened.file.label, opened.source.error)
        if not self._seconds and self._errors:
            raise AudioError(
                f"{opened.file.label} holds no sound that can be decoded: {self._errors} packets, "
                "all of them damaged.",
                reason="unreadable",
            )
        self._compare_with_claims()

    def _compare_with_claims(self) -> None:
        file = self._opened.file
        decoded = self._start_seconds + self._seconds
        if (
            file.head
            and self._opened.container.format.name in {"mp3", "aac"}
            and not headers.starts_with_frame(file.head)
        ):
            self.warnings.add("decode_errors")
        missing = headers.data_bytes_missing(file.head, file.num_bytes or 0)
        if missing and missing * decoded > _EXACT_SECONDS * (file.num_bytes or 0):
            self.warnings.add("truncated")
        if self._is_cut:
            self.warnings.add("truncated")
        claims = [claim for claim in self._claims if claim is not None]
        if len(claims) < len(self._claims):
            return
        claimed = sum(seconds for seconds, _ in claims)
        tolerance = sum(tolerance for _, tolerance in claims)
        if decoded < claimed - tolerance:
            self.warnings.add("truncated")
            if not self._seconds:
                raise AudioError(
                    f"{file.label} holds no sound that can be decoded: its header says "
                    f"{claimed:.1f} s.",
                    reason="unreadable",
                )
        elif decoded > claimed + tolerance:
            self.warnings.add("header_mismatch")


def _claim(opened: _Opened) -> tuple[float, float] | None:
    """The length that the header claims [s] and how far it may be off [s]; None for a guess."""
    stream, container = opened.stream, opened.container
    if container.format.name in _NO_STATED_LENGTH:
        return None
    if container.format.name == "mp3":
        known = headers.mp3_states_length(opened.file.head)
        if known is False:
            return None
        is_exact = known is True
    else:
        # A container's own length covers its pictures too.
        is_exact = stream.duration is not None or all(s.type == "audio" for s in container.streams)
    duration = _stated_duration(opened)
    if duration is None:
        return None
    seconds = float(duration)
    return seconds, _EXACT_SECONDS if is_exact else max(1.0, 0.05 * seconds)


def _channels(frame: AudioFrame) -> list[NDArray[Any]]:
    """The channels of a frame, each (samples,), in the sample type of the codec."""
    array = frame.to_ndarray()
    if frame.format.is_planar:
        return list(array)
    count = frame.layout.nb_channels
    return [array[0, channel::count] for channel in range(count)]


def _average(channels: list[NDArray[Any]]) -> NDArray[np.float32]:
    """The mean of the channels, full scale = 1.

    Averaged here because the decoder's own down-mix to mono in floating point keeps power, not
    amplitude: two equal channels come out 3 dB louder.
    """
    first = channels[0]
    offset, scale = 0.0, 1.0
    if first.dtype.kind == "u":
        scale = offset = float(1 << (8 * first.dtype.itemsize - 1))
    elif first.dtype.kind == "i":
        scale = float(1 << (8 * first.dtype.itemsize - 1))
    # Sums of up to 32 channels of 16 bits are exact in float32; wider ones are not.
    precision = np.float64 if first.dtype.itemsize > 2 and first.dtype != np.float32 else np.float32
    total = first.astype(precision)
    for channel in channels[1:]:
        total += channel
    if offset:
        total -= offset * len(channels)
    if scale * len(channels) != 1.0:
        total *= 1.0 / (scale * len(channels))
    return total.astype(np.float32, copy=False)


def _flush(resampler: soxr.ResampleStream) -> Iterator[NDArray[np.float32]]:
    tail = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    if tail.shape[0]:
        yield tail


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
