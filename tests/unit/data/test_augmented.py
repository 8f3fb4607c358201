"""Batches of changed recordings: what decides them, and what stays as it was."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from tests import recordings, small_corpora
from tests.tiny_models import tiny_encoder

from unheard.audio.augment.config import (
    AugmentConfig,
    CodecConfig,
    NoiseConfig,
    ReverbConfig,
    SpeedConfig,
)
from unheard.audio.augment.noise import power
from unheard.audio.augment.speed import change_speed, samples_after
from unheard.audio.signal import InputSpec
from unheard.data import augmented
from unheard.data.augmented import target_fits
from unheard.data.batching import Position
from unheard.data.dataset import (
    AudioBatch,
    LabelledBatch,
    LabelledSource,
    Prefetch,
    UnlabelledSource,
)
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.data.sampling import SamplingConfig
from unheard.data.units import UnitStore
from unheard.errors import ConfigError
from unheard.objectives.ctc import frames_needed

RATE = 16_000
LENGTHS = (3000, 3200, 3600, 4000, 4400, 4800, 5200, 5600)
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
SPEED = AugmentConfig(speed=SpeedConfig(probability=1.0))
ENCODER = tiny_encoder()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PcmStore:
    """Smooth noise of several lengths."""
    folder = tmp_path_factory.mktemp("recordings")
    generator = np.random.default_rng(0)
    utterances = []
    for number, length in enumerate(LENGTHS):
        smooth = np.convolve(generator.standard_normal(length + 20), np.hanning(21), "valid")
        samples = 0.05 * smooth[:length]
        data = recordings.wav(recordings.pcm16(samples[None]), rate=RATE)
        small_corpora.text(folder / f"{number}.wav", data)
        utterances.append(
            Utterance(
                id=f"u{number}",
                audio=f"{number}.wav",
                num_samples=length,
                sample_rate=RATE,
                language="wo" if number else "am",
            )
        )
    return open_store(utterances, folder / "store", root=folder)


def crops(store: PcmStore, augment: AugmentConfig | None, **more: Any) -> UnlabelledSource:
    settings: dict[str, Any] = {
        "input_spec": InputSpec(normalize=True),
        "batch_seconds": 0.8,
        "min_seconds": 0.1,
        "max_seconds": 0.25,
        "seed": 3,
    }
    return UnlabelledSource(store, augment=augment, **settings | more)


def texts(
    store: PcmStore,
    augment: AugmentConfig | None,
    targets: Sequence[Sequence[int]] | None = None,
    **more: Any,
) -> LabelledSource:
    settings: dict[str, Any] = {
        "input_spec": InputSpec(normalize=True),
        "batch_seconds": 0.8,
        "encoder": ENCODER,
        "seed": 3,
    }
    targets = [[1, 2]] * len(store) if targets is None else targets
    return LabelledSource(store, targets, augment=augment, **settings | more)


def positions(source: Any, *, epochs: int = 2) -> list[Position]:
    found, position = [], Position()
    while position.epoch < epochs:
        found.append(position)
        position = source.plan.after(position)
    return found


def content(batch: AudioBatch | LabelledBatch) -> tuple[Any, ...]:
    lengths = batch.lengths.tolist() if isinstance(batch, LabelledBatch) else None
    return batch.ids, batch.samples.shape, batch.samples.numpy().tobytes(), lengths


MAKERS = {"crops": crops, "texts": texts}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("augment", [AugmentConfig(), NEVER], ids=["nothing", "never"])
def test_without_augmentation_batches_are_the_same_bytes(
    store: PcmStore, kind: str, augment: AugmentConfig
) -> None:
    plain, asked = MAKERS[kind](store, None), MAKERS[kind](store, augment)
    for position in positions(plain):
        assert content(asked.load(position)) == content(plain.load(position))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_batch_does_not_depend_on_when_or_where_it_is_made(store: PcmStore, kind: str) -> None:
    source = MAKERS[kind](store, ALWAYS)
    places = positions(source)
    expected = [content(source.load(position)) for position in places]
    other = MAKERS[kind](store, ALWAYS)
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(lambda p: content(other.load(p)), reversed(places)))
    assert backwards == expected[::-1]
    # Of two processes, each makes every other batch.
    shares: list[list[Any]] = []
    for rank in range(2):
        batches = Prefetch(MAKERS[kind](store, ALWAYS), Position(), rank=rank, world=2)
        stream = iter(batches)
        shares.append([content(next(stream)[1]) for _ in range(len(places) // 2)])
        batches.close()
    together = [one for pair in zip(*shares, strict=True) for one in pair]
    assert together == expected[: len(together)]


@pytest.mark.parametrize("kind", MAKERS)
def test_every_pass_and_every_seed_changes_an_utterance_in_another_way(
    store: PcmStore, kind: str
) -> None:
    only = AugmentConfig(noise=NoiseConfig(probability=1.0, kinds=("white",)))
    seen: set[bytes] = set()
    for seed in (3, 4):
        source = MAKERS[kind](store, only, seed=seed, batch_seconds=0.01)  # each by itself
        for position in positions(source, epochs=3):
            batch = source.load(position)
            if batch.ids == ("u0",):
                seen.add(batch.samples[:, :3000].numpy().tobytes())
    assert len(seen) == 6


@pytest.mark.parametrize("normalize", [False, True])
def test_crops_keep_their_length_and_level_but_not_their_samples(
    store: PcmStore, normalize: bool
) -> None:
    spec = InputSpec(normalize=normalize)
    noisy = AugmentConfig(reverb=ALWAYS.reverb, noise=ALWAYS.noise, codec=ALWAYS.codec)
    plain, changed = crops(store, None, input_spec=spec), crops(store, noisy, input_spec=spec)
    for position in positions(plain):
        before, after = plain.load(position), changed.load(position)
        assert after.ids == before.ids
        assert after.audio == before.audio
        assert after.samples.shape == before.samples.shape
        for one, other in zip(before.samples.numpy(), after.samples.numpy(), strict=True):
            assert power(other) == pytest.approx(power(one), rel=1e-4)
            assert not np.allclose(one, other, rtol=1e-2)


def test_crops_at_another_speed_are_stretches_of_their_utterance(store: PcmStore) -> None:
    spec = InputSpec(normalize=False)
    config = AugmentConfig(speed=SpeedConfig(probability=1.0, factors=(0.8, 1.25)))
    source = crops(store, config, input_spec=spec, max_seconds=0.15)
    plain = crops(store, None, input_spec=spec, max_seconds=0.15)
    factors: list[float] = []
    for position in positions(source):
        batch = source.load(position)
        assert batch.samples.shape == plain.load(position).samples.shape == (len(batch.ids), 2400)
        for name, row in zip(batch.ids, batch.samples.numpy(), strict=True):
            whole = store.samples(int(name[1:]))
            # Away from its ends, a crop is the whole utterance at one of the speeds.
            middle = row[400:-400].astype(np.float64)
            matches = {}
            for factor in (0.8, 1.0, 1.25):
                played = change_speed(whole, factor).astype(np.float64)
                windows = np.lib.stride_tricks.sliding_window_view(played, len(middle))
                scores = windows @ middle / np.linalg.norm(windows, axis=1)
                matches[factor] = float(scores.max() / np.linalg.norm(middle))
            best = max(matches, key=matches.__getitem__)
            assert matches[best] > 0.98
            factors.append(best)
    assert {0.8, 1.25} <= set(factors)
    # 2,400 samples at a speed of 1.25 are made of 3,000, which every utterance has.
    assert 1.0 not in factors


def test_a_crop_that_is_the_whole_utterance_cannot_be_faster(store: PcmStore) -> None:
    spec = InputSpec(normalize=False)
    config = AugmentConfig(speed=SpeedConfig(probability=1.0, factors=(1.1,)))
    source = crops(store, config, input_spec=spec, max_seconds=1.0)
    kept = 0
    for position in positions(source):
        batch = source.load(position)
        shortest = batch.samples.shape[1]
        for name, row in zip(batch.ids, batch.samples.numpy(), strict=True):
            whole = store.samples(int(name[1:]))
            if len(whole) == shortest:
                np.testing.assert_array_equal(row, whole)
                kept += 1
    assert kept > 2


def test_labelled_utterances_get_the_length_of_their_speed(store: PcmStore) -> None:
    source = texts(store, SPEED, input_spec=InputSpec(normalize=False))
    seen: set[float] = set()
    for position in positions(source, epochs=3):
        batch = source.load(position)
        assert batch.samples.shape[1] == int(batch.lengths.max())
        for name, row, length in zip(batch.ids, batch.samples, batch.lengths, strict=True):
            whole = store.samples(int(name[1:]))
            for factor in (0.9, 1.1):
                if int(length) == samples_after(len(whole), factor):
                    expected = change_speed(whole, factor)
                    np.testing.assert_array_equal(row[: int(length)].numpy(), expected)
                    seen.add(factor)
                    break
            else:
                raise AssertionError(f"{name} has {length} samples of {len(whole)}")
            assert not row[int(length) :].any()
    assert seen == {0.9, 1.1}


def test_a_text_always_fits_into_the_frames_that_are_left(store: PcmStore) -> None:
    frames = [ENCODER.num_frames(length) for length in LENGTHS]
    # Every other text takes every frame there is, with a repeat; the rest has room.
    targets = [
        [1, 1, *([2, 3] * count)[: count - 3]] if number % 2 else [1, 2]
        for number, count in enumerate(frames)
    ]
    fast = AugmentConfig(speed=SpeedConfig(probability=1.0, factors=(1.1,)))
    source = texts(store, fast, targets, input_spec=InputSpec(normalize=False))
    for position in positions(source):
        batch = source.load(position)
        needed = frames_needed(batch.targets, batch.target_lengths)
        for name, length, frame_count in zip(batch.ids, batch.lengths, needed, strict=True):
            number = int(name[1:])
            assert ENCODER.num_frames(int(length)) >= int(frame_count)
            tight = number % 2 == 1
            assert (int(length) == LENGTHS[number]) == tight


def test_target_fits_counts_a_blank_between_equal_neighbours() -> None:
    ten_frames = 50 + 9 * 20
    assert ENCODER.num_frames(ten_frames) == 10
    assert target_fits([1] * 5 + [2], ten_frames, 1.0, ENCODER)
    assert not target_fits([1] * 6, ten_frames, 1.0, ENCODER)
    assert not target_fits([1] * 5 + [2], ten_frames, 1.1, ENCODER)
    assert target_fits([1] * 5 + [2], ten_frames, 0.9, ENCODER)
    assert not target_fits([], 20, 1.0, ENCODER)


def test_babble_is_the_others_of_the_batch(
    store: PcmStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, ...]] = []
    powers = {number: round(power(store.samples(number)), 12) for number in range(len(store))}

    def watched(self: Any, samples: Any, *, seed: int, others: Any = ()) -> Any:
        told.append((round(power(samples), 12), *(round(power(other), 12) for other in others)))
        return samples

    monkeypatch.setattr(augmented.Augmenter, "__call__", watched)
    noise = AugmentConfig(noise=NoiseConfig())
    batch = texts(store, noise, input_spec=InputSpec(normalize=False)).load(Position())
    mine = [powers[int(name[1:])] for name in batch.ids]
    assert len(mine) > 1
    for row, (own, *others) in enumerate(told):
        assert own == mine[row]
        assert others == mine[:row] + mine[row + 1 :]


def test_an_utterance_that_is_heard_twice_is_changed_twice(store: PcmStore) -> None:
    only = AugmentConfig(noise=NoiseConfig(probability=1.0, kinds=("white",)))
    # One utterance of a language against seven of another, each language heard as often; every
    # utterance is a batch by itself, and whole.
    more = {"sampling": SamplingConfig(language=0.0), "batch_seconds": 0.01, "max_seconds": 1.0}
    rows: dict[str, list[bytes]] = {"plain": [], "noisy": []}
    for name, augment in (("plain", None), ("noisy", only)):
        source = crops(store, augment, **more)
        for position in positions(source, epochs=1):
            batch = source.load(position)
            if batch.ids == ("u0",):
                rows[name].append(batch.samples.numpy().tobytes())
    assert len(rows["noisy"]) == len(rows["plain"]) > 1
    assert len(set(rows["plain"])) == 1
    assert len(set(rows["noisy"])) == len(rows["noisy"])


def test_units_and_speed_do_not_go_together(store: PcmStore) -> None:
    units = UnitStore.__new__(UnitStore)
    with pytest.raises(ConfigError, match="moves sounds to other frames than their units"):
        crops(store, SPEED, units=units, encoder=ENCODER)
    crops(store, AugmentConfig(noise=NoiseConfig()), units=units, encoder=ENCODER)
    with pytest.raises(ConfigError, match="too few frames for a text"):
        texts(store, SPEED, encoder=None)


def test_samples_stay_float32_and_finite(store: PcmStore) -> None:
    for source in (crops(store, ALWAYS), texts(store, ALWAYS)):
        for position in positions(source, epochs=1):
            samples = source.load(position).samples
            assert samples.dtype == torch.float32
            assert samples.isfinite().all()
