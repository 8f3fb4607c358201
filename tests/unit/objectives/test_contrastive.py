import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unheard.errors import ShapeError
from unheard.models.pretraining import PretrainingOutput
from unheard.models.quantizer import Quantized
from unheard.objectives.contrastive import (
    contrastive_logits,
    sample_distractors,
    wav2vec2_loss,
)


def make_output(counts: list[int], *, seed: int = 0, entries: int = 50) -> PretrainingOutput:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return PretrainingOutput(
        predictions=draw(total, 6),
        targets=draw(total, 6),
        quantized=Quantized(
            vectors=draw(total, 4),
            codes=torch.randint(entries, (total, 2), generator=generator),
            logits=draw(total, 2, entries),
        ),
        masked_counts=torch.tensor(counts),
        feature_power=draw(1)[0].square(),
    )


def loss(output: PretrainingOutput, distractors: torch.Tensor) -> torch.Tensor:
    return wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.1, feature_penalty_weight=10.0
    ).parts["contrastive"]


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    number=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_distractors_are_other_frames_of_the_same_row(
    counts: list[int], number: int, seed: int
) -> None:
    drawn = sample_distractors(
        torch.tensor(counts), distractors=number, generator=torch.Generator().manual_seed(seed)
    )
    assert drawn.shape == (sum(counts), number)
    place = 0
    for count in counts:
        for own in range(count):
            row = drawn[place]
            assert ((row >= 0) & (row < count)).all()
            assert count == 1 or (row != own).all()
            place += 1


def test_distractors_are_drawn_evenly_with_replacement() -> None:
    drawn = sample_distractors(
        torch.tensor([1, 5]), distractors=20_000, generator=torch.Generator().manual_seed(0)
    )
    for own in range(5):
        counts = torch.bincount(drawn[1 + own], minlength=5).double()
        assert counts[own] == 0
        others = counts[torch.arange(5) != own]
        assert float(((others - 5000) ** 2 / 5000).sum()) < 16.3  # 3 degrees, p = 0.001


def test_distractors_follow_the_generator() -> None:
    drawn = [
        sample_distractors(
            torch.tensor([30]), distractors=5, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_logits_are_cosines() -> None:
    output = make_output([4, 0, 3])
    distractors = torch.tensor([[1, 2], [0, 3], [3, 3], [0, 1], [1, 2], [0, 2], [0, 1]])
    logits = contrastive_logits(output, distractors, temperature=0.25)
    starts = [0, 0, 0, 0, 4, 4, 4]
    for frame in range(7):
        own = frame - starts[frame]
        for column, place in enumerate([own, *distractors[frame].tolist()]):
            cosine = torch.cosine_similarity(
                output.predictions[frame], output.targets[starts[frame] + place], dim=0
            )
            assert float(logits[frame, column]) == pytest.approx(float(cosine) / 0.25, rel=1e-9)


def test_a_distractor_with_the_same_codes_is_left_out() -> None:
    output = make_output([3])
    output.quantized.codes[:] = torch.tensor([[1, 2], [1, 2], [2, 1]])
    distractors = torch.tensor([[1, 2], [0, 0], [0, 1]])
    logits = contrastive_logits(output, distractors, temperature=0.1)
    assert (logits == -math.inf).tolist() == [
        [False, True, False],
        [False, True, True],
        [False, False, False],
    ]
    # The second frame has nothing left to be told from: certain, at no cost.
    losses = torch.logsumexp(logits, dim=1) - logits[:, 0]
    assert float(losses[1]) == 0
    assert float(loss(output, distractors)) == pytest.approx(float(losses.sum()))


def test_utterances_do_not_depend_on_each_other() -> None:
    counts = [5, 1, 8]
    output = make_output(counts)
    distractors = sample_distractors(
        torch.tensor(counts), distractors=4, generator=torch.Generator().manual_seed(0)
    )
    total, start = 0.0, 0
    for count in counts:
        own = slice(start, start + count)
        part = PretrainingOutput(
            predictions=output.predictions[own],
            targets=output.targets[own],
            quantized=Quantized(
                vectors=output.quantized.vectors[own],
                codes=output.quantized.codes[own],
                logits=output.quantized.logits[own],
            ),
            masked_counts=torch.tensor([count]),
            feature_power=output.feature_power,
        )
        total += float(loss(part, distractors[own]))
        start += count
    assert float(loss(output, distractors)) == pytest.approx(total, rel=1e-12)


def test_a_lone_masked_frame_is_not_counted() -> None:
    output = make_output([1, 6])
    distractors = sample_distractors(
        output.masked_counts, distractors=4, generator=torch.Generator().manual_seed(0)
    )
    terms = wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.1, feature_penalty_weight=10.0
    )
    assert int(terms.count) == 6
    assert terms.total.isfinite()


def test_parts_make_up_the_total_with_their_weights() -> None:
    output = make_output([7, 5])
    distractors = sample_distractors(
        output.masked_counts, distractors=4, generator=torch.Generator().manual_seed(0)
    )
    terms = wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.3, feature_penalty_weight=2.0
    )
    assert terms.total.dtype == torch.float64
    soft = float(output.quantized.soft_perplexity())
    assert float(terms.parts["diversity"]) == pytest.approx(0.3 * 12 * (100 - soft) / 100)
    power = float(output.feature_power)
    assert float(terms.parts["feature_penalty"]) == pytest.approx(2 * 12 * power)
    parts = ("contrastive", "diversity", "feature_penalty")
    assert float(terms.total) == pytest.approx(sum(float(terms.parts[part]) for part in parts))


def test_accuracy_counts_frames_whose_target_wins() -> None:
    output = make_output([4])
    output.predictions[:] = output.targets
    distractors = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    terms = wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.1, feature_penalty_weight=10.0
    )
    assert int(terms.parts["accuracy"]) == 4
    output.predictions[2] *= -1
    output.targets[:] = output.targets[0]  # nothing to tell apart: no hits
    terms = wav2vec2_loss(
        output, distractors, temperature=0.1, diversity_weight=0.1, feature_penalty_weight=10.0
    )
    assert int(terms.parts["accuracy"]) == 0


def test_distractors_of_another_batch_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected 4, got 3"):
        contrastive_logits(make_output([4]), torch.zeros(3, 2, dtype=torch.long), temperature=0.1)
