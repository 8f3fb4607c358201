"""From the packets of a guarded container to mono samples at one rate, block by block."""

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
import soxr
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from unheard.audio import headers
from unheard.audio.guard import (
    DECODER_ERRORS,
    Opened,
    check_format,
    open_container,
    os_error,
    unreadable,
)
from unheard.errors import AudioError

_NO_STATED_LENGTH = frozenset({"aac", "amr"})
"""Containers without a length in their header: the decoder guesses one from the bit rate."""

_BLOCK_SAMPLES = 1 << 16
_ABSURD = float(1 << 16)
"""Beyond the largest sample that a float file with 16-bit integer scale holds."""

_FIRST_UNSAFE_PLANES = 8
"""PyAV (18.1) looks for the end of a frame's planes by a null pointer, which frames of 8 and
more do not have: reading their planes one by one reads memory that is not theirs."""

_EXACT_SECONDS = 0.2
"""An exact header agrees with the samples within the run-in of any codec."""

_SEEK_SECONDS = 5.0
_PREROLL_SECONDS = 1
_RESAMPLER_SECONDS = 0.1
_RUN_IN_ERRORS = 8


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


class Decoder:
    """The state of decoding one recording to mono at one rate."""

    def __init__(self, opened: Opened, *, sample_rate: int, limits: DecodeLimits) -> None:
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
                    self._opened = stack.enter_context(open_container(self._opened.file))
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
        try:
            first = self._next_frame()
            if first is None or first.pts is None or first.time_base is None:
                return None
            rate_in = first.sample_rate
            grid_in = rate_in // math.gcd(rate_in, self._rate_out)
            grid_out = self._rate_out // math.gcd(rate_in, self._rate_out)
            grids = int((skip / self._rate_out - _RESAMPLER_SECONDS) * rate_in / grid_in)
            start_seconds = Fraction(grids * grid_in, rate_in)
            target = first.pts + math.floor((start_seconds - _PREROLL_SECONDS) / first.time_base)
            container.seek(target, stream=stream)
            landed = self._next_frame()
            container.seek(target, stream=stream)
        except (*DECODER_ERRORS, OSError):
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
            except DECODER_ERRORS:
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
                check_format(rate, channels, self._opened.file.label)
            frame.pts = None
            try:
                fifo.write(frame)
            except ValueError:  # another link of a chain may count time in other units
                yield self._to_mono(fifo.read()), rate
                fifo = AudioFifo()
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
                with open_container(link) as opened:
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
                    except DECODER_ERRORS as error:
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
            except (*DECODER_ERRORS, OSError) as error:
                self._count(error)
                in_a_row += 1
        self.warnings.add("partial")

    def _count(self, error: Exception) -> None:
        if self._opened.source.error is not None:
            raise os_error(self._opened.file.label, self._opened.source.error) from error
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
        if opened.source.error is not None:
            raise os_error(opened.file.label, opened.source.error)
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


def stated_duration(opened: Opened) -> Fraction | None:
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


def pcm_bits(codec: str) -> int | None:
    """Bits of one stored sample of a PCM codec, from its name; None for other codecs."""
    if codec in {"pcm_alaw", "pcm_mulaw"}:
        return 8
    digits = "".join(c for c in codec.removeprefix("pcm_").split("_")[0] if c.isdigit())
    return int(digits) if codec.startswith("pcm_") and digits else None


def duration_from_packets(opened: Opened) -> Fraction | None:
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
    except (*DECODER_ERRORS, OSError) as error:
        if opened.source.error is not None:
            raise unreadable(opened.file.label, opened.source, error) from error
    if first is None or end is None or opened.stream.time_base is None:
        return None
    return (end - first) * opened.stream.time_base


def _claim(opened: Opened) -> tuple[float, float] | None:
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
    duration = stated_duration(opened)
    if duration is None:
        return None
    seconds = float(duration)
    return seconds, _EXACT_SECONDS if is_exact else max(1.0, 0.05 * seconds)


def _channels(frame: AudioFrame) -> list[NDArray[Any]]:
    """The channels of a frame, each (samples,), in the sample type of the codec."""
    count = frame.layout.nb_channels
    if frame.format.is_planar and count < _FIRST_UNSAFE_PLANES:
        return list(frame.to_ndarray())
    interleaved = _packed(frame).to_ndarray()[0]
    return [interleaved[channel::count] for channel in range(count)]


def _packed(frame: AudioFrame) -> AudioFrame:
    """The same samples, interleaved."""
    if not frame.format.is_planar:
        return frame
    interleaver = av.AudioResampler(
        format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate
    )
    (packed,) = interleaver.resample(frame)
    if packed.samples != frame.samples or interleaver.resample(None):
        raise RuntimeError("interleaving changed the number of samples")
    return packed


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
