import numpy as np
import pytest
from tests.shard_folders import tone

from unheard.audio import io
from unheard.audio.encode import Codec, encode
from unheard.errors import ShapeError


@pytest.mark.parametrize("samples", [1, 399, 16_000, 40_001])
def test_flac_keeps_sixteen_bits_exactly(samples: int) -> None:
    sound = tone(1, samples)
    exact = np.round(sound * 32768) / 32768
    np.testing.assert_array_equal(io.read(encode(sound, "flac")).samples, exact)


def test_opus_keeps_length_and_what_is_heard_in_a_tenth_of_the_bytes() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 48_000).astype(np.float32)
    sound = tone(3, 48_000) + noise
    data = encode(sound, "opus", opus_kilobits=24)
    found = io.read(data)
    assert found.samples.shape == sound.shape
    assert np.corrcoef(found.samples, sound)[0, 1] > 0.95
    assert len(data) < len(encode(sound, "flac")) / 5
    assert len(data) < len(encode(sound, "opus", opus_kilobits=64)) / 2


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_the_same_samples_give_the_same_bytes_and_clipping_is_plain(codec: Codec) -> None:
    sound = tone(2, 8000) * 9
    assert encode(sound, codec) == encode(sound, codec)
    assert np.abs(io.read(encode(sound, "flac")).samples).max() <= 1.0


@pytest.mark.parametrize("shape", [(0,), (1, 8000)])
def test_only_mono_sound_is_encoded(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="mono"):
        encode(np.zeros(shape, dtype=np.float32), "flac")
