"""A folder of recordings to draw from: noises, or impulse responses of rooms."""

import logging
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unheard.audio import io
from unheard.errors import AudioError, ConfigError

log = logging.getLogger(__name__)

KEPT = 64
"""Recordings that are kept in memory."""


class Collection:
    """Recordings under a folder, in the order of their names; those in use are kept decoded."""

    def __init__(self, folder: str | os.PathLike[str], *, max_seconds: float) -> None:
        """List the recordings.

        Args:
            folder: searched with all folders in it.
            max_seconds: of each recording that is read, from its beginning [seconds].

        Raises:
            ConfigError: if there is no recording.
        """
        root = Path(folder)
        self._paths = sorted(
            path
            for path in root.rglob("*")
            if path.suffix.lower() in io.AUDIO_SUFFIXES and path.is_file()
        )
        if not self._paths:
            raise ConfigError(f"Expected recordings in {root}, found none.")
        self._max_seconds = max_seconds
        self._read = lru_cache(maxsize=KEPT)(self._decode)

    def __len__(self) -> int:
        """Count the recordings."""
        return len(self._paths)

    def draw(self, generator: np.random.Generator) -> NDArray[np.float32]:
        """Draw a recording at 16 kHz; for one that cannot be read or is silent, the next.

        Raises:
            AudioError: if none of them can be used.
        """
        first = int(generator.integers(len(self)))
        for number in range(first, first + len(self)):
            samples = self._read(self._paths[number % len(self)])
            if samples is not None:
                return samples
        raise AudioError(
            f"None of the {len(self)} recordings in {self._paths[0].parent} can be used; each was "
            "named with its reason.",
            reason="unreadable",
        )

    def _decode(self, path: Path) -> NDArray[np.float32] | None:
        try:
            samples = io.read(path, max_seconds=self._max_seconds).samples
        except AudioError as error:
            log.warning("%s is left out: %s", path, error)
            return None
        if not samples.any():
            log.warning("%s is left out: it holds nothing but silence.", path)
            return None
        return samples
