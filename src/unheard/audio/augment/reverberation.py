"""Reverberation: convolution with a room's impulse response, synthetic or recorded.

The direct sound stays where it is, so that labels of frames stay true.
"""

import math

import numpy as np
from numpy.typing import NDArray

from unheard.audio.signal import SAMPLE_RATE

_FADED = math.log(1000)
"""60 dB, as a natural logarithm of amplitudes."""


def room_response(
    *,
    seconds: float,
    direct_db: float,
    generator: np.random.Generator,
    sample_rate: int = SAMPLE_RATE,
) -> NDArray[np.float64]:
    """Draw the impulse response of a room: a direct sound, then noise that fades exponentially.

    Args:
        seconds: in which the noise fades by 60 dB, and length of the response [seconds].
        direct_db: energy of the direct sound over that of all the rest [dB].
        generator: draws the noise.
        sample_rate: [Hz].

    Returns:
        (taps,) with 1 at its start.

    Source: Polack 1988, the statistical model of late reverberation.
    """
    times = np.arange(max(2, round(seconds * sample_rate))) / sample_rate
    response = generator.standard_normal(times.shape[0]) * np.exp(-_FADED * times / seconds)
    response[0] = 0
    response *= np.sqrt(10 ** (-direct_db / 10) / np.square(response).sum())
    response[0] = 1
    return response


def from_direct_sound(response: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Cut a recorded response at its highest peak and scale that to 1; None for silence."""
    if response.shape[0] == 0 or not np.any(response):
        return None
    peak = int(np.abs(response).argmax())
    return response[peak:].astype(np.float64) / float(np.abs(response[peak]))


def convolve(samples: NDArray[np.floating], response: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convolve and keep the first len(samples) samples, through the Fourier transform.

    Args:
        samples: (samples,).
        response: (taps,).

    Returns:
        (samples,) float64: `numpy.convolve(samples, response)[: len(samples)]`.
    """
    count = samples.shape[0]
    if count == 0:
        return samples.astype(np.float64)
    used = response[:count]  # later taps move nothing into what is kept
    size = 1 << (count + used.shape[0] - 2).bit_length()  # a power of two, without wrapping around
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(used, size)
    return np.fft.irfft(spectrum, size)[:count]
