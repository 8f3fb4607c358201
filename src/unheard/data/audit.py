"""What is odd about a set of utterances, in words that a person can act on.

Nothing is changed or dropped here. Recordings are not opened: everything follows from the
manifests.
"""

import itertools
import math
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unheard.data.manifest import Utterance, printable
from unheard.text import normalize
from unheard.text.alphabet import Alphabet, describe

Severity = Literal["error", "warning", "note"]
"""How much a finding matters: results would be wrong; worse than they need be; good to know."""

MODEL_RATE_HZ = 16_000
"""Rate at which models hear, in which frames are counted [Hz]."""

HISTOGRAM_EDGES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Upper ends of the classes of durations; the last class is open [s]."""

LONG_SECONDS = 30.0
"""A transcribed utterance above this costs much memory, and its text seldom fits all of it [s]."""

SHORT_SECONDS = 0.3
"""A transcribed utterance below this is hardly a word [s]."""

LITTLE_SECONDS = 600.0
"""With fewer transcribed seconds to train on, a recogniser hardly gets off the ground [s]."""

RARE_CHARACTER = 5
"""A character seen fewer times in training can hardly be learned."""

RATE_SPREADS = 5.0
"""How many robust standard deviations of log speech rate make an outlier."""

RATE_LEAST_SPREAD = 0.15
"""The robust standard deviation of log speech rate is taken to be at least this."""

RATE_FEWEST = 30
"""With fewer utterances nobody can say what speech rate is usual."""

EXAMPLES = 5
"""Examples that a finding shows."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something odd.

    Attributes:
        severity: "error", "warning" or "note".
        code: short and stable.
        message: what it is, what it does, and what to do about it.
        count: how many utterances (or characters, or speakers) it concerns.
        examples: a few of them.
    """

    severity: Severity
    code: str
    message: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """What a set of utterances amounts to.

    Attributes:
        utterances: how many.
        hours: of sound.
        transcribed_hours: of sound with a transcript.
        speakers: how many are known.
        characters_per_second: median over transcribed utterances, or None.
    """

    utterances: int
    hours: float
    transcribed_hours: float
    speakers: int
    characters_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit.

    Attributes:
        sets: facts of each set, by its name.
        durations: (upper end [s] or None, number of utterances) for each class of durations.
        speakers: seconds of sound of each speaker, the most heard first.
        characters: how often each character stands in the normalised transcripts.
        scripts: how many letters of each script there are.
        findings: what is odd, the gravest first.
    """

    sets: dict[str, SetFacts]
    durations: tuple[tuple[float | None, int], ...]
    speakers: dict[str, float]
    characters: dict[str, int]
    scripts: dict[str, int]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "sets": {
                name: {
                    "utterances": facts.utterances,
                    "hours": round(facts.hours, 4),
                    "transcribed_hours": round(facts.transcribed_hours, 4),
                    "speakers": facts.speakers,
                    "characters_per_second": facts.characters_per_second,
                }
                for name, facts in self.sets.items()
            },
            "durations": [
                {"up_to_seconds": edge, "utterances": count} for edge, count in self.durations
            ],
            "speakers": {name: round(seconds, 2) for name, seconds in self.speakers.items()},
            "characters": self.characters,
            "scripts": self.scripts,
            "findings": [
                {
                    "severity": finding.severity,
                    "code": finding.code,
                    "message": finding.message,
                    "count": finding.count,
                    "examples": list(finding.examples),
                }
                for finding in self.findings
            ],
        }


