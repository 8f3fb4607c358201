from pathlib import Path

import pytest

from unheard.errors import AlphabetError, ConfigError, FormatError
from unheard.interop.sidecar import Sidecar, read_labels, read_sidecar


def test_the_files_own_settings_come_before_the_folders(tmp_path: Path) -> None:
    weights = tmp_path / "model.pth"
    assert read_sidecar(weights) == (Sidecar(), None)
    (tmp_path / "unheard.json").write_text('{"heads": 4, "conv_strides": [5, 2]}')
    assert read_sidecar(weights) == (
        Sidecar(heads=4, conv_strides=(5, 2)),
        tmp_path / "unheard.json",
    )
    (tmp_path / "model.pth.json").write_text('{"heads": 8}')
    assert read_sidecar(weights) == (Sidecar(heads=8), tmp_path / "model.pth.json")


def test_a_folder_has_its_settings_inside_or_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "step_5"
    folder.mkdir()
    (folder / "unheard.json").write_text('{"normalize": false}')
    assert read_sidecar(folder)[0] == Sidecar(normalize=False)
    (tmp_path / "step_5.json").write_text('{"normalize": true}')
    assert read_sidecar(folder)[0] == Sidecar(normalize=True)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"head": 4}', ConfigError, r"model\.pth\.json.*heads"),
        ('{"heads": "4"}', ConfigError, "heads"),
        ('{"heads": 0}', ConfigError, r"model\.pth\.json.*heads must be at least 1"),
        ('{"conv_strides": []}', ConfigError, "conv_strides"),
        ('{"conv_strides": [5, 0]}', ConfigError, "conv_strides"),
        ('{"heads": 4, "heads": 5}', FormatError, "twice"),
        ("[4]", FormatError, "object"),
        ("heads: 4", FormatError, "JSON"),
    ],
)
def test_wrong_settings_are_named(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pth.json").write_text(text)
    with pytest.raises(error, match=message):
        read_sidecar(tmp_path / "model.pth")


def test_labels_take_their_roles_from_their_names() -> None:
    labels = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B")
    alphabet = read_labels(Sidecar(labels=labels), vocab=7, source="x.json")
    assert alphabet is not None
    assert alphabet.blank == "<pad>"
    assert alphabet.word_boundary == "|"
    assert set(alphabet.special) == {"<s>", "</s>", "<unk>"}
    assert alphabet.case == "upper"
    assert read_labels(Sidecar(), vocab=7, source="x.json") is None


def test_roles_can_be_said() -> None:
    sidecar = Sidecar(
        labels=("a", "_", "B", "*", "+"), blank="*", word_boundary="_", special=("+",)
    )
    alphabet = read_labels(sidecar, vocab=5, source="x.json")
    assert alphabet is not None
    assert (alphabet.blank, alphabet.word_boundary, alphabet.special) == ("*", "_", ("+",))
    assert alphabet.case == "keep"


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        (Sidecar(labels=("a", "b")), "a list of 3, .* found 2"),
        (Sidecar(labels="MMS_FA"), "found a name"),
        (Sidecar(labels=("a", "b", "c"), blank="d"), r"x\.json: the blank"),
        (Sidecar(labels=("a", "b", "b")), r"x\.json"),
    ],
)
def test_labels_that_make_no_alphabet(sidecar: Sidecar, message: str) -> None:
    with pytest.raises(AlphabetError, match=message):
        read_labels(sidecar, vocab=3, source="x.json")
