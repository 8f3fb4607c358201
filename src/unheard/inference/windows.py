"""Long recordings in windows, cut where it is quiet and stitched exactly on the frame grid.

A window starts on a frame of the whole recording and holds the samples of a whole number of
frames, so its frames are frames of the recording. Of the last seconds of a window the quietest
place is the *seam*: in a pause if there is one (`unheard.audio.segment`). What is kept of a window
ends at its seam, and the next one begins there. Where the seam is no pause, both windows hear
`context_frames` frames beyond it: a word that is cut is heard whole by both, and of each window
its own part is kept. A network whose frames see less than that gives the very numbers of one pass
over the whole recording; a Transformer hears the window in place of the whole recording, which is
also what it was trained on.

A pause ends a word. A network that learnt from utterances writes no word boundary where its sound
ends, so behind a seam in a pause the last word of one window and the first of the next would become
one: where a window does not end with a boundary, its last frame is made one, nine parts of ten.

A window in which nothing stands out of the noise (digital silence, hiss, hum) is not run: it is
blank, and times stay exact.

Normalisation, where a model wants it, is by the statistics of each window: a long recording
drifts in level, and a window is as long as what the model met in training. A recording that fits
one window is normalised as a whole.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio.segment import LevelMeter, activity, is_pause, is_steady, quietest
from unheard.errors import ConfigError
from unheard.inference.engine import Engine
from unheard.models.config import EncoderConfig

WINDOW_SECONDS = 12.0
"""Longest window, context included [seconds]."""
SEARCH_SECONDS = 6.0
"""How far before its latest place a seam is looked for [seconds]."""
CONTEXT_SECONDS = 1.5
"""Sound heard beyond a seam that is no pause [seconds]."""
BOUNDARY_SHARE = 0.9
"""Probability of a word boundary in a pause between two windows."""
BLANK_NATS = -30.0
"""Log-probability of what is not the blank in a window that was not run [nats]."""


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """How a recording is cut.

    Attributes:
        window_frames: frames of the longest window.
        context_frames: frames heard beyond a seam that is no pause.
        search_frames: how many frames before its latest place a seam may lie.
        stride_samples: samples from one frame to the next.
        receptive_field_samples: samples that one frame needs.
        sample_rate: [Hz].
    """

    window_frames: int
    context_frames: int
    search_frames: int
    stride_samples: int
    receptive_field_samples: int
    sample_rate: int

    def __post_init__(self) -> None:
        if min(self.context_frames, self.search_frames) < 0 or self.shortest_frames < 1:
            raise ConfigError(
                "A window must be longer than twice its context and the stretch that is searched "
                f"for a pause: got a window of {self.window_frames} frames, a context of "
                f"{self.context_frames} and a search of {self.search_frames}."
            )

    @property
    def shortest_frames(self) -> int:
        """Frames kept of a window that is not the last, at least."""
        return self.window_frames - 2 * self.context_frames - self.search_frames

    def num_frames(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        if num_samples < self.receptive_field_samples:
            return 0
        return (num_samples - self.receptive_field_samples) // self.stride_samples + 1

    def num_samples(self, frames: int) -> int:
        """Samples that `frames` frames need, at least 1."""
        return (frames - 1) * self.stride_samples + self.receptive_field_samples


def plan_windows(
    config: EncoderConfig,
    *,
    sample_rate: int,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
    search_seconds: float = SEARCH_SECONDS,
) -> WindowPlan:
    """Round a window, its context and its search to the frame grid of an encoder.

    Args:
        config: of the encoder.
        sample_rate: that it hears [Hz].
        window_seconds: longest window, context included.
        context_seconds: sound heard beyond a seam that is no pause.
        search_seconds: how far before its latest place a seam is looked for; less in windows so
            short that they would keep nothing.

    Raises:
        ConfigError: if a window has no middle.
    """
    stride = config.stride_samples
    window, context, search = (
        round(seconds * sample_rate / stride)
        for seconds in (window_seconds, context_seconds, search_seconds)
    )
    return WindowPlan(
        window_frames=window,
        context_frames=context,
        search_frames=max(min(search, (window - 2 * context) // 2), 0),
        stride_samples=stride,
        receptive_field_samples=config.receptive_field_samples,
        sample_rate=sample_rate,
    )


@dataclass(frozen=True, kw_only=True)
class Window:
    """One stretch of a recording.

    Attributes:
        samples: (samples,) float32.
        first_frame: the window's first frame, counted from the start of the recording.
        keep_start: first frame to keep, counted within the window.
        keep_stop: one past the last frame to keep, counted within the window.
        ends_in_pause: whether a pause is where what is kept of it ends, and another one follows.
        is_steady: whether nothing in it stands out of the noise: there is nothing to hear.
    """

    samples: NDArray[np.float32]
    first_frame: int
    keep_start: int
    keep_stop: int
    ends_in_pause: bool = False
    is_steady: bool = False


class WindowCutter:
    """Cuts a recording that comes in pieces; holds about two windows of it, whatever its length.

    The last window begins earlier than its turn if it would be very short.
    """

    def __init__(self, plan: WindowPlan) -> None:
        """Begin at the first sample of a recording."""
        self._plan = plan
        self._meter = LevelMeter(sample_rate=plan.sample_rate)
        stride = plan.stride_samples
        self._span = plan.num_samples(plan.window_frames)
        # The last window may begin a window earlier than its turn.
        self._buffer = np.empty(2 * self._span + stride, np.float32)
        self._held = 0  # samples in the buffer
        self._buffer_frame = 0  # frame of the recording at which the buffer starts
        self._start_frame = 0  # frame at which the next window starts
        self._kept_frames = 0  # frames of the recording kept so far

    @property
    def kept_frames(self) -> int:
        """Frames of the recording in the windows so far."""
        return self._kept_frames

    @property
    def num_samples(self) -> int:
        """Samples of the recording so far."""
        return self._buffer_frame * self._plan.stride_samples + self._held

    def feed(self, block: NDArray[np.float32]) -> list[Window]:
        """Take the next samples (samples,) and return the windows that are now complete.

        The kept frames of all windows follow each other without gap or overlap, from the first
        frame of the recording.
        """
        windows: list[Window] = []
        taken = 0
        while taken < block.shape[0]:
            piece = block[taken : taken + self._buffer.shape[0] - self._held]
            self._buffer[self._held : self._held + piece.shape[0]] = piece
            self._held += piece.shape[0]
            taken += piece.shape[0]
            while (window := self._next()) is not None:
                windows.append(window)
        return windows

    def pending(self) -> Window | None:
        """Return what there is of the next window; None if no frame of it would be kept."""
        return self._rest(self._start_frame)

    def finish(self) -> Window | None:
        """Return the last window, to the recording's last frame; None if there is none."""
        total = self._buffer_frame + self._plan.num_frames(self._held)
        return self._rest(
            max(min(self._start_frame, total - self._plan.shortest_frames), self._buffer_frame)
        )

    def _rest(self, first_frame: int) -> Window | None:
        """Return all that there is from a frame, of which what was not kept yet is to be kept."""
        total = self._buffer_frame + self._plan.num_frames(self._held)
        if total == self._kept_frames:
            return None
        begin = (first_frame - self._buffer_frame) * self._plan.stride_samples
        samples = self._buffer[begin : self._held].copy()
        # A recording that fits one window is always run.
        steady = self._kept_frames > 0 and is_steady(self._activity(samples))
        return Window(
            samples=samples,
            first_frame=first_frame,
            keep_start=self._kept_frames - first_frame,
            keep_stop=total - first_frame,
            is_steady=steady,
        )

    def _next(self) -> Window | None:
        """Take the next window out, if it is complete."""
        plan = self._plan
        begin = (self._start_frame - self._buffer_frame) * plan.stride_samples
        # A window goes out only when one more frame is there: it is then not the last.
        if self._held - begin < self._span + plan.stride_samples:
            return None
        sound = self._buffer[begin : begin + self._span]
        active = self._activity(sound)
        keep_stop, in_pause = self._seam(active)
        context = 0 if in_pause else plan.context_frames
        num_samples = plan.num_samples(keep_stop + context)
        window = Window(
            samples=sound[:num_samples].copy(),
            first_frame=self._start_frame,
            keep_start=self._kept_frames - self._start_frame,
            keep_stop=keep_stop,
            ends_in_pause=in_pause,
            is_steady=is_steady(active[: self._meter.step_at(num_samples)]),
        )
        self._buffer[: self._held - begin] = self._buffer[begin : self._held].copy()
        self._held -= begin
        self._buffer_frame = self._start_frame
        self._kept_frames = self._start_frame + keep_stop
        self._start_frame = self._kept_frames - context
        return window

    def _activity(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far a window stands out of its noise, every 10 ms [dB]."""
        return activity(self._meter.measure(samples))

    def _seam(self, active: NDArray[np.float32]) -> tuple[int, bool]:
        """Choose the last frame to keep plus one, and say whether a pause is there."""
        plan = self._plan
        latest = plan.window_frames - plan.context_frames
        earliest, field = latest - plan.search_frames, plan.receptive_field_samples
        if active.shape[0] == 0:
            return latest, False
        # A seam lies between the centres of two frames.
        steps = [
            self._meter.step_at((frame - 0.5) * plan.stride_samples + field / 2)
            for frame in (earliest, latest)
        ]
        first, last = (min(step, active.shape[0] - 1) for step in steps)
        step = quietest(active, first, last + 1)
        place = (step - first) / max(last - first, 1)
        return earliest + round(place * (latest - earliest)), is_pause(active, step)


def cut_windows(blocks: Iterable[NDArray[np.float32]], plan: WindowPlan) -> Iterator[Window]:
    """Cut a stream of samples; holds about two windows of it at a time.

    Args:
        blocks: consecutive stretches of the recording, (samples,) float32 of any length.
        plan: how to cut.

    Yields:
        Windows whose kept frames follow each other without gap or overlap, from the first frame
        of the recording to its last (see `WindowCutter`). None for a recording without a frame.
    """
    cutter = WindowCutter(plan)
    step = plan.num_samples(plan.window_frames)
    for block in blocks:
        # A recording in memory is one block: its windows are made as they are asked for.
        for start in range(0, block.shape[0], step):
            yield from cutter.feed(block[start : start + step])
    last = cutter.finish()
    if last is not None:
        yield last


def stream_log_probs(
    engine: Engine, blocks: Iterable[NDArray[np.float32]], plan: WindowPlan
) -> Iterator[Tensor]:
    """Run a recording of any length; memory does not grow with it.

    The next windows are read in a thread while the model runs. On a CPU one window runs at a
    time; on an accelerator as many as the engine's batch holds, and one where padding matters.

    Args:
        engine: the model.
        blocks: the recording at the model's rate.
        plan: how to cut.

    Yields:
        Consecutive stretches (frames, vocab) of the log-probabilities.
    """
    span = plan.num_samples(plan.window_frames)
    count = max(engine.batch_samples // span, 1)
    if engine.bundle.device.type == "cpu" or engine.batch_changes_results:
        count = 1
    windows = cut_windows(blocks, plan)

    def read_batch() -> list[Window]:
        return list(islice(windows, count))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="windows") as reader:
        ahead = reader.submit(read_batch)
        while batch := ahead.result():
            ahead = reader.submit(read_batch)
            yield from kept_log_probs(engine, batch)


def kept_log_probs(engine: Engine, windows: Sequence[Window]) -> list[Tensor]:
    """Run windows as one batch, without those in which there is nothing to hear.

    Returns:
        For each window the log-probabilities (frames, vocab) of its kept frames, with a word
        boundary where it ends in a pause.
    """
    if engine.bundle.alphabet is None:
        # Which symbol is the blank is not known, so silence is run too.
        outputs = engine.log_probs([window.samples for window in windows])
        return [
            output[window.keep_start : window.keep_stop]
            for window, output in zip(windows, outputs, strict=True)
        ]
    heard = [window for window in windows if not window.is_steady]
    outputs = iter(engine.log_probs([window.samples for window in heard]))
    return [
        _blank(engine, window.keep_stop - window.keep_start)
        if window.is_steady
        else _kept(engine, window, next(outputs))
        for window in windows
    ]


def _kept(engine: Engine, window: Window, log_probs: Tensor) -> Tensor:
    """Take the kept frames of a window's log-probabilities, and end a word at a pause."""
    kept = log_probs[window.keep_start : window.keep_stop]
    alphabet = engine.alphabet
    if not window.ends_in_pause or alphabet.word_boundary is None:
        return kept
    best = kept.argmax(dim=1)
    said = best[best != alphabet.blank_id]
    boundary = alphabet.tokens.index(alphabet.word_boundary)
    if said.shape[0] == 0 or int(said[-1]) == boundary:
        return kept
    kept = kept.clone()
    kept[-1] += math.log1p(-BOUNDARY_SHARE)
    share = torch.tensor(math.log(BOUNDARY_SHARE), dtype=kept.dtype)
    kept[-1, boundary] = torch.logaddexp(kept[-1, boundary], share)
    return kept


def _blank(engine: Engine, frames: int) -> Tensor:
    """Log-probabilities (frames, vocab) that leave no doubt that nothing is said."""
    vocab = engine.model.config.vocab
    wide = torch.float64 if engine.bundle.dtype == torch.float64 else torch.float32
    values = torch.full((frames, vocab), BLANK_NATS, dtype=wide)
    values[:, engine.alphabet.blank_id] = math.log1p(-(vocab - 1) * math.exp(BLANK_NATS))
    return values