def audit(
    utterances: Mapping[str, Sequence[Utterance]] | Sequence[Utterance],
    alphabet: Alphabet | None = None,
    num_frames: Callable[[int], int] | None = None,
    *,
    normalizer: str = "basic-1",
) -> Audit:
    """Look a corpus over before anything is trained on it.

    Args:
        utterances: the sets by name ("train", "valid", "test", "unlabelled"); or one set, in
            which nothing can leak.
        alphabet: of the model that is to write the transcripts; None leaves out what depends on
            it.
        num_frames: frames that a model makes of so many samples at 16 kHz; None leaves out
            whether transcripts fit.
        normalizer: name of the normaliser that transcripts go through before they are encoded.
    """
    sets = dict(utterances) if isinstance(utterances, Mapping) else {"all": utterances}
    normalise = normalize.get(normalizer)
    texts = {
        name: [(one, normalise(one.text)) for one in members if one.text is not None]
        for name, members in sets.items()
    }
    everything = [one for members in sets.values() for one in members]
    labelled = [pair for pairs in texts.values() for pair in pairs]
    characters: Counter[str] = Counter()
    for _, text in labelled:
        characters.update(text)
    del characters[" "]
    scripts: Counter[str] = Counter()
    for character, count in characters.items():
        script = script_of(character)
        if script is not None:
            scripts[script] += count
    seconds_of_speaker: dict[str, float] = defaultdict(float)
    for one in everything:
        if one.speaker is not None:
            seconds_of_speaker[one.speaker] += one.duration_seconds
    found = [
        *_check_amount(sets, texts),
        *_check_leaks(sets, texts),
        *_check_repeats(sets, texts),
        *_check_lengths(labelled),
        *_check_fit(labelled, alphabet, num_frames),
        *_check_rates(labelled),
        *_check_characters(texts, characters),
        *_check_scripts(labelled, scripts),
        *_check_raw_texts([one for one, _ in labelled]),
    ]
    grave = {"error": 0, "warning": 1, "note": 2}
    return Audit(
        sets={name: _facts(members, texts[name]) for name, members in sets.items()},
        durations=_histogram(everything),
        speakers=dict(sorted(seconds_of_speaker.items(), key=lambda item: (-item[1], item[0]))),
        characters=dict(sorted(characters.items())),
        scripts=dict(scripts.most_common()),
        findings=tuple(sorted(found, key=lambda finding: grave[finding.severity])),
    )


def script_of(character: str) -> str | None:
    """Name the script of a letter by its Unicode name ("latin", "ethiopic"); None for others."""
    known = _SCRIPTS.get(character, "")
    if known != "":
        return known
    script = None
    if unicodedata.category(character)[0] == "L":
        name = unicodedata.name(character, "")
        first = name.split(" ", 1)[0].lower()
        script = None if first in ("", "modifier", "feminine", "masculine", "micro") else first
        if first in ("fullwidth", "halfwidth", "mathematical"):
            script = "latin" if "LATIN" in name or first == "mathematical" else first
        elif first in ("cjk", "hiragana", "katakana", "katakana-hiragana"):
            script = "chinese or japanese"
    _SCRIPTS[character] = script
    return script


_SCRIPTS: dict[str, str | None] = {}


Pair = tuple[Utterance, str]
"""An utterance and its normalised transcript."""


def _facts(members: Sequence[Utterance], texts: Sequence[Pair]) -> SetFacts:
    rates = [len(text) / one.duration_seconds for one, text in texts if text]
    return SetFacts(
        utterances=len(members),
        hours=_seconds(members) / 3600.0,
        transcribed_hours=_seconds(one for one, _ in texts) / 3600.0,
        speakers=len({one.speaker for one in members} - {None}),
        characters_per_second=round(statistics.median(rates), 2) if rates else None,
    )


def _seconds(utterances: Iterable[Utterance]) -> float:
    return math.fsum(one.duration_seconds for one in utterances)


def _histogram(utterances: Sequence[Utterance]) -> tuple[tuple[float | None, int], ...]:
    edges: tuple[float | None, ...] = (*HISTOGRAM_EDGES_SECONDS, None)
    counts = dict.fromkeys(edges, 0)
    for one in utterances:
        edge = next((e for e in HISTOGRAM_EDGES_SECONDS if one.duration_seconds <= e), None)
        counts[edge] += 1
    return tuple(counts.items())


