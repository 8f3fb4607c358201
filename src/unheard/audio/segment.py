"""Speech and pauses of a recording of any length, told by how loud its bands are.

Every 10 ms the level of five bands is measured. In each band the noise floor is the lowest level
(over 100 ms) of the last 10 seconds and the next 2, so it follows steady noise and hum, whatever
their colour, and knows nothing of languages. The *activity* of a moment is how far the sound stands
above that floor, averaged over the bands [dB].

Nothing here drops sound by itself: who cuts a recording asks `quietest` where to, and `stretches`
says what is speech (anything that is not steady: music too) and what is a pause.

Source: the floor as a running minimum is that of Martin 2001, "Noise power spectral density
    estimation based on optimal smoothing and minimum statistics", without its bias correction.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unheard.audio.signal import SAMPLE_RATE
from unheard.errors import ConfigError

STEP_SECONDS = 0.01
"""Time from one level to the next [seconds]."""
BAND_EDGES_HZ = (150.0, 400.0, 900.0, 1800.0, 3600.0, 7200.0)
"""Edges of the bands; mains hum and rumble lie below, hiss above [Hz]."""
SILENCE_DB = -80.0
"""Level of a band under which nothing is told apart: 16-bit rounding lies near it [dB]."""
FLOOR_BACK_SECONDS = 10.0
"""How long ago sound still counts for the noise floor [seconds]."""
FLOOR_AHEAD_SECONDS = 2.0
"""How far ahead sound counts for the noise floor; also the delay of a stream [seconds]."""
STEADY_DB = 2.5
"""Activity that steady noise stays under, and speech 10 dB below that noise does not [dB]."""
PAUSE_SHARE = 0.15
"""A pause stands out of the noise by at most this share of what the loudest speech does."""
_SMOOTH_STEPS = 10
_CUT_STEPS = 20
_CUT_TOLERANCE_DB = 1.0
_BLOCK_STEPS = 4096
_CHUNK_STEPS = 200
_STEADY_STEPS = 298
_BACK_STEPS = round(FLOOR_BACK_SECONDS / STEP_SECONDS)
_AHEAD_STEPS = round(FLOOR_AHEAD_SECONDS / STEP_SECONDS)


class LevelMeter:
    """Levels of the bands of a recording that comes in pieces."""

    def __init__(self, *, sample_rate: int = SAMPLE_RATE) -> None:
        """Begin at the first sample.

        Raises:
            ConfigError: if the rate is too low for a level every 10 ms.
        """
        self.step_samples = round(sample_rate * STEP_SECONDS)
        if self.step_samples < 20:
            raise ConfigError(
                f"Speech cannot be told at {sample_rate} Hz: expected 2000 Hz or more. Resample "
                "the recording first."
            )
        size = 2 * self.step_samples
        hz = np.arange(size // 2 + 1) * sample_rate / size
        edges = np.array([edge for edge in BAND_EDGES_HZ if edge < sample_rate / 2])
        if edges.shape[0] < len(BAND_EDGES_HZ):
            edges = np.append(edges, sample_rate / 2)
        band = np.searchsorted(edges, hz, side="right") - 1
        self.bands = edges.shape[0] - 1
        self._sum = np.zeros((hz.shape[0], self.bands), np.float32)
        inside = (band >= 0) & (band < self.bands)
        self._sum[inside, band[inside]] = 1.0
        shape = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
        self._shape = shape.astype(np.float32)
        # A full-scale sine has level 0: its power is spread over a few bins.
        self._sum *= 2 / (float(np.square(shape).sum()) * size / 2)
        self._rest = np.zeros(0, np.float32)

    def step_at(self, sample: float) -> int:
        """The step whose middle is nearest to a place in the recording [samples]."""
        return max(round(sample / self.step_samples) - 1, 0)

    def measure(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the levels of a stretch by itself (samples,): (steps, bands) [dB].

        A level needs the 20 ms from the start of its step on.
        """
        steps = self._steps(samples)
        levels = np.empty((steps, self.bands), np.float32)
        for start in range(0, steps, _BLOCK_STEPS):
            stop = min(start + _BLOCK_STEPS, steps)
            piece = samples[start * self.step_samples : (stop + 1) * self.step_samples]
            views = np.lib.stride_tricks.sliding_window_view(piece, 2 * self.step_samples)
            spectrum = np.fft.rfft(views[:: self.step_samples] * self._shape, axis=1)
            power = (spectrum.real**2 + spectrum.imag**2) @ self._sum
            levels[start:stop] = 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))
        return levels

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples (samples,) and return the levels that are now known."""
        sound = np.concatenate((self._rest, samples))
        self._rest = sound[self._steps(sound) * self.step_samples :].copy()
        return self.measure(sound)

    def _steps(self, samples: NDArray[np.float32]) -> int:
        """How many levels a stretch has."""
        return max(samples.shape[0] // self.step_samples - 1, 0)


def activity(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the sound stands above its noise floor, smoothed over 100 ms.

    Args:
        levels: (steps, bands) of a stretch [dB]. The floor of its first and last steps is known
            from what of it lies within `FLOOR_BACK_SECONDS` and `FLOOR_AHEAD_SECONDS`.

    Returns:
        (steps,) mean over the bands, 0 or more [dB].
    """
    steps = levels.shape[0]
    if steps == 0:
        return np.zeros(0, np.float32)
    smooth = _smoothed(levels, _SMOOTH_STEPS)
    floor = _running_minimum(smooth, back=_BACK_STEPS, ahead=_AHEAD_STEPS)
    return (smooth - floor).mean(axis=1)


