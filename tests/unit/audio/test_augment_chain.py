"""All augmentations of a recording together: what they keep, and what decides them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests import recordings
from tests.small_corpora import text as write_bytes

from unheard.audio.augment import chain
from unheard.audio.augment.chain import Augmenter
from unheard.audio.augment.config import (
    AugmentConfig,
    CodecConfig,
    NoiseConfig,
    ReverbConfig,
    SpeedConfig,
    read_augment,
)
from unheard.audio.augment.noise import power
from unheard.config import from_dict, to_dict
from unheard.errors import ConfigError

ALWAYS = AugmentConfig(
    speed=SpeedConfig(probability=1.0),
    reverb=ReverbConfig(probability=1.0),
    noise=NoiseConfig(probability=1.0),
    codec=CodecConfig(probability=1.0),
)
NEVER = AugmentConfig(
    speed=SpeedConfig(probability=0.0),
    reverb=ReverbConfig(probability=0.0),
    noise=NoiseConfig(probability=0.0),
    codec=CodecConfig(probability=0.0),
)


def sound(count: int = 4000, *, seed: int = 0) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    smooth = np.convolve(generator.standard_normal(count + 20), np.hanning(21), "valid")
    return (0.05 * smooth).astype(np.float32)


@given(
    parts=st.sets(st.sampled_from(["reverb", "noise", "codec"]), min_size=1),
    count=st.integers(1, 3000),
    level=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**63 - 1),
)
def test_length_and_level_stay(parts: set[str], count: int, level: float, seed: int) -> None:
    before = (level * sound(count)).astype(np.float32)
    only: dict[str, Any] = {name: getattr(ALWAYS, name) for name in parts}
    after = Augmenter(AugmentConfig(**only))(before, seed=seed, others=[sound(500, seed=1)])
    assert after.dtype == np.float32
    assert after.shape == before.shape
    assert np.isfinite(after).all()
    assert power(after) == pytest.approx(power(before), rel=1e-5)


@pytest.mark.parametrize("part", ["reverb", "noise", "codec"])
def test_each_part_changes_the_sound(part: str) -> None:
    only: dict[str, Any] = {part: getattr(ALWAYS, part)}
    before = sound()
    assert not np.allclose(Augmenter(AugmentConfig(**only))(before, seed=0), before, rtol=1e-2)


@given(seed=st.integers(0, 2**63 - 1))
def test_at_probability_zero_nothing_is_touched(seed: int) -> None:
    before = sound()
    for config in (NEVER, AugmentConfig()):
        augmenter = Augmenter(config)
        assert augmenter(before, seed=seed, others=[sound(seed=1)]) is before
        assert augmenter.speed(seed) == 1.0


def test_the_seed_decides_and_nothing_else() -> None:
    first, second = Augmenter(ALWAYS), Augmenter(ALWAYS)
    before, others = sound(), [sound(2500, seed=1), sound(3500, seed=2)]
    found = {seed: first(before, seed=seed, others=others) for seed in range(8)}
    for seed in reversed(range(8)):
        np.testing.assert_array_equal(second(before, seed=seed, others=others), found[seed])
        assert second.speed(seed) == first.speed(seed)
    distinct = {one.tobytes() for one in found.values()}
    assert len(distinct) == 8


def test_silence_stays_silence() -> None:
    silence = np.zeros(300, dtype=np.float32)
    assert Augmenter(ALWAYS)(silence, seed=0) is silence


@pytest.mark.parametrize("probability", [0.2, 2 / 3])
def test_shares_are_the_probabilities(probability: float) -> None:
    augmenter = Augmenter(
        AugmentConfig(
            speed=SpeedConfig(probability=probability, factors=(0.9, 1.1)),
            noise=NoiseConfig(probability=probability),
        )
    )
    before, draws = sound(20), 3000
    speeds = [augmenter.speed(seed) for seed in range(draws)]
    changed = [augmenter(before, seed=seed) is not before for seed in range(draws)]
    error = 4 * np.sqrt(probability * (1 - probability) / draws)
    assert np.mean(changed) == pytest.approx(probability, abs=error)
    assert np.mean(np.array(speeds) != 1) == pytest.approx(probability, abs=error)
    assert speeds.count(0.9) == pytest.approx(draws * probability / 2, abs=4 * np.sqrt(draws / 4))
    # The draws of one step say nothing about those of another.
    both = np.mean([one and speed != 1 for one, speed in zip(changed, speeds, strict=True)])
    assert both == pytest.approx(probability**2, abs=4 * np.sqrt(0.25 / draws))


def test_a_step_draws_alike_whatever_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios: list[float] = []

    def watched(samples: Any, noise: Any, *, snr_db: float) -> Any:
        ratios.append(snr_db)
        return samples

    monkeypatch.setattr(chain, "add_noise", watched)
    for config in (
        AugmentConfig(noise=ALWAYS.noise),
        ALWAYS,
        replace(ALWAYS, reverb=ReverbConfig(probability=0.5), codec=None),
    ):
        augmenter = Augmenter(config)
        for seed in range(5):
            augmenter(sound(), seed=seed)
    assert ratios[:5] == ratios[5:10] == ratios[10:]
    assert len(set(ratios)) == 5
    assert all(5 <= ratio <= 30 for ratio in ratios)


def test_ratios_of_the_chain_are_those_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bringing the level back afterwards changes speech and noise alike."""
    before = sound(4000)
    noise = np.random.default_rng(1).standard_normal(4000)
    monkeypatch.setattr(chain, "white", lambda count, generator: noise[:count])
    config = NoiseConfig(probability=1.0, snr_db=(7.0, 7.0), kinds=("white",))
    after = Augmenter(AugmentConfig(noise=config))(before, seed=0).astype(np.float64)
    parts = np.linalg.lstsq(np.stack([before, noise], axis=1), after, rcond=None)[0]
    ratio = power(parts[0] * before) / power(parts[1] * noise)
    assert 10 * np.log10(ratio) == pytest.approx(7.0, abs=1e-3)


