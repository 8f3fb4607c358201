"""Whether a model that was written is the model that was meant.

Settings are compared after they have been through the files, so that whatever a format has no place
for shows by itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unheard.config import to_dict
from unheard.errors import CheckpointError, FormatError, shorten
from unheard.interop.bundle import ModelBundle
from unheard.interop.reading import Reading
from unheard.models.config import EncoderOnlyConfig
from unheard.text.alphabet import Alphabet

TRAINING_SETTINGS = frozenset(
    {
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "input_dropout",
        "layer_drop",
        "feature_grad_scale",
        "head_dropout",
        "feature_dropout",
        "distractors",
        "contrastive_temperature",
        "diversity_weight",
        "feature_penalty_weight",
        "unmasked_weight",
        "temperature_start",
        "temperature_end",
        "temperature_floor_at",
        "masking",
    }
)
"""Settings that no result of a finished model depends on: losing one is a warning."""

HARMLESS_INPUT = frozenset({"normalize_epsilon", "padding", "attention_mask"})
"""Of the input spec: an epsilon that formats fix and only quiet recordings notice, and what a
reader chooses for itself."""

NEVER_WRITTEN = -1e4
"""Bias at most of an output that stands for no symbol: its probability is zero in every type."""

HEAD = ("head.weight", "head.bias")


def compare_settings(bundle: ModelBundle, written: Reading) -> list[str]:
    """Find settings that the files do not say as the model does.

    Args:
        bundle: what was written.
        written: what the files say, read back.

    Returns:
        What was lost and does not change what the network computes or writes, by name.

    Raises:
        FormatError: if the network that is read back would compute or write something else.
    """
    errors, lost = [], []
    _compare_configs(bundle, written, errors, lost)
    for key, (before, after) in _differences(
        to_dict(bundle.input_spec), to_dict(written.input_spec)
    ):
        said = f"{key} {before!r} (read back: {after!r})"
        (lost if key in HARMLESS_INPUT else errors).append(said)
    if bundle.alphabet is not None:
        _compare_alphabets(bundle.alphabet, written.alphabet, errors, lost)
    if bundle.labels != written.labels:
        (errors if written.labels else lost).append("the names of the classes")
    if missing := sorted(set(bundle.adapters) - set(written.adapters) - {bundle.adapter}):
        lost.append(f"languages ({len(missing)}): {shorten(missing)}")
    for key in ("licence", "license"):
        if bundle.provenance.get(key) not in (None, written.provenance.get(key)):
            lost.append(f"the {key} {bundle.provenance[key]}")
    if errors:
        raise FormatError(
            "This model cannot be expressed in the target's format, which would say otherwise: "
            f"{shorten(errors)}. Nothing was written."
        )
    return [f"not kept in the target: {one}" for one in lost]


def compare_weights(
    bundle: ModelBundle, written: Reading, advance: Callable[[int], None]
) -> list[str]:
    """Read back every weight that was written.

    Args:
        bundle: what was written.
        written: the files.
        advance: called with the bytes of each tensor that has been read back.

    Returns:
        Weights that the files have no place for.

    Raises:
        CheckpointError: if a tensor is not the one that was to be written, or a file is damaged.
    """
    written.store.verify()
    weights = bundle.model.state_dict()
    order = None
    if bundle.alphabet is not None and written.alphabet is not None:
        order = match_symbols(bundle.alphabet, written.alphabet, weights)
    kept = [name for name in weights if name in written.places and name not in written.initialised]
    different = []
    for name in kept:
        place = written.places[name]
        found = written.store.read(place.name)
        advance(found.numel() * found.element_size())
        if place.row is not None:
            found = found[place.row]
        if order is not None and name in HEAD:
            same = _same_outputs(found, weights[name], order, is_bias=name == "head.bias")
        else:
            expected = weights[name]
            same = found.numel() == expected.numel() and torch.equal(
                found.reshape(expected.shape), expected
            )
        if not same or found.dtype != weights[name].dtype:
            different.append(name)
    if different:
        raise CheckpointError(
            "What was written is not what was read: expected equal weights, found others in "
            f"{shorten(different)}. Nothing was kept; this is a defect of this package or of the "
            "disk."
        )
    lost = [name for name in weights if name not in kept]
    return [f"the target has no place for the weights {shorten(lost)}"] if lost else []


def match_symbols(
    before: Alphabet, after: Alphabet, weights: Mapping[str, Tensor]
) -> list[int | None] | None:
    """Find the output of each symbol of one alphabet in another, which may number them otherwise.

    Formats have names of their own for the blank, the word boundary and unknown characters, and may
    demand symbols that the alphabet does not have.

    Args:
        before: what was written.
        after: what the files say.
        weights: of the network before.

    Returns:
        For each output after, the number of the same symbol before, or None for an output that
        must never win; None instead of a list if nothing has moved.
    """
    if after.tokens == before.tokens or "head.bias" not in weights:
        return None
    number = {token: place for place, token in enumerate(before.tokens)}
    duties = {after.blank: before.blank}
    if after.word_boundary is not None and before.word_boundary is not None:
        duties[after.word_boundary] = before.word_boundary
    if after.unknown is not None and before.unknown is not None:
        duties[after.unknown] = before.unknown
    taken = set(duties.values())
    # A special symbol that nothing is written for may have any name.
    named = set(before.special) & set(after.special)
    spare = [token for token in before.special if token not in named]
    order: list[int | None] = []
    for token in after.tokens:
        name: str | None = duties.get(token, token)
        if token in after.special and token not in named:
            name = spare.pop(0) if spare else None
        elif token not in duties and (token not in number or token in taken):
            name = None
        order.append(None if name is None else number[name])
    return order


def _same_outputs(
    found: Tensor, expected: Tensor, order: Sequence[int | None], *, is_bias: bool
) -> bool:
    """Whether the outputs of a head are there, in another order and beside silent ones."""
    if found.shape[0] != len(order) or found.shape[1:] != expected.shape[1:]:
        return False
    for output, row in zip(found, order, strict=True):
        if row is not None:
            same = torch.equal(output, expected[row])
        else:
            same = bool((output <= NEVER_WRITTEN).all() if is_bias else (output == 0).all())
        if not same:
            return False
    return sorted(row for row in order if row is not None) == list(range(expected.shape[0]))


def _compare_configs(
    bundle: ModelBundle, written: Reading, errors: list[str], lost: list[str]
) -> None:
    """Compare the shapes of the networks."""
    before, after = to_dict(bundle.config), to_dict(written.config)
    if type(written.config) is not type(bundle.config):
        if not isinstance(written.config, EncoderOnlyConfig):
            errors.append(
                f"the network {type(bundle.config).__name__} (read back: "
                f"{type(written.config).__name__})"
            )
            return
        lost.append(f"the head of the {type(bundle.config).__name__}: the encoder is left")
        before, after = {"encoder": before["encoder"]}, {"encoder": after["encoder"]}
    if bundle.alphabet is not None and written.alphabet is not None:
        # Symbols are compared one by one.
        before.pop("vocab", None)
        after.pop("vocab", None)
    for key, (one, other) in _differences(before, after):
        said = f"{key} {one!r} (read back: {other!r})"
        if (
            isinstance(one, float)
            and isinstance(other, float)
            and math.isclose(one, other, rel_tol=1e-5)
        ):
            # Stored as another quantity, such as a factor an update.
            continue
        (errors if TRAINING_SETTINGS.isdisjoint(key.split(".")) else lost).append(said)


def _compare_alphabets(
    before: Alphabet, after: Alphabet | None, errors: list[str], lost: list[str]
) -> None:
    """Compare what is written for each symbol."""
    if after is None:
        lost.append(f"the alphabet of {len(before)} symbols")
        return
    if (before.word_boundary is None) != (after.word_boundary is None):
        errors.append("the word boundary of the alphabet")
    missing = sorted(_letters(before) - _letters(after))
    further = sorted(_letters(after) - _letters(before))
    if missing or further:
        errors.append(
            f"symbols of the alphabet (lost: {shorten(missing) or 'none'}; further: "
            f"{shorten(further) or 'none'})"
        )
    if before.case != after.case:
        lost.append(f"case {before.case!r} of the alphabet (read back: {after.case!r})")
    if before.unknown is not None and after.unknown is None:
        lost.append("the symbol for unknown characters")
    if before.tokens != after.tokens and not (missing or further):
        lost.append(
            f"names and numbers of the symbols: {len(before)} before, {len(after)} after, blank "
            f"{before.blank!r} before, {after.blank!r} after"
        )


def _letters(alphabet: Alphabet) -> set[str]:
    """Symbols that are written as they are."""
    duties = {alphabet.blank, alphabet.word_boundary, alphabet.unknown, *alphabet.special}
    return set(alphabet.tokens) - duties


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Give the dotted names of values that differ, with both."""
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", (one, other)
