from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_bundle, make_sound

from unheard.errors import ConfigError
from unheard.inference.engine import Engine
from unheard.inference.windows import (
    WindowPlan,
    cut_windows,
    kept_log_probs,
    plan_windows,
    stream_log_probs,
)
from unheard.models.ctc import CtcModel


def plan_for(engine, **seconds):
    return plan_windows(engine.encoder_config, sample_rate=16_000, **seconds)


def blind_attention(bundle):
    """Make a model whose frames see only sound nearby: no attention, only convolutions."""
    with torch.no_grad():
        for layer in bundle.model.encoder.transformer.layers:
            for name, weights in layer.named_parameters():
                if "attention" in name or name.startswith(("query", "key", "value", "out")):
                    weights.zero_()
    return bundle


def test_windows_equal_the_whole_when_frames_see_no_further_than_the_context():
    bundle = blind_attention(make_bundle(conv_norm="layer", normalize=False))
    engine = Engine(bundle)
    samples = make_sound(np.random.default_rng(0), seconds=11.237) * make_syllables(11.237)
    (whole,) = engine.log_probs([samples])
    plan = plan_for(engine, window_seconds=3.0, context_seconds=0.5)
    assert all(
        plan.num_frames(window.samples.shape[0]) == window.keep_stop + plan.context_frames
        for window in list(cut_windows([samples], plan))[:-1]
    )
    stitched = torch.cat(list(stream_log_probs(engine, [samples], plan)))
    assert stitched.shape == whole.shape
    assert (stitched - whole).abs().max() < 1e-4


def test_the_test_above_can_fail():
    engine = Engine(make_bundle(conv_norm="layer", normalize=False))
    samples = make_sound(np.random.default_rng(0), seconds=11.237)
    (whole,) = engine.log_probs([samples])
    plan = plan_for(engine, window_seconds=3.0, context_seconds=0.5)
    stitched = torch.cat(list(stream_log_probs(engine, [samples], plan)))
    assert (stitched - whole).abs().max() > 1e-4


def test_one_window_is_the_whole_recording():
    engine = Engine(make_bundle())
    samples = make_sound(np.random.default_rng(1), seconds=3.1)
    (whole,) = engine.log_probs([samples])
    blocks = np.split(samples, 7 * np.arange(1, 1_000))
    stitched = torch.cat(list(stream_log_probs(engine, blocks, plan_for(engine))))
    assert torch.equal(stitched, whole)


def test_several_windows_run_together_give_the_same():
    engine = Engine(make_bundle())
    samples = make_sound(np.random.default_rng(2), seconds=9.0)
    plan = plan_for(engine, window_seconds=2.0, context_seconds=0.2)
    expected = [
        engine.log_probs([window.samples])[0][window.keep_start : window.keep_stop]
        for window in cut_windows([samples], plan)
    ]
    together = engine.log_probs([window.samples for window in cut_windows([samples], plan)])
    for window, one, other in zip(cut_windows([samples], plan), together, expected, strict=True):
        assert (one[window.keep_start : window.keep_stop] - other).abs().max() < 1e-5


def test_silence_without_a_frame_gives_nothing():
    engine = Engine(make_bundle())
    plan = plan_for(engine)
    assert list(stream_log_probs(engine, [], plan)) == []
    assert list(stream_log_probs(engine, [np.zeros(399, np.float32)], plan)) == []


def test_a_fault_in_the_recording_comes_through():
    engine = Engine(make_bundle())

    def blocks():
        yield np.zeros(16_000, np.float32)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        list(stream_log_probs(engine, blocks(), plan_for(engine)))


def test_windows_without_a_middle_are_refused():
    with pytest.raises(ConfigError, match="twice its context"):
        WindowPlan(
            window_frames=12,
            context_frames=5,
            search_frames=2,
            stride_samples=320,
            receptive_field_samples=400,
            sample_rate=16_000,
        )


