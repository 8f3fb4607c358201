"""Log-probabilities of a CTC model over one recording, with their own time base."""

from dataclasses import dataclass

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
