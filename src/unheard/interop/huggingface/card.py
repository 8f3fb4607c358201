"""Model cards: README.md with a head of a few facts, read for the licence, written for people."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import networks

CARD_FILE = "README.md"

MAX_CARD_BYTES = 256 << 10

FACTS: Mapping[str, str] = {"license": "licence", "base_model": "base_model"}
"""What is read of the head of a card -> what provenance calls it."""

PURPOSES: Mapping[str, str] = {
    networks.CTC: "automatic-speech-recognition",
    networks.SEQUENCE: "audio-classification",
    networks.FRAMES: "audio-classification",
    networks.SPEAKER: "feature-extraction",
    networks.PLAIN: "feature-extraction",
}
"""Class of transformers -> what the hub lists it under."""

_LINE = re.compile(r"(?P<name>[a-z_]+):\s*(?P<value>[^\s#\[\]{}|>&*!][^#]*?)\s*(#.*)?")


def read_card(folder: Path) -> dict[str, str]:
    """Read licence and base model out of the head of a card, as far as it gives them plainly.

    The head is YAML; only lines `name: value` are understood, and anything else in it is passed
    over: a card is prose, and no model depends on it.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        lines = file.read(MAX_CARD_BYTES).decode("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    facts: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return facts
        match = _LINE.fullmatch(line)
        if match and match["name"] in FACTS:
            value = match["value"].strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            facts[FACTS[match["name"]]] = value[:200]
    return {}  # the head has no end: this is no card


def write_card(bundle: ModelBundle, architecture: str, dropped: Sequence[str] = ()) -> str | None:
    """Write a card: licence, where the model comes from, what was done; None without provenance.

    Args:
        bundle: what is written.
        architecture: as which class of transformers.
        dropped: names of weights that are not written.
    """
    provenance = bundle.provenance
    if not provenance:
        return None
    head: dict[str, Any] = {"library_name": "transformers"}
    licence = provenance.get("licence")
    if isinstance(licence, str):
        head["license"] = licence
    if architecture in PURPOSES:
        head["pipeline_tag"] = PURPOSES[architecture]
    head["tags"] = ["unheard", "wav2vec2"]
    weights = sum(parameter.numel() for parameter in bundle.model.parameters())
    spec = bundle.input_spec
    lines = [
        "---",
        # Every JSON value is a YAML value.
        *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
        "---",
        "",
        "# Model card",
        "",
        f"A {architecture} of {weights:,} weights, written by Unheard.",
        "",
        f"- Licence: {shown(licence) if licence else 'not stated'}",
        f"- Input: mono sound at {spec.sample_rate} Hz"
        + (", each utterance normalised" if spec.normalize else ""),
    ]
    if bundle.alphabet is not None:
        blank = shown(bundle.alphabet.blank)
        lines.append(f"- Output: {len(bundle.alphabet)} symbols, blank {blank}")
    if bundle.labels:
        lines.append(f"- Output: {len(bundle.labels)} classes")
    if bundle.adapters:
        lines.append(f"- Languages with an adapter: {len(bundle.adapters)}")
    if dropped:
        lines.append(f"- Left out, because transformers has no such head: {', '.join(dropped)}")
    lines += [
        "",
        "## Provenance",
        "",
        "```json",
        # Three back quotes would end the block.
        json.dumps(public(provenance), indent=2, ensure_ascii=True).replace("`", "\\u0060"),
        "```",
        "",
    ]
    return "\n".join(lines)


def public(value: Any) -> Any:
    """Leave out of provenance where on somebody's own machine a model was."""
    if isinstance(value, Mapping):
        return {name: public(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [public(part) for part in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def shown(text: str) -> str:
    """Put text of unknown origin into a line of Markdown."""
    quoted = json.dumps(text, ensure_ascii=True).replace("`", "\\u0060")
    return f"`{quoted}`"
