"""A model of the package is found by its name, whatever else has it, and vouched for."""

import logging
from pathlib import Path

import pytest
from tests.tiny_models import tiny_masked_units, tiny_pretraining

import unheard
from unheard.errors import CheckpointError, ConfigError, FormatError
from unheard.interop import packaged
from unheard.interop.load import load_model, model_fingerprint, save_model
from unheard.interop.packaged import UNHEARD_MINI

WEIGHTS, CONFIG, HASHES = "model.safetensors", "config.json", "hashes.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the package's own folder, which tests must not write into."""
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "pretrained")
    return save_model(tiny_masked_units(), tmp_path / "pretrained" / UNHEARD_MINI)


@pytest.fixture
def namesake(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another model, of the same name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return save_model(tiny_pretraining(), tmp_path / UNHEARD_MINI)


def test_the_name_is_enough(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert unheard.load_model(UNHEARD_MINI).config == tiny_masked_units().config
    assert unheard.inspect(UNHEARD_MINI).network == "masked_units"
    assert unheard.inspect(UNHEARD_MINI).source == UNHEARD_MINI
    assert model_fingerprint(UNHEARD_MINI) == model_fingerprint(folder)


def test_the_name_means_the_package_wherever_one_stands(
    namesake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="unheard.interop.packaged"):
        assert unheard.inspect(UNHEARD_MINI).network == "masked_units"
    assert f"./{UNHEARD_MINI}" in caplog.text
    caplog.clear()
    assert unheard.inspect(f"./{UNHEARD_MINI}").network == "pretraining"
    assert unheard.inspect(Path(UNHEARD_MINI)).network == "pretraining"
    assert caplog.text == ""
    assert model_fingerprint(UNHEARD_MINI) != model_fingerprint(f"./{UNHEARD_MINI}")


def test_a_conversion_to_a_folder_of_its_name_may_be_repeated(namesake: Path) -> None:
    for _ in range(2):
        done = unheard.convert(UNHEARD_MINI, UNHEARD_MINI, to="native")
        assert done.parameters == unheard.inspect(namesake).parameters
    with pytest.raises(ConfigError, match="inside the source"):
        unheard.convert(UNHEARD_MINI, packaged.FOLDER / UNHEARD_MINI / "inside", to="native")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, HASHES])
def test_damage_is_named_with_what_mends_it(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_model(UNHEARD_MINI)
    assert "install that again" in str(caught.value)
    with pytest.raises((CheckpointError, FormatError)) as elsewhere:
        load_model(folder)
    assert "install" not in str(elsewhere.value)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, HASHES])
def test_a_file_that_is_gone_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*install that again"):
        load_model(UNHEARD_MINI)


def test_an_installation_without_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"unheard-mini is not in this installation: exp"):
        load_model(UNHEARD_MINI)


def test_other_names_are_not_taken_for_it() -> None:
    assert packaged.packaged_folder("unheard-mini/") is None
    assert packaged.packaged_folder(Path(UNHEARD_MINI)) is None
    with pytest.raises(ConfigError, match="expected a model folder, unheard-mini, or a name on"):
        load_model("unheard-mnii")
