"""A unit for every frame: which of a few hundred sounds it is nearest to, by clustering.

Source: Hsu et al. 2021 (HuBERT), sec. III-A and III-D: k-means on cepstra gives the first targets,
k-means on what a hidden layer makes of the sound the next ones.
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unheard.audio.cepstra import WINDOW_SAMPLES, cepstra
from unheard.data.kmeans import fit_kmeans, squared_distances
from unheard.data.store import SampleStore
from unheard.errors import ConfigError
from unheard.files import atomic_path, read_json, write_json_atomic
from unheard.tensors import derive_seed

FRAMES_TO_FIT = 200_000
"""Frames that the clusters are found on."""


class FrameRule(Protocol):
    """What of a network decides where its frames lie."""

    @property
    def stride_samples(self) -> int:
        """Samples from one frame to the next."""
        ...

    @property
    def receptive_field_samples(self) -> int:
        """Samples that one frame sees."""
        ...

    def num_frames(self, num_samples: int) -> int:
        """Frames made of so many samples."""
        ...


class FrameFeatures(Protocol):
    """A vector for every frame of an utterance, to be clustered."""

    @property
    def frame_rule(self) -> FrameRule:
        """Where the frames lie."""
        ...

    @property
    def fingerprint(self) -> str:
        """Differs between features that give different vectors."""
        ...

    def of(self, store: SampleStore, number: int) -> NDArray[np.float32]:
        """Describe one utterance of a store, (frames, size)."""
        ...


class CepstralFeatures:
    """Mel cepstra with their slopes, at the frames of an encoder."""

    def __init__(self, encoder: FrameRule) -> None:
        """Prepare.

        Raises:
            ConfigError: if a frame is shorter than the window of the cepstra.
        """
        if encoder.receptive_field_samples < WINDOW_SAMPLES:
            raise ConfigError(
                f"Units need frames that see at least {WINDOW_SAMPLES} samples, these see "
                f"{encoder.receptive_field_samples}."
            )
        self.frame_rule = encoder
        self.fingerprint = f"cepstra {encoder.stride_samples} {encoder.receptive_field_samples}"

    def of(self, store: SampleStore, number: int) -> NDArray[np.float32]:
        """Describe one utterance of a store, (frames, features)."""
        return cepstra(
            store.normalized(number, epsilon=1e-8),
            stride_samples=self.frame_rule.stride_samples,
            first_centre_samples=self.frame_rule.receptive_field_samples // 2,
            frames=self.frame_rule.num_frames(int(store.num_samples[number])),
        )


class UnitStore:
    """Units of every utterance of a store, frame by frame, in one file mapped into memory.

    Attributes:
        units: how many different ones there are.
    """

    def __init__(self, folder: Path, *, frames: NDArray[np.int64], units: int) -> None:
        self.units = units
        self._frames = frames
        self._starts = np.cumsum(frames) - frames
        total = int(frames.sum())
        path = folder / "units.u16"
        self._units = (
            np.memmap(path, dtype=np.uint16, mode="r", shape=(total,))
            if total
            else np.zeros(0, dtype=np.uint16)
        )

    def of(self, number: int, *, start: int, count: int) -> NDArray[np.int64]:
        """Units of `count` frames of one utterance from frame `start` on, (count,)."""
        first = int(self._starts[number]) + start
        return self._units[first : first + count].astype(np.int64)


def open_units(
    store: SampleStore,
    features: FrameFeatures,
    *,
    units: int,
    seed: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UnitStore:
    """Open the units of a store, clustering and labelling first when they are not there yet.

    Args:
        store: decoded recordings; the units are kept in its folder.
        features: what is clustered.
        units: number of clusters.
        seed: of the clustering.
        workers: threads; by default one a processor.
        progress: called with (utterances done, all).

    Raises:
        ConfigError: if there are fewer frames than units.
    """
    rule = features.frame_rule
    frames = np.asarray([rule.num_frames(int(count)) for count in store.num_samples], np.int64)
    shape = (features.fingerprint, units, seed)
    content = json.dumps([*shape, store.sha256, store.num_samples.tolist()]).encode()
    fingerprint = hashlib.sha256(content).hexdigest()
    index = store.folder / "units.json"
    if not (index.exists() and read_json(index).get("fingerprint") == fingerprint):
        # Gone first: it must never stand beside units of other settings.
        index.unlink(missing_ok=True)
        _label_all(store, features, frames, units, seed, workers or os.cpu_count() or 1, progress)
        write_json_atomic(index, {"fingerprint": fingerprint, "units": units})
    return UnitStore(store.folder, frames=frames, units=units)


def _label_all(
    store: SampleStore,
    features: FrameFeatures,
    frames: NDArray[np.int64],
    units: int,
    seed: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Find the clusters on some utterances, then label all."""

    def describe(number: int) -> NDArray[np.float32]:
        return features.of(store, number)

    generator = np.random.default_rng(derive_seed(seed, "units"))
    order = generator.permutation(len(store))
    enough = int(np.searchsorted(np.cumsum(frames[order]), FRAMES_TO_FIT)) + 1
    with ThreadPoolExecutor(workers) as pool:
        described = [part for part in pool.map(describe, order[:enough]) if len(part)]
        if not described:
            raise ConfigError("There is nothing to cluster: every recording is too short.")
        fitted = np.concatenate(described)
        means, spreads = fitted.mean(axis=0), fitted.std(axis=0) + 1e-6
        centres = fit_kmeans((fitted - means) / spreads, units, generator=generator)

        def label(number: int) -> bytes:
            if frames[number] == 0:
                return b""
            distances = squared_distances((describe(number) - means) / spreads, centres)
            return distances.argmin(axis=1).astype(np.uint16).tobytes()

        with (
            atomic_path(store.folder / "units.u16") as temporary,
            temporary.open("wb") as file,
        ):
            for done, labels in enumerate(pool.map(label, range(len(store))), start=1):
                file.write(labels)
                if progress is not None:
                    progress(done, len(store))
