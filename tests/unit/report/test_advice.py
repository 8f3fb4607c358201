"""Each rule speaks where its numbers say so, and is silent otherwise."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from unheard.report import advice
from unheard.report.facts import LearnFacts, Rate, RunFacts, ScoredUtterance, Scores, SplitFacts

NOTHING = LearnFacts(
    folder=Path("out"),
    request={},
    stages={},
    result={},
    splits={},
    scan={},
    audit={},
    pretraining=None,
    finetuning=None,
    scores=None,
    scratch=None,
    scratch_run=None,
    difference=None,
    search=None,
    search_options=None,
    normalizer=None,
    evaluated=None,
    num_failed=0,
    utterances=(),
    vocabulary=(),
    unreadable={},
)


def heard(reference: str, hypothesis: str, *, errors: int = 0, name: str = "u") -> ScoredUtterance:
    return ScoredUtterance(
        id=name,
        audio="",
        start=0,
        num_samples=16_000,
        sample_rate=16_000,
        speaker=None,
        reference=reference,
        hypothesis=hypothesis,
        char_errors=errors,
        char_total=len(reference),
        word_errors=0,
        word_total=1,
        confidence=None,
    )


def split(name: str = "train", **facts: object) -> dict[str, SplitFacts]:
    return {name: replace(SplitFacts(name=name), **facts)}


def scores(cer: float, *, wer: float = 0.1, spread: float = 0.01, **counts: int) -> Scores:
    low, high = cer - spread, cer + spread
    return Scores(cer=Rate(value=cer, low=low, high=high, **counts), wer=Rate(value=wer))


def curve(kind: str, *values: float, name: str = "cer") -> tuple[dict, ...]:
    return tuple({"kind": kind, "step": 100 * k, name: v} for k, v in enumerate(values, 1))


def speakers(*rates: float) -> Scores:
    rows = tuple((f"s{k}", Rate(value=r), 20) for k, r in enumerate(rates))
    return Scores(cer=Rate(value=0.2), speakers=rows)


CONFIG = {"model": {"distractors": 100, "quantizer": {"groups": 2, "entries": 320}}}
GOOD = heard("habari za leo", "habari za leo")

CASES = [
    (
        advice.run_lost,
        {"finetuning": RunFacts(health=({"severity": "error", "message": "It is lost."},))},
        {"finetuning": RunFacts(health=({"severity": "warning", "message": "It is odd."},))},
    ),
    (
        advice.stays_silent,
        {"utterances": (heard("a", ""), heard("a", " "), GOOD)},
        {"utterances": (GOOD,)},
    ),
    (
        advice.stays_silent,
        {"finetuning": RunFacts(valid=curve("valid", 0.9, 0.995, name="blank_ratio"))},
        {"finetuning": RunFacts(valid=curve("valid", 0.99, 0.7, name="blank_ratio"))},
    ),
    (
        advice.still_improving,
        {"finetuning": RunFacts(valid=curve("valid", 0.9, 0.6, 0.5, 0.4))},
        {"finetuning": RunFacts(valid=curve("valid", 0.9, 0.4, 0.39, 0.39))},
    ),
    (
        advice.overfits,
        {
            "finetuning": RunFacts(
                train=curve("train", 3, 0.1, 0.02, name="ctc"),
                valid=tuple(
                    {**a, **b}
                    for a, b in zip(
                        curve("valid", 3, 1.2, 1.6, name="loss"),
                        curve("valid", 1, 0.3, 0.35),
                        strict=True,
                    )
                ),
            )
        },
        {
            "finetuning": RunFacts(
                train=curve("train", 3, 1.0, 0.8, name="ctc"),
                valid=tuple(
                    {**a, **b}
                    for a, b in zip(
                        curve("valid", 3, 1.2, 1.0, name="loss"),
                        curve("valid", 1, 0.3, 0.25),
                        strict=True,
                    )
                ),
            )
        },
    ),
    (advice.few_transcripts, {"splits": split(seconds=600.0)}, {"splits": split(seconds=7200.0)}),
    (
        advice.pretraining_absent,
        {"splits": split("unlabelled", seconds=7200.0)},
        {"splits": split("unlabelled", seconds=7200.0), "request": {"start": "some/model"}},
    ),
    (
        advice.pretraining_made_no_difference,
        {"scores": scores(0.3, spread=0.05), "scratch": scores(0.33)},
        {"scores": scores(0.2), "scratch": scores(0.3)},
    ),
    (
        advice.pretraining_learnt_little,
        {
            "pretraining": RunFacts(
                train=curve("train", 4.6, 4.3, name="contrastive"), config=CONFIG
            )
        },
        {
            "pretraining": RunFacts(
                train=curve("train", 4.6, 2.5, name="contrastive"), config=CONFIG
            )
        },
    ),
    (
        advice.pretraining_learnt_little,
        {
            "pretraining": RunFacts(
                train=curve("train", 4.6, 4.3, name="masked"), config={"units": 100}
            )
        },
        {
            "pretraining": RunFacts(
                train=curve("train", 4.6, 3.5, name="masked"), config={"units": 100}
            )
        },
    ),
    (
        advice.codes_collapsed,
        {
            "pretraining": RunFacts(
                train=curve("train", 90, 4, name="code_perplexity"), config=CONFIG
            )
        },
        {
            "pretraining": RunFacts(
                train=curve("train", 4, 90, name="code_perplexity"), config=CONFIG
            )
        },
    ),
    (
        advice.leaves_out,
        {"scores": scores(0.3, substitutions=20, deletions=80, insertions=5)},
        {"scores": scores(0.3, substitutions=80, deletions=20, insertions=5)},
    ),
    (
        advice.makes_up,
        {"scores": scores(0.3, substitutions=20, deletions=5, insertions=80)},
        {"scores": scores(0.3, substitutions=80, deletions=20, insertions=25)},
    ),
    (
        advice.suspicious_transcripts,
        {"utterances": (GOOD,) * 20 + (heard("habari", "kwaheri", errors=6),)},
        {"utterances": (GOOD,) * 20},
    ),
    (
        advice.word_breaks,
        {"utterances": (heard("a b c d e", "abcde"),) * 20},
        {"utterances": (heard("abcde", "abxye"),) * 40},
    ),
    (advice.spelling_variants, {"scores": scores(0.1, wer=0.6)}, {"scores": scores(0.1, wer=0.3)}),
    (
        advice.rare_letters,
        {"splits": split(characters=Counter({"a": 900, "q": 2, " ": 1}))},
        {"splits": split(characters=Counter({"a": 900, "q": 20, " ": 1}))},
    ),
    (
        advice.unseen_letters,
        {"utterances": (heard("ñandu", "nandu"),), "vocabulary": tuple("andu")},
        {"utterances": (GOOD,), "vocabulary": tuple("habrizleo")},
    ),
    (
        advice.many_skipped,
        {"splits": split(utterances=90), "scan": {"skipped": [{}] * 10}},
        {"splits": split(utterances=900), "scan": {"skipped": [{}] * 10}},
    ),
    (advice.wide_interval, {"scores": scores(0.2, spread=0.06)}, {"scores": scores(0.2)}),
    (
        advice.unknown_speakers,
        {"splits": split(unknown_speakers=3) | split("test", unknown_speakers=1)},
        {"splits": split(speakers=Counter("a")) | split("test", speakers=Counter("b"))},
    ),
    (
        advice.unknown_speakers,
        {"splits": split(speakers=Counter("ab")) | split("test", speakers=Counter("b"))},
        {"splits": split(speakers=Counter("a"))},
    ),
    (advice.uneven_speakers, {"scores": speakers(0.1, 0.3)}, {"scores": speakers(0.2, 0.25)}),
    (advice.good_enough, {"scores": scores(0.05)}, {"scores": scores(0.095)}),
    (
        advice.non_finite_updates,
        {"finetuning": RunFacts(train=curve("train", 1.0, float("nan"), name="loss"))},
        {"finetuning": RunFacts(train=curve("train", 1.0, 0.5, name="loss"))},
    ),
]


@pytest.mark.parametrize(("rule", "speaks", "silent"), CASES)
def test_rule(rule, speaks: dict, silent: dict):
    given = rule(replace(NOTHING, **speaks))
    assert given is not None
    assert given.title[0].isupper()
    assert not given.title.endswith(".")
    assert "nan" not in given.reason
    assert rule(replace(NOTHING, **silent)) is None
    assert rule(NOTHING) is None


def test_every_rule_is_tested():
    assert {rule for rule, _, _ in CASES} == set(advice.RULES)


def test_letters_are_named():
    facts = replace(NOTHING, utterances=(heard("ñandú", "n"),), vocabulary=tuple("andu"))
    given = advice.unseen_letters(facts)
    assert given is not None
    assert given.letters == ("ñ", "ú")


def test_the_most_pressing_comes_first():
    facts = replace(
        NOTHING,
        utterances=(heard("habari", ""),) * 4,
        splits=split(seconds=600.0),
        scores=scores(1.0, spread=0.5),
    )
    weights = [given.weight for given in advice.advise(facts)]
    assert len(weights) >= 3
    assert weights == sorted(weights, reverse=True)
    assert advice.advise(facts)[0].title.startswith("Train longer")
    assert advice.advise(NOTHING) == []
