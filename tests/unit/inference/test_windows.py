import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_bundle, make_sound

from unheard.errors import ConfigError
from unheard.inference.engine import Engine
from unheard.inference.windows import WindowPlan, cut_windows, plan_windows, stream_log_probs


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
    samples = make_sound(np.random.default_rng(0), seconds=11.237)
    (whole,) = engine.log_probs([samples])
    plan = plan_for(engine, window_seconds=3.0, context_seconds=0.5)
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
            window_frames=10, context_frames=5, stride_samples=320, receptive_field_samples=400
        )
