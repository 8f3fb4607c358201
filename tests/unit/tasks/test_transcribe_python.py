import io as stdlib_io

import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_bundle, make_sound, write_wav

import unheard
from unheard.audio.signal import Waveform
from unheard.errors import AudioError, ConfigError, ShapeError


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_wav(tmp_path_factory.mktemp("audio") / "a.wav", seconds=1.0)


def test_every_way_to_give_a_recording_gives_the_same(bundle, recording):
    by_path = unheard.transcribe(bundle, recording)
    assert by_path.text
    assert by_path.path == str(recording)
    assert by_path.language == "x-test"
    assert by_path.duration_seconds == 1.0
    data = recording.read_bytes()
    samples = np.frombuffer(data[44:], np.int16).astype(np.float32) / 32768
    for audio in (
        str(recording),
        data,
        stdlib_io.BytesIO(data),
        Waveform(samples=samples),
        samples,
        samples.astype(np.float64),
        torch.from_numpy(samples.copy()),
    ):
        other = unheard.transcribe(bundle, audio)
        assert (other.text, other.words) == (by_path.text, by_path.words)


def test_a_list_comes_back_in_its_order(bundle):
    generator = np.random.default_rng(0)
    sounds = [make_sound(generator, seconds=seconds) for seconds in (0.3, 1.5, 0.02, 0.9)]
    together = unheard.transcribe(bundle, sounds)
    for sound, transcript in zip(sounds, together, strict=True):
        assert transcript.text == unheard.transcribe(bundle, sound).text
        assert transcript.duration_seconds == sound.shape[0] / 16_000
    assert together[2].warnings == ("too_short",)
    assert unheard.transcribe(bundle, []) == []


def test_words_can_be_left_out(bundle, recording):
    transcript = unheard.transcribe(bundle, recording, word_times=False)
    assert transcript.words == ()
    assert transcript.text


def test_a_long_recording_runs_in_windows(bundle):
    sound = make_sound(np.random.default_rng(0), seconds=50.0)
    transcript = unheard.transcribe(bundle, sound)
    assert transcript.duration_seconds == 50.0
    assert transcript.words[-1].end_seconds > 49
    assert all(word.end_seconds <= 50 for word in transcript.words)


def test_with_zero_padding_the_company_does_not_matter(bundle):
    generator = np.random.default_rng(0)
    sounds = [make_sound(generator, seconds=seconds) for seconds in (0.3, 1.5)]
    together = unheard.transcribe(bundle, sounds, padding="zeros")
    alone = [unheard.transcribe(bundle, sound, padding="zeros") for sound in sounds]
    assert [one.text for one in together] == [one.text for one in alone]


def test_what_is_no_recording_is_refused(bundle, tmp_path):
    with pytest.raises(ShapeError, match="one recording"):
        unheard.transcribe(bundle, np.zeros((2, 100), np.float32))
    with pytest.raises(ConfigError, match="32768"):
        unheard.transcribe(bundle, np.zeros(100, np.int16))
    with pytest.raises(ConfigError, match="32768"):
        unheard.transcribe(bundle, torch.zeros(100, dtype=torch.int16))
    with pytest.raises(ConfigError, match="found float"):
        unheard.transcribe(bundle, [0.5, 0.25])
    with pytest.raises(AudioError, match="NaN") as caught:
        unheard.transcribe(bundle, np.array([0.0, np.nan], np.float32))
    assert caught.value.reason == "nonfinite"
    with pytest.raises(AudioError) as caught:
        unheard.transcribe(bundle, tmp_path / "nowhere.wav")
    assert caught.value.reason == "vanished"


def test_emissions_of_one_and_of_several(bundle, recording):
    one = unheard.emissions(bundle, recording)
    assert one.log_probs.shape == (49, 11)
    assert (one.frame_stride_samples, one.frame_offset_samples) == (320, 200)
    assert (one.num_samples, one.sample_rate) == (16_000, 16_000)
    assert (one.log_probs.exp().sum(dim=-1) - 1).abs().max() < 1e-5
    first, second = unheard.emissions(bundle, [recording, np.zeros(100, np.float32)])
    assert torch.equal(first.log_probs, one.log_probs)
    assert second.log_probs.shape == (0, 11)
    assert second.warnings == ("too_short",)
    assert unheard.emissions(bundle, []) == []


def test_emissions_can_be_trained_on(bundle, recording):
    # Tensors made in inference mode could not enter anybody's own graph.
    scale = torch.ones(11, requires_grad=True)
    (unheard.emissions(bundle, recording).log_probs * scale).sum().backward()
    assert scale.grad is not None


def test_emissions_of_a_long_recording_cover_it(bundle, tmp_path):
    path = write_wav(tmp_path / "long.wav", seconds=45.0)
    by_path = unheard.emissions(bundle, path)
    assert by_path.log_probs.shape[0] == bundle.encoder_config.num_frames(45 * 16_000)
    samples = np.frombuffer(path.read_bytes()[44:], np.int16).astype(np.float32) / 32768
    by_samples = unheard.emissions(bundle, samples)
    assert torch.equal(by_path.log_probs, by_samples.log_probs)


def test_emissions_with_zero_padding_pad_the_list_as_given(bundle):
    generator = np.random.default_rng(0)
    sounds = [make_sound(generator, seconds=seconds) for seconds in (0.3, 1.5)]
    batched = unheard.emissions(bundle, sounds, padding="zeros")
    alone = [unheard.emissions(bundle, sound, padding="zeros") for sound in sounds]
    assert (batched[1].log_probs - alone[1].log_probs).abs().max() < 1e-5
    assert (batched[0].log_probs - alone[0].log_probs).abs().max() > 1e-3
    masked = unheard.emissions(bundle, sounds)
    for one, other in zip(masked, alone, strict=True):
        assert (one.log_probs - other.log_probs).abs().max() < 1e-5
