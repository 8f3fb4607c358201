"""The verb `inspect`: what a stored model is, without reading its weights."""

import os

from unheard.interop.inspection import Inspection, describe
from unheard.interop.load import open_model

__all__ = ["Inspection", "inspect"]


def inspect(
    source: str | os.PathLike[str], *, adapter: str | None = None, map: bool = False
) -> Inspection:
    """Say what a stored model is: format, shape, alphabet, licence. Reads no weights.

    Args:
        source: anything that `load_model` takes: a folder or a checkpoint file of any known
            format, or a name on the Hugging Face hub.
        adapter: for models with an adapter for each language, the language to open it for.
        map: also list every tensor with its name in the files, its shape and its type.

    Returns:
        What its headers and settings say; `to_dict()` gives plain data, `table()` text.

    Raises:
        FormatError: if it is no model of a known format, or has an option that is not supported.
        ConfigError: if there is no such source, or a setting in it is not valid.
        CheckpointError: if names or shapes do not fit the settings.
    """
    return describe(open_model(source, adapter=adapter), source=os.fspath(source), with_map=map)
