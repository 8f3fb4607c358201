"""The folder of a language model: what is written comes back, what was damaged is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_language_models import small_language_model

from unheard.errors import CheckpointError, ConfigError, FormatError, UnheardError
from unheard.files import sha256_file
from unheard.interop.language_model import (
    is_language_model_folder,
    load_language_model,
    save_language_model,
)
from unheard.interop.load import load_model
from unheard.lm.pieces import Pieces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_language_model(small_language_model(), tmp_path / "lm")


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file and its hash, as somebody would who edits it with care."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    hashes = path.parent / "hashes.json"
    listed = json.loads(hashes.read_text())
    listed[path.name] = sha256_file(path)
    hashes.write_text(json.dumps(listed))


def test_what_is_written_comes_back(folder: Path) -> None:
    written, read = small_language_model(), load_language_model(folder)
    assert read.model.config == written.model.config
    assert read.pieces.symbols == written.pieces.symbols
    assert read.pieces.merges == written.pieces.merges
    assert (read.units, read.normalizer, read.provenance) == ("piece", "none-1", {"task": "test"})
    assert not read.model.training
    for name, weight in written.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], weight)
    assert is_language_model_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "hashes.json",
        "model.safetensors",
        "pieces.json",
    ]


def test_the_run_folder_is_as_good(folder: Path) -> None:
    run = folder.parent / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    folder.rename(run / "model")
    assert load_language_model(run).model.config == small_language_model().model.config


def test_another_model_replaces_it_whole(folder: Path) -> None:
    save_language_model(small_language_model(seed=1), folder)
    expected = small_language_model(seed=1).model.embedding.weight
    assert torch.equal(load_language_model(folder).model.embedding.weight, expected)


def test_other_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(FormatError, match="not a model folder"):
        save_language_model(small_language_model(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("name", ["config.json", "pieces.json", "model.safetensors", "hashes.json"])
def test_a_missing_or_cut_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(UnheardError):
        load_language_model(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_language_model(folder)
    path.write_bytes(content)
    load_language_model(folder)


def test_one_weight_that_changed_is_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_language_model(folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda data: data.update(version=2), FormatError, "version"),
        (lambda data: data.update(format="other"), FormatError, "format"),
        (lambda data: data.pop("units"), FormatError, "units"),
        (lambda data: data.update(units="word"), FormatError, "units"),
        (lambda data: data.update(config=[1]), ConfigError, "config.json"),
        (lambda data: data["config"].update(layers=10**9), ConfigError, "layers"),
        (lambda data: data["config"].update(dim=10**9), ConfigError, "dim"),
        (lambda data: data["config"].update(vocab=10**9), CheckpointError, "pieces"),
        (lambda data: data["config"].update(layers=3), CheckpointError, "layers.2"),
        (lambda data: data["config"].update(ffn_dim=17), CheckpointError, "inner"),
        (lambda data: data["config"].update(wings=2), ConfigError, "wings"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    folder: Path,
    change: Callable[[dict[str, Any]], None],
    error: type[UnheardError],
    message: str,
) -> None:
    rewrite(folder / "config.json", change)
    with pytest.raises(error, match=message):
        load_language_model(folder)


def test_pieces_of_another_model_are_refused(folder: Path) -> None:
    rewrite(folder / "pieces.json", lambda data: data["merges"].pop())
    with pytest.raises(CheckpointError, match=r"expected 14, found 13"):
        load_language_model(folder)
    bundle = small_language_model()
    with pytest.raises(CheckpointError, match="pieces"):
        replace(bundle, pieces=Pieces.train(["a b"], size=0))


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    bundle = small_language_model()
    with torch.no_grad():
        bundle.model.norm.bias[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        save_language_model(bundle, tmp_path / "lm")
    assert not (tmp_path / "lm").exists()


def test_it_is_no_recogniser(folder: Path) -> None:
    with pytest.raises(FormatError, match="unheard-language-model"):
        load_model(folder)
