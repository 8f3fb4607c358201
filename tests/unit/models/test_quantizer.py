import math

import pytest
import torch

from unheard.models.config import QuantizerConfig
from unheard.models.quantizer import Quantized, Quantizer

CONFIG = QuantizerConfig(groups=2, entries=5, dim=6)


@pytest.fixture
def quantizer() -> Quantizer:
    torch.manual_seed(0)
    return Quantizer(4, CONFIG).double()


def test_evaluation_takes_the_best_entry_of_each_group(quantizer: Quantizer) -> None:
    quantizer.eval()
    features = torch.randn(7, 4, dtype=torch.float64)
    output = quantizer(features)
    scores = (features @ quantizer.scores.weight.t() + quantizer.scores.bias).view(7, 2, 5)
    for frame in range(7):
        for group in range(2):
            best = int(scores[frame, group].argmax())
            assert int(output.codes[frame, group]) == best
            part = output.vectors[frame, group * 3 : group * 3 + 3]
            assert torch.equal(part, quantizer.codebook[group, best])


def test_training_gives_entries_and_a_gradient_to_everything(quantizer: Quantizer) -> None:
    quantizer.train()
    features = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    output = quantizer(features, temperature=1.3, generator=torch.Generator().manual_seed(0))
    for frame in range(7):
        parts = [quantizer.codebook[g, output.codes[frame, g]] for g in range(2)]
        assert torch.allclose(output.vectors[frame], torch.cat(parts), atol=1e-12)
    (output.vectors * torch.randn(7, 6)).sum().backward()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_the_gradient_is_that_of_the_softmax_at_the_temperature(quantizer: Quantizer) -> None:
    quantizer.train()
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 2, 5, dtype=torch.float64)
    slope = torch.randn(3, 6, dtype=torch.float64)
    output = quantizer(features, temperature=0.7, noise=noise)
    (ours,) = torch.autograd.grad(output.vectors, features, slope)
    scores = (features @ quantizer.scores.weight.t() + quantizer.scores.bias).view(3, 2, 5)
    soft = torch.softmax((scores + noise) / 0.7, dim=-1)
    vectors = torch.einsum("fge,ged->fgd", soft, quantizer.codebook).flatten(1)
    (expected,) = torch.autograd.grad(vectors, features, slope)
    assert torch.allclose(ours, expected, atol=1e-12)


def test_codes_are_drawn_from_the_softmax(quantizer: Quantizer) -> None:
    quantizer.train()
    draws = 40_000
    features = torch.randn(1, 4, dtype=torch.float64).expand(draws, 4)
    with torch.no_grad():
        output = quantizer(features, temperature=2.0, generator=torch.Generator().manual_seed(0))
    for group in range(2):
        wanted = torch.softmax(output.logits[0, group], dim=-1)
        drawn = torch.bincount(output.codes[:, group], minlength=5).double() / draws
        error = (wanted * (1 - wanted) / draws).sqrt()
        assert ((drawn - wanted).abs() <= 4 * error + 1e-9).all()


def test_the_same_generator_gives_the_same_codes(quantizer: Quantizer) -> None:
    quantizer.train()
    features = torch.randn(50, 4, dtype=torch.float64)
    codes = [
        quantizer(features, generator=torch.Generator().manual_seed(seed)).codes
        for seed in (1, 1, 2)
    ]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


def test_temperature_falls_exponentially_to_its_floor() -> None:
    quantizer = Quantizer(4, QuantizerConfig())
    assert quantizer.temperature(0.0) == 2.0
    for update in (1234, 100_000, 277_000):
        expected = 2.0 * 0.999995**update
        assert quantizer.temperature(update / 400_000) == pytest.approx(expected, rel=1e-3)
    assert quantizer.temperature(0.7) == 0.5
    assert quantizer.temperature(1.0) == 0.5
    falling = [quantizer.temperature(step / 50) for step in range(51)]
    assert falling == sorted(falling, reverse=True)


def test_perplexities_count_the_codes_in_use() -> None:
    frames, groups, entries = 20, 2, 5
    even = torch.arange(frames)[:, None].expand(-1, groups) % entries
    one = torch.zeros(frames, groups, dtype=torch.long)
    for codes, expected in ((even, 10.0), (one, 2.0)):
        logits = 60.0 * torch.nn.functional.one_hot(codes, entries).double()
        output = Quantized(vectors=torch.zeros(frames, 6), codes=codes, logits=logits)
        assert float(output.code_perplexity()) == pytest.approx(expected, rel=1e-5)
        assert float(output.soft_perplexity()) == pytest.approx(expected, rel=1e-5)
    # Half of the frames one code, half another, in one group: e^(ln 2).
    half = torch.stack([torch.arange(frames) % 2, torch.zeros(frames, dtype=torch.long)], dim=1)
    logits = 60.0 * torch.nn.functional.one_hot(half, entries).double()
    output = Quantized(vectors=torch.zeros(frames, 6), codes=half, logits=logits)
    assert float(output.code_perplexity()) == pytest.approx(math.exp(math.log(2)) + 1, rel=1e-5)
