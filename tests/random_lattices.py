"""Small emissions, lexicons and language models by chance, and what they score by hand."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from unheard.decoding.emissions import Emissions
from unheard.lm.ngram import NgramModel

Table = Mapping[tuple[str, ...], tuple[float, float]]
"""n-gram -> natural log-probability and back-off."""


def random_emissions(rng: np.random.Generator, frames: int, vocab: int) -> Emissions:
    """Rows of log-probabilities, some peaked, some flat; float32."""
    logits = rng.normal(0, 1, (frames, vocab)) * rng.uniform(0.3, 3.0, (frames, 1))
    return emissions_of(torch.from_numpy(logits).log_softmax(dim=-1).float())


def emissions_of(log_probs: torch.Tensor) -> Emissions:
    """Give log-probabilities the time base of wav2vec models."""
    return Emissions(
        log_probs=log_probs,
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=320 * log_probs.shape[0] + 80,
        sample_rate=16_000,
    )


def path_scores(log_probs: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """Symbol sequence after the CTC rule -> log of the summed probability of all its paths."""
    frames, vocab = log_probs.shape
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(vocab), repeat=frames):
        score = math.fsum(float(log_probs[t, v]) for t, v in enumerate(path))
        written = tuple(v for v, _ in itertools.groupby(path) if v != blank)
        sums[written] = np.logaddexp(sums.get(written, -math.inf), score)
    return sums


def random_model(
    rng: np.random.Generator, words: Sequence[str], path: Path
) -> tuple[NgramModel, Table]:
    """A trigram model of arbitrary numbers, written as ARPA, and the same as a table."""
    plain = [*words, "</s>"]
    levels: list[dict[tuple[str, ...], tuple[float, float]]] = [{}, {}, {}]
    for word in ["<unk>", "<s>", *plain]:
        levels[0][(word,)] = (rng.uniform(-3, -0.1), rng.uniform(-1, 0))
    for n in (1, 2):
        for context in levels[n - 1]:
            for word in plain:
                if "</s>" not in context and "<unk>" not in context and rng.random() < 0.5:
                    known = (*context[1:], word) in levels[n - 1]
                    if known:
                        levels[n][(*context, word)] = (rng.uniform(-3, -0.1), rng.uniform(-1, 0))
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, 1)), ""]
    table: dict[tuple[str, ...], tuple[float, float]] = {}
    for n, level in enumerate(levels, 1):
        lines.append(f"\\{n}-grams:")
        for ngram, (log10_prob, backoff) in level.items():
            end = f"\t{backoff:.6f}" if n < 3 else ""
            lines.append(f"{log10_prob:.6f}\t{' '.join(ngram)}{end}")
            kept = round(backoff, 6) if n < 3 else 0.0
            table[ngram] = (round(log10_prob, 6) * math.log(10), kept * math.log(10))
        lines.append("")
    path.write_text("\n".join([*lines, "\\end\\", ""]), encoding="utf-8")
    return NgramModel.load(path, units="word"), table


def sentence_score(table: Table, words: Sequence[str]) -> float:
    """Natural log-probability of a sentence under a back-off table of trigrams."""
    context: tuple[str, ...] = ("<s>",)
    total = 0.0
    for word in [*words, "</s>"]:
        ngram = (*context, word if (word,) in table else "<unk>")
        while ngram not in table:
            total += table.get(ngram[:-1], (0.0, 0.0))[1]
            ngram = ngram[1:]
        total += table[ngram][0]
        context = (*context, word if (word,) in table else "<unk>")[-2:]
    return total
