from collections.abc import Iterable
from typing import Any

import pytest

from unheard.data.manifest import Utterance
from unheard.data.split import Split, split
from unheard.errors import ConfigError

RATE = 1000


def utterance(name: str, *, seconds: float = 10.0, **changes: Any) -> Utterance:
    fields = {
        "id": name,
        "audio": f"/{name}.wav",
        "num_samples": round(seconds * RATE),
        "sample_rate": RATE,
        "text": f"said {name}",
    }
    return Utterance(**{**fields, **changes})


def by_speakers(speakers: int, each: int = 10, **changes: Any) -> list[Utterance]:
    return [
        utterance(f"s{speaker}-{number}", speaker=f"s{speaker}", **changes)
        for speaker in range(speakers)
        for number in range(each)
    ]


def ids(utterances: Iterable[Utterance]) -> set[str]:
    return {one.id for one in utterances}


def speakers(utterances: Iterable[Utterance]) -> set[str | None]:
    return {one.speaker for one in utterances}


def hours_apart(parted: Split) -> dict[str, float]:
    return {name: sum(u.duration_seconds for u in m) for name, m in parted.sets().items()}


def test_speakers_are_kept_apart() -> None:
    everything = by_speakers(20)
    parted = split(everything)
    assert parted.by == "speaker"
    assert len(speakers(parted.test)) == len(speakers(parted.valid)) == 2
    assert len(speakers(parted.train)) == 16
    assert not speakers(parted.train) & speakers(parted.test)
    assert not speakers(parted.train) & speakers(parted.valid)
    assert not speakers(parted.valid) & speakers(parted.test)
    assert ids(parted.train) | ids(parted.valid) | ids(parted.test) == ids(everything)
    assert parted.removed == parted.unlabelled == parted.warnings == ()


def test_sizes_are_counted_in_seconds() -> None:
    everything = [utterance(f"long-{n}", seconds=100.0, speaker=f"long{n}") for n in range(9)] + [
        utterance(f"short-{n}", seconds=1.0, speaker=f"short{n}") for n in range(100)
    ]
    parted = split(everything, valid=0.1, test=0.2)
    seconds = hours_apart(parted)
    assert seconds["test"] == pytest.approx(200, abs=51)
    assert seconds["valid"] == pytest.approx(100, abs=51)


def test_held_out_sets_are_capped() -> None:
    everything = [utterance(f"{n}", seconds=600.0, speaker=f"s{n}") for n in range(200)]
    seconds = hours_apart(split(everything))
    assert seconds["test"] == seconds["valid"] == 3600.0


def test_the_seed_decides_and_the_order_does_not() -> None:
    everything = by_speakers(20)
    first = split(everything, seed=1)
    again = split(everything[::-1], seed=1)
    assert ids(first.test) == ids(again.test)
    assert ids(first.valid) == ids(again.valid)
    assert [one.id for one in again.test] == [one.id for one in first.test][::-1]
    assert len({frozenset(speakers(split(everything, seed=seed).test)) for seed in range(20)}) > 5


def test_one_more_speaker_moves_few_others() -> None:
    before = speakers(split(by_speakers(20)).train)
    after = speakers(split(by_speakers(21)).train)
    assert len(before - after) <= 2


def test_three_speakers_leave_most_to_train_on() -> None:
    parted = split(by_speakers(3))
    assert len(speakers(parted.test)) == 1
    assert speakers(parted.train) >= speakers(parted.valid)
    assert not speakers(parted.train) & speakers(parted.test)
    assert len(parted.train) > len(parted.test)
    assert any("valid set was cut by utterance" in warning for warning in parted.warnings)


def test_the_smallest_speaker_is_taken_when_all_are_large() -> None:
    sizes = {"a": 30, "b": 20, "c": 40}
    everything = [
        utterance(f"{name}{n}", speaker=name) for name, count in sizes.items() for n in range(count)
    ]
    assert speakers(split(everything, test=0.01).test) == {"b"}


def test_two_speakers_fall_back_to_utterances_with_a_warning() -> None:
    parted = split(by_speakers(2, each=50))
    assert parted.by == "utterance"
    assert (len(parted.train), len(parted.valid), len(parted.test)) == (80, 10, 10)
    assert "The test set was cut by utterance, since 2 speakers are left" in parted.warnings[0]


def test_without_speakers_the_warning_says_what_it_means() -> None:
    parted = split([utterance(f"{n}") for n in range(100)])
    assert parted.by == "utterance"
    assert "new speakers will be recognised less well" in parted.warnings[0]


def test_without_speakers_recordings_stay_whole() -> None:
    everything = [
        utterance(f"{r}-{n}", audio=f"/{r}.wav", start=n * 10 * RATE)
        for r in range(20)
        for n in range(10)
    ]
    parted = split(everything)
    assert parted.by == "recording"
    assert {u.audio for u in parted.test}.isdisjoint(u.audio for u in parted.train)
    assert len(parted.test) == len(parted.valid) == 20


def test_neighbouring_stretches_do_not_overlap() -> None:
    everything = [
        utterance("one" if n == 0 else f"{n}", audio="/x.wav", start=n * 7001, seconds=7.001)
        for n in range(50)
    ]
    parted = split(everything)
    assert parted.removed == ()
    assert len(parted.train) + len(parted.valid) + len(parted.test) == 50


