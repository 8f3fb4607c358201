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


def cut_windows(blocks: Iterable[NDArray[np.float32]], plan: WindowPlan) -> Iterator[Window]:
    """Cut a stream of samples; holds about two windows of it at a time.

    All windows of a recording longer than one are of equal length (the last may hold up to a
    stride more): the last one starts earlier instead of being shorter.

    Args:
        blocks: consecutive stretches of the recording, (samples,) float32 of any length.
        plan: how to cut.

    Yields:
        Windows whose kept frames follow each other without gap or overlap, from the first frame
        of the recording to its last. None for a recording without a frame.
    """
    stride = plan.stride_samples
    span = (plan.window_frames - 1) * stride + plan.receptive_field_samples
    buffer = np.zeros(0, np.float32)
    buffer_frame = 0  # frame of the recording at which the buffer starts
    start_frame = 0  # frame at which the next window starts
    kept_frames = 0  # frames of the recording kept so far
    for block in blocks:
        buffer = np.concatenate((buffer, block))
        # A window goes out only when one more frame is there: it is then not the last.
        while buffer.shape[0] - (start_frame - buffer_frame) * stride >= span + stride:
            begin = (start_frame - buffer_frame) * stride
            keep_stop = plan.window_frames - plan.context_frames
            yield Window(
                samples=buffer[begin : begin + span],
                first_frame=start_frame,
                keep_start=kept_frames - start_frame,
                keep_stop=keep_stop,
            )
            kept_frames = start_frame + keep_stop
            # The last window may start up to one step before its turn.
            drop = start_frame - buffer_frame
            buffer = buffer[drop * stride :].copy()
            buffer_frame += drop
            start_frame += plan.step_frames
    total_frames = buffer_frame + plan.num_frames(buffer.shape[0])
    if total_frames == kept_frames:
        return
    first_frame = max(total_frames - plan.window_frames, 0)
    yield Window(
        samples=buffer[(first_frame - buffer_frame) * stride :],
        first_frame=first_frame,
        keep_start=kept_frames - first_frame,
        keep_stop=total_frames - first_frame,
    )


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
