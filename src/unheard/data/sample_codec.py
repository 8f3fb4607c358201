"""What worker processes do: decode a stretch of a shard, encode a recording into samples.

Everything here runs without torch, so that a worker is small and starts at once.
"""

import zlib
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unheard.audio import io
from unheard.audio.encode import SUFFIXES, Codec, encode
from unheard.audio.signal import SAMPLE_RATE
from unheard.data.places import Place, open_place
from unheard.errors import AudioError, FormatError

Kept = Literal["flac", "opus", "keep"]
"""How the samples of a shard are stored: re-encoded where they are not so yet, or as they are."""

LARGEST_SAMPLE_BYTES = 1 << 31
_CONTAINERS: dict[Codec, str] = {"flac": "flac", "opus": "ogg"}
_RATES: dict[Codec, tuple[int, ...]] = {"flac": (SAMPLE_RATE,), "opus": (48_000, SAMPLE_RATE)}
_LENGTH_SLACK_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Where the bytes of a sample lie, and which part of its sound is wanted.

    Attributes:
        place: url of the folder of shards.
        shard: name of the tar file within it.
        offset: of the first byte of the audio file within the tar file.
        size: of the audio file [bytes].
        crc: its CRC-32.
        num_samples: of the whole utterance [samples at 16 kHz].
        start: first sample wanted.
        count: how many are wanted.
        mean: to subtract.
        scale: to multiply with after that.
        id: of the utterance, for messages.
    """

    place: str
    shard: str
    offset: int
    size: int
    crc: int
    num_samples: int
    start: int
    count: int
    mean: float = 0.0
    scale: float = 1.0
    id: str

    @property
    def label(self) -> str:
        """The file and the utterance, for messages."""
        return f"{self.place}/{self.shard} (utterance {self.id!r})"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An audio file for a shard, with what the index says of it.

    Attributes:
        data: the bytes of the file.
        suffix: of its name, without a dot.
        piece: which piece of the stretch that was asked for.
        start: first sample within the stretch that was asked for [samples at 16 kHz].
        num_samples: as decoded again from `data` [samples at 16 kHz].
        mean: of the decoded samples.
        variance: of the decoded samples, biased.
        crc: CRC-32 of `data`.
    """

    data: bytes
    suffix: str
    piece: int = 0
    start: int = 0
    num_samples: int
    mean: float
    variance: float
    crc: int


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A stretch of a recording to be encoded, in pieces.

    Attributes:
        path: of the recording.
        start_seconds: where the stretch begins [s].
        seconds: its length [s].
        pieces: how many equal pieces it is cut into.
        codec: how they are stored.
        opus_kilobits: bit rate of Opus [kbit/s].
    """

    path: str
    start_seconds: float
    seconds: float
    pieces: int
    codec: Kept
    opus_kilobits: int

    @property
    def label(self) -> str:
        """The recording, for messages."""
        return self.path


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """An audio file of somebody else's shard to be decoded and described.

    Attributes:
        place: url of the folder of shards.
        shard: name of the tar file within it.
        offset: of the first byte of the audio file.
        size: of the audio file [bytes].
        suffix: of its name.
        id: key of the sample, for messages.
    """

    place: str
    shard: str
    offset: int
    size: int
    suffix: str
    id: str

    @property
    def label(self) -> str:
        """The file and the sample, for messages."""
        return f"{self.place}/{self.shard} (sample {self.id!r})"


def read_stretch(wanted: Stretch) -> NDArray[np.float32]:
    """Decode a stretch of a sample, (count,) float32, shifted and scaled.

    Raises:
        FormatError: if the shard does not hold what its index says.
        AudioError: if the sound cannot be decoded.
    """
    data = _place(wanted.place).read(wanted.shard, start=wanted.offset, size=wanted.size)
    if zlib.crc32(data) != wanted.crc:
        raise FormatError(
            f"{wanted.label} is damaged: its {wanted.size} bytes have another checksum than when "
            "the shard was made. Copy the shard again, or make it anew."
        )
    samples = io.read(
        data,
        start_seconds=wanted.start / SAMPLE_RATE,
        max_seconds=wanted.count / SAMPLE_RATE,
    ).samples
    if samples.shape[0] != wanted.count:
        # Seeking in a compressed file can miss its last samples.
        end = wanted.start + wanted.count
        samples = io.read(data).samples[wanted.start : end]
    if samples.shape[0] != wanted.count:
        raise FormatError(
            f"{wanted.label} holds another length than its index says: expected samples "
            f"{wanted.start} to {wanted.start + wanted.count} of {wanted.num_samples}, found "
            f"{samples.shape[0]} of them. Make the index anew."
        )
    if wanted.mean == 0.0 and wanted.scale == 1.0:
        return samples
    # In double precision, as `PcmStore` does it.
    return ((samples - np.float64(wanted.mean)) * wanted.scale).astype(np.float32)


def encode_pieces(wanted: Encoding) -> list[Stored]:
    """Cut a stretch of a recording into pieces and encode them.

    A whole recording that is stored as wanted already is taken byte for byte.

    Returns:
        The pieces in order; those of less than 25 ms are left out.

    Raises:
        AudioError: if the recording cannot be decoded, or holds no sound.
    """
    if wanted.pieces == 1 and (kept := _kept(wanted)) is not None:
        return [kept]
    waveform = io.read(wanted.path, start_seconds=wanted.start_seconds, max_seconds=wanted.seconds)
    codec: Codec = "flac" if wanted.codec == "keep" else wanted.codec
    edges = np.linspace(0, round(wanted.seconds * SAMPLE_RATE), wanted.pieces + 1).astype(int)
    stored: list[Stored] = []
    for piece, (first, last) in enumerate(pairwise(edges.tolist())):
        samples = waveform.samples[first:last]
        if samples.shape[0] < io.MIN_SECONDS * SAMPLE_RATE:
            continue
        data = encode(samples, codec, opus_kilobits=wanted.opus_kilobits)
        described = describe(data, suffix=SUFFIXES[codec])
        stored.append(replace(described, piece=piece, start=first))
    if not stored:
        raise AudioError(
            f"{wanted.path!r} holds less than 25 ms of sound where some was expected.",
            reason="too_short",
        )
    return stored


def measure(wanted: Measurement) -> Stored:
    """Describe an audio file that lies in a shard; `data` stays empty.

    Raises:
        AudioError: if the sound cannot be decoded.
    """
    data = _place(wanted.place).read(wanted.shard, start=wanted.offset, size=wanted.size)
    return replace(describe(data, suffix=wanted.suffix), data=b"")


def describe(data: bytes, *, suffix: str) -> Stored:
    """Decode the bytes of an audio file and say what the index needs to know.

    Raises:
        AudioError: if the sound cannot be decoded, or there is none.
    """
    samples = io.read(data).samples
    if samples.shape[0] == 0:
        raise AudioError("The recording holds no sound.", reason="too_short")
    real = samples.astype(np.float64)
    return Stored(
        data=data,
        suffix=suffix,
        num_samples=samples.shape[0],
        mean=float(real.mean()),
        variance=float(real.var()),
        crc=zlib.crc32(data),
    )


def _kept(wanted: Encoding) -> Stored | None:
    """Take a recording as it is, if it is whole and stored as wanted; None if not."""
    path = Path(wanted.path)
    if wanted.start_seconds or path.stat().st_size >= LARGEST_SAMPLE_BYTES:
        return None
    info = io.probe(path)
    if info.duration_seconds is None:
        return None
    if abs(info.duration_seconds - wanted.seconds) > _LENGTH_SLACK_SECONDS:
        return None
    fits = wanted.codec == "keep" or (
        info.codec.removeprefix("lib") == wanted.codec
        and info.container == _CONTAINERS[wanted.codec]
        and info.channels == 1
        and info.sample_rate in _RATES[wanted.codec]
    )
    if not fits:
        return None
    suffix = path.suffix.lower().removeprefix(".")
    return describe(path.read_bytes(), suffix=suffix)


def release() -> None:
    """Close the shards that this process has opened."""
    while _PLACES:
        _PLACES.popitem()[1].close()


_PLACES: dict[str, Place] = {}
"""Places that this process reads from, by url; opened once."""


def _place(url: str) -> Place:
    if url not in _PLACES:
        _PLACES[url] = open_place(url)
    return _PLACES[url]
