"""Subtitles: where they break, and how they are written."""

import itertools
from dataclasses import dataclass

import pytest

from unheard.errors import ConfigError
from unheard.text.subtitles import (
    Segment,
    readable,
    segments_from_words,
    to_srt,
    to_vtt,
)


@dataclass(frozen=True)
class Word:
    text: str
    start_seconds: float
    end_seconds: float


def make_words(text: str, *, seconds: float = 0.5, gap: float = 0.1) -> list[Word]:
    """One word after the other, each of the same length."""
    step = seconds + gap
    return [
        Word(word, place * step, place * step + seconds) for place, word in enumerate(text.split())
    ]


def make_segment(text: str, start: float = 0.0, end: float = 1.0) -> Segment:
    return Segment(text=text, start_seconds=start, end_seconds=end)


def test_words_join_until_a_pause() -> None:
    words = [Word("tugende", 0, 0.5), Word("e", 0.6, 0.7), Word("makindye", 1.3, 1.9)]
    segments = segments_from_words(words)
    assert [segment.text for segment in segments] == ["tugende e", "makindye"]
    assert (segments[0].start_seconds, segments[0].end_seconds) == (0, 0.7)
    assert len(segments_from_words(words, pause_seconds=0.7)) == 1


def test_a_subtitle_is_never_too_long() -> None:
    words = make_words("okulya ebinyeebwa " * 20)
    by_time = segments_from_words(words, max_seconds=2)
    assert max(s.end_seconds - s.start_seconds for s in by_time) <= 2
    by_text = segments_from_words(words, max_characters=20)
    assert {len(s.text) for s in by_text} == {17}
    assert " ".join(s.text for s in by_text) == " ".join(word.text for word in words)


def test_a_long_word_stands_alone() -> None:
    words = [Word("a", 0, 0.1), Word("b" * 50, 0.1, 20), Word("c", 20, 20.1)]
    segments = segments_from_words(words, max_characters=10)
    assert [s.text for s in segments] == ["a", "b" * 50, "c"]


def test_words_without_visible_characters_are_left_out() -> None:
    words = [Word("a", 0, 1), Word(" \n\u00a0", 1, 2), Word("b\nc", 2, 3)]
    assert [s.text for s in segments_from_words(words)] == ["a", "b c"]
    assert segments_from_words([]) == []


def test_scripts_without_spaces_join_without_one() -> None:
    words = [Word("สวัส", 0, 1), Word("ดี", 1, 2), Word("ครับ", 2, 3)]
    segments = segments_from_words(words, separator="", max_characters=6)
    assert [s.text for s in segments] == ["สวัสดี", "ครับ"]


def test_overlapping_words_keep_the_later_end() -> None:
    segments = segments_from_words([Word("a", 0, 2), Word("b", 1, 1.5)])
    assert segments == [make_segment("a b", 0, 2)]


@pytest.mark.parametrize(
    "name", ["max_seconds", "max_characters", "line_characters", "pause_seconds"]
)
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is out of range"):
        segments_from_words([], **{name: 0})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("start", "end"), [(1, 0), (-1, 0), (float("nan"), 1), (0, float("nan")), (0, float("inf"))]
)
def test_impossible_times_are_refused(start: float, end: float) -> None:
    with pytest.raises(ConfigError, match="out of order"):
        make_segment("a", start, end)
    with pytest.raises(ConfigError, match="out of order"):
        segments_from_words([Word("a", start, end)])


def test_srt_as_text() -> None:
    segments = [make_segment("ŋŋenda", 0, 1.2346), make_segment("b", 3661.5, 36000.0)]
    assert to_srt(segments) == (
        "1\n00:00:00,000 --> 00:00:01,235\nŋŋenda\n\n2\n01:01:01,500 --> 10:00:00,000\nb\n"
    )
    assert to_srt([]) == ""


def test_vtt_as_text() -> None:
    assert to_vtt([make_segment("a & <b> --> c", 59.9999, 59.9999)]) == (
        "WEBVTT\n\n00:01:00.000 --> 00:01:00.001\na &amp; &lt;b&gt; --&gt; c\n"
    )
    assert to_vtt([]) == "WEBVTT\n"


