"""Transcribed shards as the sets that fine-tuning takes, beside recordings of any other kind."""

import os
from collections.abc import Sequence
from pathlib import Path

from unheard.audio.signal import SAMPLE_RATE
from unheard.data.corpora import scan_source
from unheard.data.index import ShardIndex
from unheard.data.manifest import Utterance
from unheard.data.places import is_url, open_place
from unheard.data.shard_store import open_shards
from unheard.data.shards import is_shard_folder, open_index
from unheard.data.split import split
from unheard.data.store import SampleStore
from unheard.data.workers import WorkerPool, default_workers
from unheard.errors import ConfigError, shorten

_PLACE, _ROW, _INDEX = "shards", "shard_row", "shard_index"
"""What `extra` says of an utterance that lies in a shard: where, which, and where its index is."""


def are_shards(source: str | os.PathLike[str]) -> bool:
    """Say whether a source is a folder or an address of shards, and not of recordings."""
    return is_url(source) or is_shard_folder(source)


def read_shard_sets(
    source: str | os.PathLike[str],
    *,
    valid: str | os.PathLike[str] | float,
    folder: Path,
    seed: int,
) -> tuple[list[Utterance], list[Utterance]]:
    """List the transcribed utterances of shards: those to learn from and those to validate on.

    Args:
        source: folder or address of the shards.
        valid: the part to set aside, by speaker where speakers are known; or shards or recordings
            of their own.
        folder: where an index is kept that does not lie with the shards.
        seed: of the choice.

    Raises:
        ConfigError: if an id stands twice, or there is nothing to learn from.
    """
    found = _utterances(source, folder / "train")
    if isinstance(valid, int | float):
        held_out: float | list[Utterance] = float(valid)
    elif are_shards(valid):
        held_out = _utterances(valid, folder / "valid")
    else:
        scanned = scan_source(valid, extract_to=folder / "recordings")
        held_out = [one for one in scanned.utterances if one.text is not None]
    parted = split(found, valid=held_out, test=0.0, seed=seed, use_given=False)
    return list(parted.train), list(parted.valid)


def lie_in_shards(utterances: Sequence[Utterance]) -> bool:
    """Say whether utterances are those of `read_shard_sets`."""
    return bool(utterances) and _PLACE in utterances[0].extra


def open_shard_set(utterances: Sequence[Utterance]) -> SampleStore:
    """Open the shards that utterances of `read_shard_sets` lie in, for these alone."""
    first = utterances[0].extra
    store = open_shards(first[_PLACE], Path(first[_INDEX]))
    return store.only([one.extra[_ROW] for one in utterances])


def _utterances(source: str | os.PathLike[str], folder: Path) -> list[Utterance]:
    """List what has a transcript."""
    place = str(source) if is_url(source) else Path(source).resolve()
    with WorkerPool(default_workers()) as pool:
        index = open_index(place, folder, pool=pool)
    url = open_place(place).url
    found = [
        _utterance(index, row, text, url=url, folder=folder)
        for row, text in enumerate(index.texts)
        if text
    ]
    if not found:
        raise ConfigError(
            f"There is nothing to learn writing from in {url}: expected samples with a text, got "
            f"{len(index)} without."
        )
    seen: set[str] = set()
    twice = [one.id for one in found if one.id in seen or seen.add(one.id)]
    if twice:
        raise ConfigError(
            f"{len(twice)} ids stand twice in {url}: {shorten(twice)}. Ids of transcribed samples "
            "must be unique; train on the folders one by one, or make the shards anew from one "
            "manifest."
        )
    return found


def _utterance(index: ShardIndex, row: int, text: str, *, url: str, folder: Path) -> Utterance:
    def name(column: str) -> str:
        return index.names[column][int(index.columns[column][row])]

    return Utterance(
        id=index.ids[row],
        audio=f"{url}/{name('shard')}#{row}",
        num_samples=int(index.columns["num_samples"][row]),
        sample_rate=SAMPLE_RATE,
        text=text,
        speaker=name("speaker") or None,
        language=name("language") or None,
        extra={_PLACE: url, _ROW: row, _INDEX: str(folder)},
    )