def test_a_window_without_sound_is_blank_and_not_run(monkeypatch):
    engine = Engine(make_bundle())
    generator = np.random.default_rng(3)
    sound = make_sound(generator, seconds=13.0) * make_syllables(13.0)
    hiss = 0.003 * generator.normal(size=24 * 16_000).astype(np.float32)
    run = []
    log_probs = engine.log_probs
    monkeypatch.setattr(
        engine, "log_probs", lambda batch: run.extend(map(len, batch)) or log_probs(batch)
    )
    plan = plan_for(engine)
    stitched = torch.cat(list(stream_log_probs(engine, [sound, hiss, sound], plan)))
    assert stitched.shape[0] == plan.num_frames(50 * 16_000)
    assert sum(run) < 44 * 16_000
    assert torch.allclose(stitched.exp().sum(dim=-1), torch.ones(stitched.shape[0]))
    middle = stitched[25 * 50 : 30 * 50]
    assert (middle.argmax(dim=-1) == engine.alphabet.blank_id).all()
    # The same model does write something there when it is asked to.
    (heard,) = log_probs([hiss[10 * 16_000 : 20 * 16_000]])
    assert (heard.argmax(dim=-1) != engine.alphabet.blank_id).any()


def test_a_pause_between_windows_ends_a_word():
    bundle = make_bundle(seed=1)
    assert isinstance(bundle.model, CtcModel)
    with torch.no_grad():
        # A network that never writes a boundary by itself.
        bundle.model.head.bias[1] = -1e4
    engine = Engine(bundle, dtype="float32")
    plan = plan_for(engine)
    sound = make_sound(np.random.default_rng(5), seconds=40.0) * make_syllables(40.0)
    for start in np.arange(4.0, 38.0, 4.1):
        sound[round(start * 16_000) : round((start + 0.4) * 16_000)] = 0
    seams = 0
    for window in cut_windows([sound], plan):
        (kept,) = kept_log_probs(engine, [window])
        (alone,) = engine.log_probs([window.samples])
        alone = alone[window.keep_start : window.keep_stop]
        assert torch.equal(kept[:-1], alone[:-1])
        if window.ends_in_pause:
            seams += 1
            assert int(kept[-1].argmax()) == 1
            assert kept[-1].exp().sum() == pytest.approx(1.0)
            others = [0, *range(2, kept.shape[1])]
            assert torch.allclose(kept[-1, others].exp(), 0.1 * alone[-1, others].exp())
        else:
            assert torch.equal(kept, alone)
    assert seams >= 3


def test_emissions_without_an_alphabet_run_silence_too():
    bundle = replace(make_bundle(), alphabet=None)
    engine = Engine(bundle, writes_text=False)
    hiss = 0.003 * np.random.default_rng(3).normal(size=30 * 16_000).astype(np.float32)
    parts = list(stream_log_probs(engine, [hiss], plan_for(engine)))
    assert all((part.exp() < 0.999).any() for part in parts)


def test_seams_lie_in_pauses():
    bundle = make_bundle()
    plan = plan_windows(bundle.encoder_config, sample_rate=16_000)
    generator = np.random.default_rng(5)
    sound = make_sound(generator, seconds=60.0) * make_syllables(60.0)
    pauses = np.arange(4.0, 58.0, 4.1)
    for start in pauses:
        sound[round(start * 16_000) : round((start + 0.4) * 16_000)] *= 0.001
    windows = list(cut_windows([sound], plan))
    seams = [window.first_frame + window.keep_stop for window in windows[:-1]]
    assert len(seams) >= 5
    for seam in seams:
        assert np.abs(pauses + 0.2 - seam * 0.02).min() < 0.28
    # Nothing is heard twice where there are pauses, but for what the last window begins earlier.
    assert all(plan.num_frames(window.samples.shape[0]) == window.keep_stop for window in windows)
    assert all(window.keep_start == 0 for window in windows[:-1])


def make_syllables(seconds):
    """A loudness that comes and goes five times a second, as that of speech: no pause."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    return np.where(times % 0.2 < 0.12, 1.0, 0.03).astype(np.float32)
