"""What pre-training and fine-tuning runs share: devices, budgets, seeds, dead letters."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from unheard.audio.signal import SAMPLE_RATE
from unheard.config import override
from unheard.data.manifest import Skip, Utterance, audio_path, read_manifest
from unheard.data.store import Unreadable
from unheard.errors import ConfigError
from unheard.files import read_json, write_json_atomic, write_jsonl_atomic
from unheard.models.encoder import Encoder
from unheard.models.filterbank import start_as_filterbank
from unheard.models.transformer import BERT_SPREAD
from unheard.recipes.catalogue import Recipe, get_recipe
from unheard.recipes.toml import read_recipe
from unheard.tasks.scan import count_failed, scan
from unheard.tasks.shard_sets import are_shards, read_shard_sets
from unheard.tensors import derive_seed, derived_generator
from unheard.training.distributed import ALONE, Ranks
from unheard.training.schedule import Budget

NO_START = "none"
"""What a person writes as `start` for random weights; a folder of that name is "./none"."""


def given_start(start: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """Return the model that a training is to begin with; None for random weights."""
    return None if start == NO_START else start


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device; "auto" is a graphics processor if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'device must be "auto", "cpu" or "cuda:N", got {name!r}.') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch finds no graphics processor.")
    return device


def budget_of(default: Budget, max_minutes: float | None, max_steps: int | None) -> Budget:
    """Replace a recipe's budget where a caller gives one."""
    if max_minutes is None and max_steps is None:
        return default
    return Budget(max_minutes=max_minutes, max_steps=max_steps)


Changes = Mapping[str, Any] | Sequence[str]
"""Settings to change by dotted name: {"training.learning_rate": 1e-4}, or ["name=value", ...]."""


def choose_recipe(
    recipe: str | None,
    config: str | os.PathLike[str] | None,
    *,
    otherwise: Callable[[], Recipe],
) -> Recipe:
    """Take a recipe from the catalogue or from a file; from `otherwise` if neither is named.

    Raises:
        ConfigError: if both are named, or there is none of that name.
    """
    if recipe is not None and config is not None:
        raise ConfigError(
            f"Both a recipe and a file with one were given, {recipe} and {os.fspath(config)}: "
            "expected one of the two."
        )
    if config is not None:
        return read_recipe(config)
    return otherwise() if recipe is None else get_recipe(recipe)


def named_changes(changes: Changes) -> dict[str, Any]:
    """Read changes of settings as they are typed.

    Raises:
        ConfigError: if one is not "name=value".
    """
    if isinstance(changes, Mapping):
        return dict(changes)
    named: dict[str, Any] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"set changes a setting by its dotted name: expected training.learning_rate=1e-4 "
                f"or the like, got {change!r}."
            )
        named[name.strip()] = value
    return named


def changed(
    recipe: Recipe, changes: Mapping[str, Any], *, training: Literal["pretraining", "finetuning"]
) -> Recipe:
    """Return a recipe with some settings changed.

    Args:
        recipe: it stays as it was.
        changes: by dotted name, as `unheard recipes NAME` shows them.
        training: what "training." in a name is short for.

    Raises:
        ConfigError: on an unknown name or a value of another type.
    """
    return override(
        recipe,
        {
            f"{training}.{name.removeprefix('training.')}"
            if name.startswith("training.")
            else name: value
            for name, value in changes.items()
        },
    )


def given(**settings: Any) -> dict[str, Any]:
    """Leave out the settings that a caller did not give."""
    return {name: value for name, value in settings.items() if value is not None}


