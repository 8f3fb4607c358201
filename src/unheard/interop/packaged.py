"""Models that come with this package, found by name and in no need of a network.

Each is a folder of our own format, unheard/pretrained/NAME, with its model card and curves.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from unheard.errors import CheckpointError, FormatError

logger = logging.getLogger(__name__)

UNHEARD_MINI = "unheard-mini"
"""What `learn` begins with when nothing else is asked for."""

NAMES = (UNHEARD_MINI,)

FOLDER = Path(__file__).parents[1] / "pretrained"


def packaged_folder(source: object) -> Path | None:
    """Find the folder of a model of this package; None for any other source.

    A name as text means the package's model in any working folder, or what a command does would
    depend on where it is given. A folder of that name is "./unheard-mini", or a `Path`.

    Args:
        source: what a caller calls the model.

    Raises:
        CheckpointError: if the installation lacks the model.
    """
    if not (isinstance(source, str) and source in NAMES):
        return None
    folder = FOLDER / source
    if not folder.is_dir():
        raise CheckpointError(
            f"The model {source} is not in this installation: expected it in {folder}, found no "
            f"such folder. {_advice(source)}",
            missing=[source],
        )
    return folder


def warn_of_namesake(source: object) -> None:
    """Say which of the two is taken where a name is also something in the working folder."""
    if isinstance(source, str) and source in NAMES and os.path.lexists(source):
        logger.warning(
            "%s is the model that comes with the package; what has that name in this folder is "
            "./%s",
            source,
            source,
        )


@contextlib.contextmanager
def advising(source: object) -> Iterator[None]:
    """Add to an error of reading a packaged model what mends it.

    Raises:
        CheckpointError: in place of a `CheckpointError` or a `FormatError`.
    """
    try:
        yield
    except (CheckpointError, FormatError) as error:
        if not (isinstance(source, str) and source in NAMES) or _advice(source) in str(error):
            raise
        raise CheckpointError(f"{error} {_advice(source)}") from error


def _advice(name: str) -> str:
    return f"{name} comes with the package: install that again."
