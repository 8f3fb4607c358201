"""Sound that comes while it is heard: a microphone, a pipe, a file at the speed of sound."""

import logging
import os
import queue
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unheard.audio import io
from unheard.audio.signal import SAMPLE_RATE
from unheard.errors import AudioError, FormatError, MissingExtraError

PIECE_SECONDS = 0.1
"""Sound that comes at once [seconds]."""
_PIPE_PIECES = 20
_HEADER_BYTES = 1 << 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Sound, and when it came (`time.monotonic`)."""

    samples: NDArray[np.float32]
    arrived: float


class LiveSource:
    """Sound that another thread puts into a queue.

    Attributes:
        sample_rate: of the sound [Hz].
        is_live: whether it comes at the speed of sound, whoever waits.
        dropped: times that sound was lost before it came here.
    """

    def __init__(self, sample_rate: int, *, is_live: bool) -> None:
        self.sample_rate = sample_rate
        self.is_live = is_live
        self.dropped = 0
        self._told_dropped = 0
        # What can wait is not read far ahead; what cannot is kept, however much.
        self._queue: queue.Queue[Piece | None] = queue.Queue(0 if is_live else _PIPE_PIECES)
        self._closed = threading.Event()
        self._ended = False
        self._fault: Exception | None = None

    def put(self, samples: NDArray[np.float32]) -> bool:
        """Add sound; return whether more is wanted."""
        piece = Piece(samples=samples, arrived=time.monotonic())
        while not self._closed.is_set():
            try:
                self._queue.put(piece, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def end(self, fault: Exception | None = None) -> None:
        """Say that no more comes, and why."""
        self._fault = fault
        while not self._closed.is_set():
            try:
                self._queue.put(None, timeout=0.1)
            except queue.Full:
                continue
            return

    def close(self) -> None:
        """Let the other thread end."""
        self._closed.set()

    def take(self) -> list[Piece] | None:
        """Wait a little for sound and return all that is there; None at the end.

        Raises:
            Exception: whatever ended the sound.
        """
        if self._ended:
            if self._fault is not None:
                raise self._fault
            return None
        pieces: list[Piece | None] = []
        try:
            pieces.append(self._queue.get(timeout=0.1))
            while True:
                pieces.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        if pieces and pieces[-1] is None:
            self._ended = True
        return [piece for piece in pieces if piece is not None]

    def rest(self) -> Iterator[list[Piece]]:
        """Give what was heard and not taken yet, after a stop."""
        self.close()
        pieces: list[Piece] = []
        while True:
            try:
                piece = self._queue.get_nowait()
            except queue.Empty:
                break
            if piece is not None:
                pieces.append(piece)
        if pieces:
            yield pieces

    def dropped_since(self) -> int:
        """Count losses that were not told yet."""
        new, self._told_dropped = self.dropped - self._told_dropped, self.dropped
        return new


@contextmanager
def open_source(
    file: str | os.PathLike[str] | None,
    sample_rate: int,
    microphone: str | None,
    fast: bool,
    stop: threading.Event,
) -> Iterator[LiveSource]:
    """Open what is to be heard, and begin.

    Args:
        file: recording; "-" for the standard input; None for a microphone.
        sample_rate: of raw samples [Hz].
        microphone: its name or number; None for the usual one.
        fast: hear a file as fast as it is taken.
        stop: set when no more is wanted.

    Raises:
        AudioError: if there is no such file or microphone.
        FormatError: if the standard input is neither raw samples nor a WAV of 16 bits.
        MissingExtraError: if a microphone is to be heard and "unheard[microphone]" is missing.
    """
    if file is None:
        with _microphone(microphone) as source:
            yield source
        return
    if os.fspath(file) == "-":
        rate, channels, begin = _read_header(sys.stdin.buffer, sample_rate)
        source = LiveSource(rate, is_live=False)
        reader = threading.Thread(
            target=_read_pipe, args=(sys.stdin.buffer, begin, channels, source), daemon=True
        )
    else:
        recording = io.stream(file, sample_rate=SAMPLE_RATE)
        source = LiveSource(SAMPLE_RATE, is_live=not fast)
        reader = threading.Thread(target=_read_file, args=(recording, source, stop), daemon=True)
    reader.start()
    try:
        yield source
    finally:
        source.close()
        # A read from a pipe that nobody writes to cannot be interrupted; its thread is left.
        reader.join(timeout=0.5)


def _read_file(recording: io.AudioStream, source: LiveSource, stop: threading.Event) -> None:
    """Put a recording into the queue, at the speed of sound if it is live."""
    size = round(PIECE_SECONDS * SAMPLE_RATE)
    fault: Exception | None = None
    try:
        with recording:
            begun, given = time.monotonic(), 0
            for block in recording:
                for start in range(0, block.shape[0], size):
                    piece = block[start : start + size]
                    given += piece.shape[0]
                    due = begun + given / SAMPLE_RATE
                    if source.is_live and stop.wait(max(due - time.monotonic(), 0.0)):
                        return
                    if not source.put(piece):
                        return
        for warning in recording.warnings:
            logger.warning("the recording is odd: %s", warning)
    except Exception as error:  # noqa: BLE001 - raised where it is taken
        fault = error
    finally:
        source.end(fault)


def _read_pipe(pipe: BinaryIO, begin: bytes, channels: int, source: LiveSource) -> None:
    """Put 16-bit samples from a pipe into the queue."""
    fault: Exception | None = None
    try:
        held = begin
        while True:
            whole = len(held) // (2 * channels) * (2 * channels)
            if whole:
                values = np.frombuffer(held[:whole], "<i2").reshape(-1, channels)
                samples = values.astype(np.float32).mean(axis=1) / 32768.0
                if not source.put(samples.astype(np.float32)):
                    return
            held = held[whole:]
            data = os.read(pipe.fileno(), round(PIECE_SECONDS * source.sample_rate) * 2 * channels)
            if not data:
                break
            held += data
        if held:
            logger.warning("the sound ended within a sample")
    except Exception as error:  # noqa: BLE001 - raised where it is taken
        fault = error
    finally:
        source.end(fault)


def _read_header(pipe: BinaryIO, sample_rate: int) -> tuple[int, int, bytes]:
    """Look at the first bytes of a pipe: a WAV header, or raw samples already.

    Returns:
        Sample rate, channels, and the sound that was read already.
    """
    head = b""
    while len(head) < 12:
        more = os.read(pipe.fileno(), 12 - len(head))
        if not more:
            break
        head += more
    if head[:4] in (b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04", b"\x1aE\xdf\xa3") or (
        head[4:8] == b"ftyp"
    ):
        raise FormatError(
            "The standard input is a compressed recording: expected a WAV or raw 16-bit samples. "
            "Name the file with --file, or decode it on the way: ffmpeg -i talk.mp3 -f s16le "
            "-ac 1 -ar 16000 - | unheard listen MODEL -"
        )
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return sample_rate, 1, head
    rate = channels = bits = kind = 0
    while True:
        name, size = struct.unpack("<4sI", _read_exactly(pipe, 8))
        if name == b"data":
            break
        if size > _HEADER_BYTES:
            raise FormatError(
                f"The WAV on the standard input has a chunk {name!r} of {size} bytes before its "
                "sound: expected a plain header. Name the file with --file."
            )
        chunk = _read_exactly(pipe, size + size % 2)
        if name == b"fmt " and size >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if kind not in (1, 0xFFFE) or bits != 16 or not 1 <= channels <= 64:
        raise FormatError(
            "The WAV on the standard input is not of 16-bit samples: expected those, found "
            f"format {kind} with {bits} bits and {channels} channels. Name the file with --file."
        )
    return rate, channels, b""


def _read_exactly(pipe: BinaryIO, count: int) -> bytes:
    """Read a part of a header."""
    data = b""
    while len(data) < count:
        more = os.read(pipe.fileno(), count - len(data))
        if not more:
            raise FormatError("The WAV on the standard input ends within its header.")
        data += more
    return data


def check_source(file: str | os.PathLike[str] | None) -> None:
    """Refuse early what `open_source` cannot open.

    Raises:
        AudioError: if there is no such file, or no PortAudio.
        MissingExtraError: if a microphone is to be heard and "unheard[microphone]" is missing.
    """
    if file is None:
        _load_sounddevice()
    elif os.fspath(file) != "-":
        io.probe(file)


def _load_sounddevice() -> Any:
    """Import the library that opens microphones."""
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "sounddevice", extra="microphone", purpose="Listening to a microphone"
        ) from error
    except OSError as error:
        raise AudioError(
            "Listening to a microphone needs the library PortAudio, which was not found. Install "
            "it with the system's packages (Debian, Ubuntu: libportaudio2; Fedora: portaudio), "
            "or give the sound by a pipe: arecord -f S16_LE -r 16000 | unheard listen MODEL -",
            reason="no_portaudio",
        ) from error
    return sounddevice


@contextmanager
def _microphone(name: str | None) -> Iterator[LiveSource]:
    """Open a microphone at its own rate."""
    sounddevice = _load_sounddevice()
    chosen = int(name) if name is not None and name.isdecimal() else name
    try:
        found = sounddevice.query_devices(chosen, "input")
        rate = round(found["default_samplerate"])
        source = LiveSource(rate, is_live=True)

        def arrive(data: Any, _frames: int, _time: Any, status: Any) -> None:
            if status.input_overflow:
                source.dropped += 1
            source.put(np.frombuffer(bytes(data), "<i2").astype(np.float32) / 32768.0)

        opened = sounddevice.RawInputStream(
            samplerate=rate,
            channels=1,
            dtype="int16",
            device=chosen,
            blocksize=round(PIECE_SECONDS / 2 * rate),
            callback=arrive,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        listed = [
            f"  {number}  {device['name']}"
            for number, device in enumerate(sounddevice.query_devices())
            if device["max_input_channels"] > 0
        ]
        raise AudioError(
            f"The microphone cannot be opened: {error}. Found these:\n"
            + ("\n".join(listed) or "  none"),
            reason="no_microphone",
        ) from error
    with opened:
        logger.info("listening to %s; Ctrl-C ends it", found["name"])
        yield source
        opened.stop()
        source.close()