def start_weights(encoder: Encoder, recipe: Recipe, *, seed: int) -> None:
    """Let a fresh encoder start as its recipe says."""
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(recipe.linear_spread / BERT_SPREAD)
    if recipe.filterbank:
        start_as_filterbank(
            encoder.feature_encoder,
            sample_rate=SAMPLE_RATE,
            generator=derived_generator(seed, "filterbank"),
        )


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generator for the block, and give the old state back after it.

    The initialisers of `torch.nn` draw from that generator only.
    """
    state = torch.get_rng_state()
    torch.manual_seed(derive_seed(seed, purpose))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def read_utterances(
    source: str | os.PathLike[str],
    *,
    valid: str | os.PathLike[str] | float,
    out: Path,
    seed: int,
    ranks: Ranks = ALONE,
) -> tuple[list[Utterance], list[Utterance]]:
    """Scan transcribed recordings; returns those to learn from and those to validate on.

    Paths of recordings are absolute. What cannot be used is listed in OUT/scan.json. Of several
    processes, the first scans. Shards are looked up in their index.
    """
    folder = out / "data"
    if are_shards(source):
        return read_shard_sets(source, valid=valid, folder=folder, seed=seed)

    def look() -> None:
        scan(source, out=folder, valid=valid, test=0.0, seed=seed, progress=False)

    ranks.ask_first(look)
    return absolute(folder / "train.jsonl"), absolute(folder / "valid.jsonl")


def absolute(manifest: Path) -> list[Utterance]:
    """Read a manifest and make the paths of its recordings absolute."""
    folder = manifest.parent.resolve()
    return [
        replace(utterance, audio=str(audio_path(utterance, folder)))
        for utterance in read_manifest(manifest)
    ]


def keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write down what a run was started with, or compare with what was written before.

    Settings that only one of the two knows are no difference: another version made the other.

    Args:
        path: JSON file.
        settings: plain data.

    Raises:
        ConfigError: naming every setting that has changed.
    """
    if not path.exists():
        write_json_atomic(path, settings)
        return
    before = _dotted(read_json(path))
    changed = [
        f"{name} was {before[name]!r}, is {value!r}"
        for name, value in _dotted(settings).items()
        if name in before and before[name] != value
    ]
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with other settings: {'; '.join(changed)}. Repeat the "
            "first command to go on with it, or choose another folder."
        )


def _dotted(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Lay nested settings out flat: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat


def report_unreadable(unreadable: Sequence[Unreadable], folder: Path) -> None:
    """Name recordings that could not be decoded in FOLDER/unreadable.jsonl and say how many."""
    path = folder / "unreadable.jsonl"
    if not unreadable:
        path.unlink(missing_ok=True)
        return
    write_jsonl_atomic(path, [asdict(one) for one in unreadable])
    count = len(unreadable)
    plural = "s" if count > 1 else ""
    print(
        f"{count} recording{plural} could not be decoded and left out; {path} names what and why.",
        file=sys.stderr,
    )


def report_skipped(skipped: Sequence[Skip], record: Path) -> int:
    """Write down what a scan left out, and say how much of it was meant to be used.

    Returns:
        How much that is.
    """
    if not skipped:
        record.unlink(missing_ok=True)
        return 0
    write_jsonl_atomic(record, [skip.to_dict() for skip in skipped])
    if failed := count_failed(skipped):
        plural = "s" if failed > 1 else ""
        print(
            f"{failed} recording{plural} or row{plural} could not be used; {record} names what "
            "and why.",
            file=sys.stderr,
        )
    return failed


def forget_decoded(folder: Path) -> None:
    """Delete decoded recordings that a finished stage no longer needs."""
    shutil.rmtree(folder, ignore_errors=True)


def show_decoding(done: int, total: int) -> None:
    """Say how far decoding is, on one line of a terminal."""
    _show("decoding recordings", done, total)


def show_sharding(done: int, total: int) -> None:
    """Say how far the writing of shards is."""
    _show("writing shards, recordings", done, total)


def show_indexing(done: int, total: int) -> None:
    """Say how far the reading of shards is."""
    _show("indexing shards", done, total)


def show_labelling(done: int, total: int) -> None:
    """Say how far the labelling with units is."""
    _show("labelling with units", done, total)


def _show(work: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r\x1b[2K{work} {done} of {total}", end=end, file=sys.stderr, flush=True)
    elif done == total:
        print(f"{work}: {total} done", file=sys.stderr)
