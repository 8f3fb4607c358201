"""Language adapters in fairseq checkpoints (MMS).

A network of the layer type "trf_adp" stacks the adapters of its languages: one row a language, in
the order of `task.multi_corpus_keys`, with one head for all. The recognisers that Meta released
have, as the program that loads them shows, an `adapter` table at the top of the file: language ->
its adapters (one row), its head, and its dictionary in a task_state.
Source: fairseq models/wav2vec/wav2vec2.py `AdapterFast`, tasks/audio_pretraining.py
(`corpus_idx_map`) and examples/speech_recognition/new/infer.py ("LOAD ADAPTER") @ 3d262bb.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError
from unheard.interop.adapters import check_name
from unheard.interop.fairseq import dictionary
from unheard.interop.fairseq.keymap import ADAPTER_NAMES, CTC_PREFIX, HEAD_NAMES
from unheard.interop.fairseq.options import Options
from unheard.interop.pickle_store import Record, TensorHandle
from unheard.interop.stored import Place, StoredAdapter, TensorStore
from unheard.text.alphabet import Alphabet

NETWORK, LANGUAGES = "model", "adapter"
"""Keys at the top of a checkpoint: the network, and the table of languages."""

MASK_EMBEDDING = f"{CTC_PREFIX}mask_emb"

DICTIONARIES = "dict"
"""Folder beside a checkpoint with the dictionaries of its languages, as Meta publishes them:
dict/eng.txt."""


@dataclass(frozen=True, kw_only=True)
class AdapterShapes:
    """Sizes that all adapters of a network have in common."""

    layers: int
    dim: int
    width: int


def table_of_languages(
    checkpoint: Mapping[str, Any],
    shapes: AdapterShapes,
    *,
    store: TensorStore,
    source: Path,
) -> dict[str, StoredAdapter]:
    """Read the `adapter` table of a released recogniser; empty if the file has none.

    Raises:
        CheckpointError: naming the language whose tensors are missing, unexpected or mis-shaped.
        AlphabetError: if a language has no dictionary.
        ConfigError: if a name cannot be that of a language.
        FormatError: if the table is something else.
    """
    table = checkpoint.get(LANGUAGES)
    if table is None:
        return {}
    if not isinstance(table, Mapping) or not table:
        raise FormatError(f"{source}: expected a table of languages as adapter, found none.")
    adapters: dict[str, StoredAdapter] = {}
    for language, entry in table.items():
        where = f"{source}: adapter of {language!r}"
        _check_language(language, source=source)
        weights = entry.get(NETWORK) if isinstance(entry, Mapping) else None
        if not isinstance(weights, Mapping):
            raise FormatError(f"{where}: expected a table with a model, found none.")
        tensors = {name: item for name, item in weights.items() if isinstance(item, TensorHandle)}
        alphabet = _dictionary(entry.get("task_state"), language, where=where, source=source)
        if alphabet is None:
            raise AlphabetError(
                f"{where} has no dictionary: expected one in its task_state, or a file "
                f"{DICTIONARIES}/{language}.txt beside the checkpoint."
            )
        names = _check_language_tensors(tensors, shapes, vocab=len(alphabet), where=where)
        places = {
            ours: Place(
                name=f"{LANGUAGES}.{language}.{NETWORK}.{name}",
                row=None if ours in HEAD_NAMES else 0,
            )
            for ours, name in names.items()
        }
        adapters[language] = StoredAdapter(alphabet=alphabet, places=places, store=store)
    return adapters


def stacked_languages(
    tensors: Mapping[str, TensorHandle],
    options: Options,
    task: Options,
    shapes: AdapterShapes,
    *,
    alphabet: Alphabet,
    store: TensorStore,
) -> dict[str, StoredAdapter]:
    """Read the languages of stacked adapters that share one head.

    Where the file does not name them, they are called by their rows: "0", "1" and so on.

    Args:
        tensors: of the network, by their names in fairseq.
        options: those of the adapters.
        task: with the names of the languages.
        shapes: sizes of the adapters.
        alphabet: of the head.
        store: the files.

    Raises:
        ConfigError: if the number of names is not that of the rows.
    """
    number = options.integer("adp_num", 1)
    keys = task.text("multi_corpus_keys", "")
    named = [part.strip() for part in keys.split(",")] if keys else []
    languages = named or [str(row) for row in range(number)]
    if len(languages) != number or len(set(languages)) != number:
        raise ConfigError(
            f"{options.source}: adp_num is {number}, and {task.source}.multi_corpus_keys names "
            f"{len(languages)}: expected one different name for each adapter."
        )
    for language in languages:
        _check_language(language, source=task.source)
    stacked = dict(_adapter_names(shapes.layers))
    theirs = {ours: CTC_PREFIX + name for ours, name in stacked.items()} | dict(HEAD_NAMES)
    missing = [name for name in theirs.values() if name not in tensors]
    if missing:
        raise CheckpointError(f"{options.source}: language adapters are missing.", missing=missing)
    return {
        language: StoredAdapter(
            alphabet=alphabet,
            places={
                ours: Place(name=f"{NETWORK}.{name}", row=row if ours in stacked else None)
                for ours, name in theirs.items()
            },
            store=store,
        )
        for row, language in enumerate(languages)
    }


def _adapter_names(layers: int) -> Iterator[tuple[str, str]]:
    """Names of all adapter weights: here, and in fairseq's Wav2Vec2Model."""
    for layer in range(layers):
        for ours, theirs in ADAPTER_NAMES.items():
            yield ours.replace("{}", str(layer)), theirs.replace("{}", str(layer))


def _check_language_tensors(
    tensors: Mapping[str, TensorHandle], shapes: AdapterShapes, *, vocab: int, where: str
) -> dict[str, str]:
    """Compare the tensors of one language with what its adapters and head need.

    Returns:
        name here -> name there.
    """
    dim, width = shapes.dim, shapes.width
    sizes = {"W_a": (width, dim), "b_a": (width,), "W_b": (dim, width)}
    wanted: dict[str, tuple[int, ...]] = {
        HEAD_NAMES["head.weight"]: (vocab, dim),
        HEAD_NAMES["head.bias"]: (vocab,),
    }
    names = dict(HEAD_NAMES)
    for ours, theirs in _adapter_names(shapes.layers):
        names[ours] = CTC_PREFIX + theirs
        wanted[names[ours]] = (1, *sizes.get(theirs.rpartition(".")[2], (dim,)))
    missing = [name for name in wanted if name not in tensors]
    # The mask embedding is for training; a file may have kept it with each language.
    unexpected = [name for name in tensors if name not in wanted and name != MASK_EMBEDDING]
    mismatched = [
        f"{name}: expected {shape}, found {tensors[name].shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{where} does not fit: expected {len(wanted)} tensors, found {len(tensors)}.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )
    return names


def _dictionary(state: Any, language: str, *, where: str, source: Path) -> Alphabet | None:
    """Find the dictionary of a language: in its task_state, or in a file beside the checkpoint."""
    stored = state.get("target_dictionary") if isinstance(state, Mapping) else None
    if isinstance(stored, Record):
        return dictionary.read_pickled(stored.state, source=where)
    path = source.parent / DICTIONARIES / f"{language}.txt"
    return dictionary.read_text(path) if path.is_file() else None


def _check_language(language: Any, *, source: object) -> None:
    """Refuse a name that is no language code; it may become the name of a file."""
    try:
        check_name(language if isinstance(language, str) else str(language)[:80])
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
