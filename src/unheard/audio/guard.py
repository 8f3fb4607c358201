"""The guard between recordings and the decoder: what reaches it, and what it may do with it.

A recording is untrusted input. Whatever it was given as, the decoder sees an object that can
read, seek and tell and nothing else: no name, no path, no URL, since names of files are taken for
addresses and some formats name other files. Containers and codecs are taken from lists of allowed
ones. Paths are opened only if they lead to regular files, so a pipe never blocks.
"""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream as AvAudioStream
from av.container import InputContainer
from av.stream import Discard

from unheard.audio import headers
from unheard.errors import AudioError, ConfigError

AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""What a recording may be given as: a path, the bytes of a file, or a binary file object."""

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 32

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

DECODER_ERRORS = (
    av.error.FFmpegError,
    ValueError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
)
_VANISHED = frozenset({errno.ENOENT, errno.ESTALE, errno.ENODEV, errno.ENXIO})


class _GuardedSource:
    """All that the decoder ever sees of a recording: read, seek and tell.

    The first failed read of the underlying file is kept in `error`, because the decoder may turn
    it into an end of file.
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
        # Damaged headers send the decoder to impossible places; it can go on without.
        if whence == os.SEEK_SET and offset < 0:
            return -errno.EINVAL
        return self._file.seek(offset, whence)

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
class SourceFile:
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
class Opened:
    """A container with the stream to decode.

    Attributes:
        later: further links of a chained Ogg file.
        is_cut: whether an Ogg file ends inside a page.
    """

    container: InputContainer
    stream: AvAudioStream
    context: AudioCodecContext
    source: _GuardedSource
    file: SourceFile
    later: tuple[SourceFile, ...] = ()
    is_cut: bool = False


@contextlib.contextmanager
def open_recording(source: AudioSource, *, whole: bool) -> Generator[Opened]:
    """Open a source under the guard and choose its audio stream.

    Args:
        source: path, bytes or binary file object.
        whole: find the links of a chained Ogg file, which takes a walk through it.
    """
    with contextlib.ExitStack() as stack:
        file = _open_file(source, stack)
        wav = headers.wav_format(file.head)
        if wav is not None:
            check_format(wav.sample_rate, wav.channels, file.label)
        if not (whole and file.head.startswith(b"OggS") and file.num_bytes):
            yield stack.enter_context(open_container(file))
            return
        try:
            links = headers.ogg_links(file.file)
        except (OSError, ValueError) as error:
            raise os_error(file.label, error) from error
        files = _split(file, links.starts)
        opened = stack.enter_context(open_container(files[0]))
        yield replace(opened, later=files[1:], is_cut=links.is_cut)


def _split(file: SourceFile, starts: tuple[int, ...]) -> tuple[SourceFile, ...]:
    """The links of a chained file as files; the file itself if there is one link."""
    if len(starts) == 1 or file.num_bytes is None:
        return (file,)
    ends = (*starts[1:], file.num_bytes)
    return tuple(
        SourceFile(
            file=_Window(file.file, start, end),
            label=file.label,
            num_bytes=end - start,
            head=file.head if start == 0 else b"",
        )
        for start, end in zip(starts, ends, strict=True)
    )


def _open_file(source: AudioSource, stack: contextlib.ExitStack) -> SourceFile:
    file, label = _binary_file(source, stack)
    if not _is_seekable(file):
        return SourceFile(file=file, label=label, num_bytes=None, head=b"")
    try:
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = bytes(file.read(_HEAD_BYTES))
        file.seek(0)
    except (OSError, ValueError) as error:
        raise os_error(label, error) from error
    if num_bytes == len(head):
        file = io.BytesIO(head)
    return SourceFile(file=file, label=label, num_bytes=num_bytes, head=head)


@contextlib.contextmanager
def open_container(file: SourceFile) -> Generator[Opened]:
    """Open a file, or one link of it, from its beginning.

    Raises:
        AudioError: "unreadable", "no_audio_stream", "codec_not_allowed", "sample_rate" or
            "channels"; "vanished" or "permission" if the file itself fails.
    """
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
        except (*DECODER_ERRORS, OSError) as error:
            raise unreadable(file.label, guarded, error) from error
        stream, context = _choose_stream(container, file.label)
        context.thread_count = 1
        for other in container.streams:
            other.discard = Discard.default if other is stream else Discard.all
        yield Opened(container=container, stream=stream, context=context, source=guarded, file=file)


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:  # noqa: ARG001
    """Called by the decoder when a file refers to another one; there are no others."""
    raise PermissionError("a recording may not refer to other files")


def _binary_file(source: AudioSource, stack: contextlib.ExitStack) -> tuple[Any, str]:
    """Turn any kind of source into a file object and a label for messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), f"{len(source)} bytes of audio"
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(_open_regular(source)), quoted(source)
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
    label = quoted(path)
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    try:
        # Looked at before opening, since opening a device can do things; and after, since the
        # name may mean something else by then.
        _check_regular(os.stat(path).st_mode, label)  # noqa: PTH116  Path would read "" as "."
        descriptor = os.open(path, flags)
        try:
            _check_regular(os.fstat(descriptor).st_mode, label)
            return io.FileIO(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:
        raise os_error(label, error) from error


def _check_regular(mode: int, label: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise AudioError(
            f"{label} is not a regular file: expected a recording, found {kind}. "
            "Copy the sound to a file first.",
            reason="not_regular",
        )


def os_error(label: str, error: Exception) -> AudioError:
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


def quoted(path: str | os.PathLike[str]) -> str:
    """A path for messages: on one line, with odd characters escaped."""
    return repr(os.fspath(path))


def _is_seekable(file: Any) -> bool:
    if not (callable(getattr(file, "seek", None)) and callable(getattr(file, "tell", None))):
        return False
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if callable(seekable) else True


def unreadable(label: str, source: _GuardedSource, error: Exception) -> AudioError:
    """The AudioError for a container that does not open or yields nothing."""
    if source.error is not None:
        return os_error(label, source.error)
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
        check_format(context.sample_rate, context.channels, label, header=True)
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


def check_format(rate: int, channels: int, label: str, *, header: bool = False) -> None:
    """Refuse a rate or channel count that no recording has.

    Args:
        rate: [Hz].
        channels: count.
        label: of the source, for the message.
        header: whether 0 is taken as not yet known.

    Raises:
        AudioError: "sample_rate" or "channels".
    """
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
