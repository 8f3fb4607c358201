"""Normalisers: each rule on real text of the languages it is for."""

import sys
import unicodedata

import pytest

from unheard.errors import ConfigError
from unheard.text import normalize

BASIC_1 = {
    "luganda apostrophe": (
        "Tugende e Makindye tulabe abayimbi n'abazannyi.",
        "tugende e makindye tulabe abayimbi n'abazannyi",
    ),
    "luganda typographic apostrophe": ("n’abazannyi ng’ombe", "n'abazannyi ng'ombe"),
    "luganda eng": ("Ŋŋenda kuyita ku nyaffe!", "ŋŋenda kuyita ku nyaffe"),
    "luganda underscore": ("ekitabo_kino", "ekitabo kino"),
    "amharic word space and full stop": ("ሰላም፡ለዓለም።", "ሰላም ለዓለም"),
    "amharic spaces": ("ኢትዮጵያ  ወደቡ\tን ", "ኢትዮጵያ ወደቡ ን"),
    "wolof": ("Nanga ma ko Fàttali, ñówul; ëllëg góor!", "nanga ma ko fàttali ñówul ëllëg góor"),
    "persian half-space": ("می\u200cخواهم بروم.", "می\u200cخواهم بروم"),
    "persian doubled and outer half-spaces": ("\u200cمی\u200c\u200cروم\u200c .", "می\u200cروم"),
    "persian and arabic letters stay": ("علي علی كتاب کتاب؟", "علي علی كتاب کتاب"),
    "persian hamza above": ("خانهٔ ما", "خان\u06c0 ما".replace("\u06c0", "ه\u0654")),
    "hindi": ("हिन्दी भाषा।", "हिन्दी भाषा"),
    "hindi nukta": ("क़लम ज़रा", "क\u093cलम ज\u093cरा"),
    "bengali joiner before virama": ("র\u200d\u09cdযাব", "র\u200d\u09cdযাব"),
    "malayalam chillu": ("അവന\u0d4d\u200d വന്നു", "അവന\u0d4d\u200d വന്നു"),
    "sinhala conjunct": ("ශ\u0dca\u200dරී ලංකා", "ශ\u0dca\u200dරී ලංකා"),
    "burmese locative is read aloud": ("ရန်ကုန်၌ နေသည်။", "ရန်ကုန်၌ နေသည်"),
    "yoruba decomposed": (
        "O\u0323mo\u0323\u0301 ilé-è\u0323kó\u0323",
        "\u1ecdm\u1ecd\u0301 ilé-\u1eb9\u0300k\u1ecd\u0301",
    ),
    "vietnamese": ("Tiếng Việt, được không?", "tiếng việt được không"),
    "vietnamese decomposed": (unicodedata.normalize("NFD", "Tiếng Việt"), "tiếng việt"),
    "arabic harakat": ("كَتَبَ الوَلَدُ، الدَّرْسَ.", "كَتَبَ الوَلَدُ الدَّرْسَ"),
    "arabic tatweel": ("مـــرحبا", "مرحبا"),
    "hausa hooked letters, initial apostrophe": ("'yan ƙasa ɗan", "yan ƙasa ɗan"),
    "hawaiian okina is a letter": ("Hawaiʻi ʻōlelo", "hawaiʻi ʻōlelo"),
    "modifier apostrophe is a letter": ("mʼaza ʼa", "mʼaza ʼa"),
    "khoekhoe clicks are letters": ("ǃGâ ǀkhī!", "ǃgâ ǀkhī"),
    "chinantec tone letters": ("gaˊ hiˉ", "gaˊ hiˉ"),
    "ipa tone bars": ("ma˥˩", "ma˥˩"),
    "catalan middle dot": ("col·lega · fi", "col·lega fi"),
    "hebrew maqaf, gershayim": ("בית־ספר צה״ל", "בית־ספר צה״ל"),
    "armenian question mark within a word": ("Ինչո՞ւ։", "ինչու"),
    "german sharp s": ("Große STRAẞE", "große straße"),
    "greek final sigma": ("ΟΔΟΣ, Σ", "οδος σ"),
    "turkish dotted capital": ("İstanbul IŞIK", "i\u0307stanbul işik"),
    "hyphens": ("well‐known -- a-b- -c a–b 'tis dogs'", "well-known a-b c a b tis dogs"),
    "quotes": ("“n‘a” «b» ‘c’ it`s", "n'a b c it's"),
    "digits": ("Mu 2024, 3.5 ١٢ ፲፪", "mu 2024 3 5 ١٢ ፲፪"),
    "symbols": ("5€ a+b=c 100% @me #x a|b", "5 a b c 100 me x a b"),
    "invisible": ("\ufeffa\u200bb\u00adc\u200e \u202bd\u202c \u2066e\u2069\u061c", "abc d e"),
    "emoji": ("a 👩\u200d👩\u200d👧 ❤\ufe0f 1\ufe0f\u20e3 b", "a 1 b"),
    "controls and surrogates": ("a\x00b\x07 \ud800c\nd\x85e\u00a0f", "ab c d e f"),
    "only punctuation": (" … — '’' ", ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("given", "expected"), BASIC_1.values(), ids=BASIC_1)
def test_basic_1(given: str, expected: str) -> None:
    assert normalize.basic_1(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  A\u00a0 b\n\u2028c ", "A b c"),
        ("e\u0301 क़", "é क\u093c"),
        (
            "N’a | “x” 👍\ufe0f \u202ba\u202c\u200b\u200d",
            "N’a | “x” 👍\ufe0f \u202ba\u202c\u200b\u200d",
        ),
    ],
)
def test_none_1_changes_only_composition_and_white_space(given: str, expected: str) -> None:
    assert normalize.none_1(given) == expected


def test_basic_1_keeps_every_letter_mark_and_number() -> None:
    changed = []
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kept = unicodedata.category(character) in (
            "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Nl", "No",
        )  # fmt: skip
        selector = "VARIATION SELECTOR-" in unicodedata.name(character, "")
        if kept and not selector and character != "\u0640":
            composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", character).lower())
            if normalize.basic_1(character) != composed:
                changed.append(character)
    assert changed == []


@pytest.mark.parametrize("name", normalize.NORMALIZERS)
def test_each_character_is_settled_at_once(name: str) -> None:
    function = normalize.get(name)
    unsettled = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if function(once := function(f"a{chr(code)}b {chr(code)}")) != once
    ]
    assert unsettled == []


def test_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r'found "basic1"\. Did you mean "basic-1"\?'):
        normalize.get("basic1")


def test_every_normalizer_says_what_it_does() -> None:
    assert all(len(function.__doc__ or "") > 100 for function in normalize.NORMALIZERS.values())
