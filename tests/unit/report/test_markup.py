import pytest

from unheard.report.markup import Html, escape, join, speech, table, tag


def test_text_and_attributes_are_escaped():
    made = tag("p", '<script>alert("1")</script> & more', at={"title": '"><b>'})
    assert made == (
        '<p title="&quot;&gt;&lt;b&gt;">&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; '
        "&amp; more</p>"
    )


def test_what_was_made_here_is_not_escaped_again():
    assert tag("p", tag("b", "a<b"), None, "c") == "<p><b>a&lt;b</b>c</p>"
    assert join(["<", Html("<br>")]) == "&lt;<br>"


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\x00", "\x1b", "\ud800", "\u2028", "\x9b"])
def test_unseen_characters_become_their_code_points(hidden: str):
    shown = escape(f"a{hidden}b")
    assert shown == f"a⟦U+{ord(hidden):04X}⟧b"
    shown.encode("utf-8")


@pytest.mark.parametrize("kept", ["می\u200cکنند", "क्\u200dष", "a\nb\tc", "ñ́", "ልጆቹ"])
def test_letters_and_joiners_of_real_scripts_stay(kept: str):
    assert escape(kept) == kept


def test_attribute_names_and_void_elements():
    assert tag("br") == "<br>"
    assert tag("a", at={"href": None, "hidden": "", "width": 2.5}) == '<a hidden width="2.5"></a>'
    with pytest.raises(ValueError, match="attribute name"):
        tag("p", at={'x" onclick="y': "z"})


def test_speech_is_isolated_and_takes_only_language_tags():
    assert speech("مادر", language="fa") == ('<bdi dir="auto" lang="fa" class="speech">مادر</bdi>')
    assert "lang" not in speech("a", language='x" onload="y')


def test_table_marks_numeric_columns():
    made = table(("name", "count"), [("a<", "1")], numeric=(1,))
    assert '<td class="number">1</td>' in made
    assert "<td>a&lt;</td>" in made
