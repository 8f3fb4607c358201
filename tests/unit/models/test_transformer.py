from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.closeness import FLOAT64, assert_close
from tests.tiny_models import tiny_encoder
from torch.nn.utils.parametrizations import weight_norm

from unheard.models.transformer import PositionalConv, SelfAttention, Transformer


@pytest.mark.parametrize("kernel", [1, 2, 15, 16])
def test_positional_convolution_is_weight_normalised(kernel: int) -> None:
    torch.manual_seed(0)
    ours = PositionalConv(8, kernel=kernel, groups=2).double()
    theirs = weight_norm(
        torch.nn.Conv1d(8, 8, kernel, padding=kernel // 2, groups=2).double(), dim=2
    )
    with torch.no_grad():
        ours.weight_g.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
        theirs.bias.copy_(ours.bias)
        frames = torch.randn(2, 30, 8, dtype=torch.float64)
        expected = F.gelu(theirs(frames.transpose(1, 2))[:, :, :30]).transpose(1, 2)
        assert_close("signal", ours(frames), expected, FLOAT64)


def test_a_new_positional_convolution_has_unit_gain() -> None:
    ours = PositionalConv(16, kernel=128, groups=4)
    assert torch.allclose(ours.kernel_weight(), ours.weight_v, atol=1e-6)
    assert float(ours.weight_v.detach().std()) == pytest.approx((4 / (128 * 16)) ** 0.5, rel=0.05)


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(16, heads=4, dropout=0.0).double()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
        rows = [ours.query, ours.key, ours.value]
        theirs.in_proj_weight.copy_(torch.cat([row.weight for row in rows]))
        theirs.in_proj_bias.copy_(torch.cat([row.bias for row in rows]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
        frames = torch.randn(2, 9, 16, dtype=torch.float64)
        is_padding = torch.zeros(2, 9, dtype=torch.bool)
        is_padding[1, 5:] = True
        expected, _ = theirs(frames, frames, frames, key_padding_mask=is_padding)
        assert_close("frames", ours(frames, is_padding), expected, FLOAT64)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_padding_is_neither_heard_nor_attended_to(kind: str) -> None:
    torch.manual_seed(0)
    transformer = Transformer(tiny_encoder(kind)).double().eval()  # type: ignore[arg-type]
    frames = torch.randn(2, 30, 16, dtype=torch.float64)
    lengths = torch.tensor([30, 11])
    with torch.no_grad():
        expected, _ = transformer(frames[1:, :11], None)
        frames[1, 11:] = 50.0
        result, _ = transformer(frames, lengths)
    assert_close("row 1", result[1, :11], expected[0], FLOAT64)


def dropping(probability: float) -> Transformer:
    torch.manual_seed(0)
    config = tiny_encoder()
    object.__setattr__(config, "layer_drop", probability)
    object.__setattr__(config, "layers", 6)
    return Transformer(config).train()


def test_dropped_layers_follow_the_generator() -> None:
    transformer, frames = dropping(0.5), torch.randn(1, 12, 16)
    results = [
        transformer(frames, None, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (3, 3, 4)
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_share_of_dropped_layers() -> None:
    transformer, frames = dropping(0.3), torch.randn(1, 4, 16)
    generator = torch.Generator().manual_seed(0)
    dropped = 0
    for _ in range(200):
        _, kept = transformer(frames, None, generator=generator, keep_layers=True)
        assert len(kept) == 7
        dropped += sum(torch.equal(kept[n], kept[n + 1]) for n in range(6))
    assert dropped / 1200 == pytest.approx(0.3, abs=0.04)


def test_no_layer_is_dropped_in_evaluation() -> None:
    transformer, frames = dropping(0.99).eval(), torch.randn(1, 4, 16)
    _, kept = transformer(frames, None, keep_layers=True)
    assert not any(torch.equal(kept[n], kept[n + 1]) for n in range(6))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("layer_drop", [0.0, 1.0])
def test_wanted_frames_are_those_of_a_whole_pass(
    norm_first: bool, recompute: bool, layer_drop: float
) -> None:
    """And so are the gradients; a last layer that is skipped returns the wanted frames too."""
    torch.manual_seed(0)
    config = replace(tiny_encoder(), norm_first=norm_first, layer_drop=layer_drop)
    transformer = Transformer(config).double().train()
    transformer.recompute = recompute
    frames = torch.randn(3, 11, config.dim, dtype=torch.float64)
    lengths = torch.tensor([11, 4, 7])
    mask = torch.zeros(3, 11, dtype=torch.bool)
    mask[0, 2:9] = mask[1, 1] = mask[2, ::3] = True

    def results(places: torch.Tensor | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        out, _ = transformer(frames, lengths, generator=generator, places=places)
        wanted = out[mask] if places is None else out
        transformer.zero_grad()
        wanted.square().sum().backward()
        return wanted, [p.grad.clone() for p in transformer.parameters() if p.grad is not None]

    expected, expected_grads = results(None)
    found, grads = results(mask.flatten().nonzero()[:, 0])

    assert found.shape == (int(mask.sum()), config.dim)
    assert_close("frames", found, expected, FLOAT64)
    assert len(grads) == len(expected_grads)
    for grad, other in zip(grads, expected_grads, strict=True):
        assert_close("gradient", grad, other, FLOAT64)
