"""Recordings small enough to live inside the page, under a common cap."""

import base64
import io
import math
import wave
from dataclasses import dataclass, field
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from unheard.audio import io as audio_io
from unheard.errors import UnheardError
from unheard.report.facts import ScoredUtterance
from unheard.report.markup import Html, tag

MAX_SECONDS = 20.0
"""Longest stretch of one recording that is embedded."""

MAX_TOTAL_BYTES = 4_000_000
"""Most that all players together may add to the page."""

SAMPLE_RATE = 16_000
_BIT_RATE = 32_000


def encode(samples: NDArray[np.float32]) -> tuple[str, bytes]:
    """Encode speech for a player: MP3 (what every browser plays), else Opus, else WAV.

    Args:
        samples: (samples,) float32 at 16 kHz.

    Returns:
        Media type and file content.
    """
    for codec, container, media_type in (
        ("libmp3lame", "mp3", "audio/mpeg"),
        ("libopus", "ogg", "audio/ogg"),
    ):
        try:
            return media_type, _encode_with(samples, codec=codec, container=container)
        except (av.error.FFmpegError, ValueError, LookupError):
            continue  # this build of the codec library lacks the encoder
    return "audio/wav", _wav(samples)


@dataclass(kw_only=True)
class Players:
    """Makes players until the page is full; counts what it embedded and what it left out.

    Attributes:
        folders: where relative audio paths are looked for, in this order.
        max_total_bytes: most that all players together may take.
        used_bytes: taken so far.
        embedded: recordings with a player.
        left_out: recordings without one because the page was full.
        unreadable: recordings without one because they could not be read.
    """

    folders: tuple[Path, ...]
    max_total_bytes: int = MAX_TOTAL_BYTES
    used_bytes: int = 0
    embedded: int = 0
    left_out: int = 0
    unreadable: int = 0
    _made: dict[str, Html] = field(default_factory=dict)

    def player(self, utterance: ScoredUtterance) -> Html:
        """Make the player of an utterance, or a line that says why there is none."""
        if utterance.id not in self._made:
            self._made[utterance.id] = self._make(utterance)
        return self._made[utterance.id]

    def _make(self, utterance: ScoredUtterance) -> Html:
        """Read, encode and embed."""
        if self.used_bytes >= self.max_total_bytes:
            self.left_out += 1
            return _absent("No player: this page is full.")
        try:
            samples = self._read(utterance)
        except (UnheardError, OSError, ValueError) as error:
            self.unreadable += 1
            reason = getattr(error, "reason", None) or type(error).__name__
            return _absent(f"No player: the recording could not be read ({reason}).")
        if samples.shape[0] == 0:
            self.unreadable += 1
            return _absent("No player: the recording is empty.")
        media_type, content = encode(samples)
        uri = f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
        if self.used_bytes + len(uri) > self.max_total_bytes:
            self.left_out += 1
            return _absent("No player: this page is full.")
        self.used_bytes += len(uri)
        self.embedded += 1
        cut = utterance.seconds is not None and utterance.seconds > MAX_SECONDS + 0.05
        return tag(
            "div",
            tag("audio", at={"controls": "", "preload": "none", "src": uri}),
            tag("span", f"first {MAX_SECONDS:.0f} s", at={"class": "quiet"}) if cut else None,
            at={"class": "player"},
        )

    def _read(self, utterance: ScoredUtterance) -> NDArray[np.float32]:
        """Read the stretch of an utterance at 16 kHz, at most `MAX_SECONDS` of it."""
        length = MAX_SECONDS if utterance.seconds is None else min(utterance.seconds, MAX_SECONDS)
        waveform = audio_io.read(
            self._locate(utterance.audio),
            sample_rate=SAMPLE_RATE,
            start_seconds=utterance.start / max(1, utterance.sample_rate),
            max_seconds=length,
        )
        return waveform.samples[: math.ceil(MAX_SECONDS * SAMPLE_RATE)]

    def _locate(self, audio: str) -> Path:
        """Find a recording: relative paths under each folder, the first that exists."""
        candidates = [folder / audio for folder in self.folders]
        return next((path for path in candidates if path.is_file()), candidates[0])


def _absent(reason: str) -> Html:
    """Say why there is no player."""
    return tag("p", reason, at={"class": "quiet"})


def _encode_with(samples: NDArray[np.float32], *, codec: str, container: str) -> bytes:
    """Encode with one codec of the codec library."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=SAMPLE_RATE)
        if not isinstance(stream, av.AudioStream):
            raise ValueError(f"{codec} is not an audio codec.")
        stream.bit_rate = _BIT_RATE
        stream.layout = "mono"
        stream.format = "fltp" if codec == "libmp3lame" else "flt"
        frame = av.AudioFrame.from_ndarray(
            samples[None, :], format=stream.format.name, layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _wav(samples: NDArray[np.float32]) -> bytes:
    """Encode as 16-bit PCM."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(SAMPLE_RATE)
        output.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
