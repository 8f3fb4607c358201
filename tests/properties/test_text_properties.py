"""Text: what holds for any text at all."""

import itertools
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unheard.text import normalize
from unheard.text.alphabet import Alphabet
from unheard.text.error_rate import char_errors, score, word_errors
from unheard.text.subtitles import Segment as SubtitleSegment
from unheard.text.subtitles import readable, segments_from_words, to_srt, to_vtt

# Characters whose neighbours matter to a normaliser, among letters of several scripts.
TRICKY = (
    "ab I İ Σ ς ß é e\u0301\u0323\u0308 ŋ ʼ '’`-‐·|_. \u200c\u200d\u200b\u202b\u200f\ufeff"
    "\u00ad\ufe0f\u20e3 हिन्\u0d4d\u09cdد ی \u0640\u0654 ن 한\u1112\u1161 ፡። ՞ ״־ 1 €"
    "\u1fef\u0958 \x00\n\u00a0"
)
ANY_TEXT = st.text(max_size=40) | st.text(alphabet=TRICKY, max_size=40)
TEXT = ANY_TEXT.filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))


@pytest.mark.parametrize("name", normalize.NORMALIZERS)
@given(text=ANY_TEXT)
@example(text="a'\u200cb")
@example(text="ന\u0d4d\u200d'ന")
@example(text="a\u200b\u0301")
@example(text="İ\u094d\u200d")
def test_normalizers_are_idempotent(name: str, text: str) -> None:
    once = normalize.get(name)(text)
    assert normalize.get(name)(once) == once


@pytest.mark.parametrize("name", normalize.NORMALIZERS)
@given(text=ANY_TEXT)
def test_normalizers_do_not_depend_on_composition(name: str, text: str) -> None:
    function = normalize.get(name)
    assert function(unicodedata.normalize("NFD", text)) == function(text)
    assert unicodedata.is_normalized("NFC", function(text))


@given(text=ANY_TEXT)
def test_none_1_keeps_every_visible_character(text: str) -> None:
    kept = "".join(normalize.none_1(text).split())
    assert unicodedata.normalize("NFD", kept) == unicodedata.normalize("NFD", "".join(text.split()))


@given(text=ANY_TEXT)
def test_basic_1_drops_only_what_is_not_spoken(text: str) -> None:
    # All letters, marks and numbers are left, in canonical order.
    def spoken(of: str) -> str:
        kinds = ("L", "N", "Mn", "Mc")
        kept = (
            c
            for c in of
            if unicodedata.category(c).startswith(kinds)
            and c != "\u0640"
            and "VARIATION SELECTOR-" not in unicodedata.name(c, "")
        )
        return unicodedata.normalize("NFD", "".join(kept))

    assert spoken(normalize.basic_1(text)) == spoken(unicodedata.normalize("NFC", text).lower())


@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_alphabet_of_texts_writes_them_back(texts: list[str]) -> None:
    wanted = [normalize.basic_1(text) for text in texts]
    if any(wanted):
        alphabet = Alphabet.from_texts(texts, normalizer="basic-1")
        assert [alphabet.decode(alphabet.encode(text)) for text in wanted] == wanted
        assert Alphabet.from_dict(alphabet.to_dict()) == alphabet


@given(text=TEXT)
def test_collapse_undoes_a_ctc_path(text: str) -> None:
    alphabet = Alphabet.from_texts(["ab", text.replace("|", "")], normalizer="none-1")
    ids = alphabet.encode(text.replace("|", ""))
    path: list[int] = []
    for place, number in enumerate(ids):
        if place and ids[place - 1] == number:
            path.append(alphabet.blank_id)
        path.append(number)
    assert alphabet.collapse(path) == ids
    assert len(path) == alphabet.frames_needed(ids)


def naive_distance(reference: list[str], hypothesis: list[str]) -> int:
    """Edit distance by the textbook table."""
    row = list(range(len(hypothesis) + 1))
    for i, left in enumerate(reference, 1):
        previous, row = row, [i]
        for j, right in enumerate(hypothesis, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (left != right)))
    return row[-1]


