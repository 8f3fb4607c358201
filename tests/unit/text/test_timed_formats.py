"""CTM, TextGrid and EAF: what is written can be read, and is what was meant."""

import datetime
import itertools
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree import ElementTree

import pytest

from unheard.errors import ConfigError
from unheard.text.ctm import to_ctm
from unheard.text.eaf import to_eaf
from unheard.text.textgrid import to_textgrid

DATE = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Timed:
    text: str
    start_seconds: float
    end_seconds: float
    confidence: float = 0.5


WORDS = (Timed("Ẹ̀kọ́", 0.5, 0.8125), Timed('"ni"', 0.8125, 1.0), Timed("<ቃል> & x", 1.25, 2.0, 1.0))


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """A reader of the long form by its own rules: keys with values, strings in doubled quotes."""
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for block in re.split(r"^    item \[\d+\]:\n", text, flags=re.MULTILINE)[1:]:
        name = re.search(r'name = "((?:[^"]|"")*)"', block)
        assert name is not None
        rows = re.findall(
            r'intervals \[\d+\]:\n\s+xmin = (\S+)\n\s+xmax = (\S+)\n\s+text = "((?:[^"]|"")*)"\n',
            block,
        )
        size = re.search(r"intervals: size = (\d+)", block)
        assert size is not None
        assert int(size[1]) == len(rows)
        tiers[name[1].replace('""', '"')] = [
            (float(start), float(end), value.replace('""', '"')) for start, end, value in rows
        ]
    return tiers


def test_ctm_is_one_word_a_line() -> None:
    assert to_ctm(WORDS, recording="my talk") == (
        "my_talk 1 0.500 0.312 Ẹ̀kọ́ 0.5000\n"
        'my_talk 1 0.812 0.188 "ni" 0.5000\n'
        "my_talk 1 1.250 0.750 <ቃል>_&_x 1.0000\n"
    )
    assert to_ctm([], recording="a") == ""


def test_ctm_durations_join_up() -> None:
    """Rounded starts and ends meet where the times did."""
    words = [Timed(str(one), one / 3, (one + 1) / 3) for one in range(50)]
    rows = [line.split() for line in to_ctm(words, recording="a").splitlines()]
    for before, after in itertools.pairwise(rows):
        assert round(1000 * (float(before[2]) + float(before[3]))) == round(1000 * float(after[2]))


def test_a_textgrid_covers_the_recording() -> None:
    text = to_textgrid({"words": WORDS, 'say "x"': WORDS[:1]}, duration_seconds=2.5)
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\n')
    tiers = read_textgrid(text)
    assert tiers["words"] == [
        (0, 0.5, ""),
        (0.5, 0.8125, "Ẹ̀kọ́"),
        (0.8125, 1.0, '"ni"'),
        (1.0, 1.25, ""),
        (1.25, 2.0, "<ቃል> & x"),
        (2.0, 2.5, ""),
    ]
    assert tiers['say "x"'][-1] == (0.8125, 2.5, "")


def test_intervals_of_a_textgrid_never_overlap_nor_vanish() -> None:
    spans = (Timed("a", 0.0, 0.0), Timed("b", 0.0, 0.3), Timed("c", 0.2, 0.4), Timed("d", 1.0, 1.0))
    rows = read_textgrid(to_textgrid({"words": spans}, duration_seconds=1.0))["words"]
    assert [text for _, _, text in rows if text] == ["a", "b", "c", "d"]
    assert rows[0][0] == 0
    assert all(end == start for (_, end, _), (start, _, _) in itertools.pairwise(rows))
    assert all(end - start > 0.0009 for start, end, _ in rows)
    assert rows[-1][1] == pytest.approx(1.001)
    assert read_textgrid(to_textgrid({"words": ()}, duration_seconds=3.0)) == {
        "words": [(0, 3, "")]
    }


def test_a_textgrid_needs_tiers_in_order() -> None:
    with pytest.raises(ConfigError, match="at least one tier"):
        to_textgrid({}, duration_seconds=1.0)
    with pytest.raises(ConfigError, match='tier "words" are out of order'):
        to_textgrid({"words": WORDS[::-1]}, duration_seconds=3.0)


def test_an_eaf_document_has_tiers_within_tiers() -> None:
    sentence = Timed("Ẹ̀kọ́ \x00\x0b\ufffe<ni>.", 0.5, 2.0)
    text = to_eaf(
        {"sentences": (sentence,), "words": WORDS},
        recording=PurePosixPath("/a b/ẹ&.wav"),
        date=DATE,
    )
    document = ElementTree.fromstring(text.encode())
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT')
    assert document.get("DATE") == "2026-11-20T00:00:00+00:00"
    media = document.find("HEADER/MEDIA_DESCRIPTOR")
    assert media is not None
    assert media.get("MEDIA_URL") == "file:///a%20b/%E1%BA%B9%26.wav"
    assert media.get("RELATIVE_MEDIA_URL") == "./%E1%BA%B9%26.wav"
    assert media.get("MIME_TYPE") == "audio/x-wav"
    times = {
        slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "-1"))
        for slot in document.iterfind("TIME_ORDER/TIME_SLOT")
    }
    found = {}
    for tier in document.iterfind("TIER"):
        found[tier.get("TIER_ID")] = [
            (
                times[one.get("TIME_SLOT_REF1")],
                times[one.get("TIME_SLOT_REF2")],
                one.findtext("ANNOTATION_VALUE"),
            )
            for one in tier.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION")
        ]
    assert found["sentences"] == [(500, 2000, "Ẹ̀kọ́ <ni>.")]
    assert found["words"] == [(500, 812, "Ẹ̀kọ́"), (812, 1000, '"ni"'), (1250, 2000, "<ቃል> & x")]
    types = {one.get("LINGUISTIC_TYPE_ID"): one for one in document.iterfind("LINGUISTIC_TYPE")}
    tiers = {tier.get("TIER_ID"): tier for tier in document.iterfind("TIER")}
    assert tiers["words"].get("PARENT_REF") == "sentences"
    assert types[tiers["words"].get("LINGUISTIC_TYPE_REF")].get("CONSTRAINTS") == "Included_In"
    assert types[tiers["sentences"].get("LINGUISTIC_TYPE_REF")].get("CONSTRAINTS") is None
    ids = [one.get("ANNOTATION_ID") for one in document.iter("ALIGNABLE_ANNOTATION")]
    assert len(set(ids)) == 4
    assert document.findtext("HEADER/PROPERTY") == "4"


def test_annotations_of_an_eaf_document_last_and_do_not_overlap() -> None:
    spans = (Timed("a", 0.1, 0.1), Timed("b", 0.1, 0.2))
    text = to_eaf({"words": spans}, recording=PurePosixPath("/a.flac"), date=DATE)
    document = ElementTree.fromstring(text.encode())
    values = [int(slot.get("TIME_VALUE", "-1")) for slot in document.iter("TIME_SLOT")]
    assert values == [100, 101, 101, 200]
    assert document.find("CONSTRAINT") is None
    with pytest.raises(ConfigError, match="at least one tier"):
        to_eaf({}, recording=PurePosixPath("/a.flac"), date=DATE)
