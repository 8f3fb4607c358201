"""Each detector speaks where its figures say so, in the words that help, and is silent otherwise.

Series are made up, or those of real runs that came out well (benchmarks/results/healthy).
"""

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unheard.text.alphabet import Alphabet
from unheard.training.health import before
from unheard.training.health.findings import HealthFinding, Nature
from unheard.training.health.quantiser import codebook_share
from unheard.training.health.watch import HealthWatch

HEALTHY = Path(__file__).parents[3] / "benchmarks" / "results" / "healthy"

LISTENING = Nature(
    objective="contrastive",
    learning_rate=5e-4,
    warmup=0.08,
    batch_seconds=90.0,
    chance_nats=math.log(101),
    groups=2,
    entries=320,
    diversity_weight=0.1,
    temperature_end=0.5,
)
NAMING = Nature(
    objective="masked_units", learning_rate=1e-3, warmup=0.08, chance_nats=math.log(100)
)
WRITING = Nature(objective="ctc", learning_rate=1e-3, warmup=0.1, silent_nats=165.0)

UPDATES = 4000
EVERY = 20


def rows(**figures: Callable[[float], float]) -> list[dict[str, Any]]:
    """Rows of a run of 4,000 updates; each figure is a function of progress."""
    made = []
    for step in range(EVERY, UPDATES + 1, EVERY):
        progress = step / UPDATES
        row = {"kind": "train", "step": step, "progress": progress, "learning_rate": 5e-4}
        made.append({**row, **{name: figure(progress) for name, figure in figures.items()}})
    return made


def observe(nature: Nature, made: Iterable[dict[str, Any]]) -> list[HealthFinding]:
    watch = HealthWatch(nature)
    for row in made:
        watch.observe(row["kind"], row["step"], row)
    return watch.findings


def codes(findings: Iterable[HealthFinding]) -> list[str]:
    return [finding.code for finding in findings]


def noise(seed: int, spread: float) -> Callable[[float], float]:
    random = Random(seed)
    return lambda _: math.exp(random.gauss(0, spread))


# --- codes of the quantiser


def test_the_share_of_a_codebook_is_zero_for_one_code_and_one_for_all() -> None:
    assert codebook_share(2.0, groups=2, entries=320) == 0
    assert codebook_share(640.0, groups=2, entries=320) == pytest.approx(1)
    assert codebook_share(2 * 320**0.5, groups=2, entries=320) == pytest.approx(0.5)


def test_a_codebook_that_falls_is_called_first_gently_then_loudly() -> None:
    made = rows(code_perplexity=lambda p: max(2.0, 500 * math.exp(-40 * p)))
    few, collapsed = observe(LISTENING, made)
    assert (few.code, few.severity) == ("codes_few", "warning")
    assert (collapsed.code, collapsed.severity) == ("codes_collapsed", "error")
    assert few.step < collapsed.step < 0.2 * UPDATES
    assert "of 640 codes" in collapsed.message
    assert collapsed.values["codes"] == 640


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"diversity_weight": 0.02}, "Likely cause: the diversity weight is 0.02"),
        ({"diversity_weight": 0.1}, "Likely cause: a learning rate"),
    ],
)
def test_the_likelier_cause_comes_first(changes: dict[str, float], first: str) -> None:
    nature = replace(LISTENING, **changes)
    found = observe(nature, rows(code_perplexity=lambda _: 2.1))[-1]
    assert found.advice.startswith(first)
    assert "5.0e-04" in found.advice


def test_little_sound_and_a_low_temperature_are_named() -> None:
    nature = replace(LISTENING, batch_seconds=16.0, temperature_end=0.1)
    found = observe(nature, rows(code_perplexity=lambda _: 2.1))[-1]
    assert "An update hears 16 s only" in found.advice
    assert "temperature_end" in found.advice
    found = observe(LISTENING, rows(code_perplexity=lambda _: 2.1))[-1]
    assert "hears" not in found.advice
    assert "temperature" not in found.advice


def test_a_dip_from_which_a_codebook_recovers_is_no_collapse() -> None:
    made = rows(code_perplexity=lambda p: 60 + 500 * p)
    made[3]["code_perplexity"] = made[4]["code_perplexity"] = 2.0
    assert observe(LISTENING, made) == []


