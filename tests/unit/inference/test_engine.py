from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_bundle, make_sound

from unheard.audio import signal
from unheard.audio.signal import Waveform
from unheard.errors import ConfigError
from unheard.inference.engine import Engine, plan_batches


def waveforms(*seconds, seed=0):
    generator = np.random.default_rng(seed)
    return [Waveform(samples=make_sound(generator, seconds=one)) for one in seconds]


@pytest.mark.parametrize("conv_norm", ["group", "layer"])
def test_a_batch_gives_what_each_recording_gives_alone(conv_norm):
    engine = Engine(make_bundle(conv_norm=conv_norm))
    recordings = waveforms(2.0, 0.31, 1.2, 0.05)
    together = engine.run(recordings)
    for recording, batched in zip(recordings, together, strict=True):
        (alone,) = engine.run([recording])
        assert alone.log_probs.shape == batched.log_probs.shape
        assert (alone.log_probs - batched.log_probs).abs().max() < 1e-5


def test_the_order_of_recordings_changes_nothing():
    engine = Engine(make_bundle(), batch_seconds=2.5)
    recordings = waveforms(0.4, 1.9, 0.7, 1.1, 0.9)
    straight = engine.run(recordings)
    backwards = engine.run(recordings[::-1])[::-1]
    for one, other in zip(straight, backwards, strict=True):
        assert (one.log_probs - other.log_probs).abs().max() < 1e-5


def test_zero_padding_is_one_batch_as_given_and_does_change_results():
    engine = Engine(make_bundle(), padding="zeros", batch_seconds=0.1)
    recordings = waveforms(2.0, 0.5)
    _, batched = engine.run(recordings)
    (alone,) = engine.run(recordings[1:])
    assert (batched.log_probs - alone.log_probs).abs().max() > 1e-3


def test_attention_mask_false_hides_the_lengths():
    bundle = make_bundle(padding="zeros")
    bundle = replace(bundle, input_spec=replace(bundle.input_spec, attention_mask=False))
    recordings = waveforms(1.0, 0.5)
    shown = Engine(make_bundle(padding="zeros")).run(recordings)
    hidden = Engine(bundle).run(recordings)
    assert (shown[0].log_probs - hidden[0].log_probs).abs().max() < 1e-5
    assert (shown[1].log_probs - hidden[1].log_probs).abs().max() > 1e-4
    assert hidden[1].log_probs.shape[0] == bundle.encoder_config.num_frames(8_000)


def test_normalisation_is_that_of_the_input_spec():
    recording = waveforms(1.0)[0]
    louder = Waveform(samples=recording.samples * 7 + np.float32(0.5))
    engine = Engine(make_bundle(), dtype="float32")
    one, other = engine.run([recording, louder])
    assert (one.log_probs - other.log_probs).abs().max() < 1e-3
    bare = Engine(make_bundle(normalize=False), dtype="float32")
    prepared = signal.normalize(recording.samples, epsilon=engine.spec.normalize_epsilon)
    (by_hand,) = bare.run([Waveform(samples=prepared)])
    assert torch.equal(by_hand.log_probs, engine.run([recording])[0].log_probs)


def test_too_short_recordings_have_no_frames_and_a_warning():
    engine = Engine(make_bundle())
    short, one_frame = engine.run(
        [Waveform(samples=np.ones(399, np.float32)), Waveform(samples=np.ones(400, np.float32))]
    )
    assert short.log_probs.shape == (0, 11)
    assert short.warnings == ("too_short",)
    assert one_frame.log_probs.shape == (1, 11)
    assert one_frame.warnings == ()
    assert engine.run([]) == []


def test_log_probs_follow_the_model_into_float64():
    bundle = make_bundle()
    recordings = waveforms(0.5)
    (single,) = Engine(bundle, dtype="float32").run(recordings)
    bundle.model.double()
    (double,) = Engine(bundle, dtype="float32").run(recordings)
    assert single.log_probs.dtype == torch.float32
    assert double.log_probs.dtype == torch.float64
    assert (double.log_probs - single.log_probs).abs().max() < 1e-4
    total = double.log_probs.exp().sum(dim=-1)
    assert (total - 1).abs().max() < 1e-12


def test_bfloat16_runs_only_where_asked():
    recordings = waveforms(0.5)
    (exact,) = Engine(make_bundle(), dtype="float32").run(recordings)
    (rough,) = Engine(make_bundle(), dtype="bfloat16").run(recordings)
    assert rough.log_probs.dtype == torch.float32
    difference = (rough.log_probs - exact.log_probs).abs().max()
    assert 1e-4 < difference < 5


def test_other_rates_are_resampled():
    generator = np.random.default_rng(3)
    sound = make_sound(generator, seconds=1.0, sample_rate=44_100)
    (emissions,) = Engine(make_bundle()).run([Waveform(samples=sound, sample_rate=44_100)])
    assert emissions.num_samples == 16_000
    assert emissions.seconds(0) == pytest.approx(0.0125)


def test_a_model_in_training_is_left_in_training():
    bundle = make_bundle()
    bundle.model.train()
    Engine(bundle).run(waveforms(0.2))
    assert bundle.model.training


def test_a_model_without_an_alphabet_is_refused():
    bundle = make_bundle()
    bundle = type(bundle)(model=bundle.model, alphabet=None, input_spec=bundle.input_spec)
    with pytest.raises(ConfigError, match=r"vocab\.json"):
        Engine(bundle)
    engine = Engine(bundle, writes_text=False)
    assert engine.run(waveforms(0.2))[0].log_probs.shape[0] > 0
    with pytest.raises(ConfigError, match="no alphabet"):
        _ = engine.alphabet


def test_plan_batches_keeps_the_budget_and_every_utterance():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 1_000, size=200).tolist()
    batches = plan_batches(lengths, budget_samples=2_000)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert max(lengths[index] for index in batch) * len(batch) <= 2_000
    assert plan_batches([5_000, 10], budget_samples=2_000) == [[0], [1]]
