"""Long recordings in overlapping windows, stitched exactly on the frame grid.

A window starts on a frame of the whole recording and holds the samples of a whole number of
frames, so its frames are frames of the recording. Of each window only the middle is kept: at
every seam, a kept frame has at least `context_frames` frames of sound on either side. A network
whose frames see less than that gives the very numbers of one pass over the whole recording; a
Transformer hears the window in place of the whole recording, which is also what it was trained on.

Normalisation, where a model wants it, is by the statistics of each window: a long recording
drifts in level, and a window is as long as what the model met in training. A recording that fits
one window is normalised as a whole.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.errors import ConfigError
from unheard.inference.engine import Engine
from unheard.models.config import EncoderConfig

WINDOW_SECONDS = 15.0
"""Sound in one window, context included [seconds]."""
CONTEXT_SECONDS = 1.5
"""Sound heard on either side of what is kept [seconds]."""


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """How a recording is cut; everything but the receptive field counts in frames.

    Attributes:
        window_frames: frames of a window.
        context_frames: frames dropped on either side of a window, save at the recording's ends.
        stride_samples: samples from one frame to the next.
        receptive_field_samples: samples that one frame needs.
    """

    window_frames: int
    context_frames: int
    stride_samples: int
    receptive_field_samples: int

    def __post_init__(self) -> None:
        if self.context_frames < 0 or self.window_frames <= 2 * self.context_frames:
            raise ConfigError(
                "A window must be longer than twice its context: got a window of "
                f"{self.window_frames} frames and a context of {self.context_frames}."
            )

    @property
    def step_frames(self) -> int:
        """Frames from one window to the next; also the frames kept of a middle window."""
        return self.window_frames - 2 * self.context_frames

    def num_frames(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        if num_samples < self.receptive_field_samples:
            return 0
        return (num_samples - self.receptive_field_samples) // self.stride_samples + 1


def plan_windows(
    config: EncoderConfig,
    *,
    sample_rate: int,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
) -> WindowPlan:
    """Round a window and its context to the frame grid of an encoder."""
    stride = config.stride_samples
    return WindowPlan(
        window_frames=round(window_seconds * sample_rate / stride),
        context_frames=round(context_seconds * sample_rate / stride),
        stride_samples=stride,
        receptive_field_samples=config.receptive_field_samples,
    )


@dataclass(frozen=True, kw_only=True)
class Window:
    """One stretch of a recording.

    Attributes:
        samples: (samples,) float32.
        first_frame: the window's first frame, counted from the start of the recording.
        keep_start: first frame to keep, counted within the window.
        keep_stop: one past the last frame to keep, counted within the window.
    """

    samples: NDArray[np.float32]
    first_frame: int
    keep_start: int
    keep_stop: int


class WindowCutter:
    """Cuts a recording that comes in pieces; holds about two windows of it, whatever its length.

    All windows of a recording longer than one are of equal length (the last may hold up to a
    stride more): the last one starts earlier instead of being shorter.
    """

    def __init__(self, plan: WindowPlan) -> None:
        """Begin at the first sample of a recording."""
        self._plan = plan
        stride = plan.stride_samples
        self._span = (plan.window_frames - 1) * stride + plan.receptive_field_samples
        # The last window may start up to one step before its turn.
        self._buffer = np.empty(self._span + stride + plan.step_frames * stride, np.float32)
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
        return self._rest(max(total - self._plan.window_frames, 0))

    def _rest(self, first_frame: int) -> Window | None:
        """Return all that there is from a frame, of which what was not kept yet is to be kept."""
        total = self._buffer_frame + self._plan.num_frames(self._held)
        if total == self._kept_frames:
            return None
        begin = (first_frame - self._buffer_frame) * self._plan.stride_samples
        return Window(
            samples=self._buffer[begin : self._held].copy(),
            first_frame=first_frame,
            keep_start=self._kept_frames - first_frame,
            keep_stop=total - first_frame,
        )

    def _next(self) -> Window | None:
        """Take the next window out, if it is complete."""
        stride = self._plan.stride_samples
        begin = (self._start_frame - self._buffer_frame) * stride
        # A window goes out only when one more frame is there: it is then not the last.
        if self._held - begin < self._span + stride:
            return None
        keep_stop = self._plan.window_frames - self._plan.context_frames
        window = Window(
            samples=self._buffer[begin : begin + self._span].copy(),
            first_frame=self._start_frame,
            keep_start=self._kept_frames - self._start_frame,
            keep_stop=keep_stop,
        )
        self._kept_frames = self._start_frame + keep_stop
        self._buffer[: self._held - begin] = self._buffer[begin : self._held].copy()
        self._held -= begin
        self._buffer_frame = self._start_frame
        self._start_frame += self._plan.step_frames
        return window


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
    step = plan.step_frames * plan.stride_samples
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
    span = plan.window_frames * plan.stride_samples
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
            for window, log_probs in zip(
                batch, engine.log_probs([window.samples for window in batch]), strict=True
            ):
                yield log_probs[window.keep_start : window.keep_stop]
