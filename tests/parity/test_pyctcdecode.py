"""The prefix search beside pyctcdecode: stored readings, no language model, nothing pruned."""

import json
import math
from pathlib import Path

import pytest
import torch

from unheard.decoding.emissions import Emissions
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.search import SearchConfig
from unheard.text.alphabet import Alphabet

ASSET = Path(__file__).parents[1] / "assets" / "pyctcdecode" / "readings.json"
CASES = json.loads(ASSET.read_text(encoding="utf-8"))
ALPHABET = Alphabet(tokens=("-", "|", "a", "b"), blank="-", word_boundary="|")


def readings(case, config):
    log_probs = torch.tensor(case["log_probs"])
    return PrefixDecoder(ALPHABET, config=config).decode(
        Emissions(
            log_probs=log_probs,
            frame_stride_samples=320,
            frame_offset_samples=200,
            num_samples=320 * len(log_probs),
            sample_rate=16_000,
        )
    )


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_same_texts_with_the_same_scores_in_the_same_order(case):
    config = SearchConfig.from_pyctcdecode(
        beta=0.0,
        beam_width=10_000,
        beam_prune_logp=-math.inf,
        token_min_logp=-math.inf,
        nbest=len(case["readings"]),
    )
    found = readings(case, config)
    assert [one.text for one in found] == [text for text, _ in case["readings"]]
    assert [one.score for one in found] == pytest.approx(
        [score for _, score in case["readings"]], abs=2e-4
    )


def test_a_bonus_for_words_is_seen():
    """Negative control: another scoring gives other scores."""
    config = SearchConfig(beam=10_000, word_bonus=0.01, nbest=5)
    changed = 0
    for case in CASES:
        scores = [one.score for one in readings(case, config)]
        changed += scores != pytest.approx([score for _, score in case["readings"]], abs=2e-4)
    assert changed > len(CASES) // 2
