import math

import pytest
import torch
from tests.parity.reference import ctc_paths

from unheard.models.ctc import CtcOutput
from unheard.objectives.ctc import ctc_loss, frames_needed


def make_output(*shape: int, seed: int = 0, lengths: list[int] | None = None) -> CtcOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
    return CtcOutput(logits=logits, lengths=None if lengths is None else torch.tensor(lengths))


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("target", [[1], [1, 1], [1, 3], [3, 1, 3], []])
@pytest.mark.parametrize("frames", [3, 5])
def test_loss_is_the_sum_over_all_paths(blank: int, target: list[int], frames: int) -> None:
    output = make_output(1, frames, 4, seed=frames)
    log_probs = torch.log_softmax(output.logits[0], dim=-1).tolist()
    expected = ctc_paths.ctc_loss(log_probs, target, blank=blank)
    targets = torch.tensor([[*target, 3, 3]])
    terms = ctc_loss(output, targets, torch.tensor([len(target)]), blank=blank)
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-9)
    assert int(terms.means["impossible"]) == 0


def test_rows_are_summed_and_padding_is_left_out() -> None:
    lengths, target_lengths = [6, 4, 5], [3, 1, 2]
    output = make_output(3, 6, 4, lengths=lengths)
    targets = torch.tensor([[1, 2, 1], [3, -7, 99], [2, 2, 0]])
    terms = ctc_loss(output, targets.clamp(0, 3), torch.tensor(target_lengths), blank=0)
    expected = 0.0
    for row in range(3):
        log_probs = torch.log_softmax(output.logits[row, : lengths[row]], dim=-1).tolist()
        target = targets[row, : target_lengths[row]].tolist()
        expected += ctc_paths.ctc_loss(log_probs, target, blank=0)
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-9)
    assert int(terms.count) == 3
    terms.total.backward()
    grad = output.logits.grad
    assert grad is not None
    assert (grad[1, 4:] == 0).all()
    assert (grad[1, :4] != 0).any()


def test_gradient() -> None:
    output = make_output(2, 5, 4, lengths=[5, 4])
    targets, lengths = torch.tensor([[1, 2], [3, 3]]), torch.tensor([2, 2])
    assert torch.autograd.gradcheck(
        lambda logits: (
            ctc_loss(
                CtcOutput(logits=logits, lengths=output.lengths), targets, lengths, blank=0
            ).total
        ),
        (output.logits,),
    )


def test_a_target_that_does_not_fit_is_counted_and_costs_nothing() -> None:
    output = make_output(2, 3, 4, lengths=[3, 3])
    targets, lengths = torch.tensor([[1, 1, 0], [1, 2, 3]]), torch.tensor([2, 3])
    fits = ctc_loss(output, targets, lengths, blank=0)
    assert int(fits.means["impossible"]) == 0
    targets = torch.tensor([[1, 1, 1], [1, 2, 3]])
    terms = ctc_loss(output, targets, torch.tensor([3, 3]), blank=0)
    assert int(terms.means["impossible"]) == 1
    log_probs = torch.log_softmax(output.logits[1], dim=-1).tolist()
    assert ctc_paths.ctc_loss(log_probs, [1, 2, 3], blank=0) == pytest.approx(
        float(terms.total.detach())
    )
    terms.total.backward()
    assert output.logits.grad is not None
    assert (output.logits.grad[0] == 0).all()
    assert output.logits.grad.isfinite().all()


def test_blank_ratio_counts_real_frames() -> None:
    logits = torch.zeros(2, 4, 3)
    logits[0, :, 0] = 5  # row 0 all blank; row 1 blank in one of two frames and in its padding
    logits[1, 0, 1] = 5
    logits[1, 1:, 0] = 5
    output = CtcOutput(logits=logits, lengths=torch.tensor([4, 2]))
    terms = ctc_loss(output, torch.tensor([[1], [1]]), torch.tensor([1, 1]), blank=0)
    assert float(terms.means["blank_ratio"]) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("target", "length", "frames"),
    [([1, 2, 3], 3, 3), ([1, 1, 3], 3, 4), ([1, 1, 1], 3, 5), ([1, 1, 1], 1, 1), ([1, 1], 0, 0)],
)
def test_frames_needed(target: list[int], length: int, frames: int) -> None:
    needed = frames_needed(torch.tensor([target]), torch.tensor([length]))
    assert needed.tolist() == [frames]
    log_probs = [[math.log(0.5)] * 2] * frames
    if length and frames:
        assert ctc_paths.ctc_loss(log_probs, target[:length], blank=0) < math.inf or 3 in target


def test_half_precision_is_summed_in_float32() -> None:
    output = make_output(2, 40, 6)
    targets, lengths = torch.randint(1, 6, (2, 9)), torch.tensor([9, 9])
    exact = ctc_loss(output, targets, lengths, blank=0)
    half = CtcOutput(logits=output.logits.detach().bfloat16(), lengths=None)
    terms = ctc_loss(half, targets, lengths, blank=0)
    assert terms.total.dtype == torch.float32
    assert float(terms.total.detach()) == pytest.approx(float(exact.total.detach()), rel=0.01)
