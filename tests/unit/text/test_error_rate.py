"""Error rates: counts, sums over sums, intervals, rows, warnings."""

import json
import time
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from unheard.errors import ConfigError, ShapeError
from unheard.text import error_rate
from unheard.text.error_rate import EditCounts, char_errors, paired_bootstrap, score, word_errors


def make_texts(count: int, *, errors: float, seed: int) -> tuple[list[str], list[str]]:
    """Random references of one to eight words, and hypotheses with some words wrong."""
    generator = np.random.default_rng(7)
    noise = np.random.default_rng(seed)
    words = np.array(["omu", "kazi", "mulungi", "n'abazannyi", "ŋŋenda", "buli"])
    references, hypotheses = [], []
    for _ in range(count):
        reference = generator.choice(words, size=generator.integers(1, 9))
        wrong = noise.random(len(reference)) < errors
        references.append(" ".join(reference))
        hypotheses.append(" ".join(np.where(wrong, "x", reference)))
    return references, hypotheses


def test_counts_of_each_kind() -> None:
    assert word_errors("a b c d", "a x c d e") == EditCounts(
        substitutions=1, deletions=0, insertions=1, hits=3, reference_length=4
    )
    assert char_errors(" a b ", "ab") == EditCounts(deletions=1, hits=2, reference_length=3)
    assert word_errors("a\t b\nc", "a b c").errors == 0


def test_empty_sides() -> None:
    assert word_errors("", "").rate == 0
    assert word_errors("", "a b c") == EditCounts(insertions=3)
    assert word_errors("", "a b c").rate == 3
    assert word_errors("a b", " ") == EditCounts(deletions=2, reference_length=2)
    assert score(["", " "], ["", ""]).wer.value == 0


def test_counts_add_up() -> None:
    total = word_errors("a b", "a") + word_errors("c", "d e")
    assert total == EditCounts(substitutions=1, deletions=1, insertions=1, hits=1,
                               reference_length=3)  # fmt: skip
    assert total.rate == 1.0
    assert total.to_dict()["rate"] == 1.0


def test_rates_are_sums_over_sums() -> None:
    report = score(["a b c d e f g h i j", "k"], ["a b c d e f g h i j", "x"])
    assert report.wer.value == 1 / 11
    assert report.wer.counts.reference_length == 11
    assert report.wer.low == 0
    assert report.wer.high == 1


def test_interval_matches_a_plain_bootstrap() -> None:
    references, hypotheses = make_texts(60, errors=0.3, seed=1)
    report = score(references, hypotheses, resamples=4000, seed=3)
    generator = np.random.default_rng(11)
    rates = []
    for _ in range(4000):
        drawn = generator.integers(60, size=60)
        counts = [report.utterances[place].words for place in drawn]
        rates.append(sum(c.errors for c in counts) / sum(c.reference_length for c in counts))
    low, high = np.quantile(rates, (0.025, 0.975))
    assert report.wer.low == pytest.approx(low, abs=0.006)
    assert report.wer.high == pytest.approx(high, abs=0.006)
    assert report.wer.low < report.wer.value < report.wer.high


def test_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        references, hypotheses = make_texts(80, errors=0.2, seed=seed)
        wer = score(references, hypotheses, resamples=200, seed=seed).wer
        covered += wer.low <= 0.2 <= wer.high
    assert 85 <= covered <= 100


def test_same_seed_same_interval() -> None:
    references, hypotheses = make_texts(30, errors=0.3, seed=1)
    first = score(references, hypotheses, seed=5)
    assert first == score(references, hypotheses, seed=5)
    assert first.wer != score(references, hypotheses, seed=6).wer


def test_speaker_rows() -> None:
    report = score(["a b", "a b", "c d"], ["a b", "a x", "y z"], speakers=["s1", "s1", None])
    assert [(row.speaker, row.utterances, row.words.errors) for row in report.by_speaker] == [
        (None, 1, 2),
        ("s1", 2, 1),
    ]
    assert sum((row.words for row in report.by_speaker), start=EditCounts()) == report.wer.counts
    assert score(["a"], ["a"]).by_speaker == ()


def test_speakers_that_differ_widen_the_interval() -> None:
    references = ["a b c d"] * 60
    hypotheses = ["a b c d"] * 30 + ["w x y z"] * 30
    speakers = [f"s{place // 10}" for place in range(60)]
    by_utterance = score(references, hypotheses, speakers=speakers)
    by_speaker = score(references, hypotheses, speakers=speakers, resample="speakers")
    assert by_speaker.wer.value == by_utterance.wer.value
    assert (by_speaker.wer.high - by_speaker.wer.low) > 1.5 * (
        by_utterance.wer.high - by_utterance.wer.low
    )


