"""Make the files of unheard-mini out of the pre-training runs that led to it.

    python -m tools.make_unheard_mini ROUND_1 ROUND_2 --corpus corpus.jsonl

Each ROUND is a run folder of `unheard pretrain`, in the order in which they were run; the model of
the last is packed: its encoder, rounded to bfloat16, without the head (its units exist nowhere
else, and going on makes new ones), with a model card and curves. CORPUS is the manifest that all
rounds heard, whose ids begin with the folders that tools/unheard_mini.toml describes.
"""

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.healthy_curves import draw

from unheard.audio.io import read
from unheard.audio.signal import prepare
from unheard.data.corpora import scan_source
from unheard.data.manifest import Utterance
from unheard.files import read_json, read_jsonl, write_text_atomic
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import load_model, save_model
from unheard.interop.packaged import FOLDER, UNHEARD_MINI
from unheard.models.config import EncoderOnlyConfig
from unheard.models.encoder_only import EncoderOnlyModel

CORPORA = Path(__file__).with_name("unheard_mini.toml")

CARD = Path(__file__).with_name("unheard_mini_card.md")

SHOWN_SETTINGS = ("batch_seconds", "min_seconds", "max_seconds", "learning_rate")
"""Settings of the last round that the card names."""

LICENCE = "apache-2.0"
"""Of the weights, as the hub spells it: the package's own."""

ALLOWED = ("CC0-1.0", "CC-BY-4.0", "MIT", "Apache-2.0", "public domain")
"""Licences of recordings that ask for no more than a name."""

MAX_BYTES = 25_000_000
"""What the weights may weigh in the package [bytes]."""

COMPARED = 24
"""Recordings on which the rounded weights are compared with those of the run."""

MAX_CHANGE = 0.02
"""How much rounding may change frames, root mean square to root mean square."""

EVERY = 4
"""Of the rows of training, every n-th is drawn."""

LANGUAGES: Mapping[str, str] = {
    "lg": "Luganda",
    "am": "Amharic",
    "wo": "Wolof",
    "fa": "Persian",
    "ar": "Arabic",
    "en": "English",
    "de": "German",
}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus that was heard.

    Attributes:
        name: of the corpus.
        licence: one of `ALLOWED`.
        source: address of the original.
        attribution: who made it.
        part: what of it was heard.
        hours: of the recordings that the manifest lists [hours].
        recordings: how many these are.
        speakers: named in the manifest; 0 if none is.
        languages: their codes.
    """

    name: str
    licence: str
    source: str
    attribution: str
    part: str
    hours: float
    recordings: int
    speakers: int
    languages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One pre-training.

    Attributes:
        units: clusters that were predicted.
        units_of: what was clustered.
        steps: updates.
        minutes: of training [minutes].
        hours_heard: sound that went through the network, repeats included [hours].
        hours: of different sound that was learnt from [hours].
        loss: on held-out recordings [nats a masked frame].
        accuracy: there, on masked frames.
        heard_accuracy: there, on the others; None if the log has none.
        training: settings.
    """

    units: int
    units_of: str
    steps: int
    minutes: float
    hours_heard: float
    hours: float
    loss: float
    accuracy: float
    heard_accuracy: float | None
    training: Mapping[str, Any]


