"""Our networks and losses against numbers that fairseq 0.12.2 computed in float64."""

import pytest
import torch
from tests.closeness import FLOAT64, assert_close
from tests.parity.fairseq_models import (
    CTC,
    FRAMES,
    MAX_UPDATES,
    PRETRAINING,
    compare_stages,
    cropped_batch,
    expected,
    facts,
    make_model,
    our_name,
    padded_batch,
)
from torch import Tensor

from unheard.models.pretraining import PretrainingModel, PretrainingOutput
from unheard.objectives.base import LossTerms
from unheard.objectives.contrastive import contrastive_logits, wav2vec2_loss
from unheard.objectives.ctc import ctc_loss

CASES = ("pretrain_eval", "pretrain_train", "pretrain_padded_eval", "pretrain_repeats_eval")
KAPPA = 0.1


@pytest.mark.parametrize("name", PRETRAINING + CTC)
@pytest.mark.parametrize("case", ["batch", "utt1"])
def test_every_stage(name: str, case: str) -> None:
    layers = facts(name)["encoder"]["encoder_layers"]
    rows = 2 if case == "batch" else 1
    stages = 6 + layers + (name in CTC)
    assert compare_stages(make_model(name), name, case) == stages * rows


@pytest.mark.parametrize("name", ["wav2vec2_base", "wav2vec2_base_ctc"])
def test_masked_statistics_give_in_a_batch_what_fairseq_gives_alone(name: str) -> None:
    samples, lengths = padded_batch(name)
    with torch.no_grad():
        output = make_model(name).encoder(samples, lengths)
    kept = [frame for frame in FRAMES if frame < 28]
    assert_close("final", output.frames[1, kept], expected(name)["utt1.final"][0], FLOAT64)


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_wrong_model_is_noticed(name: str) -> None:
    model = make_model(name)
    with torch.no_grad():
        model.encoder.transformer.layers[0].inner.bias[0] += 1e-4
    with pytest.raises(AssertionError, match=r"final|layer"):
        compare_stages(model, name, "batch")


@pytest.mark.parametrize("name", PRETRAINING)
def test_quantiser(name: str) -> None:
    model, theirs = make_model(name), expected(name)
    assert isinstance(model, PretrainingModel)
    with torch.no_grad():
        features = model.encoder(cropped_batch(name)).normed_features
        quantized = model.quantizer(features.flatten(0, 1))
    assert torch.equal(quantized.codes, theirs["quantize.codes"].flatten(0, 1))
    if "quantize.targets_quantized" in theirs:
        reference = theirs["quantize.targets_quantized"].flatten(0, 1)
        assert_close("vectors", quantized.vectors, reference, FLOAT64)
    temperature = model.quantizer.temperature(facts(name)["num_updates"] / MAX_UPDATES)
    assert temperature == pytest.approx(float(theirs["pretrain_train.temp"]), rel=1e-12)


def run_case(
    model: PretrainingModel, name: str, case: str, *, shift: int = 0
) -> tuple[PretrainingOutput, Tensor, LossTerms]:
    """Replay fairseq's mask, negatives and noise; `shift` moves the negatives, to be wrong."""
    theirs = expected(name)
    if case == "pretrain_padded_eval":
        samples, lengths = padded_batch(name)
    else:
        samples, lengths = cropped_batch(name), None
    mask = theirs[f"{case}.mask_indices"]
    noise = theirs.get(f"{case}.gumbel_noise")
    quantizer = model.config.quantizer
    if noise is not None:
        noise = noise.view(-1, quantizer.groups, quantizer.entries)
    model.train(case == "pretrain_train")
    output = model(
        samples,
        lengths,
        time_mask=mask,
        padding="zeros",
        temperature=float(theirs[f"{case}.temp"]),
        noise=noise,
    )
    distractors = our_distractors(theirs[f"{case}.negative_indices"], mask)
    distractors = (distractors + shift) % int(output.masked_counts[0])
    logits = contrastive_logits(output, distractors, temperature=KAPPA)
    terms = wav2vec2_loss(
        output, distractors, temperature=KAPPA, diversity_weight=0.1, feature_penalty_weight=10.0
    )
    return output, logits, terms


