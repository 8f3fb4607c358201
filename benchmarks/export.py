"""An exported model in other hands: does ONNX Runtime, sherpa-onnx, OpenVINO write what we write?

    python -m benchmarks.export MODEL MANIFEST [--peer-python /path/to/python] [--threads 1]
        [--rounds 3] [--utterances N] [--out benchmarks/results/export.md]

Exports MODEL with --int8, lets our own engine (float32) transcribe the utterances of MANIFEST, then
each runtime the exported folder, in turns. All hear the same samples. The peers run in an
environment of their own, whose interpreter --peer-python names (`benchmarks/export_worker.py` says
what it needs); without it, this one's. Texts are compared in NFC; sherpa-onnx leaves a space at the
end of some and doubles some, which the second count overlooks. Times are of all utterances, one
after the other, without opening the model: the median of the rounds and its range.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unheard
from unheard.audio import io
from unheard.data.manifest import audio_path
from unheard.decoding.greedy import GreedyDecoder
from unheard.inference.engine import Engine
from unheard.interop.inspection_table import show_bytes
from unheard.tasks.evaluate import find_utterances
from unheard.text.error_rate import score

GRAPHS = ("model.onnx", "model.int8.onnx")
RUNTIMES = ("onnxruntime", "sherpa-onnx", "openvino f32", "openvino bf16")


@dataclass(kw_only=True)
class Row:
    """One runtime and one graph."""

    name: str
    graph: str
    seconds: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def bare(text: str) -> str:
    """Normal form of the letters and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class Peers:
    """The worker process."""

    def __init__(self, python: str, samples: Path, folder: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("export_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        task = {"samples": str(samples), "folder": str(folder), "threads": threads}
        self.versions = self.ask(task)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("the worker ended; its message is above")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--utterances", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    utterances, folder, _ = find_utterances(options.manifest, None)
    utterances = [one for one in utterances if one.text is not None][: options.utterances]
    bundle = unheard.load_model(options.model)
    engine = Engine(bundle, dtype="float32")
    decoder = GreedyDecoder(engine.alphabet)
    samples = [
        engine.prepare(
            io.read(
                audio_path(one, folder),
                start_seconds=one.start / one.sample_rate,
                max_seconds=one.duration_seconds,
            )
        )
        for one in utterances
    ]
    seconds = sum(map(len, samples)) / engine.spec.sample_rate
    rows = [Row(name="unheard, float32", graph="")]
    rows += [Row(name=name, graph=graph) for graph in GRAPHS for name in RUNTIMES]
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "exported"
        result = unheard.export(bundle, exported, int8=True)
        print(result.table(), file=sys.stderr)
        stored = Path(scratch) / "samples.npz"
        np.savez(stored, **{f"u{number}": one for number, one in enumerate(samples)})
        peers = Peers(options.peer_python, stored, exported, options.threads)
        known = [row for row in rows if not row.graph or row.name.split()[0] in peers.versions]
        left_out = sorted({row.name for row in rows} - {row.name for row in known})
        for number in range(options.rounds):
            for row in known:
                if row.graph:
                    answer = peers.ask({"runtime": row.name, "graph": row.graph})
                    row.texts, elapsed = answer["texts"], answer["seconds"]
                else:
                    clock = time.perf_counter()
                    row.texts = [
                        decoder.decode(
                            engine.emissions(
                                engine.log_probs([one])[0], num_samples=len(one), warnings=()
                            )
                        )[0].text
                        for one in samples
                    ]
                    elapsed = time.perf_counter() - clock
                row.seconds.append(elapsed)
                print(f"round {number} {row.name} {row.graph} {elapsed:.2f} s", file=sys.stderr)
        peers.close()
    normalizer = bundle.provenance.get("normalizer")
    ours = [unicodedata.normalize("NFC", text) for text in rows[0].texts]
    lines = [
        "| | graph | texts equal to ours | but for spaces | CER | WER | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in known:
        errors = score(
            [one.text or "" for one in utterances], row.texts, normalizer=normalizer, resamples=1
        )
        equal = sum(
            unicodedata.normalize("NFC", a) == b for a, b in zip(row.texts, ours, strict=True)
        )
        close = sum(bare(a) == bare(b) for a, b in zip(row.texts, ours, strict=True))
        low, middle, high = min(row.seconds), statistics.median(row.seconds), max(row.seconds)
        lines.append(
            f"| {row.name} | {row.graph} | {equal} of {len(ours)} | {close} of {len(ours)} | "
            f"{errors.cer.value:.2%} | {errors.wer.value:.2%} | "
            f"{middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    versions = " | ".join(f"{name} {version}" for name, version in peers.versions.items())
    agreements = {"model.onnx": result.agreement, "model.int8.onnx": result.int8_agreement}
    page = [
        "# An exported model in other hands",
        "",
        f"    python -m benchmarks.export MODEL MANIFEST --threads {options.threads} "
        f"--rounds {options.rounds}",
        "",
        f"commit {commit} | Python {platform.python_version()} | torch {torch.__version__} | "
        f"{versions} | {os.cpu_count()} cores {platform.machine()} | "
        f"load {os.getloadavg()[0]:.1f}",
        "",
        f"{Path(options.manifest).parent.name}/{Path(options.manifest).name}: {len(ours)} "
        f"utterances, {seconds:.0f} s of sound; a model of "
        f"{sum(p.numel() for p in bundle.model.parameters()):,} weights.",
        "",
        *lines,
        "",
        *(
            f"- {name}: {show_bytes(result.files[name])}, log-probabilities of made sound within "
            f"{found.max_error:.2g} nats of the model's, {found.mean_error:.2g} on average"
            for name, found in agreements.items()
            if found is not None
        ),
        *([f"- not installed, so left out: {', '.join(left_out)}"] if left_out else []),
        "",
    ]
    print("\n".join(page))
    if options.out is not None:
        options.out.write_text("\n".join(page))


if __name__ == "__main__":
    main()