def test_where_every_update_is_a_row_three_are_not_enough() -> None:
    made = rows(code_perplexity=lambda _: 2.0)
    for step, row in enumerate(made, 1):
        row["step"] = step
    assert observe(LISTENING, made[:19]) == []
    assert codes(observe(LISTENING, made[:20])) == ["codes_collapsed"]


# --- units


def test_one_unit_for_everything_is_called_after_the_start() -> None:
    made = rows(predicted_perplexity=lambda _: 1.5, unit_perplexity=lambda _: 85.0)
    (found,) = observe(NAMING, made)
    assert found.code == "units_collapsed"
    assert found.step == 160 + 180, "200 updates from the middle of the warm-up"
    assert "1.5 units" in found.message


def test_a_network_that_names_one_unit_at_the_start_is_well() -> None:
    made = rows(
        predicted_perplexity=lambda p: 1 + min(1.0, 15 * p) * 60, unit_perplexity=lambda _: 85.0
    )
    assert observe(NAMING, made) == []


# --- blank-only


def plateau(until: float, *, level: float = 165.0) -> list[dict[str, Any]]:
    """A run that is silent for a share of its updates and then learns."""
    spread = noise(1, 0.05)
    return rows(
        blank_ratio=lambda p: 1.0 if p < until else 0.75,
        ctc=lambda p: level * spread(p) if p < until else level * math.exp(2 * (until - p)),
    )


def test_the_silence_of_the_start_is_no_alarm_but_is_explained() -> None:
    (note,) = observe(WRITING, plateau(0.3))
    assert (note.code, note.severity) == ("blank_start", "note")
    assert "Most runs begin so" in note.message


def test_a_silence_that_lasts_is_called() -> None:
    found = observe(WRITING, plateau(1.0))
    assert codes(found) == ["blank_start", "blank_only"]
    assert found[1].severity == "error"
    assert found[1].step / UPDATES == pytest.approx(0.05 + 0.35, abs=0.02)
    assert "transcripts that do not belong" in found[1].advice
    assert "--start" in found[1].advice
    pretrained = observe(replace(WRITING, pretrained=True), plateau(1.0))[1]
    assert "frozen" in pretrained.advice
    assert "--start" not in pretrained.advice


def test_a_long_run_is_not_silent_for_a_third_of_its_days() -> None:
    made = plateau(1.0)
    for row in made:
        row["step"] *= 20
    (_, found) = observe(WRITING, made)
    assert found.step <= 0.05 * 20 * UPDATES + 2000 + 20 * EVERY


def test_a_silent_network_that_hears_is_left_alone() -> None:
    """Its loss is below that of every output that does not depend on the sound."""
    made = rows(blank_ratio=lambda _: 1.0, ctc=lambda p: 165 * math.exp(-p))
    assert [code for code in codes(observe(WRITING, made)) if code != "blank_start"] == []
    # The negative control: the same curve where silence costs less.
    assert "blank_only" in codes(observe(replace(WRITING, silent_nats=60.0), made))


@pytest.mark.parametrize(
    ("level", "words"),
    [(165 * 1.3, "updates overshoot"), (165 * 4, "far too low or far too high")],
)
def test_a_loss_above_that_of_silence_is_called_early(level: float, words: str) -> None:
    found = observe(WRITING, plateau(1.0, level=level))
    (blank,) = [one for one in found if one.code == "blank_only"]
    assert words in blank.advice
    assert blank.step <= 0.05 * UPDATES + 150 + 2 * EVERY


def test_a_network_that_falls_silent_again_is_told_apart() -> None:
    made = rows(
        blank_ratio=lambda p: 1.0 if p < 0.1 or p > 0.4 else 0.7,
        ctc=lambda p: 165.0 if p < 0.1 or p > 0.4 else 120.0,
    )
    found = observe(WRITING, made)[-1]
    assert found.code == "blank_only"
    assert "It did write before" in found.advice


def test_a_very_high_rate_is_the_likely_cause() -> None:
    made = [{**row, "learning_rate": 0.1} for row in plateau(1.0)]
    found = observe(WRITING, made)[-1]
    assert "1.0e-01) is far above what the recipes take" in found.advice


# --- the loss


def falling(seed: int = 0) -> Callable[[float], float]:
    spread = noise(seed, 0.04)
    return lambda p: (1 + 5 * math.exp(-5 * p)) * spread(p)