def test_srt_text_cannot_look_like_a_time_line() -> None:
    assert to_srt([make_segment("a --> b")]).count("-->") == 1
    assert to_vtt([make_segment("a --> b")]).count("-->") == 1


@pytest.mark.parametrize("write", [to_srt, to_vtt])
def test_line_breaks_and_controls_cannot_end_a_subtitle(write) -> None:
    text = "a\n\nb\r\n\u2028c\x00\x1bd\x85e"
    assert write([make_segment(text)]).endswith("\na b c d e\n")
    assert write([make_segment("\u00a0\n\n")]) == write([])


@pytest.mark.parametrize("write", [to_srt, to_vtt])
def test_right_to_left_text_and_joiners_stay_byte_exact(write) -> None:
    text = "\u202bمی\u200cخواهم\u202c כן\u200f हिन्दी a\u00a0b"
    assert text in write([make_segment(text)])


def test_lines_break_between_words() -> None:
    text = "okulya ebinyeebwa-ebisiike " * 3
    lines = to_srt([make_segment(text)], line_characters=30).splitlines()[2:]
    assert lines == ["okulya ebinyeebwa-ebisiike"] * 3
    assert len(to_srt([make_segment(text)], line_characters=None).splitlines()) == 3
    with pytest.raises(ConfigError, match="line_characters"):
        to_srt([make_segment("a")], line_characters=0)


def test_subtitles_end_where_sentences_and_clauses_do() -> None:
    text = "Tugende e Makindye. Ennaku zino, mpulira njagala nnyo okulya ebinyeebwa ebisiike bwe"
    segments = segments_from_words(make_words(text, seconds=0.4, gap=0.05), max_seconds=3)
    assert [segment.text for segment in segments] == [
        "Tugende e Makindye.",
        "Ennaku zino, mpulira njagala nnyo okulya",
        "ebinyeebwa ebisiike bwe",
    ]
    quoted = [Word("a.”", 0, 1), Word("b", 1.1, 2.5)]
    assert [segment.text for segment in segments_from_words(quoted)] == ["a.”", "b"]


def test_without_punctuation_the_longest_silence_ends_a_subtitle() -> None:
    words = [Word("word", 0.5 * place, 0.5 * place + 0.4) for place in range(12)]
    later = [
        Word(word.text, word.start_seconds + 0.3, word.end_seconds + 0.3) for word in words[5:]
    ]
    segments = segments_from_words([*words[:5], *later], max_seconds=5)
    assert [segment.text.count("word") for segment in segments] == [5, 7]


def test_subtitles_stay_long_enough_to_be_read() -> None:
    spoken = [
        make_segment("a", 1.0, 1.2),
        make_segment("b" * 34, 3.0, 3.5),
        make_segment("c" * 34, 4.0, 5.0),
        make_segment("d", 9.5, 9.6),
    ]
    shown = readable(spoken, until_seconds=10.0)
    assert [(one.start_seconds, one.end_seconds) for one in shown] == [
        (1.0, 2.0),  # a second
        (3.0, 3.92),  # two seconds are wanted, less the gap before the next
        (4.0, 6.0),  # 34 characters at 17 a second
        (9.5, 10.0),  # up to the end of the recording
    ]
    assert readable([]) == []


def test_subtitles_that_overlap_are_cut() -> None:
    shown = readable([make_segment("a", 0, 3), make_segment("b", 1, 2), make_segment("c", 1, 2)])
    times = [(one.start_seconds, one.end_seconds) for one in shown]
    assert times == sorted(times)
    for (_, end), (start, _) in itertools.pairwise(times):
        assert end <= start


def test_two_lines_are_about_as_long() -> None:
    text = "ennaku zino mpulira njagala nnyo okulya ebinyeebwa"
    assert to_srt([make_segment(text)]).splitlines()[2:] == [
        "ennaku zino mpulira njagala",
        "nnyo okulya ebinyeebwa",
    ]