def our_distractors(negatives: Tensor, mask: Tensor) -> Tensor:
    """Turn flat positions in all masked frames into places within each frame's own row."""
    rows, masked = mask.shape[0], int(mask[0].sum())
    starts = torch.arange(rows)[:, None] * masked
    return (negatives - starts).view(rows * masked, -1)


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("case", CASES)
def test_objective_and_its_gradients(name: str, case: str) -> None:
    model, theirs = make_model(name), expected(name)
    assert isinstance(model, PretrainingModel)
    output, logits, terms = run_case(model, name, case)

    def reference(rest: str) -> Tensor:
        return theirs[f"{case}.{rest}"]

    assert torch.equal(output.quantized.codes, reference("codes").flatten(0, 1))
    if case == "pretrain_train":
        for rest, ours in (
            ("code_logits", output.quantized.logits),
            ("targets_quantized", output.quantized.vectors),
            ("targets_projected", output.targets),
            ("context_projected", output.predictions),
        ):
            assert_close(rest, ours, reference(rest).flatten(0, 1), FLOAT64)
    their_logits = reference("logits").permute(1, 2, 0).flatten(0, 1)
    hidden = reference("negative_same_code").permute(1, 2, 0).flatten(0, 1)
    assert torch.equal(logits[:, 1:] == float("-inf"), hidden)
    assert hidden.any() == (case == "pretrain_repeats_eval")
    assert_close("logits", logits, their_logits, FLOAT64)

    assert int(terms.count) == int(reference("sample_size"))
    for rest, ours in (
        ("loss_contrastive_sum", terms.parts["contrastive"]),
        ("loss_diversity_weighted", terms.parts["diversity"]),
        ("loss_features_pen_weighted", terms.parts["feature_penalty"]),
        ("loss_total", terms.total),
        ("features_pen", terms.means["feature_power"]),
        ("code_perplexity", terms.means["code_perplexity"]),
        ("prob_perplexity", terms.means["soft_perplexity"]),
        ("correct", terms.parts["accuracy"]),
    ):
        assert_close(rest, ours, reference(rest), FLOAT64)

    terms.total.backward()
    parameters = dict(model.named_parameters())
    gradients = [key for key in theirs if key.startswith(f"{case}.grad.")]
    assert len(gradients) == 11
    for key in gradients:
        grad = parameters[our_name(key.removeprefix(f"{case}.grad."))].grad
        assert grad is not None
        grad = grad.flatten(0, -2)[:4] if grad.dim() > 1 else grad
        assert_close(key, grad, theirs[key], FLOAT64)


@pytest.mark.parametrize("name", PRETRAINING)
def test_wrong_negatives_are_noticed(name: str) -> None:
    model = make_model(name)
    assert isinstance(model, PretrainingModel)
    _, _, terms = run_case(model, name, "pretrain_eval", shift=1)
    reference = expected(name)["pretrain_eval.loss_contrastive_sum"]
    with pytest.raises(AssertionError, match="contrastive"):
        assert_close("contrastive", terms.parts["contrastive"], reference, 1e-6)


@pytest.mark.parametrize("name", CTC)
def test_ctc_loss_and_its_gradients(name: str) -> None:
    model, theirs = make_model(name), expected(name)
    samples, lengths = padded_batch(name)
    output = model(samples, lengths, padding="zeros")
    terms = ctc_loss(output, theirs["loss.targets"], theirs["loss.target_lengths"], blank=0)
    assert_close("loss", terms.total, theirs["loss.loss_sum"], FLOAT64)
    assert int(terms.count) == int(theirs["loss.sample_size"])
    terms.total.backward()
    parameters = dict(model.named_parameters())
    gradients = [key for key in theirs if key.startswith("loss.grad.")]
    assert len(gradients) == 6
    for key in gradients:
        grad = parameters[our_name(key.removeprefix("loss.grad."))].grad
        assert grad is not None
        grad = grad.flatten(0, -2)[:4] if grad.dim() > 1 else grad
        assert_close(key, grad, theirs[key], FLOAT64)
    frozen = [n for n, p in parameters.items() if n.startswith("encoder.feature_encoder")]
    assert frozen
    assert all(parameters[name].grad is None for name in frozen)


def test_ctc_loss_notices_another_blank() -> None:
    model, theirs = make_model(CTC[0]), expected(CTC[0])
    samples, lengths = padded_batch(CTC[0])
    output = model(samples, lengths, padding="zeros")
    terms = ctc_loss(output, theirs["loss.targets"], theirs["loss.target_lengths"], blank=10)
    with pytest.raises(AssertionError, match="loss"):
        assert_close("loss", terms.total, theirs["loss.loss_sum"], 1e-6)
