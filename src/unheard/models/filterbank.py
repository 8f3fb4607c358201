"""Start the first two convolutions as a filterbank instead of from noise.

A stack of seven random convolutions scrambles a sound's phase; a network that starts there spends
its first thousands of updates on learning to hear energies at all (docs/small-compute.md). Where
the first convolution is long enough to be a bank of band-pass filters, it can start as one: for
each band four Gabor filters a quarter of a period apart. After the GELU the four together hold the
band's energy whatever the phase, and the second convolution starts with equal weights for the
four. Nothing is fixed: all weights go on learning.

Source: Zeghidour et al. 2018, "Learning filterbanks from raw speech for phone recognition",
sec. 2 (a first convolution started as Gabor filters on the mel scale); the four phases in place of
their squared modulus are ours.
"""

import math

import torch
from torch import Tensor

from unheard.errors import ConfigError
from unheard.models.feature_encoder import ConvBlock, FeatureEncoder

PHASES = 4
LOWEST_HZ = 80.0
HIGHEST_HZ = 7600.0


def start_as_filterbank(
    feature_encoder: FeatureEncoder, *, sample_rate: int, generator: torch.Generator
) -> None:
    """Set the weights of the first two convolutions.

    Args:
        feature_encoder: with at least two convolutions; the channels of the first are a multiple
            of four.
        sample_rate: of what it will hear [Hz].
        generator: draws how the second convolution mixes the bands.

    Raises:
        ConfigError: if the convolutions have other shapes.
    """
    weights = [block.weight for block in feature_encoder.blocks if isinstance(block, ConvBlock)]
    if len(weights) < 2 or weights[0].shape[0] % PHASES:
        raise ConfigError(
            "A filterbank needs two convolutions, the first with a multiple of "
            f"{PHASES} channels: got {len(weights)} and {weights[0].shape[0]}."
        )
    first, second = weights[:2]
    bands = first.shape[0] // PHASES
    out_channels, _, kernel = second.shape
    mixing = torch.randn(out_channels, bands, kernel, generator=generator)
    # The four phases of a band add up, so each gets half of He's standard deviation.
    mixing *= math.sqrt(2.0 / (bands * kernel)) / 2
    with torch.no_grad():
        first.copy_(gabor_filters(bands, first.shape[2], sample_rate=sample_rate)[:, None, :])
        second.copy_(mixing.repeat_interleave(PHASES, dim=1))


def gabor_filters(bands: int, kernel: int, *, sample_rate: int) -> Tensor:
    """Make Gabor filters on the mel scale, four phases each.

    Args:
        bands: number of bands, equally spaced in mel from 80 to 7,600 Hz.
        kernel: taps of a filter [samples].
        sample_rate: [Hz].

    Returns:
        (bands * 4, kernel) float32, each without a constant part and of unit norm; the phases of
        a band follow each other.
    """
    edges_hz = _from_mel(
        torch.linspace(_to_mel(LOWEST_HZ), _to_mel(HIGHEST_HZ), bands + 2, dtype=torch.float64)
    )
    centres_hz = edges_hz[1:-1, None]
    half_height_hz = (edges_hz[2:, None] - edges_hz[:-2, None]) / 2
    # A Gaussian of standard deviation s in time has 1 / (2 pi s) in frequency, and a width at
    # half height of 2.355 standard deviations.
    spread_samples = sample_rate * 2.355 / (2 * math.pi * half_height_hz)
    spread_samples = spread_samples.clamp_max(kernel / 5)
    samples = torch.arange(kernel, dtype=torch.float64) - (kernel - 1) / 2
    window = torch.exp(-0.5 * (samples / spread_samples) ** 2)  # (bands, kernel)
    phases = torch.arange(PHASES, dtype=torch.float64) * (2 * math.pi / PHASES)
    angle = 2 * math.pi * centres_hz * samples / sample_rate
    filters = window[:, None, :] * torch.cos(angle[:, None, :] + phases[None, :, None])
    constant = filters.sum(dim=-1, keepdim=True) / window.sum(dim=-1)[:, None, None]
    filters = filters - constant * window[:, None, :]
    filters = filters / filters.norm(dim=-1, keepdim=True)
    return filters.flatten(0, 1).float()  # (bands, phases, kernel) -> (bands * phases, kernel)


def _to_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def _from_mel(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
