"""What stays in float32 when matrix products run in bfloat16: norms, softmax, cosines, losses."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from tests.tiny_models import tiny_ctc, tiny_encoder, tiny_masked_units, tiny_pretraining
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unheard.data.dataset import AudioBatch, LabelledBatch
from unheard.models.ctc import CtcOutput
from unheard.models.feature_encoder import ChannelNorm
from unheard.models.masked_prediction import MaskedUnitOutput
from unheard.models.pretraining import PretrainingOutput
from unheard.models.quantizer import Quantized
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import contrastive_logits, contrastive_objective
from unheard.objectives.ctc import ctc_loss, ctc_objective
from unheard.objectives.masked_units import masked_unit_loss, masked_unit_objective
from unheard.tensors import derived_generator
from unheard.training.precision import autocast

CPU = torch.device("cpu")
BF16 = torch.bfloat16
KINDS = ("contrastive", "ctc", "masked_units")
SAMPLES = 2000

WIDE = {
    "aten._log_softmax",
    "aten._ctc_loss",
    "aten.logsumexp",
    "aten.linalg_vector_norm",
    "aten.rsqrt",
    "aten.square",
    "aten.pow",
    "aten.exp",
    "aten.log",
    "aten.nll_loss_forward",
}
"""Operations that must never see bfloat16."""


class Recorder(TorchDispatchMode):
    """Keeps the number types that each operation was given and gave back."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, set[torch.dtype]] = {}
        self.norm_statistics: set[torch.dtype] = set()
        self.products: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).rsplit(".", 1)[0]
        floats = {a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()}
        self.taken.setdefault(name, set()).update(floats)
        if name == "aten.native_layer_norm":
            self.norm_statistics.update(part.dtype for part in result[1:])
        return result


