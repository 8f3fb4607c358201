import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unheard.inference.windows import WindowPlan, cut_windows

STRIDE, FIELD = 4, 6
RATE = 2_000  # a level every 20 samples, 5 frames


def plan_of(window, context, search):
    return WindowPlan(
        window_frames=window,
        context_frames=context,
        search_frames=search,
        stride_samples=STRIDE,
        receptive_field_samples=FIELD,
        sample_rate=RATE,
    )


@st.composite
def plans(draw):
    context, search = draw(st.integers(0, 5)), draw(st.integers(0, 40))
    shortest = draw(st.integers(1, 30))
    return plan_of(2 * context + search + shortest, context, search)


def sound_of(num_samples, seed, *, pauses=True):
    """Noise with stretches of digital silence."""
    generator = np.random.default_rng(seed)
    samples = generator.normal(size=num_samples).astype(np.float32)
    if pauses:
        for start in generator.integers(0, max(num_samples, 1), 6):
            samples[start : start + generator.integers(0, 150)] = 0
    return samples


@given(
    plan=plans(), num_samples=st.integers(0, 1500), block=st.integers(1, 400), seed=st.integers(0)
)
@settings(max_examples=80, deadline=None)
def test_every_frame_is_kept_exactly_once(plan, num_samples, block, seed):
    samples = sound_of(num_samples, seed)
    blocks = [samples[start : start + block] for start in range(0, num_samples, block)]
    total = plan.num_frames(num_samples)
    kept: list[int] = []
    for window in cut_windows(blocks, plan):
        first = window.first_frame * STRIDE
        assert np.array_equal(window.samples, samples[first : first + window.samples.shape[0]])
        frames = plan.num_frames(window.samples.shape[0])
        assert frames <= min(plan.window_frames, total)
        assert 0 <= window.keep_start < window.keep_stop <= frames
        kept.extend(
            range(window.first_frame + window.keep_start, window.first_frame + window.keep_stop)
        )
        if window.first_frame + window.keep_stop < total:
            assert window.keep_stop >= plan.shortest_frames
    assert kept == list(range(total))


@given(plan=plans(), num_samples=st.integers(0, 1500), seed=st.integers(0))
@settings(max_examples=20, deadline=None)
def test_blocks_do_not_matter(plan, num_samples, seed):
    samples = sound_of(num_samples, seed)
    whole = list(cut_windows([samples], plan))
    single = list(cut_windows(samples[:, None], plan))
    assert [vars(window).keys() for window in whole] == [vars(window).keys() for window in single]
    for one, other in zip(whole, single, strict=True):
        assert (one.first_frame, one.keep_start, one.keep_stop, one.is_steady) == (
            other.first_frame,
            other.keep_start,
            other.keep_stop,
            other.is_steady,
        )
        assert np.array_equal(one.samples, other.samples)


@given(plan=plans(), num_samples=st.integers(FIELD, 1500), block=st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_a_network_that_sees_no_further_than_the_context_is_stitched_exactly(
    plan, num_samples, block
):
    samples = sound_of(num_samples, num_samples)
    reach = plan.context_frames

    def network(sound):
        """A convolution to frames, then a sum over `reach` frames on either side."""
        frames = torch.from_numpy(sound).unfold(0, FIELD, STRIDE).square().sum(dim=1)
        padded = torch.nn.functional.pad(frames, (reach, reach))
        return padded.unfold(0, 2 * reach + 1, 1).sum(dim=1)

    blocks = [samples[start : start + block] for start in range(0, num_samples, block)]
    windows = list(cut_windows(blocks, plan))
    parts = [network(window.samples)[window.keep_start : window.keep_stop] for window in windows]
    wrong = (torch.cat(parts) - network(samples)).abs() >= 1e-4
    for window in windows[:-1]:
        # At a seam in a pause neither side hears the other.
        seam = window.first_frame + window.keep_stop
        heard = plan.num_frames(window.samples.shape[0]) - window.keep_stop
        assert heard in (0, reach)
        if heard < reach:
            wrong[max(seam - reach, 0) : seam + reach] = False
    assert not wrong.any()