def main() -> None:
    """Read the command line and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", nargs="+", type=Path, help="run folders, the last one is packed")
    parser.add_argument("--corpus", required=True, type=Path, help="manifest of what was heard")
    parser.add_argument("--out", type=Path, default=FOLDER / UNHEARD_MINI)
    parser.add_argument("--machine", default="two CPU cores, no accelerator")
    given = parser.parse_args()
    folder = pack(given.rounds, corpus=given.corpus, out=given.out, machine=given.machine)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")


def pack(rounds: Sequence[Path], *, corpus: Path, out: Path, machine: str) -> Path:
    """Write the model folder, card and curves.

    Raises:
        SystemExit: if a corpus or its licence is not known, the weights are too large, or rounding
            changes what the network computes by more than `MAX_CHANGE`.
    """
    heard = scan_source(corpus).utterances
    corpora = sum_up(heard)
    told = [read_round(run) for run in rounds]
    trained = load_model(rounds[-1] / "model")
    packed = rounded(trained, provenance_of(trained, told, corpora))
    change = compare(trained, packed, heard)
    if change > MAX_CHANGE:
        sys.exit(f"Rounding changes frames by {change:.1%}: expected at most {MAX_CHANGE:.0%}.")
    save_model(packed, out)
    size = (out / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"The weights take {size:,} bytes: expected at most {MAX_BYTES:,}.")
    for old in out.glob("curves-*.svg"):
        old.unlink()
    for number, run in enumerate(rounds, start=1):
        write_text_atomic(out / f"curves-{number}.svg", draw(_thin(run / "metrics.jsonl"), None))
    parameters = sum(weight.numel() for weight in packed.model.parameters())
    text = card(
        told, corpora, parameters=parameters, size_bytes=size, change=change, machine=machine
    )
    write_text_atomic(out / "README.md", text)
    return out


def sum_up(utterances: Sequence[Utterance]) -> list[Corpus]:
    """Sum up what was heard, corpus by corpus, and look each one up.

    Raises:
        SystemExit: if a corpus is not described, or its licence asks for more than a name.
    """
    described = {
        one["folder"]: one for one in tomllib.loads(CORPORA.read_text(encoding="utf-8"))["corpus"]
    }
    found: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        found.setdefault(utterance.id.split("/")[0], []).append(utterance)
    if unknown := found.keys() - described.keys():
        sys.exit(f"{CORPORA} does not describe {', '.join(sorted(unknown))}.")
    corpora = []
    for folder, heard in found.items():
        about = described[folder]
        if about["licence"] not in ALLOWED:
            sys.exit(f"{folder} is under {about['licence']}: expected {' or '.join(ALLOWED)}.")
        corpora.append(
            Corpus(
                **{key: about[key] for key in ("name", "licence", "source", "attribution", "part")},
                hours=sum(one.duration_seconds for one in heard) / 3600,
                recordings=len(heard),
                speakers=len({one.speaker for one in heard if one.speaker}),
                languages=tuple(sorted({one.language for one in heard if one.language})),
            )
        )
    return sorted(corpora, key=lambda one: -one.hours)


def read_round(run: Path) -> Round:
    """Read what a run folder says of its run."""
    config, result = read_json(run / "config.json"), read_json(run / "result.json")
    teacher = config.get("teacher")
    valid = [row for row in read_jsonl(run / "metrics.jsonl") if row["kind"] == "valid"]
    best = min(valid, key=lambda row: abs(row["masked"] - result["loss"]))
    return Round(
        units=config["network"]["units"],
        units_of=f"Transformer {teacher.split(' of ')[0]} of the round before"
        if teacher
        else "cepstra",
        training=config["training"],
        heard_accuracy=best.get("unmasked_accuracy"),
        **{
            key: result[key]
            for key in ("steps", "minutes", "hours_heard", "hours", "loss", "accuracy")
        },
    )


def provenance_of(
    trained: ModelBundle, rounds: Sequence[Round], corpora: Sequence[Corpus]
) -> dict[str, Any]:
    """What every model that begins with this one will carry on as its parent."""
    return {
        "name": UNHEARD_MINI,
        "made_by": trained.provenance["made_by"],
        "task": "pretrain",
        "recipe": "mini",
        "licence": LICENCE,
        "objective": "masked_units",
        "rounds": [
            {
                "units": one.units,
                "units_of": one.units_of,
                "steps": one.steps,
                "hours_heard": round(one.hours_heard, 2),
                "loss": round(one.loss, 4),
            }
            for one in rounds
        ],
        "hours": round(rounds[-1].hours, 2),
        "data": [f"{one.name} ({one.licence}): {one.attribution}" for one in corpora],
    }


def rounded(trained: ModelBundle, provenance: dict[str, Any]) -> ModelBundle:
    """The encoder of a trained model in bfloat16."""
    model = EncoderOnlyModel(EncoderOnlyConfig(encoder=trained.encoder_config))
    model.encoder.load_state_dict(trained.model.encoder.state_dict())
    return ModelBundle(
        model=model.to(torch.bfloat16).eval(),
        alphabet=None,
        input_spec=trained.input_spec,
        provenance=provenance,
    )


def compare(trained: ModelBundle, packed: ModelBundle, utterances: Sequence[Utterance]) -> float:
    """How far the rounded weights, computed with in float32, change the frames of recordings.

    Returns:
        Root mean square of the difference, to that of the frames.
    """
    restored = EncoderOnlyModel(EncoderOnlyConfig(encoder=packed.encoder_config)).eval()
    restored.load_state_dict(packed.model.state_dict())
    difference = power = 0.0
    for utterance in utterances[:: max(1, len(utterances) // COMPARED)][:COMPARED]:
        samples = prepare(read(utterance.audio), trained.input_spec)
        batch = torch.from_numpy(samples)[None]
        with torch.inference_mode():
            before = trained.model.encoder(batch).frames
            after = restored.encoder(batch).frames
        difference += float((before - after).double().square().sum())
        power += float(before.double().square().sum())
    return math.sqrt(difference / power)


def _thin(metrics: Path) -> list[dict[str, Any]]:
    """Rows to draw."""
    # A step that was logged again after a stop counts once, the last.
    rows = list({(row["kind"], row["step"]): row for row in read_jsonl(metrics)}.values())
    heard = [row for row in rows if row["kind"] == "train"]
    kept = {row["step"] for row in (heard[0], *heard[EVERY - 1 :: EVERY], heard[-1])}
    return [row for row in rows if row["kind"] != "train" or row["step"] in kept]


def card(
    rounds: Sequence[Round],
    corpora: Sequence[Corpus],
    *,
    parameters: int,
    size_bytes: int,
    change: float,
    machine: str,
) -> str:
    """Write the model card."""
    codes = sorted({code for one in corpora for code in one.languages})
    names = ", ".join(LANGUAGES.get(code, code) for code in codes)
    training = rounds[-1].training
    head = {
        "license": LICENCE,
        "language": codes,
        "library_name": "unheard",
        "pipeline_tag": "feature-extraction",
        "tags": ["speech", "self-supervised", "low-resource", "wav2vec2"],
    }
    numbers = range(1, len(rounds) + 1)
    attributions = (
        f"- **{one.name}**: {one.attribution.rstrip('.')}. Heard: {one.part}." for one in corpora
    )
    return CARD.read_text(encoding="utf-8").format(
        # Every JSON value is a YAML value.
        head="\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items()),
        name=UNHEARD_MINI,
        parameters=parameters,
        megabytes=size_bytes / 1e6,
        machine=machine,
        rounds="\n".join(map(_round_row, numbers, rounds)),
        hours=rounds[-1].hours,
        **{name: training[name] for name in SHOWN_SETTINGS},
        curves="\n\n".join(f"![curves of round {n}](curves-{n}.svg)" for n in numbers),
        change=100 * change,
        compared=COMPARED,
        total=sum(one.hours for one in corpora),
        languages=f"{len(codes)} languages ({names})",
        corpora="\n".join(map(_corpus_row, corpora)),
        attributions="\n".join(attributions),
        english=100 * _share(corpora, "en"),
    )


def _round_row(number: int, one: Round) -> str:
    begins = "random weights, filterbank" if number == 1 else f"round {number - 1}"
    heard = "" if one.heard_accuracy is None else f"{one.heard_accuracy:.3f}"
    return (
        f"| {number} | {one.units} clusters of {one.units_of} | {begins} | {one.steps:,} | "
        f"{one.minutes:.0f} | {one.hours_heard:.1f} | {one.loss:.2f} | {math.log(one.units):.2f} | "
        f"{one.accuracy:.3f} | {heard} |"
    )


def _corpus_row(one: Corpus) -> str:
    return (
        f"| [{one.name}]({one.source}) | {', '.join(one.languages)} | {one.hours:.2f} | "
        f"{one.recordings:,} | {one.speakers or 'none'} | {one.licence} |"
    )


def _share(corpora: Sequence[Corpus], language: str) -> float:
    """Share of the hours that is in a language."""
    hours = sum(one.hours for one in corpora if language in one.languages)
    return hours / sum(one.hours for one in corpora)


if __name__ == "__main__":
    main()
