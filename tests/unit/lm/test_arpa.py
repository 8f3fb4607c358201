"""ARPA files: what is read, what is refused, what is written."""

import gzip
import logging
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unheard.errors import FormatError
from unheard.lm.arpa import LN_10, read_arpa, write_arpa
from unheard.lm.arpa_kernel import parse_number
from unheard.lm.ngram import NgramModel, train_ngram

MODEL = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.5\t<unk>\t0
0\t<s>\t-0.25
-1\t</s>\t0
-0.5\tek'é\t-0.125

\\2-grams:
-0.25\t<s> ek'é
-0.5\tek'é </s>

\\end\\
"""
SCORE = (-0.25 - 0.5) * LN_10


def _load(tmp_path: Path, data: str | bytes) -> NgramModel:
    path = tmp_path / "m.arpa"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return NgramModel.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "made by a tool\n\n" + text,
        lambda text: text.replace("\t", "  "),
        lambda text: text.replace("\n", " \n\n"),
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\nwhat comes after is not read",
        lambda text: text.replace("-0.25", "-2.5E-1").replace("-0.5", "-.5"),
        lambda text: text.replace("-1.5\t<unk>", "-1.5\t<UNK>"),
        lambda text: text.replace("ngram 1=4", "ngram  1 = 4"),
    ],
)
def test_forms_of_the_same_model(change, tmp_path: Path) -> None:
    model = _load(tmp_path, change(MODEL))
    assert model.vocabulary.words == ("<unk>", "<s>", "</s>", "ek'é")
    assert model.score_sentence("ek'é") == pytest.approx(SCORE)
    assert model.score_sentence("x") == pytest.approx((-0.25 - 1.5 - 1) * LN_10)


def test_packed_files_are_told_by_content(tmp_path: Path) -> None:
    model = _load(tmp_path, gzip.compress(MODEL.encode(), mtime=0))
    assert model.score_sentence("ek'é") == pytest.approx(SCORE)


def test_sections_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = train_ngram([f"w{number % 37} w{number % 11}" for number in range(300)], order=3).model
    model.save(tmp_path / "m.arpa")
    for size in (1, 7, 200):
        monkeypatch.setattr("unheard.lm.arpa._BLOCK_BYTES", size)
        _, tables = read_arpa(tmp_path / "m.arpa")
        for ours, theirs in zip(model.tables, tables, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_model_without_the_unknown_word_gets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unheard")
    data = MODEL.replace("-1.5\t<unk>\t0\n", "").replace("ngram 1=4", "ngram 1=3")
    model = _load(tmp_path, data)
    assert model.vocabulary.words == ("<unk>", "<s>", "</s>", "ek'é")
    assert model.score_words(["x"])[0] == pytest.approx((-0.25 - 100) * LN_10)
    assert "has no unknown word" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ngram 2=2", "ngram 2=1000000000000"), r"line 4: the counts do not fit the file"),
        (("ngram 2=2", "ngram 2=3"), r"expected 3 2-grams, found 2\."),
        (("ngram 2=2", "ngram 2=1"), r"expected 1 2-grams, found 2\."),
        (
            ("ngram 1=4", "ngram 1=5"),
            r"line 10: the counts do not fit: expected 5 1-grams, found 4",
        ),
        (("ngram 1=4", "ngram 1=3"), r"line 9: the counts do not fit: expected 3 .* found more"),
        (("ngram 1=4", "ngram 1=0"), r"expected at least one word"),
        (("ngram 2=2", "ngram 3=2"), r'line 2: .* expected "ngram 2=..."'),
        (("ngram 2=2", "ngram 2=-2"), r'expected "ngram 2=..."'),
        (("\n\\end\\\n", "\n"), r"line \d+: the file ends too early"),
        (("\\end\\", "\\3-grams:"), r"expected \\end\\, found b'\\\\3-grams:'"),
        (("\\2-grams:", "\\3-grams:"), r"expected \\2-grams:, found"),
        (("-0.25\t<s>", "0.25\t<s>"), r"line 12: a log-probability is positive"),
        (("-0.5\tek'é\t", "0.5\tek'é\t"), r"line 9: a log-probability is positive"),
        (("-0.25\t<s>", "nan\t<s>"), r"line 12: a number is not one: .* \"nan\\t<s> ek'é\""),
        (("-0.25\t<s>", "-inf\t<s>"), r"line 12: a number is not one"),
        (("-0.25\t<s>", "-1e400\t<s>"), r"line 12: a number is not one"),
        (("-0.5\tek'é\t", "nan\tek'é\t"), r"line 9: a number is not one"),
        (("-0.125", "NaN"), r"line 9: a number is not one"),
        (("ek'é </s>", "ek'e </s>"), r"line 13: a word is not among the 1-grams"),
        (("ek'é </s>", "ek'é </s>\t-0.5"), r"line 13: one of the longest n-grams has a back-off"),
        (("ek'é </s>", "ek'é </s>\t0\t0"), r"line 13: a line is malformed: .* 2 words"),
        (("ek'é </s>", "ek'é"), r"line 13: a line is malformed"),
        (("ek'é </s>", "<s> ek'é"), r"has an n-gram twice: found \"<s> ek'é\""),
        (("-1\t</s>", "-1\t<s>"), r"line 8: a word is there twice: found '<s>'"),
        (("-1\t</s>\t0", "-1\t</s>\t0\t0"), r"line 8: a line is malformed: .* a word"),
        (("-1\t</s>\t0", "</s>"), r"line 8: a line is malformed"),
    ],
)
def test_malformed_models_are_refused(change, message: str, tmp_path: Path) -> None:
    assert change[0] in MODEL
    with pytest.raises(FormatError, match=message):
        _load(tmp_path, MODEL.replace(*change, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file ends too early"),
        (b"\n" * 5000, "the file ends too early"),
        (b"word\n" * 5000, r"no ARPA file: expected \\data\\ in the first 1000 lines"),
        (b"mmap lm http://kheafield.com/code format version 5\n\0", "KenLM's own binary form"),
        (b"mmap lm http://kheafield.com/code", "KenLM's own binary form"),
        (MODEL.encode("utf-16"), "not text in UTF-8"),
        (MODEL.encode("utf-16-le"), "not text in UTF-8"),
        (MODEL.encode("latin-1"), 'line 10: a word is not UTF-8: found b"ek\'\\\\xe9"'),
        (bytes(range(256)) * 40, "not text in UTF-8"),
        (MODEL.encode() + b"", None),
        (b"\\data\\\nngram 1=" + b"4" * 3_000_000, "a line is longer"),
        (gzip.compress(MODEL.encode(), mtime=0)[:-20], "not a whole gzip file"),
        (b"\x1f\x8b" + MODEL.encode(), "not a whole gzip file"),
        (gzip.compress(b"\n" * 50_000_000, mtime=0), "more than 200 times its size"),
        (b"unheard ngrams\r\n", "not a whole n-gram model of ours"),
    ],
)
def test_other_files_are_refused_at_once_and_in_little_memory(
    data: bytes, message: str | None, tmp_path: Path
) -> None:
    if message is None:
        assert _load(tmp_path, data).order == 2
        return
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message):
            _load(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_contexts_that_pruning_took_are_put_back_and_change_no_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unheard")
    holes = """\\data\\