def _some(values: Iterable[str]) -> tuple[str, ...]:
    """A few examples, safe to print."""
    different = itertools.islice(dict.fromkeys(values), EXAMPLES)
    return tuple(printable(value, longest=100) for value in different)


def _count(count: int, noun: str, verb: str = "") -> str:
    """Count a noun, with its verb as for many: "1 utterance is", "3 utterances are"."""
    if count == 1:
        verb = {"are": "is", "have": "has", "do": "does", "mix": "mixes", "": ""}.get(
            verb, f"{verb}s"
        )
    else:
        noun = f"{noun}s"
    return f"{count:,} {noun} {verb}".rstrip()


def _check_amount(
    sets: Mapping[str, Sequence[Utterance]], texts: Mapping[str, Sequence[Pair]]
) -> Iterable[Finding]:
    """Is there enough of everything?"""
    if not any(sets.values()):
        yield Finding(severity="error", code="empty", message="There are no utterances.", count=0)
        return
    train = texts.get("train", texts.get("all", ()))
    if not train and not any(texts.values()):
        yield Finding(
            severity="note",
            code="no_text",
            message="Nothing is transcribed: a model can learn to listen from this, not to write.",
            count=sum(map(len, sets.values())),
        )
        return
    if not train:
        yield Finding(
            severity="error",
            code="no_training_text",
            message="No transcript is left to train on.",
            count=0,
        )
        return
    seconds = _seconds(one for one, _ in train)
    if seconds < LITTLE_SECONDS:
        yield Finding(
            severity="warning",
            code="little_text",
            message=f"Only {seconds / 60:.1f} minutes are transcribed to train on: expect many "
            "errors. Each further ten minutes help much.",
            count=len(train),
        )
    by_speaker: Counter[str] = Counter()
    for one, _ in train:
        if one.speaker is not None:
            by_speaker[one.speaker] += round(one.duration_seconds * 1000)
    if len(by_speaker) == 1:
        yield Finding(
            severity="warning",
            code="one_speaker",
            message="All training transcripts are by one speaker: others will be recognised less "
            "well. Transcribe a little of each voice you have.",
            count=1,
            examples=_some(by_speaker),
        )
    elif len(by_speaker) > 2:
        name, milliseconds = by_speaker.most_common(1)[0]
        share = milliseconds / by_speaker.total()
        if share > 0.6:
            yield Finding(
                severity="note",
                code="one_speaker_dominates",
                message=f"One speaker has {share:.0%} of the transcribed training seconds.",
                count=1,
                examples=_some([name]),
            )


def _check_leaks(
    sets: Mapping[str, Sequence[Utterance]], texts: Mapping[str, Sequence[Pair]]
) -> Iterable[Finding]:
    """Does a held-out set share sound, speakers or texts with what is trained on?"""
    for held_out in ("test", "valid"):
        members = sets.get(held_out, ())
        for other in ("train", "unlabelled", *(("valid",) if held_out == "test" else ())):
            shared = _overlapping(members, sets.get(other, ()))
            if shared:
                yield Finding(
                    severity="error",
                    code="sound_leak",
                    message=f"{_count(len(shared), 'utterance', 'are')} in the {held_out} set and "
                    "in "
                    f"the {other} set: the error rate would flatter. Remove them from one.",
                    count=len(shared),
                    examples=_some(one.id for one in shared),
                )
        speakers = {one.speaker for one in members} - {None}
        trained = {one.speaker for one in sets.get("train", ())} - {None}
        both = sorted(name for name in speakers & trained if name is not None)
        if both:
            yield Finding(
                severity="warning",
                code="speaker_leak",
                message=f"{_count(len(both), 'speaker', 'are')} in the {held_out} set and in the "
                "training set: new speakers will be recognised less well than it says.",
                count=len(both),
                examples=_some(both),
            )
        known_texts = {text for _, text in texts.get("train", ())}
        repeated = [one for one, text in texts.get(held_out, ()) if text in known_texts]
        if repeated:
            share = len(repeated) / len(texts[held_out])
            yield Finding(
                severity="warning" if share > 0.1 else "note",
                code="text_leak",
                message=f"{_count(len(repeated), 'transcript')} of the {held_out} set "
                f"({share:.0%}) "
                "can be found in the training set word for word: the model may know them by "
                "heart, and "
                "new sentences will be harder.",
                count=len(repeated),
                examples=_some(one.text or "" for one in repeated),
            )


