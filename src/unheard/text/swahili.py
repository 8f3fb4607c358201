"""Swahili sentences from a small grammar, for the demonstration corpus.

Written for this project, word list and rules, so that no text of anybody else is needed. Nouns
agree with their adjectives, possessives, demonstratives, numerals and verbs by class; verbs take
subject, tense and negation. What comes out is plain village and town life: grammatical, of no
great depth, and of a few thousand distinct word forms.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Noun classes by their usual numbers: 1/2 people, 3/4 trees, 5/6 fruit, 7/8 things, 9/10 others.
_PEOPLE = {
    1: """mtoto mwalimu mkulima mvuvi mgeni msichana mvulana mwanamke mwanaume mzee mpishi
        mwanafunzi mfanyabiashara mwimbaji mchezaji mwandishi msafiri fundi daktari rafiki dada
        kaka mama baba bibi babu jirani kijana dereva mchungaji seremala nahodha""",
    2: """watoto walimu wakulima wavuvi wageni wasichana wavulana wanawake wanaume wazee wapishi
        wanafunzi wafanyabiashara waimbaji wachezaji waandishi wasafiri mafundi madaktari marafiki
        majirani vijana madereva wachungaji wazazi""",
}
_THINGS = {
    3: "mti mlango mto mfuko mwavuli mchezo mkeka mlima mji msitu mkate mzigo mtego mwezi",
    4: "miti milango mito mifuko miavuli michezo mikeka milima miji misitu mikate mizigo mitego",
    5: "gari shamba embe chungwa yai soko jiwe tunda gazeti jembe duka sanduku jina dirisha bonde",
    6: """magari mashamba maembe machungwa mayai masoko mawe matunda magazeti majembe maduka
        masanduku majina madirisha mananasi majani""",
    7: """kitabu kiti kikapu kisu kiatu kikombe chakula chombo kijiji kisima kitanda kitambaa
        kilima kijiko kisiwa chumba chungu""",
    8: """vitabu viti vikapu visu viatu vikombe vyakula vyombo vijiji visima vitanda vitambaa
        vilima vijiko visiwa vyumba viazi""",
    9: """nyumba meza barua nguo kalamu sahani ngoma njia hadithi habari kamba picha simu baiskeli
        mashua kofia taa saa""",
    10: """nyumba meza barua nguo kalamu sahani ngoma njia hadithi habari kamba picha simu
        baiskeli kofia taa nyavu ndizi""",
}
_NOUNS = {number: words.split() for number, words in {**_PEOPLE, **_THINGS}.items()}

_SUBJECT = {1: "a", 2: "wa", 3: "u", 4: "i", 5: "li", 6: "ya", 7: "ki", 8: "vi", 9: "i", 10: "zi"}
_CONCORD = {1: "w", 2: "w", 3: "w", 4: "y", 5: "l", 6: "y", 7: "ch", 8: "vy", 9: "y", 10: "z"}
_NEAR = dict(
    zip(range(1, 11), "huyu hawa huu hii hili haya hiki hivi hii hizi".split(), strict=True)
)
_FAR = dict(
    zip(range(1, 11), "yule wale ule ile lile yale kile vile ile zile".split(), strict=True)
)
_POSSESSIVES = ("angu", "ako", "ake", "etu", "enu", "ao")

# Agreement of adjectives; class 5 and 9/10 change the stem, so they are written out.
_PREFIX = {1: "m", 2: "wa", 3: "m", 4: "mi", 6: "ma", 7: "ki", 8: "vi"}
_VOWEL_PREFIX = {
    1: "mw", 2: "w", 3: "mw", 4: "my", 5: "j", 6: "m", 7: "ch", 8: "vy", 9: "ny", 10: "ny",
}  # fmt: skip
# stem: (class 5, class 9/10)
_ADJECTIVES = {
    "kubwa": ("kubwa", "kubwa"),
    "dogo": ("dogo", "ndogo"),
    "zuri": ("zuri", "nzuri"),
    "baya": ("baya", "mbaya"),
    "refu": ("refu", "ndefu"),
    "fupi": ("fupi", "fupi"),
    "pya": ("jipya", "mpya"),
    "zito": ("zito", "nzito"),
    "kavu": ("kavu", "kavu"),
}
_VOWEL_ADJECTIVES = ("eupe", "eusi", "ekundu", "epesi")
_FOR_PEOPLE = ("kubwa", "dogo", "zuri", "refu", "fupi", "pya")
_PLURAL_NUMBERS = {
    2: "wawili watatu wanne watano",
    4: "miwili mitatu minne mitano",
    6: "mawili matatu manne matano",
    8: "viwili vitatu vinne vitano",
    10: "mbili tatu nne tano",
}
_FIXED_NUMBERS = ("sita", "saba", "nane", "tisa", "kumi")

# verb stem -> classes of nouns that suit it as an object, or words of its own
_WITH_OBJECT: dict[str, str | tuple[int, ...]] = {
    "soma": "kitabu barua gazeti hadithi vitabu magazeti habari",
    "andika": "barua jina hadithi kitabu majina habari",
    "pika": "wali ugali samaki ndizi maharage chai nyama viazi mboga chakula",
    "nunua": (4, 6, 7, 8, 10),
    "uza": (4, 6, 8, 10),
    "beba": "mzigo kikapu sanduku maji kuni ndizi mizigo vikapu",
    "ona": (1, 2, 3, 5, 7, 9),
    "tafuta": (1, 2, 5, 7, 8, 9),
    "leta": "maji chai kuni barua kikapu kiti chakula matunda mayai maziwa",
    "penda": (1, 2, 4, 9),
    "osha": "vyombo nguo sahani vikombe gari mikono",
    "lima": "shamba mashamba",
    "panda": "miti mahindi maharage mpunga viazi",
    "vuna": "mahindi mpunga maembe machungwa kahawa",
    "jenga": "nyumba shule daraja kisima duka",
    "tengeneza": "kiti meza baiskeli gari mashua kikapu taa viti",
    "fungua": "mlango dirisha duka sanduku kitabu barua",
    "funga": "mlango dirisha duka mzigo milango",
    "saidia": (1, 2),
    "fundisha": (2,),
    "chora": "picha nyumba mti samaki ndege",
    "sikiliza": "habari hadithi ngoma redio",
    "uliza": (1, 2),
    "ngoja": (1, 2, 5),
    "pokea": (1, 2, 9),
    "hesabu": "mbuzi kuku mayai pesa ng'ombe magari",
    "chunga": "mbuzi ng'ombe kondoo",
}
_WITHOUT_OBJECT = """lala amka cheza imba kimbia tembea rudi fika ondoka cheka pumzika zungumza
    safiri simama kaa lia ogelea hama""".split()  # fmt: skip
_KIN = frozenset("dada kaka mama baba bibi babu rafiki jirani marafiki majirani".split())
_OUTDOORS = "shambani mtoni mjini kijijini bandarini msituni ziwani mlimani ufukweni".split()
_PLACES = """sokoni shambani nyumbani shuleni mtoni mjini kijijini bandarini msituni jikoni
    barabarani hospitalini ziwani ofisini dukani mlimani kisimani ufukweni""".split()
_TIMES = {
    "na": """leo sasa asubuhi jioni|kila siku|kila wiki|mchana huu|siku hizi|kila jumapili
        |asubuhi na mapema|kila mwaka""",
    "li": """jana juzi|jana jioni|jana usiku|wiki iliyopita|mwezi uliopita|siku ya jumatatu
        |siku ya alhamisi|mwaka jana|asubuhi ya leo""",
    "ta": """kesho baadaye|kesho kutwa|wiki ijayo|mwezi ujao|kesho asubuhi|siku ya ijumaa
        |siku ya jumamosi|mwaka ujao|jioni ya leo""",
    "me": "leo sasa|leo asubuhi|wiki hii|mwaka huu|mwezi huu",
}
_MANNERS = ("polepole", "haraka", "vizuri", "pamoja", "kwa furaha", "kwa bidii", "tena")
_TENSES = ("na", "li", "ta", "me")
_SPEAKERS = {"ni": "mimi", "u": "wewe", "tu": "sisi", "m": "ninyi"}
_NEGATIVE = {"ni": "si", "u": "hu", "a": "ha", "tu": "hatu", "m": "ham", "wa": "hawa"}

_UNITS = ("", *"moja mbili tatu nne tano sita saba nane tisa".split())
_TENS = ("", *"kumi ishirini thelathini arobaini hamsini sitini sabini themanini tisini".split())


def sentences(count: int, *, generator: np.random.Generator) -> list[str]:
    """Make distinct sentences.

    Args:
        count: how many.
        generator: where the choices come from; the same state gives the same sentences.

    Returns:
        (count,) sentences, each with a capital letter and a full stop or question mark.
    """
    makers = (_action, _action, _action, _journey, _description, _price, _both, _question, _weather)
    made: dict[str, None] = {}
    while len(made) < count:
        maker: Callable[[np.random.Generator], str] = _pick(makers, generator)
        text = maker(generator)
        end = "?" if maker is _question else "."
        made[text[0].upper() + text[1:] + end] = None
    return list(made)


def number(value: int) -> str:
    """Write a number from 1 to 999 in words.

    Args:
        value: the number.
    """
    hundreds, rest = divmod(value, 100)
    tens, units = divmod(rest, 10)
    parts = [f"mia {_UNITS[hundreds]}"] if hundreds else []
    parts += [word for word in (_TENS[tens], _UNITS[units]) if word]
    # "And" stands before the last part alone: mia tatu hamsini na nne.
    return " na ".join([" ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def adjective(stem: str, noun_class: int) -> str:
    """Make an adjective agree with a noun class.

    Args:
        stem: such as "zuri" or "eupe".
        noun_class: 1 to 10.
    """
    if stem in _VOWEL_ADJECTIVES:
        # Before e, class 5 is je-, class 2 we-, class 6 me-.
        return _VOWEL_PREFIX[noun_class] + stem
    if noun_class in _PREFIX:
        return _PREFIX[noun_class] + stem
    return _ADJECTIVES[stem][0 if noun_class == 5 else 1]


def verb(subject: str, tense: str, stem: str, *, negative: bool = False) -> str:
    """Conjugate a verb; "enda" and "ja" keep their infinitive's prefix after a tense.

    Args:
        subject: subject prefix, such as "ni" or "wa".
        tense: "na" now, "li" past, "ta" to come, "me" done.
        stem: such as "soma", with its object prefix if it has one.
        negative: deny it; only past and future, and only for people.
    """
    if stem == "enda":
        stem = "kwenda"
    elif stem == "ja" and not (negative and tense == "li"):
        stem = "kuja"
    if not negative:
        return f"{subject}{tense}{stem}"
    if tense == "ta":
        return f"{_NEGATIVE[subject]}ta{stem}"
    return f"{_NEGATIVE[subject]}{'' if stem == 'kwenda' else 'ku'}{stem}"


def _pick(choices: Sequence, generator: np.random.Generator) -> Any:
    """Choose one element."""
    return choices[int(generator.integers(len(choices)))]


def _chance(share: float, generator: np.random.Generator) -> bool:
    """Be true in a share of cases."""
    return bool(generator.random() < share)


def _time(tense: str, generator: np.random.Generator) -> str:
    """Say when, in accord with a tense."""
    phrases = [phrase.strip() for phrase in _TIMES[tense].split("|")]
    # The first entry lists single words.
    singles = phrases[0].split()
    return _pick([*singles, *phrases[1:]], generator)


def _noun(noun_class: int, generator: np.random.Generator) -> str:
    """A noun of a class, often with something that says which."""
    noun = _pick(_NOUNS[noun_class], generator)
    return f"{noun}{_which(noun, noun_class, generator)}"


def _which(noun: str, noun_class: int, generator: np.random.Generator) -> str:
    """Possessive, adjective, number or demonstrative of a noun; often nothing."""
    choice = generator.random()
    if choice < 0.35:
        return ""
    if choice < 0.5:
        return f" {_possessive(noun, noun_class, generator)}"
    if choice < 0.75:
        stems = _FOR_PEOPLE if noun_class in _PEOPLE else (*_ADJECTIVES, *_VOWEL_ADJECTIVES)
        return f" {adjective(_pick(stems, generator), noun_class)}"
    if choice < 0.85 and noun_class in _PLURAL_NUMBERS:
        return f" {_pick([*_PLURAL_NUMBERS[noun_class].split(), *_FIXED_NUMBERS], generator)}"
    return f" {_pick((_NEAR, _FAR), generator)[noun_class]}"


def _possessive(noun: str, noun_class: int, generator: np.random.Generator) -> str:
    """Whose it is; kin and friends agree as class 9/10 does."""
    if noun in _KIN:
        noun_class = 10 if noun_class == 2 else 9
    return f"{_CONCORD[noun_class]}{_pick(_POSSESSIVES, generator)}"


def _person(generator: np.random.Generator) -> tuple[str, str]:
    """A person or people as a subject: (words, subject prefix); pronouns are mostly left out."""
    if _chance(0.3, generator):
        prefix = _pick(tuple(_SPEAKERS), generator)
        return (_SPEAKERS[prefix] if _chance(0.2, generator) else "", prefix)
    noun_class = _pick((1, 2), generator)
    return _noun(noun_class, generator), _SUBJECT[noun_class]


def _deed(generator: np.random.Generator) -> tuple[str, str]:
    """A verb stem and what it is done to; a person is marked in the verb too."""
    stem = _pick(tuple(_WITH_OBJECT), generator)
    suitable = _WITH_OBJECT[stem]
    if isinstance(suitable, str):
        return stem, _pick(suitable.split(), generator)
    noun_class = _pick(suitable, generator)
    if noun_class == 2:
        marked = f"wa{stem}"
    elif noun_class == 1:
        marked = f"mw{stem}" if stem == "ona" else f"mu{stem}" if stem == "uliza" else f"m{stem}"
    else:
        marked = stem
    return marked, _noun(noun_class, generator)


def _join(*parts: str) -> str:
    """Put the parts that there are together."""
    return " ".join(part for part in parts if part)


def _action(generator: np.random.Generator) -> str:
    """Somebody does something to something."""
    who, prefix = _person(generator)
    tense = _pick(_TENSES, generator)
    negative = tense in ("li", "ta") and _chance(0.25, generator)
    stem, what = _deed(generator)
    where = _pick(_PLACES, generator) if _chance(0.35, generator) else ""
    when = _time(tense, generator) if _chance(0.45, generator) else ""
    return _join(who, verb(prefix, tense, stem, negative=negative), what, where, when)


def _journey(generator: np.random.Generator) -> str:
    """Somebody goes, comes, sleeps, sings."""
    who, prefix = _person(generator)
    tense = _pick(_TENSES, generator)
    stem = _pick((*_WITHOUT_OBJECT, "enda", "ja"), generator)
    where = _pick(_PLACES, generator) if _chance(0.7, generator) or stem == "enda" else ""
    how = _pick(_MANNERS, generator) if _chance(0.2, generator) else ""
    when = _time(tense, generator) if _chance(0.5, generator) else ""
    return _join(who, verb(prefix, tense, stem), how, where, when)


def _description(generator: np.random.Generator) -> str:
    """A thing is so."""
    noun_class = _pick(tuple(_THINGS), generator)
    noun = _pick(_NOUNS[noun_class], generator)
    owner = (
        _possessive(noun, noun_class, generator)
        if _chance(0.5, generator)
        else _pick((_NEAR, _FAR), generator)[noun_class]
    )
    stems = (*_ADJECTIVES, *_VOWEL_ADJECTIVES)
    one = _pick(stems, generator)
    other = _pick([stem for stem in stems if stem != one], generator)
    more = _pick(("na", "lakini", "na pia"), generator)
    very = "sana" if _chance(0.4, generator) else ""
    text = _join(noun, owner, "ni", adjective(one, noun_class), very)
    if _chance(0.4, generator):
        text = _join(text, more, adjective(other, noun_class))
    return text


def _price(generator: np.random.Generator) -> str:
    """A thing costs so much, or there are so many."""
    if _chance(0.5, generator):
        noun_class = _pick((3, 5, 7, 9), generator)
        noun = _pick(_NOUNS[noun_class], generator)
        which = _pick((_NEAR, _FAR), generator)[noun_class]
        price = number(int(generator.integers(1, 1000)))
        return _join("bei ya", noun, which, "ni shilingi", price)
    # Whole tens: units would have to agree with the people.
    people = _join(_pick(_NOUNS[2], generator), number(10 * int(generator.integers(1, 100))))
    tense = _pick(_TENSES, generator)
    return _join(people, verb("wa", tense, "fika"), _pick(_PLACES, generator))


def _both(generator: np.random.Generator) -> str:
    """One thing and then another, in the same tense."""
    who, prefix = _person(generator)
    tense = _pick(("na", "li", "ta"), generator)
    first = verb(prefix, tense, _pick(("enda", "rudi", "fika", "ja"), generator))
    stem, what = _deed(generator)
    link = _pick(("kisha", "halafu", "na baadaye"), generator)
    return _join(who, first, _pick(_PLACES, generator), link, verb(prefix, tense, stem), what)


def _question(generator: np.random.Generator) -> str:
    """Somebody is asked."""
    _, prefix = _person(generator)
    tense = _pick(_TENSES, generator)
    if _chance(0.5, generator):
        stem, what = _deed(generator)
        asked = _pick(("wapi", "lini", "kwa nini"), generator)
        return _join("je,", verb(prefix, tense, stem), what, asked)
    done = verb(prefix, tense, _pick(_WITHOUT_OBJECT, generator))
    return _join("je,", done, _pick(_PLACES, generator), _time(tense, generator))


def _weather(generator: np.random.Generator) -> str:
    """Rain, sun and wind."""
    subject, prefix, stem = _pick(
        (
            ("mvua", "i", "nyesha"),
            ("jua", "li", "waka"),
            ("upepo", "u", "vuma"),
            ("maji", "ya", "jaa"),
            ("moto", "u", "waka"),
        ),
        generator,
    )
    tense = _pick(("na", "li", "ta"), generator)
    much = "sana" if _chance(0.4, generator) else ""
    where = _pick(_OUTDOORS, generator)
    return _join(subject, verb(prefix, tense, stem), much, where, _time(tense, generator))
