"""Inference of networks of the published shapes: our engine beside the programs people use.

    python -m benchmarks.inference [--shapes base large] [--rounds 5] [--threads 2] [--cases "30 s"]
        [--peer-python /path/to/python] [--out benchmarks/results/inference.md]
    python -m benchmarks.inference --device cuda [--out benchmarks/results/inference_cuda.md]

The same random weights (as transformers initialises them) and the same sound (noise) for all. Each
candidate runs in a process of its own (`unheard.tasks.bench_worker`) and holds its model; all take
turns in every round, and only one computes at a time. The peers run in the environment of
--peer-python, which needs torch, transformers, onnx, onnxscript, onnxruntime and openvino; without
it, in this one. ONNX Runtime and OpenVINO get the graph that torch.onnx makes of the network of
transformers, for 8 bits with the products quantised by onnxruntime.quantization.

Time is from normalised samples to the best symbol of every frame. In a batch all recordings are
padded to the longest; ONNX Runtime and OpenVINO then compute the padding too, having no mask in
their graph. Peak memory is what the process has held at most, after the longest sound and the
batches. "Off by" is the largest difference of a log-probability from transformers in float32 at
the shortest sound.

With --device cuda: transformers and we, one recording and batches of growing size until the rate
falls or memory ends, as seconds of sound a second (RTFx), end to end with greedy decoding.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unheard
from unheard.interop.load import load_model
from unheard.interop.native import save_model

RATE = 16_000
SHAPES: dict[str, dict[str, Any]] = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
}
"""What differs from the defaults of transformers: facebook/wav2vec2-base and -large-lv60."""

CASES: dict[str, list[float]] = {
    "5 s": [5.0],
    "10 s": [10.0],
    "30 s": [30.0],
    "8 x 5 s": [5.0] * 8,
    "8 x 2-9 s": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
}
"""Name of a batch -> lengths [seconds]."""

CPU_CANDIDATES = (
    ("unheard", "float32"),
    ("unheard", "bfloat16"),
    ("unheard", "int8"),
    ("transformers", "float32"),
    ("transformers", "bfloat16"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
CUDA_CANDIDATES = (
    ("unheard", "float16"),
    ("unheard", "bfloat16"),
    ("unheard", "float32"),
    ("transformers", "float16"),
    ("transformers", "bfloat16"),
    ("transformers", "float32"),
)
BATCH_SECONDS = 15.0
"""Length of a recording in the batches on an accelerator."""

MAKE_GRAPHS = """
import sys, torch, transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
source, target = sys.argv[1:]
model = transformers.AutoModelForCTC.from_pretrained(source, attn_implementation="eager").eval()
class Scores(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, x):
        return self.model(x).logits.log_softmax(dim=-1)
torch.onnx.export(
    Scores(), (torch.randn(2, 40000),), target + "/float32.onnx", input_names=["x"],
    output_names=["scores"], dynamic_axes={"x": {0: "batch", 1: "samples"}}, dynamo=False,
    opset_version=17,
)
quantize_dynamic(
    target + "/float32.onnx", target + "/int8.onnx", op_types_to_quantize=["MatMul"],
    weight_type=QuantType.QInt8, use_external_data_format=source.endswith("large"),
)
"""


@dataclass(kw_only=True)
class Candidate:
    """A process that holds a model."""

    runtime: str
    dtype: str
    process: "subprocess.Popen[str]"
    version: str = ""
    open_seconds: float = 0.0
    times: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int = 0
    off_by: float | None = None

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.dtype}"

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}


def make_models(shape: str, folder: Path, peer_python: str, *, graphs: bool) -> None:
    """Write the same random weights for every program."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**SHAPES[shape], vocab_size=32)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder / shape)
    save_model(load_model(folder / shape), folder / "native")
    if graphs:
        command = [peer_python, "-W", "ignore", "-c", MAKE_GRAPHS]
        subprocess.run(
            [*command, str(folder / shape), str(folder)], check=True, stdout=subprocess.DEVNULL
        )