def _overlapping(members: Sequence[Utterance], others: Sequence[Utterance]) -> list[Utterance]:
    """Those of `members` that share sound with one of `others`, by path."""
    stretches: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in others:
        stretches[one.audio].append(_stretch(one))
    shared = []
    for one in members:
        begins, ends = _stretch(one)
        if any(begins < end and start < ends for start, end in stretches.get(one.audio, ())):
            shared.append(one)
    return shared


def _stretch(utterance: Utterance) -> tuple[float, float]:
    ends = utterance.start + utterance.num_samples
    return utterance.start / utterance.sample_rate, ends / utterance.sample_rate


def _check_repeats(
    sets: Mapping[str, Sequence[Utterance]], texts: Mapping[str, Sequence[Pair]]
) -> Iterable[Finding]:
    """Is the same thing there several times?"""
    for name, members in sets.items():
        stretches = Counter((one.audio, one.start, one.num_samples) for one in members)
        again = [key for key, count in stretches.items() if count > 1]
        if again:
            yield Finding(
                severity="warning",
                code="repeated_sound",
                message=f"{_count(len(again), 'recording', 'stand')} "
                f"more than once in the {name} set.",
                count=len(again),
                examples=_some(key[0] for key in again),
            )
    train = texts.get("train", texts.get("all", ()))
    counts = Counter(text for _, text in train if text)
    repeated = sum(count - 1 for count in counts.values())
    if train and repeated > 0.05 * len(train):
        most = [f"{count}×: {text}" for text, count in counts.most_common(EXAMPLES)]
        yield Finding(
            severity="note",
            code="repeated_texts",
            message=f"{_count(repeated, 'training transcript', 'say')} what another one says "
            "already "
            f"({len(counts):,} different texts): the model sees less of the language than the "
            "hours suggest.",
            count=repeated,
            examples=_some(most),
        )


def _check_lengths(labelled: Sequence[Pair]) -> Iterable[Finding]:
    """Are utterances of a length that can be trained on?"""
    long = sorted(
        (one for one, _ in labelled if one.duration_seconds > LONG_SECONDS),
        key=lambda one: -one.duration_seconds,
    )
    if long:
        yield Finding(
            severity="warning",
            code="very_long",
            message=f"{_count(len(long), 'transcribed utterance', 'are')} longer than "
            f"{LONG_SECONDS:.0f} s ({_seconds(long) / 3600:.2f} h in all): cut them at pauses, "
            "with their texts, or they cost much memory and may be passed over.",
            count=len(long),
            examples=_some(f"{one.id}: {one.duration_seconds:.1f} s" for one in long),
        )
    short = [one for one, _ in labelled if one.duration_seconds < SHORT_SECONDS]
    if short:
        yield Finding(
            severity="note",
            code="very_short",
            message=f"{_count(len(short), 'transcribed utterance', 'are')} shorter than "
            f"{SHORT_SECONDS} s.",
            count=len(short),
            examples=_some(f"{one.id}: {one.duration_seconds:.2f} s" for one in short),
        )