def test_babble_needs_somebody_else() -> None:
    alone = Augmenter(AugmentConfig(noise=NoiseConfig(probability=1.0, kinds=("babble",))))
    before = sound()
    assert alone(before, seed=0) is before
    assert alone(before, seed=0, others=[sound(seed=1)]) is not before
    either = Augmenter(AugmentConfig(noise=NoiseConfig(probability=1.0, kinds=("babble", "pink"))))
    assert all(either(before, seed=seed) is not before for seed in range(10))


def put(folder: Path, samples: NDArray[np.floating]) -> None:
    data = recordings.wav(recordings.pcm16(samples[None]), rate=16_000)
    write_bytes(folder / "one.wav", data)


def test_noise_of_a_folder(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(1600) / 16_000)
    put(tmp_path, tone)
    config = NoiseConfig(probability=1.0, snr_db=(0.0, 0.0), folder=str(tmp_path))
    after = Augmenter(AugmentConfig(noise=config))(sound(16_000), seed=0)
    lines = np.abs(np.fft.rfft(after)) ** 2
    assert lines[2000] > 0.4 * lines.sum()


def test_a_room_of_a_folder(tmp_path: Path) -> None:
    response = np.zeros(400)
    response[[100, 300]] = [0.8, -0.4]
    put(tmp_path, response)
    config = ReverbConfig(probability=1.0, folder=str(tmp_path))
    before = sound()
    after = Augmenter(AugmentConfig(reverb=config))(before, seed=0)
    expected = before.astype(np.float64)
    expected[200:] -= 0.5 * before[:-200]
    expected *= np.sqrt(power(before) / power(expected))
    np.testing.assert_allclose(after, expected, atol=1e-4 * np.abs(expected).max())


def test_what_the_command_line_says() -> None:
    assert read_augment(None) == AugmentConfig()
    assert not read_augment(None)
    assert read_augment("speed,noise,reverb,codec") == AugmentConfig(
        speed=SpeedConfig(), noise=NoiseConfig(), reverb=ReverbConfig(), codec=CodecConfig()
    )
    found = read_augment("noise=some/where, reverb=rooms, codec=telephone+amr")
    assert found == AugmentConfig(
        noise=NoiseConfig(folder="some/where"),
        reverb=ReverbConfig(folder="rooms"),
        codec=CodecConfig(kinds=("telephone", "amr")),
    )
    assert found
    assert from_dict(AugmentConfig, to_dict(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speeed", "takes speed, reverb, noise, codec, with commas between: got 'speeed'"),
        ("", "got ''"),
        ("noise,noise", "names noise twice"),
        ("noise=", "without a value"),
        ("speed=2", "speed takes no value"),
        ("codec=telephone+gramophone", "got 'gramophone'"),
    ],
)
def test_what_is_not_understood_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_augment(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpeedConfig(probability=1.5), "speed.probability must be from 0 to 1, got 1.5"),
        (lambda: SpeedConfig(factors=()), "at least one"),
        (lambda: SpeedConfig(factors=(0.9, 3.0)), "from 0.5 to 2"),
        (lambda: ReverbConfig(seconds=(0.5, 0.2)), "reverb.seconds must be a lowest and a highest"),
        (lambda: ReverbConfig(seconds=(0.0, 0.2)), "from 0.001 to 10"),
        (lambda: ReverbConfig(direct_db=(0.0, 99.0)), "reverb.direct_db"),
        (lambda: NoiseConfig(probability=-0.1), "noise.probability"),
        (lambda: NoiseConfig(kinds=()), "at least one kind of noise"),
        (lambda: NoiseConfig(snr_db=(20.0, 10.0)), "noise.snr_db"),
        (lambda: CodecConfig(kinds=()), "at least one codec"),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_missing_folders_and_encoders_are_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in (
        AugmentConfig(noise=NoiseConfig(folder=str(tmp_path))),
        AugmentConfig(reverb=ReverbConfig(folder=str(tmp_path / "gone"))),
    ):
        with pytest.raises(ConfigError, match="Expected recordings in"):
            Augmenter(config)
    monkeypatch.setattr("unheard.audio.augment.codec._has_encoder", lambda _: False)
    with pytest.raises(ConfigError, match="cannot encode telephone"):
        Augmenter(AugmentConfig(codec=CodecConfig()))
