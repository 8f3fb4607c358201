"""The verb `inspect`: what a stored model is, without reading its weights."""

import os

from unheard.errors import LanguageError
from unheard.interop.inspection import Inspection, describe
from unheard.interop.load import open_model
from unheard.interop.reading import Reading

__all__ = ["Inspection", "inspect"]


def inspect(
    source: str | os.PathLike[str], *, adapter: str | None = None, map: bool = False
) -> Inspection:
    """Say what a stored model is: format, shape, alphabet, licence. Reads no weights.

    Args:
        source: anything that `load_model` takes: a folder or a checkpoint file of any known
            format, or a name on the Hugging Face hub.
        adapter: for models with an adapter for each language, the language to describe: its
            alphabet and output layer are its own. Without it the first one is described, and all
            are listed.
        map: also list every tensor with its name in the files, its shape and its type.

    Returns:
        What its headers and settings say; `to_dict()` gives plain data, `table()` text.

    Raises:
        FormatError: if it is no model of a known format, or has an option that is not supported.
        ConfigError: if there is no such source, or a setting in it is not valid.
        CheckpointError: if names or shapes do not fit the settings.
    """
    reading = open_model(source, adapter=adapter) if adapter else _open_any(source)
    return describe(reading, source=os.fspath(source), with_map=map)


def _open_any(source: str | os.PathLike[str]) -> Reading:
    """Open a model for the first of its languages that has weights, if it has any."""
    try:
        return open_model(source)
    except LanguageError as error:
        if not error.languages:
            raise
        first = min(error.languages)
    try:
        return open_model(source, adapter=first)
    except LanguageError as error:
        # That one has an alphabet alone; the error names those with weights.
        if not error.languages:
            raise
        return open_model(source, adapter=min(error.languages))