def test_given_sets_of_the_corpus_are_kept() -> None:
    everything = by_speakers(10)
    everything += [utterance(f"t{n}", speaker="t", extra={"split": "test"}) for n in range(30)]
    everything += [utterance(f"d{n}", speaker="d", extra={"split": "dev"}) for n in range(30)]
    parted = split(everything)
    assert parted.by == "given"
    assert ids(parted.test) == {f"t{n}" for n in range(30)}
    assert ids(parted.valid) == {f"d{n}" for n in range(30)}
    assert len(parted.train) == 100
    ignored = split(everything, use_given=False)
    assert ignored.by == "speaker"
    assert len(ignored.test) + len(ignored.valid) < 60


def test_a_given_validation_set_is_not_cut_into_the_test_set() -> None:
    everything = by_speakers(5) + [
        utterance(f"d{n}", speaker="s0", extra={"split": "dev"}) for n in range(30)
    ]
    for seed in range(10):
        parted = split(everything, seed=seed)
        assert len(parted.valid) == 30
        assert parted.by == "speaker"
        assert "s0" not in speakers(parted.test)


def test_the_sound_of_a_given_test_set_leaves_the_others() -> None:
    everything = by_speakers(5)
    copy = utterance("elsewhere", audio=everything[0].audio, speaker="s0")
    part = utterance("part", audio=everything[1].audio, seconds=2.0, start=9 * RATE)
    parted = split(everything, test=[copy, part, *(utterance(f"t{n}") for n in range(20))])
    assert ids(parted.removed) == {everything[0].id, everything[1].id}
    assert "elsewhere" in ids(parted.test)
    assert parted.by == "speaker"


def test_copies_are_known_by_their_sound() -> None:
    everything = by_speakers(5)
    test = [utterance("copy", audio="/another/place.wav")]
    names = {everything[7].audio: "same", "/another/place.wav": "same"}
    parted = split(everything, test=test, sound_of=lambda one: names.get(one.audio, one.audio))
    assert ids(parted.removed) == {everything[7].id}


def test_untranscribed_recordings_of_test_speakers_are_set_aside() -> None:
    everything = by_speakers(10)
    quiet = [utterance(f"q{n}", text=None, speaker=f"s{n}" if n < 10 else None) for n in range(12)]
    parted = split(everything + quiet)
    (test_speaker,) = speakers(parted.test)
    assert speakers(parted.removed) == {test_speaker}
    assert len(parted.unlabelled) == 11
    assert speakers(parted.valid) < speakers(parted.unlabelled)


def test_with_shared_speakers_nothing_is_set_aside() -> None:
    everything = by_speakers(1, each=50)
    parted = split([*everything, utterance("q", text=None, speaker="s0")])
    assert ids(parted.unlabelled) == {"q"}
    assert parted.removed == ()


def test_a_whole_recording_around_a_test_stretch_is_removed() -> None:
    whole = utterance("whole", text=None, audio="/x.wav", seconds=100.0)
    test = [utterance("part", audio="/x.wav", start=50 * RATE, seconds=3.0)]
    parted = split([whole, *by_speakers(5)], test=test)
    assert ids(parted.removed) == {"whole"}


def test_overlap_of_given_sets_is_resolved_for_the_test_set() -> None:
    shared = utterance("x")
    parted = split(by_speakers(5), test=[shared], valid=[shared, utterance("y")])
    assert (ids(parted.test), ids(parted.valid)) == ({"x"}, {"y"})
    assert any("1 utterances of the valid set were removed" in w for w in parted.warnings)


def test_nothing_is_held_out_when_nothing_is_asked() -> None:
    parted = split(by_speakers(5), valid=0, test=0)
    assert len(parted.train) == 50
    assert parted.valid == parted.test == ()


def test_own_sets_of_the_corpus_are_trained_on_when_none_is_wanted() -> None:
    everything = [utterance(f"d{n}", extra={"split": "test"}) for n in range(5)]
    assert len(split([*everything, utterance("x")], test=0, valid=0).train) == 6


def test_own_sets_of_the_corpus_that_leave_nothing_are_cut_up() -> None:
    everything = by_speakers(10, extra={"split": "dev"})
    parted = split(everything)
    assert parted.by == "speaker"
    assert len(parted.train) == 80
    assert parted.warnings[0].startswith("The corpus's own sets leave nothing to train on")


def test_only_untranscribed_recordings() -> None:
    parted = split([utterance(f"{n}", text=None) for n in range(5)])
    assert len(parted.unlabelled) == 5
    assert parted.warnings == ()


def test_a_single_transcript_is_trained_on() -> None:
    parted = split([utterance("only")])
    assert ids(parted.train) == {"only"}
    assert any("There is no test set" in warning for warning in parted.warnings)


def test_small_sets_are_named() -> None:
    assert any("rough" in warning for warning in split(by_speakers(10, each=1)).warnings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": 1.0}, "test: expected a part of the transcripts from 0 to below 1, found 1"),
        ({"valid": -0.1}, "valid: expected"),
        ({"valid": float("nan")}, "valid: expected"),
        ({"valid": 0.5, "test": 0.5}, "together take 1 of the transcripts"),
        ({"test": ()}, "no transcript among its 0 utterances"),
    ],
)
def test_parts_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(by_speakers(5), **arguments)
