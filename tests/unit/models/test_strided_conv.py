import itertools

import pytest
import torch
import torch.nn.functional as F
from tests.closeness import FLOAT64, assert_close

from unheard.models.strided_conv import strided_conv

SHAPES = list(itertools.product(range(1, 8), range(1, 5)))


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
@pytest.mark.parametrize("time", [0, 1, 7, 20])
def test_it_is_a_convolution_with_its_gradients(kernel: int, stride: int, time: int) -> None:
    generator = torch.Generator().manual_seed(kernel * 10 + stride)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    frames, weight, bias = draw(2, kernel + time, 3), draw(5, 3, kernel), draw(5)
    expected = F.conv1d(frames.transpose(1, 2), weight, bias, stride=stride).transpose(1, 2)
    result = strided_conv(frames, weight, bias, stride=stride)
    assert_close("output", result, expected, FLOAT64)
    slope = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    inputs = (frames, weight, bias)
    ours = torch.autograd.grad(result, inputs, slope)
    theirs = torch.autograd.grad(expected, inputs, slope)
    for name, grad, reference in zip(("frames", "weight", "bias"), ours, theirs, strict=True):
        assert_close(name, grad, reference, FLOAT64)


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (1, 3), (7, 3), (3, 1)])
def test_gradcheck(kernel: int, stride: int) -> None:
    frames = torch.randn(2, kernel + 6, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, kernel, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, w: strided_conv(f, w, None, stride=stride), (frames, weight)
    )


def test_frames_that_are_not_contiguous() -> None:
    frames = torch.randn(2, 3, 20, dtype=torch.float64).transpose(1, 2)
    weight = torch.randn(4, 3, 3, dtype=torch.float64)
    expected = F.conv1d(frames.transpose(1, 2), weight, stride=2).transpose(1, 2)
    part = F.conv1d(frames[:, 4:].transpose(1, 2), weight, stride=2).transpose(1, 2)
    assert_close("whole", strided_conv(frames, weight, None, stride=2), expected, FLOAT64)
    assert_close("part", strided_conv(frames[:, 4:], weight, None, stride=2), part, FLOAT64)


def test_only_the_gradients_that_are_needed() -> None:
    frames = torch.randn(1, 9, 2)
    weight = torch.randn(3, 2, 4, requires_grad=True)
    strided_conv(frames, weight, None, stride=2).sum().backward()
    assert frames.grad is None
    assert weight.grad is not None


def test_output_has_the_type_of_the_frames() -> None:
    result = strided_conv(
        torch.randn(1, 9, 2, dtype=torch.bfloat16), torch.randn(3, 2, 4), torch.randn(3), stride=2
    )
    assert result.dtype == torch.bfloat16
