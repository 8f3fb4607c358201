"""The language model that pyctcdecode keeps beside a model: recognised and carried along.

    folder/
      alphabet.json                   the labels that it was built for
      language_model/attrs.json       its weights in the search
      language_model/unigrams.txt     its words
      language_model/<name>           the n-gram model, ARPA or KenLM

Nothing here reads the n-gram model itself. Source: pyctcdecode decoder.py and language_model.py
@ afecb67.
"""

import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unheard.errors import FormatError
from unheard.files import write_json_atomic
from unheard.interop import storage
from unheard.interop.huggingface import features
from unheard.interop.reading import Reading

logger = logging.getLogger(__name__)

ALPHABET_FILE = "alphabet.json"
FOLDER = "language_model"
ATTRIBUTES_FILE = "attrs.json"

PROCESSOR = "Wav2Vec2ProcessorWithLM"
"""What transformers calls a feature extractor, a tokenizer and a language model together."""

_WORDS = (ATTRIBUTES_FILE, "unigrams.txt")

NUMBERS = ("alpha", "beta", "unk_score_offset")
"""Weight of the model, bonus for a word, and what an unknown word costs."""


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Tell which language model a folder has, as plain data; None without one.

    Raises:
        FormatError: if what describes it is damaged.
    """
    path = folder / FOLDER / ATTRIBUTES_FILE
    if not path.is_file():
        return None
    attributes = storage.read_json_object(path)
    facts: dict[str, Any] = {}
    for name in NUMBERS:
        if name not in attributes:
            continue
        value = attributes[name]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise FormatError(f"{path}: {name} is not a finite number: found {value!r}.")
        facts[name] = float(value)
    if isinstance(attributes.get("score_boundary"), bool):
        facts["score_boundary"] = attributes["score_boundary"]
    facts["files"] = [file.relative_to(folder).as_posix() for file in _files(folder)]
    return facts


def carry(reading: Reading, target: Path) -> list[Path]:
    """Copy the language model of a folder that was read into one that was written.

    Links are followed only within the folder, or into the cache of the hub that it is in: what
    is published with a model must not be some other file of its author's.

    Args:
        reading: a stored model, with or without a language model beside it.
        target: a model folder of transformers, of the same alphabet.

    Returns:
        The files written; none where there is no language model, or only a description of it.

    Raises:
        FormatError: if a link leads elsewhere.
    """
    tensor = next(iter(reading.store.tensors.values()))
    source = tensor.file.parent
    if not (source / FOLDER / ATTRIBUTES_FILE).is_file():
        return []
    if not any(file.name not in (*_WORDS, ALPHABET_FILE) for file in _files(source)):
        logger.warning(
            "%s describes a language model and does not hold it: it is not copied.", source
        )
        return []
    roots = [source.resolve()]
    if source.parent.name == "snapshots":
        roots.append(source.parent.parent.resolve() / "blobs")
    copied: list[Path] = []
    for file in _files(source):
        real = file.resolve()
        if not any(real.is_relative_to(root) for root in roots):
            raise FormatError(
                f"{file} is a link out of its folder: expected the file itself, found {real}. "
                "Replace it by a copy."
            )
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(real, place)
        copied.append(place)
    path = target / features.FEATURE_FILE
    write_json_atomic(path, storage.read_json_object(path) | {"processor_class": PROCESSOR})
    return copied


def _files(folder: Path) -> Iterator[Path]:
    """Find the files that belong to a language model."""
    if (folder / ALPHABET_FILE).is_file():
        yield folder / ALPHABET_FILE
    yield from sorted(path for path in (folder / FOLDER).iterdir() if path.is_file())