def test_a_loss_that_rises_is_called() -> None:
    down = falling()
    made = rows(
        loss=lambda p: down(p) if p < 0.5 else down(p) * math.exp(8 * (p - 0.5)),
        grad_norm=lambda _: 2.0,
    )
    (found,) = observe(LISTENING, made)
    assert (found.code, found.severity) == ("diverged", "error")
    assert 0.5 < found.step / UPDATES < 0.65
    assert "training.learning_rate" in found.advice


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_loss_is_no_divergence(seed: int) -> None:
    """Batches of short and of long utterances differ by a half and more."""
    spread, down = noise(seed, 0.4), falling(seed)
    assert observe(WRITING, rows(loss=lambda p: 300 * down(p) * spread(p))) == []


def test_a_loss_near_zero_may_double() -> None:
    down = falling()
    made = rows(loss=lambda p: down(p) ** 8 / 1e4 if p > 0.3 else down(p))
    made[-9:] = [{**row, "loss": 4 * row["loss"]} for row in made[-9:]]
    assert observe(LISTENING, made) == []


def test_a_gradient_that_jumps_is_called() -> None:
    spread = noise(0, 0.3)
    made = rows(grad_norm=lambda p: spread(p) * (2.0 if p < 0.5 else 80.0))
    (found,) = observe(LISTENING, made)
    assert found.code == "gradient_jump"
    assert found.step / UPDATES == pytest.approx(0.5, abs=0.02)
    assert observe(LISTENING, rows(grad_norm=lambda p: spread(p) * (2.0 + 10 * p))) == []


def test_the_gradient_of_the_whole_network_is_not_that_of_its_head() -> None:
    made = rows(grad_norm=lambda p: 2.0 if p < 0.5 else 80.0)
    assert observe(replace(WRITING, head_only=0.5), made) == []
    assert codes(observe(WRITING, made)) == ["gradient_jump"]


def test_updates_left_out_are_counted() -> None:
    made = rows(skipped_steps=lambda p: 2.0 if p > 0.5 else 0.0)
    (found,) = observe(LISTENING, made)
    assert found.code == "nonfinite"
    assert "bad_batches.jsonl" in found.advice
    once = rows(skipped_steps=lambda _: 0.0)
    once[50]["skipped_steps"] = 1.0
    assert observe(LISTENING, once) == []


def test_a_rate_of_zero_is_called_at_once() -> None:
    made = [{**row, "learning_rate": 0.0} for row in rows(loss=lambda _: 5.0)]
    found = observe(LISTENING, made)[0]
    assert (found.code, found.step) == ("rate_zero", 3 * EVERY)


def test_a_rate_that_ends_at_zero_is_as_planned() -> None:
    down = falling()
    made = rows(loss=down, masked=down)
    for row in made[-15:]:
        row["learning_rate"] = 0.0
    assert observe(NAMING, made) == []


def test_standing_still_is_called() -> None:
    spread = noise(0, 0.001)
    (found,) = observe(NAMING, rows(masked=lambda p: 4.6 * spread(p), loss=lambda _: 6.6))
    assert found.code == "not_learning"
    assert "too low" in found.advice
    # What falls slowly is not standing still.
    assert observe(NAMING, rows(masked=lambda p: 4.6 * (1 - 0.3 * p) - 0.2 * min(1, 9 * p))) == []


def test_a_ctc_loss_that_does_not_even_reach_silence_is_called() -> None:
    made = rows(blank_ratio=lambda _: 0.4, ctc=lambda p: 700 - 20 * p)
    (found,) = observe(WRITING, made)
    assert found.code == "not_learning"
    assert "4." in found.message
    assert found.step <= 0.05 * UPDATES + 150 + 2 * EVERY


def test_guessing_for_thousands_of_updates_is_called() -> None:
    nature = replace(LISTENING, chance_nats=math.log(101))
    made = rows(contrastive=lambda _: 4.60, soft_perplexity=lambda p: 300 + 200 * p)
    (found,) = observe(nature, made)
    assert found.code == "guessing"
    assert "--objective masked_units" in found.advice
    made = rows(contrastive=lambda p: 4.61 - 0.8 * p, soft_perplexity=lambda p: 300 + 200 * p)
    assert observe(nature, made) == []


# --- validation


