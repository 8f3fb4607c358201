"""Speech and pauses: what is told apart, and what nothing may break."""

import itertools

import numpy as np
import pytest

from unheard.audio.segment import (
    LevelMeter,
    activity,
    is_pause,
    is_steady,
    quietest,
    stretches,
)
from unheard.errors import ConfigError

RATE = 16_000


def make_speech(seconds: float, *, seed: int = 0) -> np.ndarray:
    """Syllables of noise and tone, with gaps too short to be pauses."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * 200 * times) + 0.5 * np.sin(2 * np.pi * 1500 * times)
    sound = 0.2 * tone + 0.1 * generator.normal(size=times.shape[0])
    return (sound * np.where(times % 0.2 < 0.12, 1.0, 0.02)).astype(np.float32)


def make_noise(seconds: float, *, level: float, seed: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (level * generator.normal(size=round(seconds * RATE))).astype(np.float32)


def measured(samples: np.ndarray) -> np.ndarray:
    return activity(LevelMeter().measure(samples))


def test_a_sine_of_full_scale_has_level_zero_in_its_band_alone() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    levels = LevelMeter().measure(tone)
    assert levels.shape == (99, 5)
    assert levels[:, 2] == pytest.approx(0.0, abs=0.1)
    assert levels[:, [0, 1, 3, 4]].max() < -30


def test_levels_do_not_depend_on_the_pieces() -> None:
    sound = make_speech(2.0)
    meter = LevelMeter()
    pieces = [meter.feed(piece) for piece in np.split(sound, [1, 7, 1000, 1001, 20_000])]
    assert np.array_equal(np.concatenate(pieces), LevelMeter().measure(sound))


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.01])
def test_speech_and_pauses_are_told_apart(noise: float) -> None:
    speech = make_speech(3.0)
    gap = np.zeros(RATE, np.float32)
    sound = np.concatenate([gap, speech, gap, speech, gap]) + make_noise(9.0, level=noise)
    found = list(stretches([sound]))
    assert [one.is_speech for one in found] == [False, True, False, True, False]
    edges = [one.start / RATE for one in found[1:]]
    assert edges == pytest.approx([1.0, 4.0, 5.0, 8.0], abs=0.15)


def test_a_short_pause_belongs_to_the_speech_around_it() -> None:
    speech = make_speech(3.0)
    sound = np.concatenate([speech, np.zeros(round(0.6 * RATE), np.float32), speech])
    assert [one.is_speech for one in stretches([sound])] == [True, False, True]
    assert [one.is_speech for one in stretches([sound], min_pause_seconds=1.0)] == [True]


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(30 * RATE, np.float32),
        np.full(30 * RATE, 0.7, np.float32),
        make_noise(30.0, level=0.1),
        np.sin(2 * np.pi * 50 * np.arange(30 * RATE) / RATE).astype(np.float32),
    ],
    ids=["silence", "offset", "hiss", "hum"],
)
def test_what_is_steady_is_one_pause(sound: np.ndarray) -> None:
    assert is_steady(measured(sound))
    (only,) = stretches([sound])
    assert (only.start, only.stop, only.is_speech) == (0, sound.shape[0], False)


@pytest.mark.parametrize("ratio", [0.0, -5.0, -8.0])
def test_speech_under_noise_is_not_steady(ratio: float) -> None:
    speech = make_speech(12.0)
    noise = make_noise(12.0, level=float(np.sqrt(np.mean(speech**2))) * 10 ** (-ratio / 20))
    assert not is_steady(measured(speech + noise))
    assert is_steady(measured(noise))


def test_clipped_speech_stays_speech() -> None:
    sound = np.clip(30 * make_speech(10.0), -1, 1)
    assert not is_steady(measured(sound))
    assert [one.is_speech for one in stretches([sound])] == [True]


def test_a_little_sound_is_never_called_steady() -> None:
    assert not is_steady(measured(np.zeros(2 * RATE, np.float32)))
    assert not is_steady(measured(np.zeros(100, np.float32)))


def test_stretches_cover_everything_once_whatever_the_blocks() -> None:
    generator = np.random.default_rng(4)
    parts = []
    for _ in range(12):
        parts.append(make_speech(generator.uniform(0.1, 6)))
        parts.append(make_noise(generator.uniform(0.05, 6), level=0.0003))
    sound = np.concatenate(parts)
    whole = list(stretches([sound]))
    cuts = np.sort(generator.integers(0, sound.shape[0], 200))
    assert list(stretches(np.split(sound, cuts))) == whole
    assert whole[0].start == 0
    assert whole[-1].stop == sound.shape[0]
    for one, following in itertools.pairwise(whole):
        assert one.stop == following.start
        assert one.is_speech != following.is_speech
    assert len(whole) > 8


@pytest.mark.parametrize("num_samples", [0, 1, 319, 320, 481])
def test_a_few_samples(num_samples: int) -> None:
    found = list(stretches([np.zeros(num_samples, np.float32)]))
    assert sum(one.stop - one.start for one in found) == num_samples


def test_the_quietest_place_is_the_middle_of_the_longest_pause() -> None:
    speech = make_speech(2.0)
    sound = np.concatenate([speech, np.zeros(6_400), speech, np.zeros(9_600), speech])
    active = measured(sound.astype(np.float32))
    step = quietest(active, 0, active.shape[0])
    assert step * 0.01 == pytest.approx(4.4 + 0.3, abs=0.03)
    assert is_pause(active, step)
    assert not is_pause(active, 100)
    # Where only speech may be cut, some place is found and is no pause.
    step = quietest(active, 20, 120)
    assert 20 <= step < 120
    assert not is_pause(active, step)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="2000 Hz"):
        LevelMeter(sample_rate=1_000)
    with pytest.raises(ConfigError, match="min_pause_seconds"):
        list(stretches([], min_pause_seconds=0))
