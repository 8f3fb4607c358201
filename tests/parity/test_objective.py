"""The pre-training objective against a reference in plain loops, and against transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.closeness import FLOAT32, FLOAT64, assert_close
from tests.parity.fairseq_models import PRETRAINING, cropped_batch, expected, make_model
from tests.parity.hf_models import KINDS, SMALL, make_pair, make_samples
from tests.parity.reference import contrastive as reference
from tests.parity.test_fairseq import our_distractors
from torch import Tensor

from unheard.models.pretraining import PretrainingModel, PretrainingOutput
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import wav2vec2_loss

SETTINGS = {"kappa": 0.1, "diversity": 0.1, "penalty": 10.0}
DIFFERENTIATED = (
    "project_context.weight",
    "project_targets.weight",
    "quantizer.codebook",
)
ROWS = 4


def our_loss(output: PretrainingOutput, distractors: Tensor) -> LossTerms:
    return wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.1, feature_penalty_weight=10.0
    )


def loop_inputs(
    model: PretrainingModel,
    samples: Tensor,
    mask: Tensor,
    distractors: Tensor,
    noise: Tensor | None,
) -> tuple[reference.Weights, dict[str, Any]]:
    """Take what the loops begin with out of the encoder, row by row."""
    with torch.no_grad():
        encoded = model.encoder(samples, None, time_mask=mask)
    counts = mask.sum(dim=1).tolist()
    if noise is None:
        quantizer = model.config.quantizer
        noise = torch.zeros(sum(counts), quantizer.groups, quantizer.entries)

    def rows(values: Tensor) -> list[np.ndarray]:
        return [part.numpy() for part in values.split(counts)]

    weights = {
        name: parameter.detach().numpy()
        for name, parameter in model.named_parameters()
        if not name.startswith("encoder.")
    }
    return weights, {
        "context": rows(encoded.frames[mask]),
        "features": rows(encoded.normed_features[mask]),
        "distractors": rows(distractors),
        "conv_features": encoded.conv_features.numpy(),
        "noise": rows(noise),
        "settings": SETTINGS,
    }


def replay(name: str, case: str) -> tuple[LossTerms, PretrainingModel, Any, Any, dict[str, Tensor]]:
    """Compute a recorded case here and by loops."""
    model, theirs = make_model(name), expected(name)
    assert isinstance(model, PretrainingModel)
    samples, mask = cropped_batch(name), theirs[f"{case}.mask_indices"]
    noise = theirs.get(f"{case}.gumbel_noise")
    noise = None if noise is None else noise.view(-1, 2, 8)
    model.train(noise is not None)
    distractors = our_distractors(theirs[f"{case}.negative_indices"], mask)
    output = model(
        samples,
        time_mask=mask,
        temperature=float(theirs[f"{case}.temp"]),
        noise=noise,
    )
    terms = our_loss(output, distractors)
    weights, inputs = loop_inputs(model, samples, mask, distractors, noise)
    return terms, model, weights, inputs, theirs


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("case", ["pretrain_eval", "pretrain_train", "pretrain_repeats_eval"])
def test_objective_equals_loops_and_fairseq(name: str, case: str) -> None:
    terms, _, weights, inputs, theirs = replay(name, case)
    parts = {part: value.real for part, value in reference.objective(weights, **inputs).items()}
    ours = {
        "contrastive": terms.parts["contrastive"],
        "diversity": terms.parts["diversity"],
        "feature_penalty": terms.parts["feature_penalty"],
        "total": terms.total.detach(),
        "soft_perplexity": terms.means["soft_perplexity"],
    }
    fairseq_names = {
        "contrastive": "loss_contrastive_sum",
        "diversity": "loss_diversity_weighted",
        "feature_penalty": "loss_features_pen_weighted",
        "total": "loss_total",
        "soft_perplexity": "prob_perplexity",
    }
    for part, value in parts.items():
        assert float(ours[part]) == pytest.approx(value, rel=FLOAT64)
        assert float(theirs[f"{case}.{fairseq_names[part]}"]) == pytest.approx(value, rel=FLOAT64)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("wav2vec2_base", "pretrain_train"),
        ("wav2vec2_base", "pretrain_repeats_eval"),
        ("wav2vec2_large", "pretrain_eval"),
    ],
)
def test_gradients_equal_those_of_loops(name: str, case: str) -> None:
    terms, model, weights, inputs, _ = replay(name, case)
    terms.total.backward()
    parameters = dict(model.named_parameters())
    differentiated = DIFFERENTIATED
    if case != "pretrain_train":
        # With noise this one's gradient is that of the softmax, which is not of the hard choice.
        differentiated = (*DIFFERENTIATED, "quantizer.scores.weight")
    for key in differentiated:
        slopes = reference.gradient(
            lambda changed: reference.objective(changed, **inputs)["total"], weights, key, ROWS
        )
        grad = parameters[key].grad
        assert grad is not None
        assert_close(key, grad.flatten(0, -2)[:ROWS], torch.from_numpy(slopes), FLOAT64)
        assert float(grad.abs().max()) > 1e-3


def test_shifted_distractors_are_noticed() -> None:
    terms, _, weights, inputs, _ = replay("wav2vec2_base", "pretrain_eval")
    inputs["distractors"] = [np.roll(row, 1, axis=0) for row in inputs["distractors"]]
    value = reference.objective(weights, **inputs)["contrastive"].real
    assert float(terms.parts["contrastive"]) != pytest.approx(value, rel=1e-6)


def masked_rows(lengths: list[int], frames: int) -> Tensor:
    """Mask two spans of every row, as many as it has room for."""
    mask = torch.zeros(len(lengths), frames, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, 2 + row : 7 + row] = True
        mask[row, 12 : min(18, length - 1)] = True
    return mask


def their_negatives(distractors: Tensor, mask: Tensor) -> Tensor:
    """Turn places within each row's masked frames into transformers' (batch, frames, K)."""
    batch, frames = mask.shape
    result = torch.zeros(batch, frames, distractors.shape[1], dtype=torch.long)
    start = 0
    for row in range(batch):
        places = mask[row].nonzero()[:, 0]
        count = len(places)
        result[row, places] = places[distractors[start : start + count]] + row * frames
        start += count
    return result


def differing_distractors(codes: Tensor, counts: list[int], *, number: int) -> Tensor:
    """Choose distractors with other codes: transformers compares rounded vectors instead."""
    generator = torch.Generator().manual_seed(0)
    chosen: list[Tensor] = []
    for row in codes.split(counts):
        for own in row:
            others = (row != own).any(dim=1).nonzero()[:, 0]
            chosen.append(others[torch.randint(len(others), (number,), generator=generator)])
    return torch.stack(chosen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lengths", [(9000, 9000), (9000, 7300)])
def test_objective_equals_transformers(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    training: bool,
    lengths: tuple[int, ...],
) -> None:
    pair = make_pair(tmp_path, SMALL | KINDS[kind], seed=4, pretraining=True)
    samples, sample_lengths, attention = make_samples(lengths, seed=4)
    mask = masked_rows([pair.ours.config.encoder.num_frames(n) for n in lengths], 27)
    counts = mask.sum(dim=1).tolist()
    # Its quantiser and its cosines are cast down to float32; ours compute as they are given.
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    noise = (
        -torch.empty(2, 27, 2, 8, dtype=torch.float64)
        .exponential_(generator=torch.Generator().manual_seed(1))
        .log()
    )

    def replayed(logits: Tensor, *, tau: float, hard: bool) -> Tensor:
        assert hard
        soft = torch.softmax((logits + noise.view(-1, 8)) / tau, dim=-1)
        best = torch.nn.functional.one_hot(soft.argmax(dim=-1), 8).double()
        return best - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", replayed)
    pair.ours.train(training)
    pair.theirs.train(training)
    pair.theirs.set_gumbel_temperature(1.5)
    output = pair.ours(
        samples,
        sample_lengths,
        time_mask=mask,
        padding="zeros",
        temperature=1.5,
        noise=noise[mask],
    )
    distractors = differing_distractors(output.quantized.codes, counts, number=12)
    terms = our_loss(output, distractors)
    theirs = pair.theirs(
        samples,
        attention_mask=attention,
        mask_time_indices=mask,
        sampled_negative_indices=their_negatives(distractors, mask),
    )
    assert_close("loss", terms.parts["contrastive"], theirs.contrastive_loss, FLOAT64)

    ours, other = dict(pair.ours.named_parameters()), dict(pair.theirs.named_parameters())
    names = {
        "encoder.mask_embedding": "wav2vec2.masked_spec_embed",
        "encoder.transformer.layers.1.inner.weight": (
            "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense.weight"
        ),
        "encoder.feature_encoder.blocks.2.weight": (
            "wav2vec2.feature_extractor.conv_layers.2.conv.weight"
        ),
        "quantizer.codebook": "quantizer.codevectors",
        "project_context.weight": "project_hid.weight",
    }
    if training:
        # In training its perplexity is that of the softmax, as ours is in both modes; ours has
        # fairseq's 1e-7 inside the logarithm.
        assert_close("diversity", terms.parts["diversity"], 0.1 * theirs.diversity_loss, FLOAT32)
    # What both code bases mean alike: the contrastive part alone.
    rest = 0.1 * (16 - output.quantized.soft_perplexity()) / 16 + 10 * output.feature_power
    contrastive = terms.total - rest * terms.count
    our_grads = torch.autograd.grad(contrastive, [ours[name] for name in names])
    their_grads = torch.autograd.grad(
        theirs.contrastive_loss, [other[name] for name in names.values()]
    )
    for name, grad, reference_grad in zip(names, our_grads, their_grads, strict=True):
        assert_close(name, grad, reference_grad.view(grad.shape), FLOAT64)

    wrong = their_negatives(distractors.roll(1, dims=0), mask)
    theirs = pair.theirs(
        samples,
        attention_mask=attention,
        mask_time_indices=mask,
        sampled_negative_indices=wrong,
    )
    with pytest.raises(AssertionError, match="loss"):
        assert_close("loss", terms.parts["contrastive"], theirs.contrastive_loss, 1e-6)
