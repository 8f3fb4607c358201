"""What to do next, derived from the numbers of a run: a small rule each.

A rule looks at the facts and gives one piece of advice or None. Thresholds are judgements, kept
beside the rule that uses them; each piece of advice says the number that caused it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from unheard.report.alignment import count_confusions
from unheard.report.facts import LearnFacts, RunFacts, find_number, number
from unheard.report.numbers import duration, per_hundred, percent, quantity, significant


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing to do.

    Attributes:
        title: the action, in the imperative.
        reason: the numbers that say so, and what to expect.
        weight: the greater, the earlier in the list.
        letters: letters or words of the language that the advice is about.
    """

    title: str
    reason: str
    weight: int
    letters: tuple[str, ...] = ()


def stays_silent(facts: LearnFacts) -> Advice | None:
    """Say that the model writes almost nothing: the plateau on which CTC training begins."""
    written = [u for u in facts.utterances if u.hypothesis.strip()]
    empty = 1 - len(written) / len(facts.utterances) if facts.utterances else 0.0
    blanks = facts.finetuning.last("valid", "blank_ratio") if facts.finetuning else None
    if empty < 0.5 and (blanks is None or blanks < 0.98):
        return None
    seen = (
        f"{percent(empty, digits=0)} of the held-out recordings got an empty transcript"
        if empty >= 0.5
        else f"{percent(blanks or 0.0)} of the frames are blank"
    )
    return Advice(
        title="Train longer before judging this model",
        reason=f"It still writes almost nothing: {seen}. Training with few transcripts begins "
        "with such a silence and then leaves it quite suddenly. Give more minutes, start from a "
        "pre-trained model, or give more transcripts.",
        weight=100,
    )


def still_improving(facts: LearnFacts) -> Advice | None:
    """Say that the error rate was falling when the time was over."""
    points = facts.finetuning.series("valid", "cer") if facts.finetuning else ()
    if len(points) < 4:
        return None
    last_update = points[-1][0]
    earlier = [cer for step, cer in points if step <= 0.75 * last_update]
    late = [cer for step, cer in points if step > 0.75 * last_update]
    if not earlier or not late or min(late) > 0.95 * min(earlier):
        return None
    return Advice(
        title="Give fine-tuning more minutes",
        reason="The error rate was still falling at the end: over the last quarter of training "
        f"the best went from {per_hundred(min(earlier))} to {per_hundred(min(late))} character "
        "errors in 100. Run the command again with a larger --max-minutes.",
        weight=80,
    )


def overfits(facts: LearnFacts) -> Advice | None:
    """Say that the model learnt its transcripts by heart."""
    run = facts.finetuning
    if run is None:
        return None
    heard, held_out = run.last("train", "ctc"), run.last("valid", "loss")
    if heard is None:
        heard = run.last("train", "loss")
    points = run.series("valid", "cer")
    if heard is None or held_out is None or not points:
        return None
    best = min(cer for _, cer in points)
    grew = points[-1][1] > 1.05 * best and len(points) >= 3
    if held_out < 3 * max(heard, 1e-9) or not (grew or best > 0.1):
        return None
    return Advice(
        title="Add transcripts from more speakers rather than more training",
        reason="The model knows its transcripts by heart: its loss is "
        f"{significant(heard, digits=2)} on what it learnt from and "
        f"{significant(held_out, digits=2)} on recordings it did not. More updates will not help; "
        "new sentences and new voices will.",
        weight=75,
    )


def few_transcripts(facts: LearnFacts) -> Advice | None:
    """Say that there is little to learn writing from."""
    train = facts.splits.get("train")
    if train is None or train.seconds == 0 or train.seconds >= 3600:
        return None
    cer = facts.scores.cer if facts.scores else None
    how = (
        "Correcting this model's own output can be quicker than writing from nothing; "
        if cer is not None and cer.value <= 0.2
        else ""
    )
    last = f"{how}start with recordings of speakers it has not heard."
    return Advice(
        title="Transcribe more recordings",
        reason=f"There are {duration(train.seconds)} of transcripts to learn from. Below an hour "
        f"each new minute counts. {last[0].upper()}{last[1:]}",
        weight=70 if train.seconds >= 1200 else 85,
    )


