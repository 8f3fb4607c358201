"""Whatever the corpus, the sets share no speaker and no sound, and nothing gets lost."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from unheard.data.manifest import Utterance
from unheard.data.split import Split, split

RATE = 100


ROWS = st.tuples(
    st.integers(0, 12),
    st.integers(0, 500),
    st.integers(1, 500),
    st.sampled_from(["x", "y", None]),
    st.sampled_from(["a", "b", "c", "d", "e", None]),
    st.sampled_from([{}, {}, {}, {"split": "test"}, {"split": "train"}]),
)


def corpora() -> st.SearchStrategy[list[Utterance]]:
    return st.lists(ROWS, min_size=1, max_size=30).map(
        lambda rows: [
            Utterance(
                id=f"u{number}",
                audio=f"/{recording}.wav",
                start=start,
                num_samples=length,
                sample_rate=RATE,
                text=text,
                speaker=speaker,
                extra=extra,
            )
            for number, (recording, start, length, text, speaker, extra) in enumerate(rows)
        ]
    )


def overlap(one: Utterance, other: Utterance) -> bool:
    return (
        one.audio == other.audio
        and one.start < other.start + other.num_samples
        and other.start < one.start + one.num_samples
    )


def summary(parted: Split) -> dict[str, set[str]]:
    sets = {name: {one.id for one in members} for name, members in parted.sets().items()}
    return {**sets, "removed": {one.id for one in parted.removed}}


@given(corpora(), st.integers(0, 5), st.booleans())
@settings(max_examples=60)
def test_sets_are_disjoint_and_complete(
    utterances: list[Utterance], seed: int, use_given: bool
) -> None:
    parted = split(utterances, seed=seed, valid=0.2, test=0.2, use_given=use_given)
    everything = [*parted.train, *parted.valid, *parted.test, *parted.unlabelled, *parted.removed]
    assert Counter(one.id for one in everything) == Counter(one.id for one in utterances)
    held_out = [*parted.valid, *parted.test]
    assert all(one.text is not None for one in [*parted.train, *held_out])
    assert all(one.text is None for one in parted.unlabelled)
    for one in held_out:
        assert not any(overlap(one, other) for other in [*parted.train, *parted.unlabelled])
    for one in parted.test:
        assert not any(overlap(one, other) for other in parted.valid)


@given(corpora(), st.integers(0, 5))
@settings(max_examples=60)
def test_cut_by_speaker_shares_no_speaker(utterances: list[Utterance], seed: int) -> None:
    parted = split(utterances, seed=seed, valid=0.0, test=0.3, use_given=False)
    known = {one.speaker for one in parted.test}
    if parted.by == "speaker":
        assert known
        assert None not in known
        assert known.isdisjoint(one.speaker for one in [*parted.train, *parted.unlabelled])
    elif parted.test:
        assert parted.warnings


@given(corpora(), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_order_of_utterances_does_not_matter(utterances: list[Utterance], random) -> None:
    shuffled = list(utterances)
    random.shuffle(shuffled)
    assert summary(split(utterances)) == summary(split(shuffled))
