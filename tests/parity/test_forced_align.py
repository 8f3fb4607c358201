"""A thousand random alignments: the paths of torchaudio's forced_align, frame by frame."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from tests.alignment_cases import NUM_CASES, Case, make_cases

from unheard.decoding.align import FrameScores, Target, align
from unheard.decoding.emissions import FrameTiming

ASSET = Path(__file__).parents[1] / "assets" / "align" / "forced_align.npz"
TIMING = FrameTiming(frame_stride_samples=320, frame_offset_samples=200, sample_rate=16_000)


def labels_of(case: Case, target: Target) -> tuple[np.ndarray, float]:
    from unheard.decoding.align import distinct_tokens, select_columns

    token_ids = distinct_tokens(target)
    scores = FrameScores(
        values=select_columns(torch.from_numpy(case.log_probs), token_ids, blank_id=0),
        token_ids=token_ids,
        timing=TIMING,
        num_samples=320 * case.log_probs.shape[0] + 80,
    )
    path = align(scores, target)
    labels = np.where(path.on_token, np.array([0, *target.tokens])[path.positions], 0)
    return labels, path.score


def test_paths_and_scores_are_those_of_torchaudio() -> None:
    cases = make_cases()
    with np.load(ASSET) as asset:
        expected = np.split(asset["labels"], np.cumsum(asset["lengths"])[:-1])
        scores = asset["scores"]
        inputs = str(asset["inputs_sha256"])
    hashed = hashlib.sha256()
    for case in cases:
        hashed.update(case.log_probs.tobytes())
        hashed.update(bytes(case.tokens))
    assert hashed.hexdigest() == inputs, "numpy's generator gives other cases than it did"
    assert len(cases) == len(expected) == NUM_CASES
    repeats = 0
    for case, path, score in zip(cases, expected, scores, strict=True):
        repeats += any(a == b for a, b in zip(case.tokens, case.tokens[1:], strict=False))
        labels, found = labels_of(case, Target(tokens=case.tokens))
        assert labels.tolist() == path.tolist()
        assert found == score
    assert repeats > 300


def test_another_text_has_another_path() -> None:
    """The comparison above can fail."""
    case = make_cases(5)[4]
    labels, score = labels_of(case, Target(tokens=case.tokens))
    others, other_score = labels_of(case, Target(tokens=case.tokens[:-1]))
    assert labels.tolist() != others.tolist()
    assert score != other_score