@given(reference=st.text("ab é", max_size=15), hypothesis=st.text("ab é", max_size=15))
def test_errors_are_the_edit_distance(reference: str, hypothesis: str) -> None:
    for counts, left, right in (
        (word_errors(reference, hypothesis), reference.split(), hypothesis.split()),
        (char_errors(reference, hypothesis), [*reference.strip()], [*hypothesis.strip()]),
    ):
        assert counts.errors == naive_distance(left, right)
        assert counts.hits + counts.substitutions + counts.deletions == len(left)
        assert counts.hits + counts.substitutions + counts.insertions == len(right)


@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_intervals_are_ordered_and_finite(pairs: list[tuple[str, str]], seed: int) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    report = score(references, hypotheses, resamples=20, seed=seed)
    for rate in (report.wer, report.cer):
        assert 0 <= rate.low <= rate.high < float("inf")
        each = [
            getattr(u, "words" if rate is report.wer else "characters") for u in report.utterances
        ]
        assert rate.counts.errors == sum(counts.errors for counts in each)


@given(st.lists(st.tuples(TEXT, st.floats(0, 3), st.floats(0, 9)), max_size=12))
def test_subtitles_hold_every_word_once_in_order(words: list[tuple[str, float, float]]) -> None:
    start, timed = 0.0, []
    for text, pause, length in words:
        start += pause
        timed.append(SubtitleSegment(text=text, start_seconds=start, end_seconds=start + length))
        start += length
    segments = segments_from_words(timed)
    joined = " ".join(segment.text for segment in segments)
    parts = (segments_from_words([word]) for word in timed)
    assert joined == " ".join(part[0].text for part in parts if part)
    for write in (to_srt, to_vtt):
        written = write(segments)
        assert written.count("-->") == len(segments)
        assert "\n\n\n" not in written
        blocks = written.removeprefix("WEBVTT\n\n").removeprefix("WEBVTT\n").split("\n\n")
        assert len([block for block in blocks if block]) == len(segments)


SPOKEN = st.text(alphabet="abñ.?,ŋ", min_size=1, max_size=14)


@given(
    words=st.lists(
        st.tuples(SPOKEN, st.floats(0, 1.2), st.floats(0.02, 2.5)), min_size=1, max_size=60
    ),
    tail=st.floats(0, 3),
    seconds=st.floats(1, 8),
    separator=st.sampled_from(["", " "]),
)
def test_subtitles_are_short_apart_and_inside_the_recording(
    words: list[tuple[str, float, float]], tail: float, seconds: float, separator: str
) -> None:
    start, timed = 0.0, []
    for text, silence, length in words:
        start += silence
        timed.append(SubtitleSegment(text=text, start_seconds=start, end_seconds=start + length))
        start += length
    spoken = segments_from_words(timed, max_seconds=seconds, separator=separator)
    assert separator.join(s.text for s in spoken) == separator.join(text for text, _, _ in words)
    alone = {word.text for word in timed}
    for segment in spoken:
        if segment.text not in alone:
            assert segment.end_seconds - segment.start_seconds <= seconds
            assert len(segment.text) <= (84 if separator else 42)
    shown = readable(spoken, until_seconds=start + tail)
    assert [segment.text for segment in shown] == [segment.text for segment in spoken]
    for said, segment in zip(spoken, shown, strict=True):
        # Nothing is shown before it is said, or goes before it was.
        assert abs(segment.start_seconds - said.start_seconds) <= 0.002
        assert segment.end_seconds >= said.end_seconds - 0.002
        assert segment.end_seconds <= start + tail + 0.002
        room = max(1.0, len(said.text) / 17) + said.start_seconds
        assert segment.end_seconds <= max(said.end_seconds, room) + 0.002
    for one, following in itertools.pairwise(shown):
        assert one.start_seconds < one.end_seconds <= following.start_seconds
    for write in (to_srt, to_vtt):
        times = re.findall(r"(\d+):(\d+):(\d+)[.,](\d+)", write(shown))
        clock = [((int(h) * 60 + int(m)) * 60 + int(s)) * 1000 + int(ms) for h, m, s, ms in times]
        assert clock == sorted(clock)
        lines = [line for line in write(shown).splitlines() if "-->" not in line]
        assert max(map(len, lines)) <= 42