def pretraining_absent(facts: LearnFacts) -> Advice | None:
    """Say that the recordings without transcripts were not used."""
    unlabelled = facts.splits.get("unlabelled")
    if facts.pretraining is not None or facts.start:
        return None
    if unlabelled is None or unlabelled.seconds < 600:
        return None
    return Advice(
        title="Pre-train on the recordings without transcripts",
        reason=f"There are {duration(unlabelled.seconds)} of them and this model has not heard "
        "them. Learning to listen first is what makes few transcripts enough.",
        weight=78,
    )


def pretraining_made_no_difference(facts: LearnFacts) -> Advice | None:
    """Say that the run with pre-training is not measurably better than the one without."""
    if facts.scores is None or facts.scratch is None:
        return None
    ours, other = facts.scores.cer, facts.scratch.cer
    if ours is None or other is None or ours.high is None or other.low is None:
        return None
    if ours.high < other.low:
        return None
    return Advice(
        title="Pre-train for longer, or on more recordings",
        reason="The run without pre-training is not measurably worse: "
        f"{per_hundred(other.value)} character errors in 100 against {per_hundred(ours.value)}, "
        "with overlapping intervals. Pre-training needs many updates and many hours of speech "
        "before it pays.",
        weight=72,
    )


def pretraining_learnt_little(facts: LearnFacts) -> Advice | None:
    """Say that the task of pre-training is still near chance."""
    run = facts.pretraining
    if run is None:
        return None
    name = pretraining_loss(run)
    loss = run.last("valid", name) or run.last("train", name)
    chance = chance_nats(run)
    if loss is None or chance is None or loss < 0.85 * chance:
        return None
    return Advice(
        title="Pre-train for longer",
        reason=f"The model hardly knows a masked sound from others yet: {significant(loss)} nats, "
        f"where guessing gives {significant(chance)}. A start from a pre-trained model (--start) "
        "saves this part altogether.",
        weight=76,
    )


def codes_collapsed(facts: LearnFacts) -> Advice | None:
    """Say that the quantiser uses few of its codes."""
    run = facts.pretraining
    if run is None:
        return None
    used, most = run.last("train", "code_perplexity"), code_count(run)
    if used is None or most is None or used >= 0.1 * most:
        return None
    return Advice(
        title="Look at the code perplexity of pre-training",
        reason=f"Only about {used:.0f} of {most:.0f} codes are in use. A quantiser that falls "
        "onto a few codes teaches little: try a larger batch, a lower learning rate or a larger "
        "weight on diversity.",
        weight=60,
    )


def leaves_out(facts: LearnFacts) -> Advice | None:
    """Say that most errors are letters left out."""
    cer = facts.scores.cer if facts.scores else None
    if cer is None or cer.deletions is None or cer.insertions is None or cer.substitutions is None:
        return None
    errors = cer.deletions + cer.insertions + cer.substitutions
    if errors < 50 or cer.deletions < 0.5 * errors or cer.deletions < 3 * max(1, cer.insertions):
        return None
    return Advice(
        title="Find out why letters are left out",
        reason=f"{percent(cer.deletions / errors, digits=0)} of the errors are letters it did not "
        "write. That happens when training was short, when people speak faster than in the "
        "training recordings, or when transcripts say more than the recording holds.",
        weight=55,
    )


def makes_up(facts: LearnFacts) -> Advice | None:
    """Say that many errors are letters nobody said."""
    cer = facts.scores.cer if facts.scores else None
    if cer is None or cer.deletions is None or cer.insertions is None or cer.substitutions is None:
        return None
    errors = cer.deletions + cer.insertions + cer.substitutions
    if errors < 50 or cer.insertions < 0.4 * errors or cer.insertions < 2 * cer.deletions:
        return None
    return Advice(
        title="Check recordings for speech that is not transcribed",
        reason=f"{percent(cer.insertions / errors, digits=0)} of the errors are letters that are "
        "not in the reference. Often the recording holds more speech than its transcript, or "
        "another voice in the background.",
        weight=55,
    )


def suspicious_transcripts(facts: LearnFacts) -> Advice | None:
    """Point at utterances so much worse than the rest that the transcript may be wrong."""
    rates = [u.cer for u in facts.utterances]
    if len(rates) < 10 or median(rates) > 0.4:
        return None
    odd = [u for u in facts.utterances if u.cer >= 0.8 and u.char_errors >= 5]
    if not odd:
        return None
    return Advice(
        title="Listen to the worst recordings below",
        reason=f"In {quantity(len(odd), 'recording')} nearly everything is wrong, although the "
        f"typical one has {per_hundred(median(rates))} errors in 100 characters. Such "
        "transcripts often belong to another recording. If the test set has some, the training "
        "set has more.",
        weight=68,
    )


