"""What `load_model` takes for a model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.tiny_models import tiny_ctc

import unheard
from unheard.errors import FormatError
from unheard.interop import load


def test_a_folder_that_a_training_verb_wrote_to_stands_for_its_model(tmp_path: Path) -> None:
    unheard.save_model(tiny_ctc(), tmp_path / "kilingo" / "model")
    (tmp_path / "kilingo" / "learn.json").write_text("{}")
    loaded = unheard.load_model(tmp_path / "kilingo")
    assert loaded.alphabet == tiny_ctc().alphabet


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model here")
    with pytest.raises(FormatError, match=r"not a model folder: .*found notes\.txt"):
        unheard.load_model(tmp_path)


def test_what_a_file_is_shows_in_its_content(tmp_path: Path) -> None:
    folder = unheard.save_model(tiny_ctc(), tmp_path / "theirs", format="fairseq")
    for path in (folder, folder / "checkpoint.pt"):
        assert unheard.load_model(path).provenance["format"] == "fairseq"
    (folder / "checkpoint.pt").rename(folder / "letters.bin")
    assert unheard.load_model(folder / "letters.bin").provenance["format"] == "fairseq"


def test_a_file_of_a_model_folder_names_its_folder(tmp_path: Path) -> None:
    folder = unheard.save_model(tiny_ctc(), tmp_path / "model", format="huggingface")
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(FormatError, match=f"Give {folder} instead"):
            unheard.load_model(folder / name)


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "image.pt")
    with pytest.raises(FormatError, match=r"no network that is known.*conv1\.weight"):
        unheard.load_model(tmp_path / "image.pt")


def test_a_fingerprint_covers_the_settings_beside_a_file(tmp_path: Path) -> None:
    """Regression: a file with another number of heads said beside it passed for the same model."""
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    alone = load.model_fingerprint(tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors.json").write_text('{"heads": 4}')
    told = load.model_fingerprint(tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors.json").write_text('{"heads": 8}')
    assert len({alone, told, load.model_fingerprint(tmp_path / "weights.safetensors")}) == 3
