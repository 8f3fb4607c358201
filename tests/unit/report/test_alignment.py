import pytest

from unheard.report import alignment
from unheard.report.markup import Html


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("abc", ["a", "b", "c"]),
        ("e\u0301a", ["e\u0301", "a"]),
        ("बाज़ार", ["बा", "ज़ा", "र"]),
        ("می‌کنند", ["م", "ی‌", "ک", "ن", "ن", "د"]),
        ("\u0301a", ["\u0301", "a"]),
        ("", []),
    ],
)
def test_clusters(text: str, cut: list[str]):
    assert alignment.clusters(text) == cut
    assert "".join(cut) == text


def test_confusions_are_counted_by_kind():
    counted = alignment.count_confusions(
        [("mama yetu", "nama yetu"), ("mama", "nama"), ("kalamu", "kalmu"), ("a", "ab")]
    )
    assert counted[0] == ("m", "n", 2)
    assert set(counted[1:]) == {("a", "", 1), ("", "b", 1)}
    assert [alignment.kind_of(c) for c in counted] == ["replace", "insert", "delete"]


def test_marks_show_each_side_whole():
    edits = alignment.align("kalamu", "kalmux")
    reference = alignment.mark(edits, side="reference")
    hypothesis = alignment.mark(edits, side="hypothesis")
    assert reference == "kal<del>a</del>mu"
    assert hypothesis == "kalmu<ins>x</ins>"
    assert isinstance(reference, Html)


def test_marks_escape_hostile_text():
    edits = alignment.align("<b>", "<i>")
    for side in ("reference", "hypothesis"):
        marked = alignment.mark(edits, side=side)
        assert "<b>" not in marked
        assert "<i>" not in marked
        assert "<mark>" in marked