def word_breaks(facts: LearnFacts) -> Advice | None:
    """Say that many errors are word breaks."""
    confusions = count_confusions((u.reference, u.hypothesis) for u in facts.utterances)
    errors = sum(c.times for c in confusions)
    breaks = sum(c.times for c in confusions if " " in (c.reference, c.hypothesis))
    if errors < 50 or breaks < 0.15 * errors:
        return None
    return Advice(
        title="Agree where words are divided",
        reason=f"{percent(breaks / errors, digits=0)} of the errors are spaces that are missing, "
        "too many or misplaced. If the transcripts themselves differ in how they divide words, "
        "make them alike.",
        weight=45,
    )


def spelling_variants(facts: LearnFacts) -> Advice | None:
    """Say that letters are mostly right but words mostly wrong."""
    if facts.scores is None or facts.scores.cer is None or facts.scores.wer is None:
        return None
    cer, wer = facts.scores.cer.value, facts.scores.wer.value
    if cer > 0.2 or wer < 0.4:
        return None
    return Advice(
        title="Check the spelling of the transcripts",
        reason=f"Only {per_hundred(cer)} characters in 100 are wrong, yet {per_hundred(wer)} words "
        "in 100 are. Long words explain a part; spelling that varies between transcribers "
        "explains another, and can be made uniform.",
        weight=48,
    )


def rare_letters(facts: LearnFacts) -> Advice | None:
    """Name letters that training showed too seldom to be learnt."""
    train = facts.splits.get("train")
    if train is None or sum(train.characters.values()) < 500:
        return None
    rare = tuple(c for c, n in sorted(train.characters.items()) if n < 5 and not c.isspace())
    if not rare:
        return None
    return Advice(
        title="Look at the rarest characters",
        reason=f"{quantity(len(rare), 'character')} of the training transcripts "
        f"{'occurs' if len(rare) == 1 else 'occur'} fewer than five times. They are typing "
        "mistakes, foreign names, or letters that need more examples:",
        weight=42,
        letters=rare[:40],
    )


def unseen_letters(facts: LearnFacts) -> Advice | None:
    """Name letters of the references that the model cannot write."""
    if not facts.vocabulary:
        return None
    known = set("".join(facts.vocabulary))
    missing = sorted({c for u in facts.utterances for c in u.reference if not c.isspace()} - known)
    if not missing:
        return None
    return Advice(
        title="Transcribe sentences with the letters this model does not know",
        reason=f"{quantity(len(missing), 'character')} of the held-out transcripts never "
        "occurred in training, so the model cannot write "
        f"{'it' if len(missing) == 1 else 'them'}:",
        weight=58,
        letters=tuple(missing[:40]),
    )


def many_skipped(facts: LearnFacts) -> Advice | None:
    """Say that a part of the material could not be used."""
    skipped = facts.scan.get("skipped")
    count = len(skipped) if isinstance(skipped, list) else 0
    used = sum(split.utterances for split in facts.splits.values())
    if count < 5 or count < 0.05 * (used + count):
        return None
    return Advice(
        title="Look at what was skipped",
        reason=f"{quantity(count, 'item')} could not be used "
        f"({percent(count / (used + count))} of the material). The reasons stand under "
        "“The data”; a wrong column or file name is often all it is.",
        weight=65,
    )


def wide_interval(facts: LearnFacts) -> Advice | None:
    """Say that the test set is too small to tell models apart."""
    cer = facts.scores.cer if facts.scores else None
    if cer is None or cer.low is None or cer.high is None or cer.value <= 0:
        return None
    if cer.high - cer.low < 0.3 * cer.value:
        return None
    return Advice(
        title="Hold out more recordings for the test",
        reason=f"The error rate is known only to lie between {per_hundred(cer.low)} and "
        f"{per_hundred(cer.high)} in 100. With so wide an interval an improvement can be luck.",
        weight=40,
    )


