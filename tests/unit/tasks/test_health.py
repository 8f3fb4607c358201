"""What the watch is told of a run, and by what the best step of a pre-training is found."""

import math
from pathlib import Path

import numpy as np
import pytest
from tests import recordings, small_corpora
from tests.tiny_models import tiny_alphabet, tiny_encoder

from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.models.config import MaskedUnitConfig, PretrainingConfig, QuantizerConfig
from unheard.tasks.health import LACKING, pretraining_metric, pretraining_watch, writing_watch
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget

CONFIG = TrainingConfig(budget=Budget(max_steps=10), accumulation=3, batch_seconds=20.0)
CONTRASTIVE = PretrainingConfig(
    encoder=tiny_encoder(), quantizer=QuantizerConfig(groups=2, entries=320), distractors=100
)
UNITS = MaskedUnitConfig(encoder=tiny_encoder(), units=50)


def test_a_collapsed_codebook_never_wins() -> None:
    learnt = pretraining_metric(CONTRASTIVE, {"contrastive": 2.0, "code_perplexity": 200.0})
    collapsed = pretraining_metric(CONTRASTIVE, {"contrastive": 0.0, "code_perplexity": 2.0})
    assert learnt == 2.0
    assert collapsed == pytest.approx(math.log(101))
    worse = pretraining_metric(CONTRASTIVE, {"contrastive": 9.0, "code_perplexity": 2.0})
    assert worse == 9.0
    assert pretraining_metric(UNITS, {"masked": 0.0}) == 0.0


def test_what_a_run_is_follows_from_its_settings() -> None:
    nature = pretraining_watch(CONTRASTIVE, CONFIG, pretrained=True).nature
    assert (nature.groups, nature.entries, nature.batch_seconds) == (2, 320, 60.0)
    assert nature.chance_nats == pytest.approx(math.log(101))
    assert nature.pretrained
    nature = pretraining_watch(UNITS, CONFIG, pretrained=False).nature
    assert nature.objective == "masked_units"
    assert nature.chance_nats == pytest.approx(math.log(50))


@pytest.fixture
def store(tmp_path: Path) -> PcmStore:
    """Three recordings of half a second."""
    utterances = []
    for number in range(3):
        samples = np.zeros((1, 8000), dtype=np.float32)
        name = f"{number}.wav"
        small_corpora.text(tmp_path / name, recordings.wav(recordings.pcm16(samples), rate=16_000))
        utterances.append(Utterance(id=name, audio=name, num_samples=8000, sample_rate=16_000))
    return open_store(utterances, tmp_path / "store", root=tmp_path)


def test_what_was_left_out_is_judged_before_training(store: PcmStore) -> None:
    alphabet = tiny_alphabet()
    targets = [alphabet.encode(text) for text in ("ab ba" * 9, "aa bb" * 9, "ñab" * 9)]
    watch = writing_watch(
        {"training": store, "validation": store},
        {"training": targets, "validation": targets},
        {
            "training": [{"reason": "too_short_for_text", "detail": "its text takes 9 frames"}],
            "validation": [
                {"reason": "not_in_alphabet", "detail": f"{LACKING}q Z"},
                {"reason": "not_in_alphabet", "detail": f"{LACKING}q"},
                {"reason": "no_text", "detail": "nothing is left after normalisation"},
            ],
        },
        alphabet=alphabet,
        encoder=tiny_encoder(),
        config=CONFIG,
        pretrained=False,
    )
    short, foreign = watch.findings
    assert short.code == "targets_too_long_training"
    assert "1 of 4" in short.message
    assert foreign.code == "outside_alphabet_validation"
    assert "2 of 5" in foreign.message
    assert foreign.message.count("LATIN SMALL LETTER Q") == 1
    assert "LATIN CAPITAL LETTER Z" in foreign.message
    assert watch.nature.head_only == 0.0
    assert watch.nature.silent_nats is not None
    # 400 frames of which some 30 are letters: between a nat and a few a letter.
    assert 30 < watch.nature.silent_nats < 300
