"""Models: scoring, states, units, files by name."""

import math
from pathlib import Path

import numpy as np
import pytest

from unheard.errors import ConfigError
from unheard.lm.kernel import NgramTables, ngram_step
from unheard.lm.ngram import NgramModel, train_ngram
from unheard.lm.pieces import Pieces
from unheard.lm.units import guess_units, split_text

TEXTS = ["a b c", "a b d", "b c a", "a b c d", "c"]

ARPA = """\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.25
-1\t</s>
-0.5\ta\t-0.125
-0.75\tb\t-0.375

\\2-grams:
-0.25\t<s> a\t-0.0625
-0.375\ta b
-0.5\tb </s>

\\3-grams:
-0.125\t<s> a b

\\end\\
"""


@pytest.fixture
def small(tmp_path: Path) -> NgramModel:
    (tmp_path / "small.arpa").write_text(ARPA)
    return NgramModel.load(tmp_path / "small.arpa")


@pytest.mark.parametrize(
    ("text", "log10"),
    [
        # p(a|<s>), p(b|<s> a), p(</s>|a b) = 1 * p(</s>|b)
        ("a b", [-0.25, -0.125, -0.5]),
        # p(a|<s>), b(<s> a) b(a) p(a), b(a) p(</s>)
        ("a a", [-0.25, -0.0625 - 0.125 - 0.5, -0.125 - 1]),
        # an unknown word ends all context
        ("x a", [-0.25 - 1.5, -0.5, -0.125 - 1]),
        ("", [-0.25 - 1]),
    ],
)
def test_scores_by_hand(small: NgramModel, text: str, log10: list[float]) -> None:
    scores = small.score_words(text.split())
    np.testing.assert_allclose(scores / math.log(10), log10, rtol=1e-6)
    assert small.score_sentence(text) == pytest.approx(sum(log10) * math.log(10))


def test_sentence_marks_can_be_left_out(small: NgramModel) -> None:
    scores = small.score_words(["a", "b"], start=False, end=False)
    np.testing.assert_allclose(scores / math.log(10), [-0.5, -0.375], rtol=1e-6)


def test_steps_lead_to_the_shortest_state_that_predicts_the_same(small: NgramModel) -> None:
    names = {"a": small.word_id("a"), "b": small.word_id("b")}
    tables = small.tables

    def after(*words: str, state: int) -> int:
        for word in words:
            _, state = ngram_step(tables, state, names.get(word, 0))
        return state

    start, empty = small.start_state, small.empty_state
    assert start not in (empty, 0)
    assert after("b", "a", state=empty) == after("a", state=empty)  # "b a" is unknown
    assert after("a", state=start) != after("a", state=empty)  # "<s> a" has a back-off
    # "a b" is extended by nothing and backs off for free: it predicts as "b" does.
    assert after("a", "b", state=empty) == after("b", state=empty)
    assert after("x", state=start) == empty


def test_long_texts_score_as_one_word_after_the_other() -> None:
    model = train_ngram(TEXTS, order=3).model
    words = "a b c d x a b b c".split()
    whole = model.score_words(words)
    for count in range(1, len(words)):
        np.testing.assert_array_equal(model.score_words(words[:count], end=False), whole[:count])


@pytest.mark.parametrize("name", ["m.arpa", "m.arpa.gz", "m.unheard-lm"])
@pytest.mark.parametrize("units", ["word", "character", "piece"])
def test_a_stored_model_is_the_same_model(name: str, units, tmp_path: Path) -> None:
    texts = ["ab cb", "ab é", "cb ab ab"]
    pieces = Pieces.train(texts, size=12) if units == "piece" else None
    model = train_ngram(texts, order=3, prune=(0, 0, 1), units=units, pieces=pieces).model
    model.save(tmp_path / name)
    again = NgramModel.load(tmp_path / name)
    assert again.units == units
    assert again.vocabulary.words == model.vocabulary.words
    assert (again.order, again.start_state, again.end_id) == (3, model.start_state, 2)
    for ours, theirs in zip(model.tables[:-1], again.tables[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not theirs.flags.writeable
    assert again.score_sentence("cb é x") == model.score_sentence("cb é x")
    assert (tmp_path / "m.pieces.json").exists() == (units == "piece" and "arpa" in name)


def test_models_of_one_order(tmp_path: Path) -> None:
    model = train_ngram(TEXTS, order=1).model
    assert model.counts == (7,)
    assert model.start_state == model.empty_state
    model.save(tmp_path / "m.arpa")
    model.save(tmp_path / "m.unheard-lm")
    expected = model.score_sentence("a x")
    assert NgramModel.load(tmp_path / "m.arpa").score_sentence("a x") == expected
    assert NgramModel.load(tmp_path / "m.unheard-lm").score_sentence("a x") == expected


def test_orders_that_pruning_emptied(tmp_path: Path) -> None:
    model = train_ngram(TEXTS, order=3, prune=(0, 9)).model
    for name in ("m.arpa", "m.unheard-lm"):
        model.save(tmp_path / name)
        again = NgramModel.load(tmp_path / name)
        assert again.counts == (7, 0, 0)
        assert again.score_sentence("a b") == model.score_sentence("a b")


def test_the_name_tells_the_format(tmp_path: Path) -> None:
    model = train_ngram(TEXTS, order=1).model
    with pytest.raises(ConfigError, match=r"expected \.arpa, \.arpa\.gz or \.unheard-lm"):
        model.save(tmp_path / "m.bin")


def test_words_are_what_white_space_of_ascii_parts() -> None:
    assert split_text(" a\tb\u00a0c \n", "word") == ["a", "b\u00a0c"]
    assert split_text("ab  c|d ", "character") == ["a", "b", "|", "c", "|", "d"]
    with pytest.raises(ConfigError, match="expected its pieces, found none"):
        split_text("a", "piece")


@pytest.mark.parametrize(
    ("words", "units"),
    [
        (["<unk>", "<s>", "</s>", "a", "|", "é"], "character"),
        (["<unk>", "<s>", "</s>", "a", "of"], "word"),
        (["<unk>", "<s>", "</s>", "▁a", "of"], "piece"),
        (["<unk>", "<s>", "</s>", "a", "b"], "word"),
        (["<unk>", "<mask>", "a", "|"], "character"),
    ],
)
def test_units_are_told_from_the_vocabulary(words: list[str], units: str) -> None:
    assert guess_units(words) == units


def test_one_compilation_serves_every_model(tmp_path: Path) -> None:
    """Arrays of one kind: in memory, from ARPA and mapped."""
    import numba

    model = train_ngram(TEXTS, order=2).model
    kinds = {numba.typeof(model.tables)}
    for name in ("m.arpa", "m.unheard-lm"):
        model.save(tmp_path / name)
        kinds.add(numba.typeof(NgramModel.load(tmp_path / name).tables))
    assert len(kinds) == 1
    assert isinstance(model.tables, NgramTables)
