"""The public names are a promise: a change here is a change of the interface."""

import inspect

import pytest

import unheard

PUBLIC = [
    "learn",
    "scan",
    "pretrain",
    "finetune",
    "evaluate",
    "transcribe",
    "Stream",
    "tune",
    "align",
    "emissions",
    "load_model",
    "save_model",
    "inspect",
    "convert",
    "export",
    "with_adapter",
    "new_adapter",
    "save_adapter",
    "list_adapters",
    "ModelBundle",
    "Inspection",
    "NgramModel",
    "NeuralModel",
    "rescore",
    "RescoreConfig",
    "Waveform",
    "InputSpec",
    "Utterance",
    "Alphabet",
    "Emissions",
    "Transcript",
    "Alignment",
    "Word",
    "UnheardError",
    "AlignmentError",
    "AlphabetError",
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "DiskFullError",
    "FormatError",
    "LanguageError",
    "ManifestError",
    "MissingExtraError",
    "NoCheckpointError",
    "ShapeError",
    "TrainingDivergedError",
    "WorkerError",
]


def test_the_public_names_are_these() -> None:
    assert unheard.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(unheard))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(unheard, name)
    assert value.__name__ == name
    documentation = inspect.getdoc(value)
    assert documentation
    first = documentation.splitlines()[0]
    assert first.endswith((".", "…"))
    assert len(first) <= 100


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lern'"):
        _ = unheard.lern  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    [
        "learn",
        "scan",
        "pretrain",
        "finetune",
        "evaluate",
        "transcribe",
        "emissions",
        "load_model",
        "save_model",
        "inspect",
        "convert",
        "export",
    ],
)
def test_verbs_take_two_arguments_by_position_at_most(name: str) -> None:
    parameters = inspect.signature(getattr(unheard, name)).parameters.values()
    by_position = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(by_position) <= 2
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters)