def with_validations(made: list[dict[str, Any]], cer: Callable[[float], float]) -> list[Any]:
    mixed = []
    for row in made:
        mixed.append(row)
        if row["step"] % 400 == 0:
            mixed.append({"kind": "valid", "step": row["step"], "cer": cer(row["progress"])})
    return mixed


def test_learning_by_heart_is_called() -> None:
    down = rows(ctc=lambda p: 160 * math.exp(-3 * p), blank_ratio=lambda _: 0.7)
    (found,) = observe(WRITING, with_validations(down, lambda p: 0.4 + 0.3 * abs(p - 0.4)))
    assert (found.code, found.severity) == ("overfit", "warning")
    assert "since step 1600" in found.message
    assert "kept as the best" in found.advice


def test_a_validation_that_only_levels_off_is_not() -> None:
    down = rows(ctc=lambda p: 160 * math.exp(-3 * p), blank_ratio=lambda _: 0.7)
    spread = noise(0, 0.005)
    flat = with_validations(down, lambda p: 0.4 * spread(p))
    assert observe(WRITING, flat) == []
    # Nor is one that rises together with the training loss.
    level = rows(ctc=lambda _: 100.0, blank_ratio=lambda _: 0.7)
    assert observe(WRITING, with_validations(level, lambda p: 0.4 + 0.3 * p)) == []


# --- features


def test_features_that_grow_without_end_are_called() -> None:
    (found,) = observe(LISTENING, rows(feature_power=lambda p: math.exp(16 * p)))
    assert (found.code, found.severity) == ("features_grow", "warning")
    assert "feature_penalty_weight" in found.advice
    assert observe(LISTENING, rows(feature_power=lambda p: 0.6 + 10 * p)) == []


def test_features_that_fade_are_called() -> None:
    (found,) = observe(LISTENING, rows(feature_power=lambda p: 0.6 * math.exp(-16 * p)))
    assert (found.code, found.severity) == ("features_vanish", "error")
    assert observe(LISTENING, rows(feature_power=lambda p: 0.6 * math.exp(-4 * p))) == []


# --- the watch as a whole


def test_a_watch_that_recalls_rows_is_where_it_was() -> None:
    made = plateau(1.0)
    straight = HealthWatch(WRITING)
    told = {row["step"]: straight.observe("train", row["step"], row) for row in made}
    for cut in range(0, len(made), 13):
        watch = HealthWatch(WRITING)
        for row in made:
            watch.observe("train", row["step"], row)
        watch.recall(made[:cut])
        for row in made[cut:]:
            assert watch.observe("train", row["step"], row) == told[row["step"]]
        assert watch.findings == straight.findings
        assert watch.clean_step == straight.clean_step


def test_the_step_to_go_back_to_is_before_anything_looked_ill() -> None:
    made = rows(code_perplexity=lambda p: 400.0 if p < 0.5 else 400 * math.exp(-40 * (p - 0.5)))
    watch = HealthWatch(LISTENING)
    clean = []
    for row in made:
        watch.observe("train", row["step"], row)
        clean.append(watch.clean_step)
    assert all(later >= earlier for earlier, later in pairwise(clean))
    assert clean[99] == 2000
    assert clean[-1] == 2240, "where half of the codebook's entropy is left"
    assert watch.alarm is not None
    assert watch.alarm.step > clean[-1]


def test_findings_are_plain_data() -> None:
    (finding,) = observe(LISTENING, rows(feature_power=lambda p: 0.6 * math.exp(-16 * p)))
    assert HealthFinding(**finding.to_dict()) == finding


def test_rows_of_other_versions_are_no_reason_to_fail() -> None:
    for nature in (LISTENING, NAMING, WRITING):
        assert observe(nature, rows()) == []
        assert observe(nature, [{"kind": "valid", "step": 3, "something": 1.0}]) == []


def recorded(name: str) -> list[dict[str, Any]]:
    with (HEALTHY / f"{name}.csv").open(newline="") as file:
        return [
            {
                "kind": row.pop("kind"),
                "step": int(row.pop("step")),
                **{key: float(value) for key, value in row.items() if value},
            }
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    ("name", "nature"),
    [
        ("masked-units-mini-33-minutes", NAMING),
        ("ctc-mini-1h-pretrained", WRITING),
        ("ctc-mini-1h-scratch", WRITING),
        ("ctc-mini-10min-pretrained", WRITING),
        ("ctc-mini-10min-scratch", WRITING),
    ],
)
def test_real_runs_that_came_out_well_raise_no_alarm(name: str, nature: Nature) -> None:
    made = recorded(name)
    assert len(made) > 40
    found = observe(nature, made)
    assert [one.code for one in found if one.severity != "note"] == []
    # The negative control: the same curves, silent or with one unit, are called.
    ill = [{**row, "blank_ratio": 1.0, "ctc": 165.0} for row in made]
    ill = [{**row, "predicted_perplexity": 1.0, "unit_perplexity": 80.0} for row in ill]
    assert [one.severity for one in observe(nature, ill)].count("error") == 1


