"""Live recognition: sound goes in as it comes, text comes out, and some of it is certain.

The network hears both ways, so it needs what comes after a moment to be sure of it. A stream runs
the windows of a long recording (`unheard.inference.windows`), each when its sound is there, and
feeds what is kept of them to one search. So the text at the end is that of the recording run in the
same windows, however the sound came in pieces.

Between two windows, every `hop_seconds`, the network runs over what there is of the next one, and a
fork of the search reads on from there. This *partial* text goes as far as the sound does, and may
still change. What the search itself is certain of is *stable*: it never changes. Stable words make
segments, at pauses.

A stream holds two windows of sound and the words that are still open; with `keep` it also keeps all
words for the end.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio.guard import MAX_RATE_HZ, MIN_RATE_HZ
from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.decoding.search import Decoder
from unheard.errors import AudioError, ConfigError, ShapeError
from unheard.inference.engine import Engine, with_too_short
from unheard.inference.windows import WindowCutter, WindowPlan, kept_log_probs

HOP_SECONDS = 0.5
"""Sound between two partial texts [seconds]."""
PARTIAL_LOAD = 0.5
"""Share of the time that partial texts may take; where they are dearer, they come less often."""
PAUSE_SECONDS = 0.6
"""Silence between two words that ends a segment [seconds]."""
SEGMENT_SECONDS = 6.0
"""Longest segment, unless it is one word [seconds]."""
SILENT_PEAK = 10 ** (-50 / 20)
"""No sample above this: nothing to hear (50 dB below full scale)."""

Samples = NDArray[Any] | Tensor | bytes | bytearray | memoryview
"""Mono sound: (samples,) floating within -1 .. 1, or 16-bit integers; or the bytes of those."""


@dataclass(frozen=True, kw_only=True)
class StreamLatency:
    """How old sound may become before it is text, the time of the computation apart.

    Attributes:
        partial_seconds: until it is in a partial text: the hop.
        final_seconds: until its frames are final, whatever comes: the longest window. A word is
            final as soon as the sound that tells that it has ended is.
    """

    partial_seconds: float
    final_seconds: float


@dataclass(frozen=True, kw_only=True)
class StreamSegment:
    """A stretch of speech that is certain: it ends at a pause, or is as long as segments get.

    Attributes:
        text: its words, joined as the script joins them.
        words: with times from the start of the stream.
        start_seconds: of the first word [seconds].
        end_seconds: of the last word [seconds].
    """

    text: str
    words: tuple[Word, ...]
    start_seconds: float
    end_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: times to a tenth of a millisecond, confidences to four digits."""
        return {
            "text": self.text,
            "start_seconds": round(self.start_seconds, 4),
            "end_seconds": round(self.end_seconds, 4),
            "words": [
                {
                    "text": word.text,
                    "start_seconds": round(word.start_seconds, 4),
                    "end_seconds": round(word.end_seconds, 4),
                    "confidence": round(word.confidence, 4),
                }
                for word in self.words
            ],
        }


@dataclass(frozen=True, kw_only=True)
class StreamUpdate:
    """What a stream says after it took some sound.

    The texts of all segments so far and `stable_text` are the beginning of the final text; they
    never change, and only grow.

    Attributes:
        segments: those that ended since the update before.
        stable_text: what is certain behind the last segment.
        partial_text: what is believed behind that; it may change.
        seconds: sound heard so far.
        changed: whether anything of the above but `seconds` is new.
    """

    segments: tuple[StreamSegment, ...]
    stable_text: str
    partial_text: str
    seconds: float
    changed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "seconds": round(self.seconds, 4),
            "segments": [segment.to_dict() for segment in self.segments],
            "stable_text": self.stable_text,
            "partial_text": self.partial_text,
        }


@dataclass(frozen=True, kw_only=True)
class StreamStats:
    """What a stream has cost so far.

    Attributes:
        audio_seconds: sound heard.
        windows: complete windows, all final.
        windows_seconds: computation for them, and for what follows the last one [seconds].
        partials: partial texts that were computed.
        partials_seconds: computation for them [seconds].
        partials_silent: times that a partial text was due, and nothing had been said.
        hop_seconds: sound between two partial texts at present; more than what was asked for
            where the machine is too slow for that.
    """

    audio_seconds: float
    windows: int
    windows_seconds: float
    partials: int
    partials_seconds: float
    partials_silent: int
    hop_seconds: float

    @property
    def load(self) -> float:
        """Seconds of computation for a second of sound."""
        busy = self.windows_seconds + self.partials_seconds
        return busy / self.audio_seconds if self.audio_seconds else 0.0


