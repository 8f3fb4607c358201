import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_models import tiny_encoder

from unheard.models.config import MaskingConfig
from unheard.models.encoder import Encoder
from unheard.models.masking import _scramble, channel_mask, span_mask, time_mask
from unheard.tensors import derived_generator


def draw(
    lengths: list[int],
    *,
    seed: int = 0,
    frames: int | None = None,
    probability: float = 0.65,
    span: int = 10,
    min_spans: int = 2,
) -> torch.Tensor:
    return span_mask(
        torch.tensor(lengths),
        frames or max(lengths),
        probability=probability,
        span=span,
        min_spans=min_spans,
        generator=torch.Generator().manual_seed(seed),
    )


def runs(row: torch.Tensor) -> list[tuple[int, int]]:
    """Return start and length of each run of masked frames."""
    found, place = [], 0
    for value, group in itertools.groupby(row.tolist()):
        length = len(list(group))
        if value:
            found.append((place, length))
        place += length
    return found


@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=5),
    padding=st.integers(0, 20),
    probability=st.floats(0, 1),
    span=st.integers(1, 30),
    min_spans=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_masks_keep_to_the_real_frames_and_leave_one(
    lengths: list[int], padding: int, probability: float, span: int, min_spans: int, seed: int
) -> None:
    frames = max(lengths) + padding
    mask = draw(
        lengths,
        seed=seed,
        frames=frames or 1,
        probability=probability,
        span=span,
        min_spans=min_spans,
    )
    assert mask.shape == (len(lengths), frames or 1)
    for row, length in enumerate(lengths):
        assert not mask[row, length:].any()
        assert int(mask[row].sum()) < max(length, 1)
        if length > span + min_spans + 1 and min_spans:
            assert int(mask[row].sum()) >= span
        if length - span > length // span + min_spans + 2:  # the usual rule, not that for short
            for start, size in runs(mask[row]):
                assert size >= span
                assert start < length - span
    assert torch.equal(
        mask,
        draw(
            lengths,
            seed=seed,
            frames=frames or 1,
            probability=probability,
            span=span,
            min_spans=min_spans,
        ),
    )


@pytest.mark.parametrize("length", [500, 781, 999])
def test_share_of_masked_frames(length: int) -> None:
    assert float(draw([length] * 400).double().mean()) == pytest.approx(0.49, abs=0.01)


def test_rows_and_seeds_differ() -> None:
    mask = draw([300, 300, 300])
    assert not torch.equal(mask[0], mask[1])
    assert not torch.equal(mask, draw([300, 300, 300], seed=1))


def test_rows_have_their_own_counts() -> None:
    counts = draw([400] * 50).sum(dim=1)
    assert len(set(counts.tolist())) > 10


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    padding=st.integers(0, 90),
    others=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_a_row_is_masked_alike_however_far_it_is_padded(
    lengths: list[int], padding: int, others: list[int], seed: int
) -> None:
    frames = max(1, *lengths)
    mask = draw(lengths, seed=seed, frames=frames)
    padded = draw(lengths, seed=seed, frames=frames + padding)
    assert torch.equal(padded[:, :frames], mask)
    # Nor does it matter how long its neighbours are.
    neighbours = [lengths[0], *others[1 : len(lengths)]]
    beside = draw(neighbours, seed=seed, frames=61)
    assert torch.equal(beside[0, : lengths[0]], mask[0, : lengths[0]])


def test_a_step_draws_the_same_masks_again() -> None:
    def masks(seed: int, step: int) -> torch.Tensor:
        return span_mask(
            torch.tensor([200, 150]),
            200,
            probability=0.65,
            span=10,
            min_spans=2,
            generator=derived_generator(seed, "step", step, 0),
        )

    assert torch.equal(masks(1, 5), masks(1, 5))
    assert not torch.equal(masks(1, 5), masks(1, 6))
    assert not torch.equal(masks(1, 5), masks(2, 5))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_the_mixing_is_that_of_splitmix(numbers: list[int]) -> None:
    def mixed(number: int) -> int:
        whole = 2**64 - 1
        number &= whole
        number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & whole
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & whole
        number ^= number >> 31
        return number - 2**64 if number >> 63 else number

    assert _scramble(torch.tensor(numbers)).tolist() == [mixed(number) for number in numbers]


def test_every_start_is_equally_likely() -> None:
    # One span a row: its start is uniform over the first length - span frames.
    mask = draw([40] * 30_000, probability=0.0, min_spans=1)
    starts = mask.float().argmax(dim=1)
    counts = torch.bincount(starts, minlength=30).double()
    assert int(starts.max()) == 29
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_squared < 58.3  # 29 degrees of freedom, p = 0.001


@pytest.mark.parametrize("length", range(2, 16))
def test_rows_too_short_for_a_span_are_masked_in_part(length: int) -> None:
    for seed in range(20):
        masked = int(draw([length], seed=seed).sum())
        assert min(length - 1, 4) <= masked <= length - 1


def test_no_masking() -> None:
    config = MaskingConfig(time_probability=0.0, channel_probability=0.0)
    generator = torch.Generator().manual_seed(0)
    assert time_mask(torch.tensor([50]), 50, config, generator=generator) is None
    assert channel_mask(2, 64, config, generator=generator) is None
    assert not draw([50], probability=0.0, min_spans=0).any()


def test_masks_of_a_config() -> None:
    config = MaskingConfig(
        time_probability=0.5, time_span_frames=4, channel_probability=0.25, channel_span=8
    )
    generator = torch.Generator().manual_seed(0)
    times = time_mask(torch.tensor([100, 60]), 100, config, generator=generator)
    channels = channel_mask(200, 64, config, generator=generator)
    assert times is not None
    assert channels is not None
    assert times.shape == (2, 100)
    assert not times[1, 60:].any()
    assert min(size for _, size in runs(times[0])) >= 4
    assert channels.shape == (200, 64)
    share = float(channels.double().mean())
    assert 0.15 < share < 0.25


@pytest.mark.parametrize("conv_norm", ["group", "layer"])
def test_masked_frames_are_the_embedding_and_masked_channels_zero_even_there(
    conv_norm: Literal["group", "layer"],
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(tiny_encoder(conv_norm)).eval()
    times = torch.tensor([[1, 0, 0, 1] * 5, [0, 0, 1, 1] * 5]).bool()
    channels = torch.arange(16)[None, :] < torch.tensor([[4], [9]])
    seen: list[torch.Tensor] = []
    encoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    samples = torch.randn(2, 50 + 19 * 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoder(samples)
        encoder(samples, time_mask=times, channel_mask=channels)
    plain, masked = seen
    for row in range(2):
        for frame in range(20):
            wanted = encoder.mask_embedding if times[row, frame] else plain[row, frame]
            wanted = torch.where(channels[row], 0.0, wanted)
            assert torch.equal(masked[row, frame], wanted)
    assert plain[:, :, :4].abs().min() > 0
