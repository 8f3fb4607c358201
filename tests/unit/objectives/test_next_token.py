"""The loss of next-token prediction, against plain sums."""

import math

import torch

from unheard.data.texts import stack_rows
from unheard.models.language_model import LanguageModel, LanguageModelConfig
from unheard.objectives.next_token import next_token_objective, token_log_probs


def test_the_loss_is_the_sum_over_real_tokens() -> None:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocab=9, dim=8, ffn_dim=8, layers=1, heads=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10.0)
    rows = [[1, 4, 5, 2], [1, 2], [1, 8, 8, 8, 3, 2]]
    terms = next_token_objective(model, stack_rows(rows), progress=0.0, generator=torch.Generator())
    expected = hits = 0.0
    for row in rows:
        log_probs = model(torch.tensor([row[:-1]])).detach()[0].double().log_softmax(dim=-1)
        expected -= sum(float(log_probs[place, token]) for place, token in enumerate(row[1:]))
        hits += sum(int(log_probs[place].argmax()) == token for place, token in enumerate(row[1:]))
    assert math.isclose(float(terms.total.detach()), expected, rel_tol=1e-5)
    assert int(terms.count) == 9
    assert int(terms.parts["accuracy"]) == hits
    terms.total.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_scores_of_half_precision_are_computed_in_float32() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    found = token_log_probs(logits, targets)
    expected = logits.float().log_softmax(dim=-1).gather(2, targets[..., None])[..., 0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
