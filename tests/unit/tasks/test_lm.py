"""The verb `lm` for n-gram models: text in, model out, perplexity by hand."""

import gzip
import json
import math
from pathlib import Path

import pytest

from unheard import cli
from unheard.errors import ConfigError, FormatError
from unheard.lm.ngram import NgramModel
from unheard.tasks.lm import NgramTraining, measure, perplexity, train
from unheard.tasks.texts import read_texts

TEXT = "okusoma kulungi\nokusoma nnyo\n\nkulungi nnyo nnyo\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_text_to_model(text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="unheard")
    made = train([text], out=tmp_path / "m.arpa", order=2)
    assert isinstance(made, NgramTraining)
    assert (made.sentences, made.tokens, made.vocabulary) == (3, 10, 6)
    assert made.ngrams == NgramModel.load(made.path).counts
    assert "Empty lines passed over: 1" in caplog.text
    assert "too small or too regular to tell how far to trust 2-grams" in caplog.text
    assert "2-grams  " in made.table()


@pytest.mark.parametrize("units", ["character", "piece"])
def test_other_units(units, text: Path, tmp_path: Path) -> None:
    made = train([text], out=tmp_path / "m.unheard-lm", order=3, units=units, pieces=30)
    model = NgramModel.load(made.path)
    assert model.units == units
    assert math.isfinite(model.score_sentence("omulungi"))


def test_perplexity_by_hand(text: Path, tmp_path: Path) -> None:
    train([text], out=tmp_path / "m.arpa", order=2)
    (tmp_path / "other.txt").write_text("okusoma ssemazinga\n\nnnyo\n")
    found = perplexity(tmp_path / "m.arpa", [tmp_path / "other.txt"])
    model = NgramModel.load(tmp_path / "m.arpa")
    first, second = model.score_words(["okusoma", "ssemazinga"]), model.score_words(["nnyo"])
    total = first.sum() + second.sum()
    assert (found.sentences, found.tokens, found.unknown, found.empty) == (2, 5, 1, 1)
    assert found.log_prob == pytest.approx(total)
    assert found.perplexity == pytest.approx(math.exp(-total / 5))
    assert found.perplexity_known == pytest.approx(math.exp(-(total - first[1]) / 4))
    characters = len("okusoma ssemazinga") + len("nnyo") + 2
    assert found.bits_per_character == pytest.approx(-total / math.log(2) / characters)


def test_nothing_to_measure(text: Path, tmp_path: Path) -> None:
    train([text], out=tmp_path / "m.arpa", order=1)
    with pytest.raises(ConfigError, match="nothing to measure"):
        measure(NgramModel.load(tmp_path / "m.arpa"), ["", " "])


def test_the_name_of_the_model_is_checked_before_the_text_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the name of a model tells its format"):
        train([tmp_path / "none.txt"], out=tmp_path / "m.txt")


def test_on_the_command_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "m.arpa.gz")
    words = ["train", str(text), "--order", "3", "--prune", "0", "0", "1", "--out", model]
    assert cli.main(["lm", *words]) == 0
    assert "sentences   3" in capsys.readouterr().out
    assert cli.main(["lm", "perplexity", model, str(text), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == 3
    assert cli.main(["lm", "perplexity", str(text), str(text)]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage: unheard lm VERB"),
        (["trian"], 2, 'Unknown verb "trian". Did you mean "train"?'),
        (["zzz"], 2, "There are: train, perplexity. For all verbs, run: unheard lm --help"),
    ],
)
def test_wrong_usage(words, code, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lm", *words]) == code
    assert message in capsys.readouterr().err


def test_texts_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffA\u0301b,  c\r\n\r\nd".encode())
    (tmp_path / "b.txt").write_bytes(gzip.compress(b"E f!\n", mtime=0))
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert list(read_texts(paths)) == ["\u00c1b, c", "", "d", "E f!"]
    assert list(read_texts(paths, normalizer="basic-1")) == ["\u00e1b c", "", "d", "e f"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"good\nbad \xff\n", "line 2 is not UTF-8"),
        (gzip.compress(b"good\n" * 99, mtime=0)[:-9], "not a whole gzip file"),
        (b"x" * ((16 << 20) + 2), "line 1 is longer than 16 MiB"),
    ],
)
def test_texts_that_cannot_be_read(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(FormatError, match=message):
        list(read_texts([tmp_path / "a.txt"]))
