"""Log-probabilities of a CTC model over one recording, with their own time base."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Emissions:
    """What a CTC model says about one recording.

    Attributes:
        log_probs: (frames, vocab), natural logarithms, each row sums to one in probability; on
            the CPU, in float32 or in the model's own wider type.
        frame_stride_samples: samples from one frame to the next.
        frame_offset_samples: samples from the start of the recording to the centre of the first
            frame.
        num_samples: length of the recording at `sample_rate`.
        sample_rate: [Hz].
        warnings: what was odd about the recording (see `Waveform.warnings`).
    """

    log_probs: Tensor
    frame_stride_samples: int
    frame_offset_samples: int
    num_samples: int
    sample_rate: int
    warnings: tuple[str, ...] = ()

    def seconds(self, frame: float) -> float:
        """Time of a frame's centre from the start of the recording [seconds]."""
        samples = self.frame_offset_samples + frame * self.frame_stride_samples
        return samples / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class FrameTiming:
    """Where frames lie in time, without the frames.

    Attributes:
        frame_stride_samples: samples from one frame to the next.
        frame_offset_samples: samples from the start to the centre of the first frame.
        sample_rate: [Hz].
    """

    frame_stride_samples: int
    frame_offset_samples: int
    sample_rate: int

    @classmethod
    def of(cls, emissions: Emissions) -> Self:
        """Take the timing of some emissions."""
        return cls(
            frame_stride_samples=emissions.frame_stride_samples,
            frame_offset_samples=emissions.frame_offset_samples,
            sample_rate=emissions.sample_rate,
        )

    def edge_seconds(self, frame: float, *, num_samples: int | None = None) -> float:
        """Time of a point on the frame axis, clipped to the recording [seconds].

        Args:
            frame: 0 is the centre of the first frame; its left edge is -0.5.
            num_samples: length of the recording, or None while it is not known.
        """
        samples = max(self.frame_offset_samples + frame * self.frame_stride_samples, 0.0)
        if num_samples is not None:
            samples = min(samples, float(num_samples))
        return samples / self.sample_rate
