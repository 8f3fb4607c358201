"""Sound as samples: the waveform type, its normalisation and its resampling."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from unheard.errors import ConfigError, ShapeError

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


def resample(samples: NDArray[np.floating], source_hz: int, target_hz: int) -> NDArray[np.float32]:
    """Change the sample rate of a mono signal held in memory.

    Args:
        samples: (samples,) floating point.
        source_hz: rate of `samples` [Hz].
        target_hz: rate wanted [Hz].

    Returns:
        (round(samples * target_hz / source_hz),) float32; `samples` itself where the rates are
        equal and it is float32 already.

    Raises:
        ShapeError: if `samples` is not one-dimensional.
        ConfigError: if a rate is not positive.

    Source: soxr's "HQ" setting, also the default of librosa: -0.01 dB at 7 kHz and aliases below
        -140 dB from 44.1 to 16 kHz.
    """
    if samples.ndim != 1:
        raise ShapeError(
            f"resample takes mono sound: expected shape (samples,), found {samples.shape}. "
            "Average the channels first."
        )
    if source_hz <= 0 or target_hz <= 0:
        raise ConfigError(
            f"Sample rates are positive: found {source_hz} Hz to resample to {target_hz} Hz."
        )
    values = samples.astype(np.float32, copy=False)
    if source_hz == target_hz or values.shape[0] == 0:
        return values
    return soxr.resample(values, source_hz, target_hz, quality="HQ")


def prepare(waveform: Waveform, spec: InputSpec) -> NDArray[np.float32]:
    """Make of a waveform what a model hears: its sample rate, normalised if it asks for that.

    Args:
        waveform: mono, any rate.
        spec: stored with the model.

    Returns:
        (samples,) float32 at `spec.sample_rate`. A waveform shorter than a model's receptive
        field comes back as short as it is; digital silence stays silence.
    """
    samples = resample(waveform.samples, waveform.sample_rate, spec.sample_rate)
    return normalize(samples, epsilon=spec.normalize_epsilon) if spec.normalize else samples