def open_candidate(
    runtime: str, dtype: str, *, shape: str, folder: Path, python: str, threads: int, device: str
) -> Candidate:
    """Start a worker and let it open its model."""
    path = {"unheard": folder / "native", "transformers": folder / shape}.get(
        runtime, folder / ("int8.onnx" if dtype == "int8" else "float32.onnx")
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = str(Path(unheard.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable if runtime == "unheard" else python, "-m", "unheard.tasks.bench_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    candidate = Candidate(runtime=runtime, dtype=dtype, process=process)
    opened = candidate.ask(
        runtime=runtime, dtype=dtype, path=str(path), threads=threads, device=device
    )
    if "error" in opened:
        raise RuntimeError(f"{candidate.name}: {opened['error']}")
    candidate.version, candidate.open_seconds = opened["version"], opened["seconds"]
    return candidate


def lengths(case: list[float]) -> list[int]:
    return [round(seconds * RATE) for seconds in case]


def measure(candidates: list[Candidate], *, cases: list[str], rounds: int, folder: Path) -> None:
    """Let all candidates take turns over all cases."""
    shortest = next(iter(CASES.values()))
    for one in candidates:
        path = folder / f"{one.name}.npy"
        one.ask(lengths=lengths(shortest), save=str(path))
    exact = np.load(folder / "transformers float32.npy")
    for one in candidates:
        one.off_by = float(np.abs(np.load(folder / f"{one.name}.npy") - exact).max())
    for number in range(rounds):
        for case in cases:
            seconds = CASES[case]
            # Every other round backwards, so that nobody always follows the same neighbour.
            for one in candidates if number % 2 == 0 else candidates[::-1]:
                if number == 0:
                    one.ask(lengths=lengths(seconds))  # not counted
                answer = one.ask(lengths=lengths(seconds))
                if "error" in answer:
                    raise RuntimeError(f"{one.name}, {case}: {answer['error']}")
                one.times.setdefault(case, []).append(answer["seconds"])
                one.peak_bytes = answer["peak_bytes"]
        print(f"round {number + 1} of {rounds}", file=sys.stderr)


def table(candidates: list[Candidate], cases: list[str]) -> list[str]:
    """Lay the times out as Markdown."""
    head = ["", *cases, "RTF at 30 s", "peak memory", "opened in", "off by"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in candidates:
        cells = [f"{one.name}"]
        for case in cases:
            times = one.times[case]
            cells.append(f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})")
        cells.append(f"{statistics.median(one.times['30 s']) / 30:.4f}")
        cells.append(f"{one.peak_bytes / 1e6:,.0f} MB")
        cells.append(f"{one.open_seconds:.1f} s")
        cells.append(f"{one.off_by:.1g}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def ratios(candidates: list[Candidate]) -> list[str]:
    """Say how the best of ours compares, at 30 s, by medians and by the fastest runs."""
    lines: list[str] = []
    peers = [one for one in candidates if one.runtime != "unheard"]
    default = next(one for one in peers if one.name == "transformers float32")
    for label, of in (("medians", statistics.median), ("fastest runs", min)):
        best = min(peers, key=lambda one: of(one.times["30 s"]))
        for one in candidates:
            if one.runtime == "unheard":
                mine = of(one.times["30 s"])
                lines.append(
                    f"- {one.name}, 30 s, {label}: {of(default.times['30 s']) / mine:.2f} x "
                    f"{default.name}, {of(best.times['30 s']) / mine:.2f} x the fastest peer "
                    f"({best.name}); RTF {mine / 30:.4f}"
                )
    return lines


def greedy_rate(one: Candidate, count: int, *, rounds: int) -> float | None:
    """Seconds of sound a second in batches of `count`; None where memory ends."""
    request = {"lengths": lengths([BATCH_SECONDS] * count)}
    if "error" in one.ask(**request):
        return None
    seconds = [one.ask(**request)["seconds"] for _ in range(rounds)]
    return count * BATCH_SECONDS / statistics.median(seconds)


def accelerator_table(candidates: list[Candidate], *, rounds: int, largest: int) -> list[str]:
    """Rates of one recording and of the best batch."""
    lines = ["| | one recording, RTFx | best batch, RTFx | recordings in it |", "|---|---|---|---|"]
    for one in candidates:
        rates: dict[int, float] = {}
        count = 1
        while count <= largest:
            rate = greedy_rate(one, count, rounds=rounds)
            if rate is None or (rates and rate < 0.8 * max(rates.values())):
                break
            rates[count] = rate
            count *= 2
        best = max(rates, key=lambda size: rates[size])
        lines.append(f"| {one.name} | {rates[1]:,.0f} | {rates[best]:,.0f} | {best} |")
    return lines


def describe(arguments: argparse.Namespace) -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    return [
        f"`python -m benchmarks.inference {' '.join(sys.argv[1:])}`",
        "",
        f"Commit {commit or 'unknown'}; {device}; {arguments.threads} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}; {arguments.rounds} rounds.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of inference beside other programs.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["base"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--only", nargs="+", help='candidates, such as "unheard bfloat16"')
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--largest-batch", type=int, default=256)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    lines = ["# Inference beside other programs", "", *describe(arguments)]
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_models(shape, folder, arguments.peer_python, graphs=on_cpu)
            candidates: list[Candidate] = []
            try:
                for runtime, dtype in CPU_CANDIDATES if on_cpu else CUDA_CANDIDATES:
                    if arguments.only and f"{runtime} {dtype}" not in arguments.only:
                        continue
                    candidates.append(
                        open_candidate(
                            runtime,
                            dtype,
                            shape=shape,
                            folder=folder,
                            python=arguments.peer_python,
                            threads=arguments.threads,
                            device=arguments.device,
                        )
                    )
                lines += [f"## {shape}", ""]
                if on_cpu:
                    measure(
                        candidates, cases=arguments.cases, rounds=arguments.rounds, folder=folder
                    )
                    lines += [*table(candidates, arguments.cases), "", *ratios(candidates), ""]
                else:
                    lines += accelerator_table(
                        candidates, rounds=arguments.rounds, largest=arguments.largest_batch
                    )
                versions = {one.runtime: one.version for one in candidates}
                lines += ["", ", ".join(f"{key} {value}" for key, value in versions.items()), ""]
            finally:
                for one in candidates:
                    one.process.kill()
                    one.process.wait()
    text = "\n".join(lines)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