def quietest(active: NDArray[np.float32], start: int, stop: int) -> int:
    """Find the best step to cut at: the middle of the longest of the quietest pauses.

    Args:
        active: (steps,) as `activity` returns it [dB].
        start: first step that may be cut at.
        stop: one past the last.

    Returns:
        A step within start .. stop - 1.
    """
    level = _smoothed(active, _CUT_STEPS)[start:stop]
    quiet = level <= level.min() + _CUT_TOLERANCE_DB
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    # Of pauses of one length the last: fewer pieces.
    longest = ends.shape[0] - 1 - int(np.argmax((ends - begins)[::-1]))
    return start + int(begins[longest] + ends[longest] - 1) // 2


def is_pause(active: NDArray[np.float32], step: int) -> bool:
    """Whether a step lies in a pause of 0.2 seconds or more.

    A pause is as quiet as steady noise, or as the quietest part of what separates the loudest
    speech from it, whichever is more.

    Args:
        active: (steps,) of the stretch around, as `activity` returns it [dB].
        step: within it.
    """
    level = _smoothed(active, _CUT_STEPS)
    return float(level[step]) <= _pause_level(level)


def is_steady(active: NDArray[np.float32]) -> bool:
    """Whether nothing in a stretch stands out of its noise: silence, hiss, hum, and no speech.

    Args:
        active: (steps,) as `activity` returns it [dB]. Of less than 3 seconds nobody can tell what
            is noise, so they are not steady.
    """
    if active.shape[0] < _STEADY_STEPS:
        return False
    return float(_smoothed(active, _CUT_STEPS).max()) <= STEADY_DB


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a recording.

    Attributes:
        start: its first sample.
        stop: one past its last sample.
        is_speech: whether something stands out of the noise; else it is a pause.
    """

    start: int
    stop: int
    is_speech: bool


def stretches(
    blocks: Iterable[NDArray[np.float32]],
    *,
    sample_rate: int = SAMPLE_RATE,
    min_pause_seconds: float = 0.3,
) -> Iterator[Stretch]:
    """Tell speech from pauses in a recording that comes in pieces; memory does not grow with it.

    How the recording is cut into blocks changes nothing. A stretch comes out 4 seconds after it
    has ended, at most.

    Args:
        blocks: consecutive pieces (samples,) of any length.
        sample_rate: of them [Hz].
        min_pause_seconds: a shorter pause belongs to the speech around it.

    Yields:
        Stretches that follow each other without gap from the first sample to the last, speech and
        pauses in turn.

    Raises:
        ConfigError: if the rate is below 2000 Hz, or the shortest pause is not positive.
    """
    if not min_pause_seconds > 0:
        raise ConfigError(
            f"min_pause_seconds is out of range: expected more than 0, found {min_pause_seconds}."
        )
    meter = LevelMeter(sample_rate=sample_rate)
    teller = _Teller(min_pause_steps=max(round(min_pause_seconds / STEP_SECONDS), 1))
    num_samples = 0
    for block in blocks:
        for begin in range(0, block.shape[0], _BLOCK_STEPS * meter.step_samples):
            piece = block[begin : begin + _BLOCK_STEPS * meter.step_samples]
            num_samples += piece.shape[0]
            for start, stop, is_speech in teller.feed(meter.feed(piece)):
                yield Stretch(
                    start=start * meter.step_samples,
                    stop=stop * meter.step_samples,
                    is_speech=is_speech,
                )
    if num_samples == 0:
        return
    last: Stretch | None = None
    for start, stop, is_speech in teller.finish():
        if last is not None:
            yield last
        last = Stretch(
            start=start * meter.step_samples, stop=stop * meter.step_samples, is_speech=is_speech
        )
    if last is None:
        # Too short for a level: nothing is known of it, so it counts as speech.
        yield Stretch(start=0, stop=num_samples, is_speech=True)
    else:
        yield Stretch(start=last.start, stop=num_samples, is_speech=last.is_speech)


class _Teller:
    """Decides step by step, one chunk of steps at a time, and joins equal decisions."""

    def __init__(self, *, min_pause_steps: int) -> None:
        self._min_pause = min_pause_steps
        self._levels: NDArray[np.float32] | None = None
        self._first = 0  # step of the first level held
        self._decided = 0  # steps decided
        self._speech_start: int | None = None
        self._pause_start: int | None = 0

    def feed(self, levels: NDArray[np.float32]) -> Iterator[tuple[int, int, bool]]:
        """Take levels (steps, bands) and give the stretches that have ended, in steps."""
        held = levels if self._levels is None else np.concatenate((self._levels, levels))
        self._levels = held
        while self._first + held.shape[0] >= self._decided + _CHUNK_STEPS + _AHEAD_STEPS:
            yield from self._decide(_CHUNK_STEPS, ahead=_AHEAD_STEPS)
            drop = max(self._decided - _BACK_STEPS - self._first, 0)
            held = self._levels = held[drop:]
            self._first += drop

    def finish(self) -> Iterator[tuple[int, int, bool]]:
        """Decide what is left and close the last stretch."""
        held = 0 if self._levels is None else self._levels.shape[0]
        yield from self._decide(self._first + held - self._decided, ahead=0)
        end = self._decided
        if self._speech_start is not None:
            stop = self._pause_start if self._pause_start is not None else end
            if end - stop >= self._min_pause:
                yield self._speech_start, stop, True
                yield stop, end, False
            else:
                yield self._speech_start, end, True
        elif self._pause_start is not None and end > self._pause_start:
            yield self._pause_start, end, False

    def _decide(self, steps: int, *, ahead: int) -> Iterator[tuple[int, int, bool]]:
        """Decide the next steps by the levels around them."""
        if self._levels is None or steps == 0:
            return
        stop = self._decided + steps + ahead - self._first
        level = _smoothed(activity(self._levels[:stop]), _CUT_STEPS)
        quiet = level <= _pause_level(level)
        for place in range(self._decided, self._decided + steps):
            ended = self._step(place, bool(quiet[place - self._first]))
            if ended is not None:
                yield ended
        self._decided += steps

    def _step(self, place: int, quiet: bool) -> tuple[int, int, bool] | None:
        """Go on by a step; return the stretch that ended for certain."""
        if quiet:
            if self._pause_start is None:
                self._pause_start = place
            if self._speech_start is not None and place + 1 - self._pause_start == self._min_pause:
                ended = (self._speech_start, self._pause_start, True)
                self._speech_start = None
                return ended
            return None
        pause, self._pause_start = self._pause_start, None
        if self._speech_start is not None:
            return None
        if pause is None or pause == place or (pause == 0 and place < self._min_pause):
            self._speech_start = place if pause is None else pause
            return None
        self._speech_start = place
        return pause, place, False


def _pause_level(level: NDArray[np.float32]) -> float:
    """Up to which level a stretch is a pause [dB]."""
    return max(STEADY_DB, PAUSE_SHARE * float(level.max()))


def _smoothed(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Average over `width` steps around each, over fewer at the ends, along the first axis."""
    sums = np.concatenate((np.zeros_like(values[:1], np.float64), values)).cumsum(
        axis=0, dtype=np.float64
    )
    places = np.arange(values.shape[0])
    first = np.maximum(places - width // 2, 0)
    stop = np.minimum(places - width // 2 + width, values.shape[0])
    counts = (stop - first).reshape(-1, *(1,) * (values.ndim - 1))
    return ((sums[stop] - sums[first]) / counts).astype(np.float32)


def _running_minimum(values: NDArray[np.float32], *, back: int, ahead: int) -> NDArray[np.float32]:
    """Lowest of `back` steps before each, itself, and `ahead` after, along the first axis.

    Source: van Herk 1992: minima from both ends of blocks as long as the window.
    """
    steps, width = values.shape[0], back + 1 + ahead
    blocks = -(-(steps + back + ahead) // width)
    padded = np.full((blocks * width, *values.shape[1:]), np.inf, np.float32)
    padded[back : back + steps] = values
    shaped = padded.reshape(blocks, width, *values.shape[1:])
    forward = np.minimum.accumulate(shaped, axis=1).reshape(padded.shape)
    backward = np.minimum.accumulate(shaped[:, ::-1], axis=1)[:, ::-1].reshape(padded.shape)
    return np.minimum(backward[:steps], forward[width - 1 : width - 1 + steps])
