"""Noise at an exact ratio to the speech: white, pink, babble, or recorded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VOICES = (3, 7)
"""How many others babble, fewest and most (as in recipes of MUSAN)."""


def power(samples: NDArray[np.floating]) -> float:
    """Mean square of (samples,); 0 where there are none."""
    return float(np.square(samples, dtype=np.float64).mean()) if samples.shape[0] else 0.0


def add_noise(
    samples: NDArray[np.float32], noise: NDArray[np.floating], *, snr_db: float
) -> NDArray[np.float32]:
    """Add noise so that the power of the speech over that of the noise is `snr_db`.

    Args:
        samples: (samples,) speech.
        noise: (samples,) of any level; digital silence adds nothing.
        snr_db: ratio of mean squares [dB].

    Returns:
        (samples,) float32.
    """
    loudness = power(noise)
    if loudness == 0:
        return samples
    gain = np.sqrt(power(samples) / (loudness * 10 ** (snr_db / 10)))
    return (samples + gain * noise).astype(np.float32)


def white(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw noise with the same power in every hertz, (count,)."""
    return generator.standard_normal(count)


def pink(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw noise with the same power in every octave, (count,), without a constant part."""
    if count < 2:
        return np.zeros(count)
    spectrum = np.fft.rfft(generator.standard_normal(count))
    spectrum[1:] /= np.sqrt(np.arange(1, spectrum.shape[0]))
    spectrum[0] = 0
    return np.fft.irfft(spectrum, count)


def babble(
    others: Sequence[NDArray[np.float32]], count: int, generator: np.random.Generator
) -> NDArray[np.float64] | None:
    """Let a few others talk at once, each as loud as the next and from a place of its own.

    Args:
        others: utterances to draw from, with replacement where there are fewer than voices.
        count: samples wanted; who is shorter begins again.
        generator: draws who and from where.

    Returns:
        (count,), or None when nobody else makes a sound.
    """
    talking = [other for other in others if power(other) > 0]
    if not talking:
        return None
    voices = int(generator.integers(VOICES[0], VOICES[1], endpoint=True))
    mixed = np.zeros(count)
    for number in generator.choice(len(talking), voices, replace=voices > len(talking)):
        other = talking[number]
        mixed += stretch_of(other, count, generator) / np.sqrt(power(other))
    return mixed


def stretch_of(
    recording: NDArray[np.float32], count: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Take `count` samples from a random place; a shorter recording is repeated."""
    length = recording.shape[0]
    if length >= count:
        start = int(generator.integers(length - count, endpoint=True))
        return recording[start : start + count]
    return np.take(recording, np.arange(count) + int(generator.integers(length)), mode="wrap")
