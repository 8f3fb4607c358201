"""Sound as samples: the waveform type, its normalisation and its resampling."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Sample rate that every model of this family hears [Hz]."""


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """One mono recording.

    Attributes:
        samples: float32 (samples,), finite, nominally within -1 .. 1.
        sample_rate: samples a second [Hz].
        warnings: what was odd about the source, as short codes: "truncated", "header_mismatch",
            "nonfinite", "clipped", "decode_errors", "format_changed", "too_short".
    """

    samples: NDArray[np.float32]
    sample_rate: int = SAMPLE_RATE
    warnings: tuple[str, ...] = ()

    @property
    def duration_seconds(self) -> float:
        """Length in seconds, from the samples."""
        return self.samples.shape[0] / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a model expects of its input; stored with every model.

    Attributes:
        sample_rate: [Hz].
        normalize: shift and scale each utterance to zero mean and unit variance.
        normalize_epsilon: added to the variance (fairseq 1e-5, transformers 1e-7).
        padding: "masked": statistics over real frames only, so a result never depends on what
            it was batched with; "zeros": what the original Base models saw.
        attention_mask: with padding "zeros", whether the Transformer still ignores padded frames
            (layer-norm models) or attends to them as the original group-norm folders say.
    """

    sample_rate: int = SAMPLE_RATE
    normalize: bool = True
    normalize_epsilon: float = 1e-5
    padding: Literal["masked", "zeros"] = "masked"
    attention_mask: bool = True


def normalize(samples: NDArray[np.float32], *, epsilon: float) -> NDArray[np.float32]:
    """Shift and scale to zero mean and unit variance over the whole utterance.

    Args:
        samples: (samples,) float32.
        epsilon: added to the biased variance.

    Returns:
        (samples,) float32; the same arithmetic, in the same order and precision, as the
        feature extractor of transformers.

    Source: transformers feature_extraction_wav2vec2.py `zero_mean_unit_var_norm`; fairseq uses
        a layer norm over the utterance with epsilon 1e-5 (data/audio/raw_audio_dataset.py).
    """
    if samples.shape[0] == 0:
        return samples
    return (samples - samples.mean()) / np.sqrt(samples.var() + epsilon)