def _check_fit(
    labelled: Sequence[Pair],
    alphabet: Alphabet | None,
    num_frames: Callable[[int], int] | None,
) -> Iterable[Finding]:
    """Can the alphabet write the transcripts, and have they room in their frames?"""
    empty = [one for one, text in labelled if not text]
    if empty:
        yield Finding(
            severity="warning",
            code="empty_text",
            message=f"{_count(len(empty), 'transcript', 'have')} nothing left after normalising, "
            "such "
            "as punctuation only.",
            count=len(empty),
            examples=_some(f"{one.id}: {one.text}" for one in empty),
        )
    if alphabet is None:
        return
    outside: Counter[str] = Counter()
    unwritable: list[Utterance] = []
    crowded: list[str] = []
    for one, text in labelled:
        missing = alphabet.missing(text)
        if missing:
            unwritable.append(one)
            outside.update(missing)
        if num_frames is None:
            continue
        writable = "".join(letter for letter in text if letter not in missing)
        needed = alphabet.frames_needed(alphabet.encode(writable))
        frames = num_frames(round(one.duration_seconds * MODEL_RATE_HZ))
        if needed > frames:
            crowded.append(f"{one.id}: {needed} frames needed, {frames} there")
    if unwritable:
        yield Finding(
            severity="warning",
            code="outside_alphabet",
            message=f"{_count(len(unwritable), 'transcript', 'hold')} characters that the alphabet "
            f"lacks ({_count(len(outside), 'character')}).",
            count=len(unwritable),
            examples=_some(f"{describe(c)}: {n} texts" for c, n in outside.most_common()),
        )
    if crowded:
        yield Finding(
            severity="warning",
            code="too_short_for_text",
            message=f"{_count(len(crowded), 'transcript', 'are')} too long for the sound: CTC has "
            "fewer frames than symbols, so these cannot be learned. The text is probably "
            "another utterance's.",
            count=len(crowded),
            examples=_some(crowded),
        )


def _check_rates(labelled: Sequence[Pair]) -> Iterable[Finding]:
    """Does the length of each transcript fit the length of the sound?"""
    rates = [
        (math.log(len(text) / one.duration_seconds), one) for one, text in labelled if len(text) > 0
    ]
    if len(rates) < RATE_FEWEST:
        return
    middle = statistics.median(rate for rate, _ in rates)
    spread = 1.4826 * statistics.median(abs(rate - middle) for rate, _ in rates)
    limit = RATE_SPREADS * max(spread, RATE_LEAST_SPREAD)
    for code, way, odd in (
        (
            "too_fast",
            "more",
            sorted((pair for pair in rates if pair[0] > middle + limit), key=lambda p: -p[0]),
        ),
        (
            "too_slow",
            "less",
            sorted((pair for pair in rates if pair[0] < middle - limit), key=lambda p: p[0]),
        ),
    ):
        if odd:
            yield Finding(
                severity="warning",
                code=code,
                message=f"{_count(len(odd), 'transcript', 'have')} far {way} text than such a "
                "stretch "
                f"of sound usually has (the median is {math.exp(middle):.1f} characters a "
                "second): listen to some; the text may belong to another recording.",
                count=len(odd),
                examples=_some(f"{one.id}: {math.exp(rate):.1f} a second" for rate, one in odd),
            )


def _check_characters(
    texts: Mapping[str, Sequence[Pair]], characters: Mapping[str, int]
) -> Iterable[Finding]:
    """Are there characters that training shows too seldom, or never?"""
    train: Counter[str] = Counter()
    for _, text in texts.get("train", texts.get("all", ())):
        train.update(text)
    if not train:
        return
    unseen = sorted(character for character in characters if character not in train)
    if unseen:
        yield Finding(
            severity="warning",
            code="unseen_characters",
            message=f"{_count(len(unseen), 'character')} of the held-out transcripts cannot be "
            "found in "
            "the training set, so the model cannot write them.",
            count=len(unseen),
            examples=_some(f"{describe(c)}: {characters[c]}×" for c in unseen),
        )
    rare = sorted(
        (c for c, count in train.items() if count < RARE_CHARACTER and c != " "),
        key=lambda c: (train[c], c),
    )
    if rare:
        yield Finding(
            severity="note",
            code="rare_characters",
            message=f"{_count(len(rare), 'character', 'occur')} fewer than {RARE_CHARACTER} times "
            "in the "
            "training transcripts and can hardly be learned: spelling slips, or letters of "
            "foreign names?",
            count=len(rare),
            examples=_some(f"{describe(c)}: {train[c]}×" for c in rare),
        )