def unknown_speakers(facts: LearnFacts) -> Advice | None:
    """Say that test voices may have been heard in training."""
    new = facts.speakers_are_new
    if new is True or "train" not in facts.splits or "test" not in facts.splits:
        return None
    if new is False:
        return Advice(
            title="Test on voices that training has not heard",
            reason="Some speakers are both in training and in the test. The error rate on new "
            "voices is higher than the one measured here.",
            weight=66,
        )
    return Advice(
        title="Say who speaks",
        reason="The speakers are not known, so the same voices may be in training and in the "
        "test, and the error rate on new voices may be higher than the one measured here. A "
        "speaker column in the transcript table settles it.",
        weight=50,
    )


def uneven_speakers(facts: LearnFacts) -> Advice | None:
    """Say that some voices are recognised far worse than others."""
    speakers = facts.scores.speakers if facts.scores else ()
    known = [(name, rate) for name, rate, count in speakers if count is None or count >= 10]
    if len(known) < 2:
        return None
    best, worst = known[0][1].value, known[-1][1].value
    if worst < 0.05 or worst < 1.5 * best:
        return None
    return Advice(
        title="Collect more voices like the worst recognised",
        reason=f"One speaker has {per_hundred(worst)} character errors in 100, another "
        f"{per_hundred(best)}. Who speaks, on which microphone and how fast decides more here "
        "than anything else.",
        weight=52,
    )


def good_enough(facts: LearnFacts) -> Advice | None:
    """Say that the model is ready to be used."""
    cer = facts.scores.cer if facts.scores else None
    if cer is None or (cer.value if cer.high is None else cer.high) > 0.1:
        return None
    return Advice(
        title="Use it, and correct what it writes",
        reason=f"With {per_hundred(cer.value)} character errors in 100 its transcripts are a good "
        "draft. Corrected drafts are new transcripts to learn from.",
        weight=90,
    )


def pretraining_loss(run: RunFacts) -> str:
    """Name of the figure that pre-training lowers: "contrastive" or, with units, "masked"."""
    return "masked" if run.series("train", "masked") else "contrastive"


def chance_nats(run: RunFacts) -> float | None:
    """Loss of pure guessing [nats], or None when not known.

    It is ln(1 + distractors) of the contrastive objective, ln(units) of masked units.
    """
    if pretraining_loss(run) == "masked":
        units = find_number(run.config, "units")
        return None if units is None else math.log(units)
    distractors = find_number(run.config, "distractors")
    return None if distractors is None else math.log1p(distractors)


def code_count(run: RunFacts) -> float | None:
    """Greatest code perplexity, groups times entries: it is summed over the groups."""
    entries = find_number(run.config, "entries")
    groups = find_number(run.config, "groups")
    return None if entries is None or groups is None else entries * groups


def non_finite_updates(facts: LearnFacts) -> Advice | None:
    """Say that the loss stopped being a number now and then."""
    runs = [run for run in (facts.pretraining, facts.finetuning) if run is not None]
    broken = sum(run.non_finite("loss") for run in runs)
    skipped = [number(run.train[-1].get("skipped_updates")) for run in runs if run.train]
    broken += sum(int(count) for count in skipped if count is not None)
    if broken == 0:
        return None
    return Advice(
        title="Lower the learning rate",
        reason=f"{quantity(broken, 'logged update')} had a loss that was not a number.",
        weight=62,
    )


def run_lost(facts: LearnFacts) -> Advice | None:
    """Repeat what the watch over a training called an error."""
    for name, run in (("Pre-training", facts.pretraining), ("Fine-tuning", facts.finetuning)):
        for row in run.health if run is not None else ():
            if row.get("severity") == "error" and row.get("message"):
                return Advice(
                    title=f"{name} went wrong",
                    reason=f"{row['message']} {row.get('advice') or ''}".strip(),
                    weight=95,
                )
    return None


RULES: tuple[Callable[[LearnFacts], Advice | None], ...] = (
    run_lost,
    stays_silent,
    still_improving,
    overfits,
    few_transcripts,
    pretraining_absent,
    pretraining_made_no_difference,
    pretraining_learnt_little,
    codes_collapsed,
    leaves_out,
    makes_up,
    suspicious_transcripts,
    word_breaks,
    spelling_variants,
    rare_letters,
    unseen_letters,
    many_skipped,
    wide_interval,
    unknown_speakers,
    uneven_speakers,
    good_enough,
    non_finite_updates,
)


def advise(facts: LearnFacts) -> list[Advice]:
    """Apply every rule and put the most pressing advice first."""
    given = [advice for rule in RULES if (advice := rule(facts)) is not None]
    return sorted(given, key=lambda advice: -advice.weight)
