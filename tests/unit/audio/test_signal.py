"""Normalising, resampling and preparing."""

import numpy as np
import pytest
from tests.recordings import sound

from unheard.audio.signal import InputSpec, Waveform, normalize, prepare, resample
from unheard.errors import ConfigError, ShapeError


def test_normalize_is_zero_mean_and_unit_variance() -> None:
    samples = (sound(1, 16_000)[0] * 0.1 + 0.3).astype(np.float32)
    result = normalize(samples, epsilon=1e-7)
    assert result.dtype == np.float32
    assert abs(float(result.mean())) < 1e-5
    assert float(result.var()) == pytest.approx(1, abs=1e-3)


def test_normalize_of_silence_and_of_nothing() -> None:
    np.testing.assert_array_equal(normalize(np.zeros(5, np.float32), epsilon=1e-5), np.zeros(5))
    assert normalize(np.zeros(0, np.float32), epsilon=1e-5).shape == (0,)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resample_keeps_a_tone(rate: int) -> None:
    def tone(hz: int) -> np.ndarray:
        return np.sin(2 * np.pi * 1_000 * np.arange(hz) / hz)

    result = resample(tone(rate), rate, 16_000)
    assert result.dtype == np.float32
    assert result.shape == (16_000,)
    np.testing.assert_allclose(result[500:-500], tone(16_000)[500:-500], atol=1e-3)


def test_resample_does_not_fold_high_tones_back() -> None:
    tone = np.sin(2 * np.pi * 9_000 * np.arange(44_100) / 44_100)
    assert np.abs(resample(tone, 44_100, 16_000)[500:-500]).max() < 1e-4


def test_resample_refuses_other_shapes_and_rates() -> None:
    with pytest.raises(ShapeError):
        resample(np.zeros((2, 9)), 8_000, 16_000)
    with pytest.raises(ConfigError):
        resample(np.zeros(9), 0, 16_000)


def test_prepare_follows_the_input_spec() -> None:
    waveform = Waveform(samples=sound(1, 8_000)[0].astype(np.float32), sample_rate=8_000)
    plain = prepare(waveform, InputSpec(normalize=False))
    np.testing.assert_array_equal(plain, resample(waveform.samples, 8_000, 16_000))
    normal = prepare(waveform, InputSpec(normalize_epsilon=1e-7))
    np.testing.assert_array_equal(normal, normalize(plain, epsilon=1e-7))
    assert waveform.duration_seconds == 1.0
