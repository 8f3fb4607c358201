"""All that is done to one recording: a speed, then a room, noise and a codec.

Every step draws from a generator of its own, seeded by the recording's seed and the step, so that
switching one off leaves what the others draw as it is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unheard.audio.augment.codec import check_codecs, through_codec
from unheard.audio.augment.collection import Collection
from unheard.audio.augment.config import AugmentConfig, NoiseConfig, ReverbConfig
from unheard.audio.augment.noise import add_noise, babble, pink, power, stretch_of, white
from unheard.audio.augment.reverberation import convolve, from_direct_sound, room_response

NOISE_SECONDS = 60.0
RESPONSE_SECONDS = 5.0
_SPEED, _REVERB, _NOISE, _CODEC = range(4)


class Augmenter:
    """Changes recordings as a config says. Nothing is kept from one to the next.

    Levels mean nothing to it: a recording may be normalised already, and has the same mean square
    after as before (but for a change of speed).
    """

    def __init__(self, config: AugmentConfig) -> None:
        """Look at folders and encoders.

        Raises:
            ConfigError: if a folder holds no recordings or an encoder is missing.
        """
        self.config = config
        noise, reverb = config.noise, config.reverb
        self._noises = (
            None
            if noise is None or noise.folder is None
            else Collection(noise.folder, max_seconds=NOISE_SECONDS)
        )
        self._rooms = (
            None
            if reverb is None or reverb.folder is None
            else Collection(reverb.folder, max_seconds=RESPONSE_SECONDS)
        )
        if config.codec is not None:
            check_codecs(config.codec.kinds)

    def speed(self, seed: int) -> float:
        """Draw the speed of a recording; 1 where it stays."""
        config = self.config.speed
        generator = np.random.default_rng((seed, _SPEED))
        if config is None or generator.random() >= config.probability:
            return 1.0
        return float(generator.choice(config.factors))

    def __call__(
        self, samples: NDArray[np.float32], *, seed: int, others: Sequence[NDArray[np.float32]] = ()
    ) -> NDArray[np.float32]:
        """Put a room, noise and a codec on a recording, or some of them, as its seed says.

        Args:
            samples: (samples,) at 16 kHz, of any level.
            seed: of this recording; the same seed does the same.
            others: utterances that may babble beside it.

        Returns:
            (samples,) float32 of the same mean square; `samples` itself where nothing is done.
        """
        before = power(samples)
        if before == 0:
            return samples
        changed = samples
        for step, apply in ((_REVERB, self._reverb), (_NOISE, self._noise), (_CODEC, self._codec)):
            changed = apply(changed, np.random.default_rng((seed, step)), others)
        if changed is samples:
            return samples
        after = power(changed)
        return (changed * np.sqrt(before / after)).astype(np.float32) if after > 0 else samples

    def _reverb(
        self,
        samples: NDArray[np.float32],
        generator: np.random.Generator,
        others: Sequence[NDArray[np.float32]],  # noqa: ARG002 - every step is told
    ) -> NDArray[np.float32]:
        config = self.config.reverb
        if config is None or generator.random() >= config.probability:
            return samples
        return convolve(samples, self._room(config, generator)).astype(np.float32)

    def _room(self, config: ReverbConfig, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw an impulse response."""
        if self._rooms is not None:
            recorded = from_direct_sound(self._rooms.draw(generator))
            if recorded is not None:
                return recorded
        return room_response(
            seconds=float(generator.uniform(*config.seconds)),
            direct_db=float(generator.uniform(*config.direct_db)),
            generator=generator,
        )

    def _noise(
        self,
        samples: NDArray[np.float32],
        generator: np.random.Generator,
        others: Sequence[NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        config = self.config.noise
        if config is None or generator.random() >= config.probability:
            return samples
        snr_db = float(generator.uniform(*config.snr_db))
        noise = self._draw_noise(config, samples.shape[0], generator, others)
        return samples if noise is None else add_noise(samples, noise, snr_db=snr_db)

    def _draw_noise(
        self,
        config: NoiseConfig,
        count: int,
        generator: np.random.Generator,
        others: Sequence[NDArray[np.float32]],
    ) -> NDArray[np.floating] | None:
        """Draw noise; where nobody else is there to babble, another kind if there is one."""
        if self._noises is not None:
            return stretch_of(self._noises.draw(generator), count, generator)
        for number in generator.permutation(len(config.kinds)):
            kind = config.kinds[number]
            if kind != "babble":
                return (white if kind == "white" else pink)(count, generator)
            if (talk := babble(others, count, generator)) is not None:
                return talk
        return None

    def _codec(
        self,
        samples: NDArray[np.float32],
        generator: np.random.Generator,
        others: Sequence[NDArray[np.float32]],  # noqa: ARG002 - every step is told
    ) -> NDArray[np.float32]:
        config = self.config.codec
        if config is None or generator.random() >= config.probability:
            return samples
        kind = config.kinds[int(generator.integers(len(config.kinds)))]
        return through_codec(samples, kind, generator)
