"""Utterances out of a long recording: where they end, and what is left out."""

import pytest

from unheard.decoding.cutting import CutLimits, Cuts, cut
from unheard.decoding.spans import MissingWord, Span, TimedText
from unheard.errors import ConfigError

WORD_SECONDS = 0.4
LIMITS = CutLimits(min_confidence=0.3, min_seconds=0.5, max_seconds=5.0)


def span(text: str, start: float, end: float, confidence: float = 0.9) -> Span:
    return Span(text=text, start_seconds=start, end_seconds=end, confidence=confidence)


def timed(
    starts: list[list[float]],
    *,
    stars: list[tuple[float, float]] | None = None,
    missing: tuple[int, ...] = (),
    unsure: tuple[int, ...] = (),
) -> TimedText:
    """Sentences of words that start at these times; numbers of missing words are left out."""
    total = sum(map(len, starts)) + len(missing)
    indices = [index for index in range(total) if index not in missing]
    numbers = iter(indices)
    sentences = []
    for sentence in starts:
        words = []
        for start in sentence:
            index = next(numbers)
            confidence = 0.1 if index in unsure else 0.9
            words.append(span(f"w{index}", start, start + WORD_SECONDS, confidence))
        sentences.append(
            Span(
                text="s",
                start_seconds=words[0].start_seconds,
                end_seconds=words[-1].end_seconds,
                confidence=0.9,
                parts=tuple(words),
            )
        )
    return TimedText(
        sentences=tuple(sentences),
        stars=tuple(span("*", *one) for one in stars or ()),
        missing=tuple(MissingWord(text="m", index=index) for index in missing),
        indices=tuple(indices),
        score=0.0,
    )


def run(text: TimedText, *, duration: float = 60.0, limits: CutLimits = LIMITS) -> Cuts:
    cuts = cut(text, duration_seconds=duration, separator=" ", limits=limits)
    # Whatever happens: every word is accounted for, and utterances do not overlap.
    left_out = cuts.words_missing + cuts.words_unsure + cuts.words_short
    assert cuts.words_kept + left_out == cuts.words
    ends = 0.0
    for piece in cuts.pieces:
        assert ends <= piece.start_seconds < piece.end_seconds <= duration
        assert limits.min_seconds <= piece.end_seconds - piece.start_seconds
        assert piece.end_seconds - piece.start_seconds <= limits.max_seconds + 1e-9
        ends = piece.end_seconds
    return cuts


def test_words_that_follow_each_other_are_an_utterance() -> None:
    cuts = run(timed([[1.0, 1.5], [2.0, 2.5]]))
    (piece,) = cuts.pieces
    assert piece.text == "w0 w1 w2 w3"
    assert (piece.start_seconds, piece.end_seconds) == pytest.approx((0.8, 3.1))
    assert (piece.first_word, piece.words) == (0, 4)
    assert piece.confidence == pytest.approx(0.9)
    assert cuts.kept_seconds == pytest.approx(2.3)


def test_silence_is_shared_and_ends_with_the_recording() -> None:
    text = timed([[0.05, 0.5]], stars=[(1.0, 2.0)])
    (piece,) = run(text, duration=2.0).pieces
    assert (piece.start_seconds, piece.end_seconds) == pytest.approx((0.0, 0.95))
    (piece,) = run(timed([[0.05, 0.5]]), duration=1.0).pieces
    assert piece.end_seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    "change",
    [{"missing": (2,)}, {"unsure": (2,)}, {"stars": [(2.0, 2.5)]}],
    ids=["missing", "unsure", "sound"],
)
def test_an_utterance_ends_where_something_does_not_match(change: dict) -> None:
    starts = [[1.0, 1.5, 2.5, 3.0]] if "unsure" not in change else [[1.0, 1.5, 2.0, 2.5, 3.0]]
    cuts = run(timed(starts, **change))
    expected = ["w0 w1", "w2 w3"] if "stars" in change else ["w0 w1", "w3 w4"]
    assert [piece.text for piece in cuts.pieces] == expected
    assert cuts.words_missing == len(change.get("missing", ()))
    assert cuts.words_unsure == len(change.get("unsure", ()))
    assert cuts.sound_seconds == pytest.approx(0.5 if "stars" in change else 0)


def test_a_breath_does_not_end_an_utterance() -> None:
    assert len(run(timed([[1.0, 1.8]], stars=[(1.5, 1.6)])).pieces) == 1


def test_a_long_stretch_is_cut_at_pauses_and_ends_of_sentences() -> None:
    # Pauses of 0.1 s, one of 0.3 s within a sentence, and one of 0.2 s at its end.
    sentence = [0.5 * place for place in range(8)]
    first = [start + (0.2 if place >= 3 else 0) for place, start in enumerate(sentence)]
    second = [first[-1] + WORD_SECONDS + 0.2 + start for start in sentence]
    cuts = run(timed([first, second]))
    assert [piece.words for piece in cuts.pieces] == [8, 8]
    # Without a sentence's end in sight, the longer pause it is.
    cuts = run(timed([first]), limits=CutLimits(min_seconds=0.5, max_seconds=3.0))
    assert [piece.words for piece in cuts.pieces] == [3, 5]


def test_crumbs_and_stuck_words_are_left_out() -> None:
    cuts = run(timed([[1.0], [5.0, 5.5, 6.0]], stars=[(2.0, 3.0)]))
    assert [piece.text for piece in cuts.pieces] == ["w1 w2 w3"]
    assert cuts.words_short == 1
    stuck = TimedText(
        sentences=(Span(text="s", start_seconds=0, end_seconds=9, confidence=1,
                        parts=(span("a", 0, 9), span("b", 9.1, 9.5), span("c", 9.6, 10.5))),),
        stars=(),
        missing=(),
        indices=(0, 1, 2),
        score=0.0,
    )  # fmt: skip
    cuts = run(stuck)
    assert [piece.text for piece in cuts.pieces] == ["b c"]
    assert cuts.words_unsure == 1


def test_every_limit_is_checked() -> None:
    for limits in (
        {"min_confidence": 1.5},
        {"min_seconds": 0.0},
        {"min_seconds": 9.0, "max_seconds": 5.0},
        {"max_seconds": float("inf")},
    ):
        with pytest.raises(ConfigError, match="limits of utterances"):
            CutLimits(**limits)
