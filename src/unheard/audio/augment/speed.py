"""Speed perturbation: the same samples played at another rate, and resampled."""

import math

import numpy as np
from numpy.typing import NDArray

from unheard.audio.signal import resample

_HUNDREDTHS = 100


def change_speed(samples: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Play faster (above 1) or slower; pitch and formants move with it.

    Args:
        samples: (samples,) mono.
        factor: rounded to hundredths.

    Returns:
        (`samples_after(len(samples), factor)`,) float32.
    """
    return resample(samples, round(factor * _HUNDREDTHS), _HUNDREDTHS)


def samples_after(count: int, factor: float) -> int:
    """Count the samples that are left of `count` at a speed."""
    source = round(factor * _HUNDREDTHS)
    # Halves go up, as in soxr.
    return (2 * count * _HUNDREDTHS + source) // (2 * source)


def samples_before(count: int, factor: float) -> int:
    """Count the samples of which at least `count` are left at a speed."""
    return math.ceil(count * round(factor * _HUNDREDTHS) / _HUNDREDTHS)
