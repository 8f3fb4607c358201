"""Speech recognition for languages nobody has trained for.

Recordings and a few transcripts in, a recogniser out:

    import unheard

    result = unheard.learn("recordings/", transcripts="transcripts.tsv", out="kilingo/")
    for transcript in unheard.transcribe("kilingo/", ["a.flac", "b.m4a"]):
        print(transcript.text)

Importing this package loads nothing: each public name fetches its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unheard.audio.signal import InputSpec, Waveform
    from unheard.data.manifest import Utterance
    from unheard.decoding.emissions import Emissions
    from unheard.decoding.rescore import RescoreConfig, rescore
    from unheard.errors import (
        AlignmentError,
        AlphabetError,
        AudioError,
        CheckpointError,
        ConfigError,
        DiskFullError,
        FormatError,
        LanguageError,
        ManifestError,
        MissingExtraError,
        NoCheckpointError,
        ShapeError,
        TrainingDivergedError,
        UnheardError,
        WorkerError,
    )
    from unheard.inference.neural_model import NeuralModel
    from unheard.interop.adapter_folder import list_adapters, save_adapter
    from unheard.interop.adapters import new_adapter, with_adapter
    from unheard.interop.bundle import ModelBundle
    from unheard.interop.inspection import Inspection
    from unheard.interop.load import load_model, save_model
    from unheard.lm.ngram import NgramModel
    from unheard.tasks.align import Alignment, align
    from unheard.tasks.convert import convert
    from unheard.tasks.emissions import emissions
    from unheard.tasks.evaluate import evaluate
    from unheard.tasks.export import export
    from unheard.tasks.finetune import finetune
    from unheard.tasks.inspect import inspect
    from unheard.tasks.learn import learn
    from unheard.tasks.pretrain import pretrain
    from unheard.tasks.scan import scan
    from unheard.tasks.stream import Stream
    from unheard.tasks.transcribe import Transcript, Word, transcribe
    from unheard.tasks.tune import tune
    from unheard.text.alphabet import Alphabet

__version__ = "0.1.0.dev0"

__all__ = [
    # the verbs
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
    # models
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
    # what flows between them
    "Waveform",
    "InputSpec",
    "Utterance",
    "Alphabet",
    "Emissions",
    "Transcript",
    "Alignment",
    "Word",
    # what can go wrong
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

_MODULES = {
    "learn": "unheard.tasks.learn",
    "scan": "unheard.tasks.scan",
    "pretrain": "unheard.tasks.pretrain",
    "finetune": "unheard.tasks.finetune",
    "evaluate": "unheard.tasks.evaluate",
    "transcribe": "unheard.tasks.transcribe",
    "tune": "unheard.tasks.tune",
    "align": "unheard.tasks.align",
    "emissions": "unheard.tasks.emissions",
    "load_model": "unheard.interop.load",
    "save_model": "unheard.interop.load",
    "inspect": "unheard.tasks.inspect",
    "convert": "unheard.tasks.convert",
    "export": "unheard.tasks.export",
    "with_adapter": "unheard.interop.adapters",
    "new_adapter": "unheard.interop.adapters",
    "save_adapter": "unheard.interop.adapter_folder",
    "list_adapters": "unheard.interop.adapter_folder",
    "ModelBundle": "unheard.interop.bundle",
    "Inspection": "unheard.interop.inspection",
    "NgramModel": "unheard.lm.ngram",
    "NeuralModel": "unheard.inference.neural_model",
    "rescore": "unheard.decoding.rescore",
    "RescoreConfig": "unheard.decoding.rescore",
    "Waveform": "unheard.audio.signal",
    "InputSpec": "unheard.audio.signal",
    "Utterance": "unheard.data.manifest",
    "Alphabet": "unheard.text.alphabet",
    "Emissions": "unheard.decoding.emissions",
    "Stream": "unheard.tasks.stream",
    "Transcript": "unheard.tasks.transcribe",
    "Alignment": "unheard.tasks.align",
    "Word": "unheard.tasks.transcribe",
    "UnheardError": "unheard.errors",
    "AlignmentError": "unheard.errors",
    "AlphabetError": "unheard.errors",
    "AudioError": "unheard.errors",
    "CheckpointError": "unheard.errors",
    "ConfigError": "unheard.errors",
    "DiskFullError": "unheard.errors",
    "FormatError": "unheard.errors",
    "LanguageError": "unheard.errors",
    "ManifestError": "unheard.errors",
    "MissingExtraError": "unheard.errors",
    "NoCheckpointError": "unheard.errors",
    "ShapeError": "unheard.errors",
    "TrainingDivergedError": "unheard.errors",
    "WorkerError": "unheard.errors",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module at its first use, and keep it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'unheard' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*__all__, *globals()})