class Listener:
    """One live recording through a model and a search. For one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        decoder: Decoder,
        plan: WindowPlan,
        *,
        hop_seconds: float | None = HOP_SECONDS,
        partial_load: float = PARTIAL_LOAD,
        keep: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin to listen.

        Args:
            engine: the model.
            decoder: from log-probabilities to text.
            plan: the windows.
            hop_seconds: sound between two partial texts; None: only when `partial` is called.
            partial_load: share of the time that partial texts may take; infinity for no limit.
            keep: keep all words for `finish`; without, it returns what no update has handed out.
            clock: tells the time, in seconds from anywhere.

        Raises:
            ConfigError: if a setting is out of its range.
        """
        if hop_seconds is not None and not hop_seconds > 0:
            raise ConfigError(
                f"hop_seconds is out of range: expected more than 0 [seconds], found {hop_seconds}."
            )
        if not partial_load > 0:
            raise ConfigError(
                "partial_load is out of range: expected a share of the time, more than 0, found "
                f"{partial_load}."
            )
        self._engine = engine
        self._plan = plan
        self._cutter = WindowCutter(plan)
        self._search = decoder.stream(engine.timing)
        self._model_rate = engine.spec.sample_rate
        self._hop_seconds = hop_seconds
        self._partial_load = partial_load
        self._keep = keep
        self._clock = clock
        self._input_rate: int | None = None
        self._resampler: soxr.ResampleStream | None = None
        self._half_sample = b""
        self._state = "open"
        # Words: all that are kept for the end, those of the open segment, and of ended ones.
        self._words: list[Word] = []
        self._open: list[Word] = []
        self._last_end = 0.0
        self._ended: list[StreamSegment] = []
        self._certain_text = ""  # of the search, behind the open words
        self._stable_text = ""
        self._partial_text = ""
        self._told_partial = ""
        # Since the last partial text: samples, their peak, and whether it ended in silence.
        self._new_samples = 0
        self._new_peak = 0.0
        self._ended_silent = True
        self._hop_now = hop_seconds or 0.0
        self._windows = self._partials = self._partials_silent = 0
        self._windows_seconds = self._partials_seconds = 0.0
        self._reading: Hypothesis | None = None

    @property
    def latency(self) -> StreamLatency:
        """How old sound may become before it is text."""
        plan = self._plan
        samples = plan.window_frames * plan.stride_samples + plan.receptive_field_samples
        return StreamLatency(
            partial_seconds=math.inf if self._hop_seconds is None else self._hop_seconds,
            final_seconds=samples / self._model_rate,
        )

    @property
    def stats(self) -> StreamStats:
        """What the stream has cost so far."""
        return StreamStats(
            audio_seconds=self.seconds,
            windows=self._windows,
            windows_seconds=self._windows_seconds,
            partials=self._partials,
            partials_seconds=self._partials_seconds,
            partials_silent=self._partials_silent,
            hop_seconds=self._hop_now,
        )

    @property
    def seconds(self) -> float:
        """Sound heard so far [seconds]."""
        return self._cutter.num_samples / self._model_rate

    @property
    def finished(self) -> bool:
        """Whether the stream has ended."""
        return self._state == "finished"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd about the sound: "truncated" (half a sample at the end), "too_short"."""
        warnings = ("truncated",) if self._half_sample and self.finished else ()
        frames = self._plan.num_frames(self._cutter.num_samples)
        return with_too_short(warnings, frames=frames) if self.finished else warnings

    @property
    def text(self) -> str:
        """The words that are kept, as text: after the end, all that was said."""
        return self._join(self._words)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words that are kept."""
        return tuple(self._words)

    @property
    def confidence(self) -> float:
        """Confidence of all that was said; 0 before the end (see `Hypothesis`)."""
        return 0.0 if self._reading is None else self._reading.confidence

    def feed(self, samples: Samples, *, sample_rate: int | None = None) -> StreamUpdate:
        """Take the next sound, and run what is due.

        Args:
            samples: any number of them, also none; see `Samples`. Bytes may end within a sample.
            sample_rate: of the sound [Hz]; the same for all of a stream. None is as before, at
                first the model's own.

        Raises:
            ShapeError: if the samples are not one-dimensional.
            AudioError: if one is not finite (reason "nonfinite").
            ConfigError: if they are of another type or rate, or the stream is finished.
                After these the stream goes on as if the piece had not been given.
        """
        self._check_open()
        sound = self._resampled(*self._accept(samples, sample_rate))
        return self._go_on(sound)

    def partial(self) -> StreamUpdate:
        """Run the network over what has come since it ran last, and say what is believed.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._check_open()
        self._state = "broken"  # unless it gets through
        if self._new_samples:
            self._look_ahead()
        self._state = "open"
        return self._report()

    def finish(self) -> StreamUpdate:
        """End the stream: all that was said is now final.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._check_open()
        self._state = "broken"
        if self._resampler is not None:
            tail = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            self._run_windows(tail)
        started = self._clock()
        window = self._cutter.finish()
        if window is not None:
            self._search.feed(kept_log_probs(self._engine, [window])[0])
        self._reading = self._search.finish(num_samples=self._cutter.num_samples)[0]
        self._windows_seconds += self._clock() - started
        self._add(self._reading.words)
        self._end_segment()
        self._certain_text = self._partial_text = ""
        self._state = "finished"
        return self._report()

    def _check_open(self) -> None:
        """Refuse to go on after the end, or after a fault in the middle of a window."""
        if self._state == "finished":
            raise ConfigError(
                "This stream is finished: expected no further sound. Begin another stream."
            )
        if self._state == "broken":
            raise ConfigError(
                "This stream was stopped by an error or an interrupt in the middle of its work, "
                "and has lost its place. Begin another stream."
            )

    def _accept(self, samples: Samples, sample_rate: int | None) -> tuple[NDArray[np.float32], int]:
        """Check sound before anything is changed; return it as float32 with its rate."""
        rate = sample_rate or self._input_rate or self._model_rate
        if self._input_rate not in (None, rate):
            raise ConfigError(
                f"A stream has one sample rate: expected {self._input_rate} Hz as before, found "
                f"{rate} Hz. Resample the sound, or finish this stream and begin another one."
            )
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise ConfigError(
                f"The sample rate is out of range: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, "
                f"found {rate}."
            )
        half = b""
        if isinstance(samples, bytes | bytearray | memoryview):
            data = self._half_sample + bytes(samples)
            half = data[len(data) // 2 * 2 :]
            values = np.frombuffer(data, "<i2", len(data) // 2)
        elif self._half_sample:
            raise ConfigError(
                "The last bytes ended within a sample: expected its other half as bytes, found "
                f"{type(samples).__name__}. Give all sound of a stream in the same form."
            )
        elif isinstance(samples, Tensor):
            values = samples.detach().cpu()
            values = (values.float() if values.is_floating_point() else values).numpy()
        elif isinstance(samples, np.ndarray):
            values = samples
        else:
            raise ConfigError(
                "Sound was given as something unknown: expected an array or tensor of samples, or "
                f"bytes of 16-bit samples, found {type(samples).__name__}."
            )
        if values.ndim != 1:
            raise ShapeError(
                f"A stream takes mono sound: expected shape (samples,), found {values.shape}. "
                "Average the channels first."
            )
        if values.dtype.kind == "i" and values.dtype.itemsize == 2:
            sound = values.astype(np.float32) / 32768.0
        elif values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
                sound = np.array(values, np.float32)
        else:
            raise ConfigError(
                "Samples must be floating point within -1 .. 1, or 16-bit integers: found "
                f"{values.dtype}."
            )
        if not np.isfinite(sound).all():
            raise AudioError(
                "Samples must be finite: expected none, found NaN or infinity among them. The "
                "piece was not taken; mend what records it, or give silence in its place.",
                reason="nonfinite",
            )
        self._half_sample = half
        return sound, rate

    def _resampled(self, sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Bring sound to the model's rate, sample for sample as if it had come at once."""
        if sound.shape[0]:
            if self._input_rate is None and rate != self._model_rate:
                self._resampler = soxr.ResampleStream(
                    rate, self._model_rate, 1, dtype="float32", quality="HQ"
                )
            self._input_rate = rate
        if self._resampler is None or not sound.shape[0]:
            return sound
        return self._resampler.resample_chunk(sound)

    def _go_on(self, sound: NDArray[np.float32]) -> StreamUpdate:
        """Run the windows that are complete, and a partial text if one is due."""
        self._state = "broken"  # unless it gets through
        windows = self._windows
        self._run_windows(sound)
        if self._hop_seconds is not None:
            # What was shown behind a window is now partly certain: say anew what follows it.
            due = self._new_samples >= self._hop_now * self._model_rate
            if self._windows > windows or (due and self._is_worth_a_look()):
                self._look_ahead()
        elif self._windows > windows:
            self._partial_text = self._behind(self._search.partial().text)
        self._state = "open"
        return self._report()

    def _run_windows(self, sound: NDArray[np.float32]) -> None:
        """Take sound, and make final what is now in complete windows."""
        # A long piece is taken in parts, so that its windows are not all in memory at once.
        part = self._plan.window_frames * self._plan.stride_samples
        for start in range(0, sound.shape[0], part):
            piece = sound[start : start + part]
            self._new_samples += piece.shape[0]
            self._new_peak = max(self._new_peak, float(np.abs(piece).max()))
            for window in self._cutter.feed(piece):
                started = self._clock()
                self._search.feed(kept_log_probs(self._engine, [window])[0])
                self._add(self._search.settle())
                believed = self._search.partial()
                self._certain_text = believed.stable_text
                final = self._cutter.kept_frames * self._plan.stride_samples / self._model_rate
                if not believed.text and final - self._last_end >= PAUSE_SECONDS:
                    self._end_segment()
                self._windows += 1
                self._windows_seconds += self._clock() - started

    def _is_worth_a_look(self) -> bool:
        """Whether there may be speech in what came since the last partial text.

        The first hop of silence is heard, as it may end a word; further ones say nothing.
        """
        silent = self._new_peak <= SILENT_PEAK
        if silent and self._ended_silent:
            self._partials_silent += 1
            self._new_samples, self._new_peak = 0, 0.0
            return False
        self._ended_silent = silent
        return True

    def _look_ahead(self) -> None:
        """Read what there is of the next window, with a fork of the search."""
        started = self._clock()
        search = self._search
        window = self._cutter.pending()
        if window is not None:
            search = search.fork()
            search.feed(kept_log_probs(self._engine, [window])[0])
        self._partial_text = self._behind(search.partial().text)
        self._new_samples, self._new_peak = 0, 0.0
        took = self._clock() - started
        self._partials += 1
        self._partials_seconds += took
        if self._hop_seconds is not None:
            self._hop_now = max(self._hop_seconds, took / self._partial_load)

    def _behind(self, text: str) -> str:
        """Return what a text says behind what is certain."""
        return text.removeprefix(self._certain_text).removeprefix(self._search.separator)

    def _add(self, words: tuple[Word, ...]) -> None:
        """Take words that are certain, and end segments before those that begin new ones."""
        for heard in words:
            # In the light of later sound a word may seem to begin where the last one still went on.
            start = min(max(heard.start_seconds, self._last_end), heard.end_seconds)
            word = replace(heard, start_seconds=start)
            self._last_end = word.end_seconds
            if self._open:
                first, last = self._open[0], self._open[-1]
                pause = word.start_seconds - last.end_seconds
                length = word.end_seconds - first.start_seconds
                if pause >= PAUSE_SECONDS or length > SEGMENT_SECONDS:
                    self._end_segment()
            self._open.append(word)

    def _end_segment(self) -> None:
        """Make a segment of the open words."""
        if self._open:
            segment = StreamSegment(
                text=self._join(self._open),
                words=tuple(self._open),
                start_seconds=self._open[0].start_seconds,
                end_seconds=self._open[-1].end_seconds,
            )
            self._ended.append(segment)
        self._open = []

    def _report(self) -> StreamUpdate:
        """Say what is new, and keep for the end what is to be kept."""
        segments = tuple(self._ended)
        self._ended = []
        if not self._keep:
            self._words = []
        self._words += [word for segment in segments for word in segment.words]
        certain = [self._join(self._open), self._certain_text]
        stable = self._search.separator.join(text for text in certain if text)
        changed = bool(segments) or stable != self._stable_text
        update = StreamUpdate(
            segments=segments,
            stable_text=stable,
            partial_text=self._partial_text,
            seconds=self.seconds,
            changed=changed or self._partial_text != self._told_partial,
        )
        self._stable_text = stable
        self._told_partial = self._partial_text
        return update

    def _join(self, words: list[Word]) -> str:
        """Write words as the script joins them."""
        return self._search.separator.join(word.text for word in words)
