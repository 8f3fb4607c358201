"""Units: clustering against scikit-learn, labels frame by frame, and what is kept on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from unheard.audio.io import write_wav
from unheard.audio.signal import InputSpec
from unheard.data.batching import Position
from unheard.data.dataset import UnlabelledSource, crop_batch
from unheard.data.kmeans import fit_kmeans, squared_distances
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.data.units import CepstralFeatures, open_units
from unheard.errors import ConfigError
from unheard.recipes.catalogue import nano

ENCODER = nano().network.encoder


def make_store(folder: Path, seconds: tuple[float, ...] = (1.0, 1.7, 1.2)) -> PcmStore:
    """Recordings of three alternating sounds."""
    utterances = []
    for number, length in enumerate(seconds):
        time = np.arange(int(16_000 * length)) / 16_000
        pitch = np.asarray([250.0, 900.0, 2500.0])[(time / 0.2).astype(int) % 3]
        samples = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
        path = folder / f"{number}.wav"
        write_wav(path, samples.astype(np.float32), 16_000)
        utterances.append(
            Utterance(id=str(number), audio=str(path), num_samples=len(time), sample_rate=16_000)
        )
    return open_store(utterances, folder / "decoded", root=Path())


def test_clusters_are_as_tight_as_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 4)) * 8
    points = (centres[generator.integers(6, size=600)] + generator.normal(size=(600, 4))).astype(
        np.float32
    )
    ours = fit_kmeans(points, 6, generator=np.random.default_rng(1))
    theirs = KMeans(6, n_init=10, random_state=0).fit(points)
    own = (points**2).sum(axis=1)
    inertia = (squared_distances(points, ours).min(axis=1) + own).sum()
    assert inertia <= theirs.inertia_ * 1.01


def test_a_cluster_is_never_left_empty() -> None:
    points = np.repeat(np.asarray([[0.0], [1.0], [9.0]], np.float32), 5, axis=0)
    centres = fit_kmeans(points, 3, generator=np.random.default_rng(0))
    assert sorted(centres[:, 0]) == [0.0, 1.0, 9.0]


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="as many frames as units: expected 5, got 3"):
        fit_kmeans(np.zeros((3, 2), np.float32), 5, generator=np.random.default_rng(0))


def test_every_frame_has_a_unit_and_unlike_sounds_have_others(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    units = open_units(store, CepstralFeatures(ENCODER), units=12, seed=0)
    frames = ENCODER.num_frames(int(store.num_samples[1]))
    found = units.of(1, start=0, count=frames)
    assert found.shape == (frames,)
    assert set(found) <= set(range(12))
    centres = (360 + 320 * np.arange(frames)) / 16_000
    inside = np.abs(centres % 0.2 - 0.1) < 0.04  # away from where the pitch changes
    sound = (centres / 0.2).astype(int) % 3
    names = [set(found[inside & (sound == kind)]) for kind in range(3)]
    # Between changes a pitch has units of its own, mostly one.
    assert len(set.union(*names)) == sum(map(len, names)) <= 5
    np.testing.assert_array_equal(units.of(1, start=3, count=5), found[3:8])


def test_units_are_kept_and_made_anew_for_another_seed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    open_units(store, CepstralFeatures(ENCODER), units=6, seed=0)
    path = store.folder / "units.u16"
    first = path.read_bytes()
    made = path.stat().st_mtime_ns
    open_units(store, CepstralFeatures(ENCODER), units=6, seed=0, workers=2)
    assert path.stat().st_mtime_ns == made
    open_units(store, CepstralFeatures(ENCODER), units=5, seed=3)
    assert path.stat().st_mtime_ns != made
    open_units(store, CepstralFeatures(ENCODER), units=6, seed=0, workers=2)
    assert path.read_bytes() == first


def test_frames_too_short_for_a_window_are_refused() -> None:
    short = replace(ENCODER, conv_layers=(replace(ENCODER.conv_layers[0], kernel=200),))
    with pytest.raises(ConfigError, match="at least 400 samples, these see 200"):
        CepstralFeatures(short)


def test_a_crop_brings_the_units_of_its_own_frames(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    units = open_units(store, CepstralFeatures(ENCODER), units=6, seed=0)
    source = UnlabelledSource(
        store,
        input_spec=InputSpec(),
        batch_seconds=10.0,
        min_seconds=0.5,
        max_seconds=0.9,
        seed=0,
        units=units,
        encoder=ENCODER,
    )
    starts = set()
    for epoch in range(8):
        batch = source.load(Position(epoch=epoch))
        assert batch.units is not None
        for row, name in enumerate(batch.ids):
            number = store.ids.index(name)
            whole = store.normalized(number, epsilon=InputSpec().normalize_epsilon)
            crop = batch.samples[row].numpy()
            start = next(
                s
                for s in range(0, len(whole) - len(crop) + 1, ENCODER.stride_samples)
                if np.array_equal(whole[s : s + len(crop)], crop)
            )
            starts.add(start)
            expected = units.of(
                number, start=start // ENCODER.stride_samples, count=batch.units.shape[1]
            )
            np.testing.assert_array_equal(batch.units[row].numpy(), expected)
    assert len(starts) > 3


def test_without_units_a_batch_has_none(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    batch = crop_batch(store, np.asarray([0, 1]), [0, 7], 8000, input_spec=InputSpec())
    assert batch.units is None
