"""The wav2vec 2.0 objective from the paper's equations, in plain loops over NumPy vectors.

Gradients are complex-step derivatives, exact to rounding: every step below is analytic in the
weights once the codes are chosen. Baevski et al. 2020, eqs. 2 to 4; penalty as in fairseq.
"""

from collections.abc import Callable

import numpy as np

Weights = dict[str, np.ndarray]


def objective(
    weights: Weights,
    context: list[np.ndarray],
    features: list[np.ndarray],
    distractors: list[np.ndarray],
    conv_features: np.ndarray,
    noise: list[np.ndarray],
    settings: dict[str, float],
) -> dict[str, complex]:
    """Sum the loss over rows of masked frames; lists have one entry a row (frames, size)."""
    codebook = weights["quantizer.codebook"]
    groups, entries, _ = codebook.shape
    contrastive, frames, soft = 0.0, 0, np.zeros((groups, entries), dtype=complex)
    for row in range(len(context)):
        targets, codes = [], []
        for t in range(len(features[row])):
            scores = weights["quantizer.scores.weight"] @ features[row][t]
            scores = (scores + weights["quantizer.scores.bias"]).reshape(groups, entries)
            soft += np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            codes.append(tuple((scores.real + noise[row][t]).argmax(axis=1)))
            vector = np.concatenate([codebook[g, codes[t][g]] for g in range(groups)])
            target = weights["project_targets.weight"] @ vector + weights["project_targets.bias"]
            targets.append(target / np.sqrt((target * target).sum()))
        for t in range(len(context[row])):
            said = weights["project_context.weight"] @ context[row][t]
            said = said + weights["project_context.bias"]
            said = said / np.sqrt((said * said).sum())
            others = [int(k) for k in distractors[row][t] if codes[int(k)] != codes[t]]
            similar = [(said * targets[k]).sum() / settings["kappa"] for k in [t, *others]]
            contrastive += np.log(np.exp(similar).sum()) - similar[0]
            frames += 1
    mean = soft / frames
    perplexity = np.exp(-(mean * np.log(mean + 1e-7)).sum(axis=1)).sum()
    diversity = settings["diversity"] * frames * (1 - perplexity / (groups * entries))
    power = sum(float(value) ** 2 for value in conv_features.flat) / conv_features.size
    penalty = settings["penalty"] * frames * power
    total = contrastive + diversity + penalty
    parts = {"contrastive": contrastive, "diversity": diversity, "feature_penalty": penalty}
    return {**parts, "total": total, "soft_perplexity": perplexity}


def gradient(loss: Callable[[Weights], complex], weights: Weights, name: str, rows: int):
    """Differentiate with respect to the first rows of a weight: Im f(w + ih) / h."""
    result = np.zeros_like(weights[name].reshape(-1, weights[name].shape[-1])[:rows])
    for place in np.ndindex(result.shape):
        shifted = weights[name].astype(complex)
        shifted.reshape(-1, shifted.shape[-1])[place] += 1e-30j
        result[place] = loss({**weights, name: shifted}).imag / 1e-30
    return result