def test_too_few_speakers_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="at least 5 speakers and all known, found 2 and 0"):
        score(["a", "a"], ["a", "b"], speakers=["s", "t"], resample="speakers")
    with pytest.raises(ConfigError, match="found 5 and 1 utterances"):
        score(["a"] * 6, ["a"] * 6, speakers=[*"abcde", None], resample="speakers")
    with pytest.raises(ConfigError, match="found 0 and 1"):
        score(["a"], ["a"], resample="speakers")


def test_worst_and_typical() -> None:
    report = score(["abcd", "abcd", "abcd", "ab"], ["abcd", "abcx", "wxyz", "xy"], ids=[*"pqrs"])
    assert [utterance.id for utterance in report.worst(3)] == ["r", "s", "q"]
    assert report.typical(1)[0].id == "q"
    assert [utterance.id for utterance in report.utterances] == [*"pqrs"]


def test_mixed_composition_is_scored_as_given_with_a_warning() -> None:
    decomposed = unicodedata.normalize("NFD", "tiếng việt")
    mixed = score(["tiếng việt"], [decomposed])
    assert mixed.cer.value > 0
    assert len(mixed.warnings) == 1
    assert "1 of 2 texts hold decomposed letters" in mixed.warnings[0]
    normalized = score(["tiếng việt"], [decomposed], normalizer="none-1")
    assert normalized.cer.value == 0
    assert normalized.warnings == ()
    assert normalized.normalizer == "none-1"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_one_composition_throughout_is_no_reason_to_warn(form: str) -> None:
    texts = [unicodedata.normalize(form, text) for text in ("tiếng việt", "n̄", "abc")]
    assert score(texts, texts[::-1]).warnings == ()


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="'references': 2, 'hypotheses': 1"):
        score(["a", "b"], ["a"])
    with pytest.raises(ShapeError, match="'speakers': 1"):
        score(["a", "b"], ["a", "b"], speakers=["s"])
    with pytest.raises(ShapeError, match="nothing to score"):
        score([], [])
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        score(["a"], ["a"], resamples=0)
    with pytest.raises(ConfigError, match="no such thing to resample"):
        score(["a"], ["a"], resample="words")  # pyright: ignore[reportArgumentType]


def test_report_is_plain_data() -> None:
    report = score(["a b", "c"], ["a x", "c"], speakers=["s", None], ids=["u1", "u2"])
    data = json.loads(json.dumps(report.to_dict(utterances=True), allow_nan=False))
    assert data["wer"]["value"] == 1 / 3
    assert data["wer"]["counts"]["substitutions"] == 1
    assert data["num_utterances"] == 2
    assert data["utterances"][0]["hypothesis"] == "a x"
    assert data["by_speaker"][0]["words"]["rate"] == 0.5
    assert "utterances" not in report.to_dict()
    assert str(report.wer) == "33.3 % (0.0 - 50.0)"


def test_paired_difference_is_narrower_than_the_intervals_apart() -> None:
    references, worse = make_texts(200, errors=0.5, seed=1)
    better = [
        text if place % 4 else reference
        for place, (text, reference) in enumerate(zip(worse, references, strict=True))
    ]
    first, second = score(references, better), score(references, worse)
    paired = paired_bootstrap(first, second)
    assert paired.wer.value == pytest.approx(first.wer.value - second.wer.value)
    assert paired.wer.low < paired.wer.value < paired.wer.high < 0
    assert paired.wer.is_clear
    assert paired.wer.first_better == 1
    assert paired.cer.is_clear
    width = paired.wer.high - paired.wer.low
    assert width < (first.wer.high - first.wer.low) + (second.wer.high - second.wer.low)
    mirrored = paired_bootstrap(second, first)
    assert mirrored.wer.low == pytest.approx(-paired.wer.high)
    assert mirrored.wer.first_better == 0
    assert json.loads(json.dumps(paired.to_dict()))["num_utterances"] == 200


def test_paired_difference_of_equals_is_zero() -> None:
    references, hypotheses = make_texts(20, errors=0.3, seed=1)
    report = score(references, hypotheses)
    paired = paired_bootstrap(report, report)
    assert (paired.wer.value, paired.wer.low, paired.wer.high) == (0, 0, 0)
    assert not paired.cer.is_clear


def test_paired_difference_wants_the_same_utterances() -> None:
    report = score(["a b", "c"], ["a", "c"])
    other = replace(report, utterances=report.utterances[::-1])
    with pytest.raises(ShapeError, match="2 and 2 utterances, 2 in places that differ"):
        paired_bootstrap(report, other)
    with pytest.raises(ShapeError, match="2 and 1 utterances, 0 in places"):
        paired_bootstrap(report, score(["a b"], ["a"]))


def test_many_resamples_are_fast() -> None:
    counts = np.random.default_rng(0).integers(0, 20, (5000, 4)).astype(np.float64)
    started = time.process_time()
    error_rate._resampled_sums(
        counts, resamples=5000, seed=0, resample="utterances", speakers=[None] * 5000
    )
    assert time.process_time() - started < 2
