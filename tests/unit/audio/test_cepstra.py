"""Cepstra: against a plain computation, frame by frame."""

import numpy as np
import pytest

from unheard.audio.cepstra import FEATURES, cepstra

STRIDE, FIRST_CENTRE = 320, 360


def sound(seconds: float, *, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(int(16_000 * seconds)) / 16_000
    tone = np.sin(2 * np.pi * 300 * time) * (1 + np.sin(2 * np.pi * 3 * time))
    return (0.3 * tone + 0.05 * generator.normal(size=time.shape)).astype(np.float32)


def frames_of(samples: np.ndarray) -> int:
    return (len(samples) - 720) // STRIDE + 1


def plain_static(samples: np.ndarray, centre: int) -> np.ndarray:
    """One frame's 13 coefficients, written with loops."""
    window = samples[centre - 200 : centre + 200] * np.hamming(400)
    power = np.abs(np.fft.rfft(window, 512)) ** 2
    hertz = np.arange(257) * 16_000 / 512
    low, high = (1127 * np.log(1 + edge / 700) for edge in (20.0, 7600.0))
    edges = [700 * (np.exp((low + (high - low) * k / 41) / 1127) - 1) for k in range(42)]
    logs = []
    for band in range(40):
        left, top, right = edges[band : band + 3]
        weights = np.minimum((hertz - left) / (top - left), (right - hertz) / (right - top))
        logs.append(np.log((power * np.maximum(weights, 0)).sum() + 1e-5))
    coefficients = []
    for order in range(13):
        scale = np.sqrt((1 if order == 0 else 2) / 40)
        terms = [logs[b] * np.cos(np.pi / 40 * (b + 0.5) * order) for b in range(40)]
        coefficients.append(scale * sum(terms))
    return np.asarray(coefficients)


def test_static_coefficients_and_slopes_equal_a_plain_computation() -> None:
    samples = sound(0.5)
    frames = frames_of(samples)
    found = cepstra(
        samples, stride_samples=STRIDE, first_centre_samples=FIRST_CENTRE, frames=frames
    )
    assert found.shape == (frames, FEATURES)
    half = [plain_static(samples, FIRST_CENTRE + 160 * k) for k in range(2 * frames - 1)]
    static = np.stack(half) - np.mean(half, axis=0)
    np.testing.assert_allclose(found[:, :13], static[::2], atol=2e-3)
    middle = 2 * (frames // 2)
    slope = (
        static[middle + 1] - static[middle - 1] + 2 * (static[middle + 2] - static[middle - 2])
    ) / 10
    np.testing.assert_allclose(found[frames // 2, 13:26], slope, atol=2e-3)


def test_the_level_does_not_matter() -> None:
    samples = sound(0.4)
    where = {"stride_samples": STRIDE, "first_centre_samples": FIRST_CENTRE}
    loud = cepstra(samples * 100, frames=frames_of(samples), **where)
    louder = cepstra(samples * 300, frames=frames_of(samples), **where)
    np.testing.assert_allclose(loud, louder, atol=1e-3)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_few_frames(frames: int) -> None:
    samples = sound(0.5)[: 720 + 320 * max(frames - 1, 0)]
    found = cepstra(
        samples, stride_samples=STRIDE, first_centre_samples=FIRST_CENTRE, frames=frames
    )
    assert found.shape == (frames, FEATURES)
    assert np.isfinite(found).all()