def run(kind: str, norm: Literal["group", "layer"], dtype: torch.dtype) -> LossTerms:
    """One training pass of an objective; everything that is drawn is drawn alike."""
    samples = torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([SAMPLES, 1500, 1000])
    generator = derived_generator(0, "step")
    ids = ("a", "b", "c")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if kind == "ctc":
        batch = LabelledBatch(
            samples=samples.masked_fill(torch.arange(SAMPLES) >= lengths[:, None], 0).to(wide),
            lengths=lengths,
            targets=torch.tensor([[4, 5, 6], [5, 5, 0], [6, 0, 0]]),
            target_lengths=torch.tensor([3, 2, 1]),
            ids=ids,
        )
        model, objective = tiny_ctc(norm).model, partial(ctc_objective, blank=0)
    else:
        frames = tiny_encoder().num_frames(SAMPLES)
        units = torch.randint(9, (3, frames), generator=torch.Generator().manual_seed(1))
        batch = AudioBatch(samples=samples.to(wide), ids=ids, units=units)
        contrastive = kind == "contrastive"
        model = (tiny_pretraining if contrastive else tiny_masked_units)(norm).model
        objective = contrastive_objective if contrastive else masked_unit_objective
    model = model.to(wide).train(kind != "contrastive")
    model.requires_grad_(True)
    precision = autocast(BF16, CPU) if dtype == BF16 else torch.autocast("cpu", enabled=False)
    with precision:
        return objective(model, batch, progress=0.0, generator=generator)  # pyright: ignore


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_islands_see_no_bfloat16(kind: str, norm: Literal["group", "layer"]) -> None:
    with Recorder() as seen:
        terms = run(kind, norm, BF16)
    assert terms.total.dtype == torch.float32
    narrow = {name for name in WIDE & set(seen.taken) if BF16 in seen.taken[name]}
    assert narrow == set()
    # Means and deviations of layer norms, which their gradients are made from.
    assert seen.norm_statistics == {torch.float32}
    expected = {
        "contrastive": {"aten.logsumexp", "aten.linalg_vector_norm"},
        "ctc": {"aten._log_softmax", "aten._ctc_loss"},
        "masked_units": {"aten._log_softmax", "aten.nll_loss_forward"},
    }
    assert expected[kind] <= set(seen.taken)
    # The control: this was a run in bfloat16.
    assert BF16 in seen.taken["aten.addmm"] | seen.taken["aten.mm"]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_in_bfloat16_are_near_those_in_float64(
    kind: str, norm: Literal["group", "layer"]
) -> None:
    exact = run(kind, norm, torch.float64)
    found = run(kind, norm, BF16)
    plain = run(kind, norm, torch.float32)
    assert int(found.count) == int(exact.count)
    assert exact.total.dtype == torch.float64
    loss = float(exact.total.detach())
    assert float(plain.total.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(found.total.detach()) == pytest.approx(loss, rel=1e-2)
    assert float(found.total.detach()) != pytest.approx(loss, rel=1e-7)


def bfloat16_numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


@contextmanager
def in_bfloat16() -> Iterator[None]:
    with autocast(BF16, CPU):
        yield


def test_cosines_of_bfloat16_vectors_are_not_rounded_further() -> None:
    predictions, targets = bfloat16_numbers(40, 32), bfloat16_numbers(40, 32, seed=1)
    distractors = torch.arange(40)[:, None].roll(3, 0)

    def logits(dtype: torch.dtype) -> Tensor:
        quantized = Quantized(
            vectors=torch.zeros(40, 2),
            codes=torch.arange(80).view(40, 2),
            logits=torch.zeros(40, 2, 80),
        )
        output = PretrainingOutput(
            predictions=predictions.to(dtype),
            targets=targets.to(dtype),
            quantized=quantized,
            masked_counts=torch.tensor([40]),
            feature_power=torch.tensor(0.0),
        )
        with in_bfloat16():
            return contrastive_logits(output, distractors, temperature=0.1)

    exact = logits(torch.float64)
    assert exact.dtype == torch.float64
    assert logits(BF16).dtype == torch.float32
    torch.testing.assert_close(logits(BF16).double(), exact, rtol=0, atol=1e-5)
    with in_bfloat16():  # the control: the same in bfloat16
        narrow = F.normalize(predictions, dim=-1) @ F.normalize(targets, dim=-1).T / 0.1
    assert float((narrow.diagonal().double() - exact[:, 0]).abs().max()) > 1e-3


def test_ctc_of_bfloat16_logits_is_not_rounded_further() -> None:
    logits = bfloat16_numbers(2, 30, 7)
    targets, lengths = torch.tensor([[1, 2, 3], [4, 4, 0]]), torch.tensor([3, 2])

    def loss(values: Tensor) -> float:
        with in_bfloat16():
            output = CtcOutput(logits=values, lengths=torch.tensor([30, 21]))
            return float(ctc_loss(output, targets, lengths, blank=0).total)

    assert loss(logits) == pytest.approx(loss(logits.double()), rel=1e-6)
    rounded = torch.log_softmax(logits, dim=-1)
    assert rounded.dtype == BF16
    assert loss(rounded) != pytest.approx(loss(logits.double()), rel=1e-4)


def test_cross_entropy_of_bfloat16_logits_is_not_rounded_further() -> None:
    logits = bfloat16_numbers(2, 30, 9)
    units = torch.randint(9, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, 30, generator=torch.Generator().manual_seed(1)) < 0.5

    def loss(values: Tensor) -> float:
        with in_bfloat16():
            output = MaskedUnitOutput(logits=values, feature_power=torch.tensor(0.0))
            return float(masked_unit_loss(output, units, mask, unmasked_weight=0.3).total)

    assert loss(logits) == pytest.approx(loss(logits.double()), rel=1e-6)
    rounded = torch.log_softmax(logits, dim=-1)
    assert loss(rounded) != pytest.approx(loss(logits.double()), rel=1e-5)


def test_a_channel_norm_rounds_its_output_alone() -> None:
    norm = ChannelNorm(64, epsilon=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(64, generator=torch.Generator().manual_seed(0)) + 0.5)
        norm.bias.copy_(torch.randn(64, generator=torch.Generator().manual_seed(1)))
    frames = bfloat16_numbers(4, 50, 64)
    exact = F.layer_norm(frames.double(), (64,), norm.weight.double(), norm.bias.double(), 1e-5)
    found = norm(frames)
    assert found.dtype == BF16
    # Half a unit in the last of bfloat16's eight binary places, with a little for float32's sums.
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
    rounded = F.layer_norm(frames, (64,), norm.weight.to(BF16), norm.bias.to(BF16), 1e-5)
    assert not ((rounded.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