# --- before training


def test_the_best_constant_output_is_the_best() -> None:
    """No other distribution does better; a frame-by-frame check by brute force on one utterance."""
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randint(1, 6, (n,), generator=generator).tolist() for n in (4, 7, 5, 6, 3, 9)]
    frames = [20, 31, 22, 40, 12, 35]
    found = before.constant_output_loss(frames, targets, outputs=6, blank=0)

    def loss(scores: torch.Tensor) -> float:
        log_probs = torch.log_softmax(scores, dim=0).expand(max(frames), len(frames), 6)
        flat = torch.tensor([label for target in targets for label in target])
        sizes = torch.tensor([len(target) for target in targets])
        lengths = torch.tensor(frames)
        return float(F.ctc_loss(log_probs, flat, lengths, sizes, reduction="sum")) / len(frames)

    others = [loss(3 * torch.randn(6, generator=generator).double()) for _ in range(300)]
    assert found <= min(others)
    # By hand: one frame for one label leaves nothing to choose; a network that knows it has 0.
    assert before.constant_output_loss([1], [[1]], outputs=3, blank=0) == pytest.approx(0, abs=0.01)
    # Two frames, label 1, constant p for it and b for the blank: p p + 2 p b, greatest at b = 0.
    assert before.constant_output_loss([2], [[1]], outputs=2, blank=0) == pytest.approx(0, abs=0.01)


ALPHABET = Alphabet(tokens=("<blank>", "|", *"abcdefgh"), blank="<blank>", word_boundary="|")


def check(**more: Any) -> list[HealthFinding]:
    settings: dict[str, Any] = {
        "kept": [[2, 3]] * 96,
        "too_short": 0,
        "foreign": 0,
        "foreign_characters": (),
        "where": "training",
    }
    return before.check_transcripts(**{**settings, **more})


def test_targets_longer_than_their_frames_are_counted() -> None:
    (found,) = check(too_short=4)
    assert (found.code, found.severity) == ("targets_too_long_training", "warning")
    assert "4 of 100 training transcripts (4%)" in found.message
    assert found.values["share"] == 0.04
    (grave,) = check(too_short=96)
    assert grave.severity == "error"
    assert check(too_short=1) == []


def test_characters_outside_the_alphabet_are_named() -> None:
    (found,) = check(foreign=24, foreign_characters=["é", "Z"], where="validation")
    assert found.code == "outside_alphabet_validation"
    assert found.severity == "warning"
    assert "24 of 120 validation transcripts (20%)" in found.message
    assert "é" in found.message
    assert "Z" in found.message
    assert check(foreign=1) == []
    assert check(kept=[], foreign=3)[0].severity == "error"
    assert check(kept=[]) == []


def test_an_alphabet_too_large_for_its_transcripts_is_called() -> None:
    random = Random(0)
    rich = [[random.randint(1, 9) for _ in range(40)] for _ in range(20)]
    assert before.check_vocabulary(rich, ALPHABET) == []
    (poor,) = before.check_vocabulary(rich[:2], ALPHABET)
    assert (poor.code, poor.severity) == ("vocabulary", "warning")
    assert "9 symbols and the transcripts 80 labels" in poor.message
    lopsided = [[1 + random.randint(0, 4) for _ in range(40)] for _ in range(20)]
    (seldom,) = before.check_vocabulary(lopsided, ALPHABET)
    assert "4 of the alphabet's 9 symbols" in seldom.message
    assert before.check_vocabulary([], ALPHABET) == []


def test_what_was_found_before_comes_first() -> None:
    watch = HealthWatch(WRITING, before=check(too_short=96))
    assert codes(watch.findings) == ["targets_too_long_training"]
    assert watch.alarm is None, "nothing to go back to: the loop has no part in it"
