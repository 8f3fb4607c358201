import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unheard.inference.windows import WindowPlan, cut_windows

STRIDE, FIELD = 4, 6


def plan_of(window, context):
    return WindowPlan(
        window_frames=window,
        context_frames=context,
        stride_samples=STRIDE,
        receptive_field_samples=FIELD,
    )


@st.composite
def plans(draw):
    context = draw(st.integers(0, 5))
    return plan_of(draw(st.integers(2 * context + 1, 2 * context + 12)), context)


@given(plan=plans(), num_samples=st.integers(0, 400), block=st.integers(1, 150))
@settings(max_examples=300, deadline=None)
def test_every_frame_is_kept_exactly_once_with_its_context(plan, num_samples, block):
    samples = np.arange(num_samples, dtype=np.float32)
    blocks = [samples[start : start + block] for start in range(0, num_samples, block)]
    total = plan.num_frames(num_samples)
    kept: list[int] = []
    for window in cut_windows(blocks, plan):
        first = window.first_frame * STRIDE
        assert np.array_equal(window.samples, samples[first : first + window.samples.shape[0]])
        frames = plan.num_frames(window.samples.shape[0])
        assert frames == min(plan.window_frames, total)
        assert 0 <= window.keep_start < window.keep_stop <= frames
        kept.extend(
            range(window.first_frame + window.keep_start, window.first_frame + window.keep_stop)
        )
        if window.first_frame > 0:
            assert window.keep_start >= plan.context_frames
        if window.first_frame + frames < total:
            assert frames - window.keep_stop >= plan.context_frames
    assert kept == list(range(total))


@given(plan=plans(), num_samples=st.integers(FIELD, 400), block=st.integers(1, 150))
@settings(max_examples=200, deadline=None)
def test_a_network_that_sees_no_further_than_the_context_is_stitched_exactly(
    plan, num_samples, block
):
    generator = np.random.default_rng(num_samples)
    samples = generator.normal(size=num_samples).astype(np.float32)
    reach = plan.context_frames

    def network(sound):
        """A convolution to frames, then a sum over `reach` frames on either side."""
        frames = torch.from_numpy(sound).unfold(0, FIELD, STRIDE).square().sum(dim=1)
        padded = torch.nn.functional.pad(frames, (reach, reach))
        return padded.unfold(0, 2 * reach + 1, 1).sum(dim=1)

    blocks = [samples[start : start + block] for start in range(0, num_samples, block)]
    parts = [
        network(window.samples)[window.keep_start : window.keep_stop]
        for window in cut_windows(blocks, plan)
    ]
    assert (torch.cat(parts) - network(samples)).abs().max() < 1e-4
