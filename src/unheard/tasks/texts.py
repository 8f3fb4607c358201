"""Sentences to learn a language model from, or to measure one by."""

import gzip
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from unheard.audio.io import AUDIO_SUFFIXES
from unheard.data.manifest import LONGEST_LINE_BYTES, Skip
from unheard.data.tables import open_table
from unheard.errors import FormatError, ManifestError
from unheard.text import normalize

logger = logging.getLogger(__name__)

_TABLES = (".jsonl", ".tsv", ".csv")


def read_texts(
    paths: Sequence[str | os.PathLike[str]], *, normalizer: str = "none-1"
) -> Iterator[str]:
    """Read sentences of several files, one after the other, without holding them in memory.

    Args:
        paths: text files in UTF-8 with a sentence on each line, packed with gzip or not, or
            tables of transcripts (.tsv, .csv, .jsonl; manifests too), of which the texts are taken.
            Rows that cannot be read are passed over with a warning.
        normalizer: name of a normaliser; see `unheard.text.normalize`.

    Yields:
        Each sentence, normalised; empty lines too.

    Raises:
        ConfigError: if there is no such normaliser.
        FormatError: if a line is not UTF-8 or longer than 16 MiB.
        ManifestError: if a table is none, or has no column of texts.
        OSError: if a file cannot be read.
    """
    function = normalize.get(normalizer)
    for path in map(Path, paths):
        yield from map(function, _cells(path) if path.suffix in _TABLES else _lines(path))


def _cells(path: Path) -> Iterator[str]:
    """Read the texts of a table of transcripts."""
    table = open_table(path, names_audio=lambda cell: Path(cell).suffix.lower() in AUDIO_SUFFIXES)
    if "text" not in table.columns:
        raise ManifestError(
            f"{path} has no column of texts: expected one called text, sentence or transcript, "
            f"found {', '.join(table.columns.values())}."
        )
    for row in table.rows():
        if isinstance(row, Skip):
            logger.warning("%s line %s is passed over: %s", path, row.line, row.detail)
        elif isinstance(text := row.cells.get("text"), str):
            yield text


def _lines(path: Path) -> Iterator[str]:
    """Read the lines of one text file."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        source = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        number = 0
        try:
            while line := source.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    raise FormatError(
                        f"{path} line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB: "
                        "expected a sentence on each line."
                    )
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{path} line {number} is not UTF-8: {error.reason}. Convert the file to UTF-8."
            ) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FormatError(f"{path} is not a whole gzip file: {error}.") from error
