import json
import random
from typing import Any

import pytest

from unheard.data.audit import Audit, Finding, audit, script_of
from unheard.data.manifest import Utterance
from unheard.text.alphabet import Alphabet

RATE = 16_000
WORDS = "muraho neza ndagukunda cyane umwana amazi inzu igiti umuntu abantu".split()


def utterance(name: str, text: str | None, *, seconds: float | None = None, **changes: Any):
    length = seconds if seconds is not None else max(0.5, len(text or "x" * 20) / 12)
    fields = {
        "id": name,
        "audio": f"/{name}.wav",
        "num_samples": round(length * RATE),
        "sample_rate": RATE,
        "text": text,
        "speaker": "s1" if name[-1] in "13579abcde" else "s2",
    }
    return Utterance(**{**fields, **changes})


def plain(count: int = 60, *, prefix: str = "u", seed: int = 0, **changes: Any) -> list[Utterance]:
    """Utterances at an ordinary pace, all letters well known."""
    chance = random.Random(seed)
    return [
        utterance(
            f"{prefix}{n}", " ".join(chance.choices(WORDS, k=chance.randint(4, 9))), **changes
        )
        for n in range(count)
    ]


def two_voices(utterances: list[Utterance]) -> list[Utterance]:
    from dataclasses import replace

    return [replace(one, speaker=f"s{n % 4}") for n, one in enumerate(utterances)]


def codes(result: Audit) -> set[str]:
    return {finding.code for finding in result.findings}


def finding(result: Audit, code: str) -> Finding:
    (found,) = [one for one in result.findings if one.code == code]
    assert found.message[-1] in ".?"
    assert found.severity in ("error", "warning", "note")
    return found


