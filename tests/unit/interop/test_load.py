"""What `load_model` takes for a model."""

from pathlib import Path

import pytest
from tests.tiny_models import tiny_ctc

import unheard
from unheard.errors import FormatError


def test_a_folder_that_a_training_verb_wrote_to_stands_for_its_model(tmp_path: Path) -> None:
    unheard.save_model(tiny_ctc(), tmp_path / "kilingo" / "model")
    (tmp_path / "kilingo" / "learn.json").write_text("{}")
    loaded = unheard.load_model(tmp_path / "kilingo")
    assert loaded.alphabet == tiny_ctc().alphabet


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model here")
    with pytest.raises(FormatError, match=r"not a model folder: .*found notes\.txt"):
        unheard.load_model(tmp_path)
