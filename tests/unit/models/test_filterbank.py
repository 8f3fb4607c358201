import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unheard.errors import ConfigError
from unheard.models.config import ConvLayer, EncoderConfig
from unheard.models.feature_encoder import FeatureEncoder
from unheard.models.filterbank import (
    HIGHEST_HZ,
    LOWEST_HZ,
    PHASES,
    gabor_filters,
    start_as_filterbank,
)

RATE = 16_000
BANDS = 32
KERNEL = 400


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


@pytest.fixture(scope="module")
def filters() -> torch.Tensor:
    """(bands, phases, taps) in float64."""
    return gabor_filters(BANDS, KERNEL, sample_rate=RATE).double().unflatten(0, (BANDS, PHASES))


def peaks_hz(filters: torch.Tensor) -> np.ndarray:
    """Frequency at which each band's energy over its phases is greatest [Hz]."""
    size = 1 << 15
    power = torch.fft.rfft(filters, n=size).abs().square().sum(dim=1)
    return power.argmax(dim=-1).numpy() * RATE / size


def test_bands_are_equally_spaced_in_mel(filters: torch.Tensor) -> None:
    step = (mel(HIGHEST_HZ) - mel(LOWEST_HZ)) / (BANDS + 1)
    wanted = [mel(LOWEST_HZ) + step * (band + 1) for band in range(BANDS)]
    found = [mel(hertz) for hertz in peaks_hz(filters)]
    # The lowest bands lose their constant part, which pushes their peaks up a little.
    np.testing.assert_allclose(found[3:], wanted[3:], rtol=0, atol=0.1 * step)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.5 * step)


def test_filters_have_unit_norm_and_no_constant_part(filters: torch.Tensor) -> None:
    torch.testing.assert_close(filters.norm(dim=-1), torch.ones(BANDS, PHASES).double())
    assert float(filters.sum(dim=-1).abs().max()) < 1e-5


def test_half_the_height_is_as_wide_as_the_neighbours_are_apart(filters: torch.Tensor) -> None:
    size = 1 << 15
    spectrum = torch.fft.rfft(filters, n=size).abs().square().sum(dim=1).sqrt()
    centres = peaks_hz(filters)
    for band in range(BANDS - 12, BANDS - 1):
        above = (spectrum[band] > spectrum[band].max() / 2).sum().item() * RATE / size
        apart = (centres[band + 1] - centres[band - 1]) / 2
        assert above == pytest.approx(apart, rel=0.1)


def test_the_lowest_bands_fit_into_the_window(filters: torch.Tensor) -> None:
    edge = filters[:, :, [0, -1]].abs().amax(dim=(1, 2))
    assert float((edge / filters.abs().amax(dim=(1, 2))).max()) < 0.1


def tone(hertz: float, phase: float, *, amplitude: float) -> torch.Tensor:
    time = torch.arange(KERNEL, dtype=torch.float64) / RATE
    return amplitude * torch.cos(2 * math.pi * hertz * time + phase)


@pytest.mark.parametrize("band", [6, 16, 28])
def test_after_the_gelu_the_four_phases_hold_the_energy_whatever_the_phase(
    filters: torch.Tensor, band: int
) -> None:
    """GELU(x) is x / 2 + x^2 / sqrt(2 pi) + O(x^4): over four phases the odd parts cancel."""
    hertz = float(peaks_hz(filters)[band])
    sums, ones = [], []
    for phase in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        heard = filters[band] @ tone(hertz, float(phase), amplitude=0.01)
        sums.append(float(F.gelu(heard).sum()))
        ones.append(float(F.gelu(heard[0])))
    sums, ones = np.asarray(sums), np.asarray(ones)
    assert sums.std() < 0.02 * sums.mean()
    # The negative control: one phase alone changes its sign.
    assert ones.min() < 0 < ones.max()
    # Twice the amplitude is four times the energy.
    louder = F.gelu(filters[band] @ tone(hertz, 0.3, amplitude=0.02)).sum()
    assert float(louder) == pytest.approx(4 * sums.mean(), rel=0.05)


def encoder(*layers: ConvLayer) -> FeatureEncoder:
    return FeatureEncoder(EncoderConfig(conv_layers=layers))


FIRST = ConvLayer(channels=4 * BANDS, kernel=KERNEL, stride=160)
SECOND = ConvLayer(channels=24, kernel=3, stride=2)


def test_the_first_convolution_is_the_bank_and_the_second_treats_phases_alike() -> None:
    blocks = encoder(FIRST, SECOND)
    start_as_filterbank(blocks, sample_rate=RATE, generator=torch.Generator().manual_seed(0))
    first, second = blocks.blocks[0].weight, blocks.blocks[1].weight
    expected = gabor_filters(BANDS, KERNEL, sample_rate=RATE)
    torch.testing.assert_close(first.detach()[:, 0], expected, rtol=0, atol=0)
    by_phase = second.detach().unflatten(1, (BANDS, PHASES))
    assert torch.equal(by_phase, by_phase[:, :, :1].expand_as(by_phase))
    assert first.requires_grad
    assert second.requires_grad
    # As many inputs as any other start of He's, each of the four phases counted.
    assert float(second.detach().std()) == pytest.approx(
        math.sqrt(2 / (BANDS * PHASES * 3)), rel=0.05
    )


def test_the_mixing_is_drawn_from_the_generator_alone() -> None:
    drawn = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        blocks = encoder(FIRST, SECOND)
        start_as_filterbank(blocks, sample_rate=RATE, generator=torch.Generator().manual_seed(seed))
        drawn.append(blocks.blocks[1].weight.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((FIRST,), r"got 1 and 128\."),
        ((ConvLayer(channels=30, kernel=400, stride=160), SECOND), r"got 2 and 30\."),
    ],
)
def test_other_convolutions_are_refused(layers: tuple[ConvLayer, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        start_as_filterbank(
            encoder(*layers), sample_rate=RATE, generator=torch.Generator().manual_seed(0)
        )