def frames(num_samples: int) -> int:
    return max(0, (num_samples - 400) // 320 + 1)


def test_an_ordinary_corpus_has_no_findings() -> None:
    train = two_voices(plain(600, seed=1))
    alphabet = Alphabet.from_texts([one.text or "" for one in train], normalizer="basic-1")
    result = audit({"train": train}, alphabet, frames)
    assert result.findings == ()


def test_facts(tmp_path) -> None:
    train = [
        utterance("a", "Muraho!", seconds=1.0, speaker="x"),
        utterance("b", None, seconds=3.0, speaker="y"),
        utterance("c", "ሰላም", seconds=61.0, speaker=None),
    ]
    result = audit({"train": train, "test": []})
    assert result.sets["train"].utterances == 3
    assert result.sets["train"].speakers == 2
    assert result.sets["train"].hours == pytest.approx(65 / 3600)
    assert result.sets["train"].transcribed_hours == pytest.approx(62 / 3600)
    assert result.sets["test"].characters_per_second is None
    assert result.speakers == {"y": 3.0, "x": 1.0}
    assert result.characters == dict.fromkeys("ahmoruሰላም", 1)
    assert result.scripts == {"latin": 6, "ethiopic": 3}
    assert dict(result.durations)[1.0] == dict(result.durations)[5.0] == 1
    assert dict(result.durations)[None] == 1
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["sets"]["train"]["utterances"] == 3
    assert {"severity", "code", "message", "count", "examples"} == set(written["findings"][0])


def test_one_set_without_name() -> None:
    assert audit(plain(5)).sets.keys() == {"all"}


def test_nothing_at_all() -> None:
    assert codes(audit({"train": []})) == {"empty"}
    assert codes(audit({"unlabelled": [utterance("a", None)]})) == {"no_text"}
    assert "no_training_text" in codes(audit({"train": [], "test": plain()}))


def test_too_little_text_and_too_few_voices() -> None:
    result = audit({"train": plain(10, speaker="only")})
    assert "Only" in finding(result, "little_text").message
    assert finding(result, "one_speaker").examples == ("only",)
    many = [*plain(50, speaker="a"), *plain(2, prefix="b", speaker="b"), *plain(2, prefix="c")]
    assert finding(audit({"train": many}), "one_speaker_dominates").examples == ("a",)


def test_transcripts_that_have_no_room_in_their_frames() -> None:
    # "aa" needs three frames (a, blank, a) and "ab" two: 0.065 s are three frames of 20 ms.
    alphabet = Alphabet.from_texts(["ab"], normalizer="basic-1")
    assert frames(round(0.065 * RATE)) == 3
    train = [
        utterance("fits", "aa", seconds=0.065),
        utterance("crowded", "aaa", seconds=0.065),
        utterance("fits too", "aba", seconds=0.065),
    ]
    found = finding(audit({"train": train}, alphabet, frames), "too_short_for_text")
    assert (found.count, found.examples) == (1, ("crowded: 5 frames needed, 3 there",))


def test_rates_other_than_16_khz_are_counted_in_seconds() -> None:
    alphabet = Alphabet.from_texts(["ab"], normalizer="basic-1")
    high = utterance("high", "abab", num_samples=round(0.1 * 48_000), sample_rate=48_000)
    assert "too_short_for_text" not in codes(audit({"train": [high]}, alphabet, frames))


def test_characters_outside_the_alphabet_are_named() -> None:
    alphabet = Alphabet.from_texts(WORDS, normalizer="basic-1")
    train = [*plain(), utterance("odd", "muraho ŋ qq")]
    found = finding(audit({"train": train}, alphabet, frames), "outside_alphabet")
    assert found.count == 1
    assert found.examples[0].startswith("'ŋ' (U+014B LATIN SMALL LETTER ENG)")


def test_leaks_between_sets() -> None:
    train = two_voices(plain(60))
    leak = {
        "train": train,
        "test": [train[3], utterance("t", train[5].text, speaker="new")],
        "valid": [utterance("v", "ikindi kintu", speaker="s1", audio=train[7].audio)],
        "unlabelled": [utterance("u", None, audio="/t.wav", seconds=60.0)],
    }
    result = audit(leak)
    sound = [one for one in result.findings if one.code == "sound_leak"]
    assert [one.severity for one in sound] == ["error"] * 3
    assert result.findings[:3] == tuple(sound), "the gravest come first"
    assert {one.examples for one in sound} == {(train[3].id,), ("t",), ("v",)}
    speakers = [one for one in result.findings if one.code == "speaker_leak"]
    assert {one.examples for one in speakers} == {("s3",), ("s1",)}
    texts = [one for one in result.findings if one.code == "text_leak"]
    assert [one.count for one in texts] == [2]


def test_neighbouring_stretches_are_no_leak() -> None:
    first = utterance("a", "x", audio="/x.wav", start=0, num_samples=7001)
    second = utterance("b", "y", audio="/x.wav", start=7001, num_samples=7001)
    assert "sound_leak" not in codes(audit({"train": [first], "test": [second]}))


def test_repeats() -> None:
    train = two_voices(plain(40))
    again = [utterance("again", "kabiri", audio=train[0].audio, num_samples=train[0].num_samples)]
    assert finding(audit({"train": train + again}), "repeated_sound").count == 1
    said = [utterance(f"r{n}", "muraho neza") for n in range(10)]
    found = finding(audit({"train": train + said}), "repeated_texts")
    assert found.count >= 9
    assert found.examples[0] == "10×: muraho neza"


def test_lengths() -> None:
    train = [
        *plain(),
        utterance("long", "x " * 300, seconds=45.0),
        utterance("short", "o", seconds=0.2),
    ]
    result = audit({"train": train})
    assert finding(result, "very_long").examples == ("long: 45.0 s",)
    assert finding(result, "very_short").examples == ("short: 0.20 s",)


def test_texts_of_another_recording_stand_out() -> None:
    train = [
        *plain(100),
        utterance("fast", "muraho neza " * 10, seconds=1.0),
        utterance("slow", "oya", seconds=20.0),
    ]
    result = audit({"train": train})
    assert [example.split(":")[0] for example in finding(result, "too_fast").examples] == ["fast"]
    assert [example.split(":")[0] for example in finding(result, "too_slow").examples] == ["slow"]


def test_rare_and_unseen_characters() -> None:
    result = audit(
        {"train": [*plain(), utterance("odd", "muraho Ŋ")], "test": [utterance("t", "ɓa")]}
    )
    assert finding(result, "rare_characters").examples == (
        "'ŋ' (U+014B LATIN SMALL LETTER ENG): 1×",
    )
    assert "U+0253" in finding(result, "unseen_characters").examples[0]


def test_scripts() -> None:
    mixed = [*plain(), utterance("odd", "мuraho neza"), utterance("other", "привет")]
    result = audit({"train": mixed})
    assert finding(result, "mixed_scripts").examples == ("мuraho: cyrillic, latin",)
    assert finding(result, "rare_scripts").examples == ("cyrillic: 7 letters",)
    assert {c: script_of(c) for c in "aЖሰعद漢かｂ5'ʼ"} == {
        "a": "latin",
        "Ж": "cyrillic",
        "ሰ": "ethiopic",
        "ع": "arabic",
        "द": "devanagari",
        "漢": "chinese or japanese",
        "か": "chinese or japanese",
        "ｂ": "latin",
        "5": None,
        "'": None,
        "ʼ": None,
    }


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("digits", "imyaka 25 ishize"),
        ("lost_letters", "ng\ufffdombe"),
        ("lost_letters", "ng\x92ombe"),
        ("markup", "yego <noise> oya"),
        ("markup", "yego [aseka] oya"),
        ("markup", "yego &amp; oya"),
        ("unicode_forms", "e\u0301tage"),
        ("invisible_characters", "mu\u200braho"),
        ("empty_text", "... ?!"),
    ],
)
def test_texts_that_are_no_speech(code: str, text: str) -> None:
    found = finding(audit({"train": [*plain(), utterance("odd", text)]}), code)
    assert found.count == 1
    assert found.message.startswith("1 transcript ")
    assert code not in codes(audit({"train": plain()}))


def test_examples_are_few_and_printable() -> None:
    odd = [utterance(f"o{n}", f"\u202e{n} <x>\n") for n in range(20)]
    found = finding(audit({"train": odd}), "digits")
    assert (found.count, len(found.examples)) == (20, 5)
    assert all(example.isprintable() for example in found.examples)
    assert found.message.startswith("20 transcripts hold digits")
