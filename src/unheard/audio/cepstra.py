"""Mel-frequency cepstra with their slopes: what the ear of a classical recogniser hears.

Used as the first, hand-made teacher of masked unit prediction. Source: Davis and Mermelstein
1980; 13 coefficients and two orders of slopes as in Hsu et al. 2021 (HuBERT), sec. IV-B.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from unheard.audio.signal import SAMPLE_RATE

COEFFICIENTS = 13
FEATURES = 3 * COEFFICIENTS
WINDOW_SAMPLES = 400
_BANDS = 40
_TRANSFORM = 512
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 7600.0
_FLOOR = 1e-5
_SLOPE_REACH = 2


def cepstra(
    samples: NDArray[np.float32], *, stride_samples: int, first_centre_samples: int, frames: int
) -> NDArray[np.float32]:
    """Describe the short-time spectrum around each of a network's frames.

    The mean of the static coefficients over the utterance is taken away, and with it the level
    and the colour of microphone and room. Slopes are fitted at twice the frame rate.

    Args:
        samples: (samples,) at 16 kHz.
        stride_samples: from one frame to the next; even.
        first_centre_samples: centre of the first frame, at least 200.
        frames: how many frames; the last one's window ends within the samples.

    Returns:
        (frames, 39) float32.
    """
    if frames == 0:
        return np.zeros((0, FEATURES), dtype=np.float32)
    hop = stride_samples // 2
    start = first_centre_samples - WINDOW_SAMPLES // 2
    windows = np.lib.stride_tricks.sliding_window_view(samples[start:], WINDOW_SAMPLES)
    windows = windows[::hop][: 2 * frames - 1]  # (frames at twice the rate, window)
    power = np.abs(np.fft.rfft(windows * _window(), _TRANSFORM, axis=1)) ** 2
    static = np.log(power.astype(np.float32) @ _mel_bands() + _FLOOR) @ _cosines()
    static -= static.mean(axis=0)
    slopes = _slopes(static)
    return np.concatenate([static, slopes, _slopes(slopes)], axis=1)[::2].astype(np.float32)


def _slopes(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit a line through five neighbours of each row, (frames, size) -> the same."""
    padded = np.pad(values, ((_SLOPE_REACH, _SLOPE_REACH), (0, 0)), mode="edge")
    count = len(values)
    total = np.zeros_like(values)
    for distance in range(1, _SLOPE_REACH + 1):
        later = padded[_SLOPE_REACH + distance : _SLOPE_REACH + distance + count]
        earlier = padded[_SLOPE_REACH - distance : _SLOPE_REACH - distance + count]
        total += distance * (later - earlier)
    scale = 2 * sum(distance**2 for distance in range(1, _SLOPE_REACH + 1))
    return total / np.float32(scale)


@functools.cache
def _window() -> NDArray[np.float32]:
    return np.hamming(WINDOW_SAMPLES).astype(np.float32)


@functools.cache
def _mel_bands() -> NDArray[np.float32]:
    """Triangles on the mel scale, (spectrum bins, bands)."""

    def mel(hertz: float) -> float:
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    points = np.linspace(mel(_LOWEST_HZ), mel(_HIGHEST_HZ), _BANDS + 2)
    edges = 700.0 * (np.exp(points / 1127.0) - 1.0)
    bins = np.fft.rfftfreq(_TRANSFORM, 1 / SAMPLE_RATE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@functools.cache
def _cosines() -> NDArray[np.float32]:
    """Orthonormal cosine transform, (bands, coefficients)."""
    band = np.arange(_BANDS)[:, None] + 0.5
    matrix = np.sqrt(2 / _BANDS) * np.cos(np.pi / _BANDS * band * np.arange(COEFFICIENTS))
    matrix[:, 0] /= np.sqrt(2)
    return matrix.astype(np.float32)
