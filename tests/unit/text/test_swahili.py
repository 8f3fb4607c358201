"""The sentence maker of the demonstration corpus keeps the grammar's rules."""

import numpy as np
import pytest

from unheard.text import swahili


def test_sentences_are_distinct_and_repeatable() -> None:
    first = swahili.sentences(300, generator=np.random.default_rng(5))
    assert first == swahili.sentences(300, generator=np.random.default_rng(5))
    assert first != swahili.sentences(300, generator=np.random.default_rng(6))
    assert len(set(first)) == 300
    for text in first:
        assert text[0].isupper()
        assert text[-1] in ".?"
        assert "  " not in text
        assert set(text.lower()) <= set("abcdefghijklmnoprstuvwyz' ,.?")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "saba"),
        (10, "kumi"),
        (21, "ishirini na moja"),
        (110, "mia moja na kumi"),
        (305, "mia tatu na tano"),
        (354, "mia tatu hamsini na nne"),
        (900, "mia tisa"),
    ],
)
def test_numbers(value: int, words: str) -> None:
    assert swahili.number(value) == words


@pytest.mark.parametrize(
    ("stem", "forms"),
    [
        ("zuri", "mzuri wazuri mzuri mizuri zuri mazuri kizuri vizuri nzuri nzuri"),
        ("refu", "mrefu warefu mrefu mirefu refu marefu kirefu virefu ndefu ndefu"),
        ("pya", "mpya wapya mpya mipya jipya mapya kipya vipya mpya mpya"),
        ("eupe", "mweupe weupe mweupe myeupe jeupe meupe cheupe vyeupe nyeupe nyeupe"),
    ],
)
def test_adjectives_agree_with_all_ten_classes(stem: str, forms: str) -> None:
    assert [swahili.adjective(stem, number) for number in range(1, 11)] == forms.split()


@pytest.mark.parametrize(
    ("subject", "tense", "stem", "negative", "form"),
    [
        ("a", "na", "soma", False, "anasoma"),
        ("wa", "li", "enda", False, "walikwenda"),
        ("ni", "ta", "ja", False, "nitakuja"),
        ("ni", "li", "soma", True, "sikusoma"),
        ("a", "li", "enda", True, "hakwenda"),
        ("wa", "li", "ja", True, "hawakuja"),
        ("tu", "ta", "soma", True, "hatutasoma"),
        ("a", "ta", "enda", True, "hatakwenda"),
    ],
)
def test_verbs(subject: str, tense: str, stem: str, negative: bool, form: str) -> None:
    assert swahili.verb(subject, tense, stem, negative=negative) == form
