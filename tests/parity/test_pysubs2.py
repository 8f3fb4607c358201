"""Subtitles read back by pysubs2 are those that were written."""

import html

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard.text.subtitles import Segment, to_srt, to_vtt

# Left out, because pysubs2 gives them a meaning of its own: tags and overrides (<, {, \), and
# lines of digits only, which it takes for the number of the next subtitle.
LETTERS = "abc ŋ é ọ́ हि می\u200cخ \u202bو\u202c כ ሰላም &>'-.?!"
TEXTS = st.text(alphabet=LETTERS, min_size=1, max_size=120).filter(lambda text: text.strip(" "))
TIMES = st.tuples(st.floats(0, 3000), st.floats(0.002, 20))


@pytest.mark.parametrize("kind", ["srt", "vtt"])
@given(cues=st.lists(st.tuples(TEXTS, TIMES), max_size=6))
def test_round_trip(kind: str, cues: list[tuple[str, tuple[float, float]]]) -> None:
    segments = [
        Segment(text=text, start_seconds=start, end_seconds=start + length)
        for text, (start, length) in cues
    ]
    written = to_srt(segments) if kind == "srt" else to_vtt(segments)
    events = pysubs2.SSAFile.from_string(written, format_=kind).events
    assert len(events) == len(segments)
    for event, segment in zip(events, segments, strict=True):
        assert event.start == pytest.approx(segment.start_seconds * 1000, abs=0.51)
        assert event.end == pytest.approx(segment.end_seconds * 1000, abs=0.51)
        text = " ".join(event.plaintext.split())
        expected = " ".join(segment.text.split())
        if kind == "srt":
            expected = expected.replace("-->", "->")
        else:
            text = html.unescape(text)
        assert text == expected


def test_control_unescaped_text_is_not_read_back() -> None:
    segment = Segment(text="a <b>c</b>", start_seconds=0, end_seconds=1)
    escaped = pysubs2.SSAFile.from_string(to_vtt([segment]), format_="vtt").events[0].plaintext
    assert html.unescape(escaped) == segment.text
    raw = html.unescape(to_vtt([segment]))
    assert pysubs2.SSAFile.from_string(raw, format_="vtt").events[0].plaintext != segment.text