def _check_scripts(labelled: Sequence[Pair], scripts: Counter[str]) -> Iterable[Finding]:
    """Do letters of different scripts meet within a word, or does one script hardly occur?"""
    if len(scripts) < 2:
        return
    mixed: Counter[str] = Counter()
    for _, text in labelled:
        for word in text.split():
            if len({script_of(letter) for letter in word} - {None}) > 1:
                mixed[word] += 1
    if mixed:
        yield Finding(
            severity="warning",
            code="mixed_scripts",
            message=f"{_count(mixed.total(), 'word', 'mix')} letters of different scripts, which "
            "often "
            "look alike and were mistyped (a Cyrillic а in a Latin word): write each word in one "
            "script.",
            count=mixed.total(),
            examples=_some(
                f"{word}: {', '.join(sorted({script_of(c) or '' for c in word} - {''}))}"
                for word, _ in mixed.most_common()
            ),
        )
    rare = {name: count for name, count in scripts.items() if count < 0.01 * scripts.total()}
    if rare:
        yield Finding(
            severity="note",
            code="rare_scripts",
            message="Some letters are of a script that hardly occurs otherwise.",
            count=sum(rare.values()),
            examples=_some(f"{name}: {count} letters" for name, count in rare.items()),
        )


_MARKUP = re.compile(r"<[^<>\s]{1,30}>|\[[^\[\]]{1,30}\]|\{[^{}]{1,30}\}|&[a-z]{2,6};")


def _check_raw_texts(utterances: Sequence[Utterance]) -> Iterable[Finding]:
    """Do transcripts hold what is not speech, or was lost on the way?"""
    decomposed: list[Utterance] = []
    invisible: Counter[str] = Counter()
    lost: list[Utterance] = []
    digits: list[Utterance] = []
    markup: list[Utterance] = []
    for one in utterances:
        text = one.text or ""
        if not unicodedata.is_normalized("NFC", text):
            decomposed.append(one)
        if any(c.isdigit() for c in text):
            digits.append(one)
        if not text.isascii():
            invisible.update({c for c in text if unicodedata.category(c) == "Cf"})
            if "\ufffd" in text or any("\x80" <= c <= "\x9f" for c in text):
                lost.append(one)
        if _MARKUP.search(text):
            markup.append(one)
    odd_texts: tuple[tuple[Severity, str, list[Utterance], str, str], ...] = (
        (
            "warning",
            "lost_letters",
            lost,
            "hold",
            "characters that a wrong encoding left behind (U+FFFD or control "
            "characters): export the table again, in UTF-8.",
        ),
        (
            "warning",
            "digits",
            digits,
            "hold",
            "digits, which can be read aloud in many ways: write numbers out as words.",
        ),
        (
            "note",
            "markup",
            markup,
            "hold",
            "what looks like markup, such as <noise> or [laughs]: only what is spoken should "
            "stand there.",
        ),
        (
            "note",
            "unicode_forms",
            decomposed,
            "are",
            "not in Unicode's composed form (NFC); they are composed before training, so "
            "nothing needs to be done.",
        ),
    )
    for severity, code, odd, verb, message in odd_texts:
        if odd:
            yield Finding(
                severity=severity,
                code=code,
                message=f"{_count(len(odd), 'transcript', verb)} {message}",
                count=len(odd),
                examples=_some(f"{one.id}: {one.text}" for one in odd),
            )
    if invisible:
        yield Finding(
            severity="note",
            code="invisible_characters",
            message=f"{_count(invisible.total(), 'transcript', 'hold')} characters that cannot be "
            "seen, "
            "such as zero-width joiners or marks of direction.",
            count=invisible.total(),
            examples=_some(f"{describe(c)}: {n} texts" for c, n in invisible.most_common()),
        )
