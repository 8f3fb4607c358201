"""How much an utterance's scores change when it is padded into a batch, here and in transformers.

    python -m benchmarks.padding RECORDINGS [--kinds base large] [--utterances 16] [--write]

Random networks of the sizes that were published, as transformers initialises them, with the same
weights in both implementations, on real speech. Each utterance is scored alone and in a padded
batch; counted are the frames whose best symbol is another one. The head is scaled to give every
symbol mean 0 and deviation 1 over the utterances alone. The networks have learnt nothing: the table
says how far padding reaches into the scores, not how many letters of a trained model it changes.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from benchmarks.inference import SHAPES
from numpy.typing import NDArray
from torch import Tensor

import unheard
from unheard.audio import io
from unheard.audio.signal import InputSpec, normalize
from unheard.errors import AudioError
from unheard.inference.accelerator_network import AcceleratorNetwork
from unheard.interop.bundle import ModelBundle
from unheard.text.alphabet import Alphabet

TITLES = {
    "base": "Base kind: group norm over time",
    "large": "Large kind: layer norms",
}

ALPHABET = Alphabet(
    tokens=("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"),
    blank="<pad>",
    word_boundary="|",
    unknown="<unk>",
    special=("<s>", "</s>"),
)

Samples = NDArray[np.float32]
Scorer = Callable[[Sequence[Samples]], list[Tensor]]
"""Scores one batch, exactly as given: (frames, vocab) logits for each utterance."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What padding changed, by one way of running a network.

    Attributes:
        kind: of network.
        run: how the batch was run.
        frames: real frames compared.
        changed_frames: of them, those whose best symbol is another one than alone.
        texts: utterances that were padded.
        changed_texts: of them, those whose greedy text is another one than alone.
        largest_difference: of a logit of a real frame from that of the utterance alone.
    """

    kind: str
    run: str
    frames: int
    changed_frames: int
    texts: int
    changed_texts: int
    largest_difference: float


def listen(folder: Path, *, count: int, longest_seconds: float) -> list[Samples]:
    """Read utterances evenly spaced among those of a folder that have the right length."""
    suitable: list[Path] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in io.AUDIO_SUFFIXES):
        try:
            seconds = io.probe(path).duration_seconds
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if seconds is not None and 1 <= seconds <= longest_seconds:
            suitable.append(path)
    if len(suitable) < count:
        sys.exit(
            f"{folder}: expected {count} utterances of 1 to {longest_seconds:g} s, found "
            f"{len(suitable)}"
        )
    return [io.read(suitable[index * len(suitable) // count]).samples for index in range(count)]


def extractor(*, attention_mask: bool) -> Any:
    """The feature extractor of transformers, as the published folders of a kind set it."""
    return transformers.Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=16_000,
        padding_value=0.0,
        do_normalize=True,
        return_attention_mask=attention_mask,
    )


def their_scorer(model: Any, *, attention_mask: bool, normalize_alone: bool = False) -> Scorer:
    """Run transformers with its own feature extractor.

    Args:
        model: Wav2Vec2ForCTC.
        attention_mask: whether the extractor gives one, and the network gets it.
        normalize_alone: normalise each utterance by itself before it is padded; otherwise as the
            extractor does, which without a mask normalises over the padding too.
    """
    extract = extractor(attention_mask=attention_mask)

    def score(batch: Sequence[Samples]) -> list[Tensor]:
        if normalize_alone:
            alone = [extract([one], sampling_rate=16_000).input_values[0] for one in batch]
            longest = max(one.shape[0] for one in alone)
            padded = np.stack([np.pad(one, (0, longest - one.shape[0])) for one in alone])
            inputs = {"input_values": torch.from_numpy(padded)}
        else:
            inputs = dict(
                extract(list(batch), sampling_rate=16_000, padding=True, return_tensors="pt")
            )
        with torch.inference_mode():
            logits = model(**inputs).logits
        counts = model._get_feat_extract_output_lengths(torch.tensor([len(one) for one in batch]))
        return [row[: int(frames)].clone() for row, frames in zip(logits, counts, strict=True)]

    return score


def our_scorer(bundle: ModelBundle, spec: InputSpec) -> Scorer:
    """Run our network; logits instead of log-probabilities, to compare like with like."""
    network = AcceleratorNetwork(bundle.model, spec=spec, dtype="float32")

    def score(batch: Sequence[Samples]) -> list[Tensor]:
        prepared = [
            normalize(one, epsilon=spec.normalize_epsilon) if spec.normalize else one
            for one in batch
        ]
        counts = [bundle.encoder_config.num_frames(one.shape[0]) for one in batch]
        with torch.inference_mode():
            return [
                row[:frames].clone()
                for row, frames in zip(network.logits(prepared), counts, strict=True)
            ]

    return score


def compare(
    kind: str,
    run: str,
    scorer: Scorer,
    alone: Sequence[Tensor],
    batches: Sequence[list[int]],
    utterances: Sequence[Samples],
) -> Row:
    """Count what a way of running batches changes against every utterance alone."""
    frames = changed = texts = changed_texts = 0
    largest = 0.0
    for batch in batches:
        scores = scorer([utterances[index] for index in batch])
        longest = max(utterances[index].shape[0] for index in batch)
        for index, together in zip(batch, scores, strict=True):
            if utterances[index].shape[0] == longest:
                continue
            expected = alone[index]
            frames += len(expected)
            changed += int((together.argmax(-1) != expected.argmax(-1)).sum())
            largest = max(largest, float((together - expected).abs().max()))
            texts += 1
            changed_texts += write(together) != write(expected)
    return Row(
        kind=kind,
        run=run,
        frames=frames,
        changed_frames=changed,
        texts=texts,
        changed_texts=changed_texts,
        largest_difference=largest,
    )


def write(logits: Tensor) -> str:
    """Greedy text, with all symbols that a random network may choose."""
    ids = logits.argmax(-1).unique_consecutive().tolist()
    return " ".join(ALPHABET.tokens[index] for index in ids if index != 0)


def balance_head(model: Any, logits: Sequence[Tensor]) -> None:
    """Give every symbol mean 0 and deviation 1 over these logits of the model.

    A fresh head has one or two symbols that win at nearly every frame; nothing could change then.
    """
    every = torch.cat(list(logits)).double()
    mean, deviation = every.mean(dim=0), every.std(dim=0)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.double() / deviation[:, None])
        model.lm_head.bias.copy_((model.lm_head.bias.double() - mean) / deviation)


def measure(kind: str, utterances: Sequence[Samples], *, batch_size: int) -> list[Row]:
    """Measure one kind of network."""
    torch.manual_seed(0)
    settings = SHAPES[kind] | {"vocab_size": len(ALPHABET)}
    theirs = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**settings))
    theirs = theirs.eval()
    single = their_scorer(theirs, attention_mask=False)
    balance_head(theirs, [single([one])[0] for one in utterances])
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        bundle = replace(unheard.load_model(folder), alphabet=ALPHABET)
    batches = [
        list(range(start, min(start + batch_size, len(utterances))))
        for start in range(0, len(utterances), batch_size)
    ]
    by_default = kind == "large"
    spec = InputSpec(normalize=True, normalize_epsilon=1e-7)
    ways: list[tuple[str, Scorer]] = [
        (
            "transformers, no mask" + ("" if by_default else " (what such folders ask for)"),
            their_scorer(theirs, attention_mask=False),
        ),
        (
            "transformers, no mask, each normalised before padding",
            their_scorer(theirs, attention_mask=False, normalize_alone=True),
        ),
        (
            "transformers, attention mask" + (" (what such folders ask for)" if by_default else ""),
            their_scorer(theirs, attention_mask=True),
        ),
        (
            'unheard, padding="zeros", no mask',
            our_scorer(bundle, replace(spec, padding="zeros", attention_mask=False)),
        ),
        (
            'unheard, padding="zeros", attention mask',
            our_scorer(bundle, replace(spec, padding="zeros", attention_mask=True)),
        ),
        ('unheard, padding="masked" (the default)', our_scorer(bundle, spec)),
    ]
    alone = [single([one])[0] for one in utterances]
    ours_alone = [our_scorer(bundle, spec)([one])[0] for one in utterances]
    rows = [
        compare(kind, name, scorer, ours_alone if "unheard" in name else alone, batches, utterances)
        for name, scorer in ways
    ]
    between = max(
        float((ours - their).abs().max()) for ours, their in zip(ours_alone, alone, strict=True)
    )
    agreement = sum(
        int((ours.argmax(-1) != their.argmax(-1)).sum())
        for ours, their in zip(ours_alone, alone, strict=True)
    )
    rows.append(
        Row(
            kind=kind,
            run="no batch: unheard against transformers",
            frames=sum(len(one) for one in alone),
            changed_frames=agreement,
            texts=len(alone),
            changed_texts=sum(
                write(ours) != write(their) for ours, their in zip(ours_alone, alone, strict=True)
            ),
            largest_difference=between,
        )
    )
    del theirs, bundle
    gc.collect()
    return rows


def tables(rows: Sequence[Row]) -> str:
    """Lay the rows out as one Markdown table a kind."""
    parts = []
    for kind in dict.fromkeys(row.kind for row in rows):
        lines = [
            f"## {TITLES[kind]}",
            "",
            "| how the batch is run | frames with another best symbol | texts that differ "
            "| largest difference of a logit |",
            "|---|---|---|---|",
        ]
        for row in rows:
            if row.kind == kind:
                share = 100 * row.changed_frames / row.frames
                lines.append(
                    f"| {row.run} | {row.changed_frames} of {row.frames} ({share:.1f} %) "
                    f"| {row.changed_texts} of {row.texts} | {row.largest_difference:.2g} |"
                )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print; with --write also into benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", type=Path, help="folder with utterances of speech")
    parser.add_argument("--kinds", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--utterances", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--longest-seconds", type=float, default=12.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    utterances = listen(
        options.recordings, count=options.utterances, longest_seconds=options.longest_seconds
    )
    rows: list[Row] = []
    for kind in options.kinds:
        rows += measure(kind, utterances, batch_size=options.batch)
        print(tables(rows[-7:]), "\n", flush=True)
    seconds = [one.shape[0] / 16_000 for one in utterances]
    setting = (
        f"{len(utterances)} utterances of speech, {min(seconds):.1f} to {max(seconds):.1f} s, in "
        f"batches of {options.batch}; float32"
    )
    versions = (
        f"commit {commit()} | Python {platform.python_version()} | torch {torch.__version__} | "
        f"transformers {transformers.__version__} | {platform.machine()}"
    )
    if options.write:
        results = Path(__file__).parent / "results"
        command = f"python -m benchmarks.padding RECORDINGS --utterances {options.utterances}"
        (results / "padding.md").write_text(
            f"# Padding\n\n    {command}\n\n    {versions}\n    {setting}\n\n"
            "Random networks of the published sizes, the same weights in both implementations. "
            "Compared are real frames\nof utterances that were padded, with the same utterance "
            f"alone in the same implementation.\n\n{tables(rows)}\n",
            encoding="utf-8",
        )
        data = {"versions": versions, "setting": setting, "rows": [asdict(row) for row in rows]}
        (results / "padding.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def commit() -> str:
    """Name the commit that was measured."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