ngram 1=5
ngram 2=1
ngram 3=0
ngram 4=2

\\1-grams:
-1\t<unk>
0\t<s>\t-0.5
-1\t</s>
-0.5\taa\t-0.25
-0.75\tbb\t-0.125

\\2-grams:
-0.25\tbb aa\t-0.0625

\\3-grams:

\\4-grams:
-0.375\t<s> aa bb aa
-0.5\taa bb aa bb

\\end\\
"""
    model = _load(tmp_path, holes)
    assert model.counts == (5, 3, 2, 2)
    assert "4 n-grams had no context" in caplog.text
    scores = model.score_words(["aa", "bb", "aa", "bb", "bb"], end=False) / LN_10
    expected = [-0.5 - 0.5, -0.25 - 0.75, -0.375, -0.5, -0.125 - 0.75]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    model.save(tmp_path / "whole.arpa")
    again = NgramModel.load(tmp_path / "whole.arpa")
    np.testing.assert_allclose(again.score_words(["aa", "bb"], end=False) / LN_10, expected[:2])


def test_files_are_written_as_other_tools_read_them(tmp_path: Path) -> None:
    vocabulary, tables = read_arpa(_written(tmp_path, MODEL))
    write_arpa(tmp_path / "again.arpa", vocabulary, tables)
    lines = (tmp_path / "again.arpa").read_text().splitlines()
    assert lines[:5] == ["\\data\\", "ngram 1=4", "ngram 2=2", "", "\\1-grams:"]
    assert "-0.5\tek'é\t-0.125" in lines
    assert "-0.25\t<s> ek'é" in lines
    assert lines[-1] == "\\end\\"


def test_packed_files_are_the_same_every_time(tmp_path: Path) -> None:
    model = train_ngram(["aa bb", "bb cc"], order=2).model
    model.save(tmp_path / "a.arpa.gz")
    model.save(tmp_path / "b.arpa.gz")
    assert (tmp_path / "a.arpa.gz").read_bytes() == (tmp_path / "b.arpa.gz").read_bytes()


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "written.arpa"
    path.write_text(text)
    return path


def _parse(text: str) -> tuple[float, bool]:
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    return parse_number(data, 0, len(data))


@given(value=st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30))
def test_numbers_are_read_to_the_last_bits(value: float) -> None:
    for text in (repr(value), f"{value:.9g}", f"{value:.20f}", f"{value:+.3E}"):
        found, sound = _parse(text)
        assert sound
        assert found == pytest.approx(float(text), rel=4e-15, abs=1e-290)


@pytest.mark.parametrize(
    "text", ["", "-", "+", ".", "e5", "1e", "1e+", "nan", "inf", "1.2.3", "1x", "0x1", "--1"]
)
def test_what_is_no_number(text: str) -> None:
    assert _parse(text) == (0.0, False)


def test_long_numbers() -> None:
    assert _parse("-0.123456789012345678901234567890")[0] == pytest.approx(-0.12345678901234568)
    assert _parse("12345678901234567890123")[0] == pytest.approx(1.2345678901234568e22)
    assert _parse("0." + "0" * 30 + "1")[0] == pytest.approx(1e-31)
    assert math.isinf(_parse("1e99999999999999999999")[0])
    assert _parse("0e999999")[0] == 0.0
