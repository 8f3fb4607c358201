"""The verb `bench`: how fast a model runs on this machine, in each number format, and elsewhere.

Every candidate runs in a process of its own, so that each has its own peak memory; they take turns,
so that a busy machine is busy for all of them.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from unheard.errors import ConfigError, FormatError, MissingExtraError
from unheard.inference.inputs import as_bundle
from unheard.inference.number_format import choose_dtype
from unheard.inference.products import has_int8_products
from unheard.interop.bundle import ModelBundle
from unheard.interop.native import save_model
from unheard.interop.onnx.folder import plan_outputs
from unheard.models.ctc import CtcModel
from unheard.tasks.convert import convert
from unheard.tasks.export import export

__all__ = ["Bench", "BenchRow", "bench"]

GRAPHS = ("onnxruntime", "openvino")
"""Programs that run what `unheard export` writes."""


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One candidate.

    Attributes:
        name: program and number format.
        version: of the program.
        chosen: whether `--dtype auto` takes it on this machine.
        seconds: length of sound -> median of the times of one recording [seconds].
        spread: length of sound -> (fastest, slowest) [seconds].
        open_seconds: time until it was ready.
        peak_bytes: most memory its process held, model included; None where unknown.
        largest_difference: of a log-probability from those of our float32; None for itself.
    """

    name: str
    version: str
    chosen: bool
    seconds: dict[float, float]
    spread: dict[float, tuple[float, float]]
    open_seconds: float
    peak_bytes: int | None
    largest_difference: float | None

    def real_time_factor(self, length: float) -> float:
        """Computing time for a second of sound."""
        return self.seconds[length] / length


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `bench` measured.

    Attributes:
        threads: that each candidate used.
        device: where they ran.
        lengths: of the sounds [seconds].
        rounds: that each was measured.
        rows: the candidates.
        left_out: candidate -> why it is not among them.
    """

    threads: int
    device: str
    lengths: tuple[float, ...]
    rounds: int
    rows: tuple[BenchRow, ...]
    left_out: dict[str, str]

    def table(self) -> str:
        """Lay out for a person."""
        head = ["", *(f"{length:g} s" for length in self.lengths)]
        head += [f"RTF at {max(self.lengths):g} s", "memory", "off by"]
        lines = [head]
        for row in self.rows:
            memory = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB"
            off = "-" if row.largest_difference is None else f"{row.largest_difference:.1g}"
            lines.append(
                [
                    row.name + (" (auto)" if row.chosen else ""),
                    *(f"{row.seconds[length]:.3f}" for length in self.lengths),
                    f"{row.real_time_factor(max(self.lengths)):.4f}",
                    memory,
                    off,
                ]
            )
        widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
        text = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        text.append("")
        text.append(
            f"Seconds for one recording, the median of {self.rounds}, {self.threads} threads, "
            f"{self.device}. RTF: computing time for a second of sound."
        )
        text.append("Off by: largest difference of a log-probability from our float32.")
        text += [f"Left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join(text)


@dataclass(kw_only=True)
class _Candidate:
    """A process that runs one program."""

    name: str
    request: dict[str, Any]
    log: Path
    process: "subprocess.Popen[str] | None" = None
    opened: dict[str, Any] = field(default_factory=dict)
    times: dict[float, list[float]] = field(default_factory=dict)
    peak: int | None = None

    def open(self) -> str | None:
        """Start the process; returns why it cannot run, or None."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unheard.tasks.bench_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        self.opened = self.ask(self.request)
        return self.opened.get("error")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            return {"error": "the process is not running"}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self.log.read_text(encoding="utf-8", errors="replace").strip()
            last = said.splitlines()[-1] if said else "without a word"
            return {"error": f"its process ended with code {self.process.wait()}: {last}"}
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def bench(
    model: str | os.PathLike[str],
    *,
    seconds: Sequence[float] = (5.0, 10.0, 30.0),
    rounds: int = 5,
    threads: int | None = None,
    device: str = "cpu",
    peers: bool = True,
    adapter: str | None = None,
) -> Bench:
    """Measure how fast a model runs here, in each number format and in other programs.

    The sound is noise. The other programs are those of transformers, onnxruntime and openvino that
    can be imported; they run the same weights, ONNX Runtime and OpenVINO through `unheard export`.

    Args:
        model: what `load_model` takes, with a CTC head.
        seconds: lengths of the sounds [seconds].
        rounds: how often each is measured, after one run that does not count.
        threads: for each program; all cores of this machine by default.
        device: where to run: "cpu", "cuda", "mps".
        peers: whether to measure other programs too.
        adapter: for models with an adapter for each language, the language to open it for.

    Raises:
        ConfigError: if the model has no CTC head, a setting is out of range, or nothing runs.
    """
    lengths = tuple(dict.fromkeys(float(one) for one in seconds))
    if not lengths or not all(0.1 <= one <= 3600 for one in lengths) or rounds < 1:
        raise ConfigError(
            "seconds must be lengths from 0.1 to 3600 and rounds at least 1, got "
            f"{', '.join(f'{one:g}' for one in lengths) or 'none'} and {rounds}."
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}.")
    threads = threads or torch.get_num_threads()
    bundle = as_bundle(model, adapter=adapter)
    if not isinstance(bundle.model, CtcModel):
        raise ConfigError("Only a model with a CTC head can be measured: expected one, found none.")
    rate = bundle.input_spec.sample_rate
    left_out: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="unheard-bench-") as folder,
        Progress(transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task("preparing", total=None)
        candidates = _ours(bundle, Path(folder), device=device)
        if peers:
            candidates += _peers(bundle, Path(folder), device=device, left_out=left_out)
        for one in candidates:
            one.request |= {"threads": threads, "device": device}
        try:
            runs = _run_all(candidates, lengths, rounds, rate, Path(folder), progress, left_out)
        finally:
            for one in candidates:
                one.close()
        progress.remove_task(task)
    if not runs:
        whys = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ConfigError(f"Nothing could be measured. {whys}")
    auto = f"unheard {_auto_dtype(bundle, device)}"
    exact = {one.name: torch.from_numpy(scores) for one, scores in runs}.get("unheard float32")
    return Bench(
        threads=threads,
        device=_describe(device),
        lengths=lengths,
        rounds=rounds,
        rows=tuple(
            _row(one, _difference(one, scores, exact, bundle), chosen=one.name == auto)
            for one, scores in runs
        ),
        left_out=left_out,
    )


def _auto_dtype(bundle: ModelBundle, device: str) -> str:
    """What "auto" becomes for this model on a device."""
    return choose_dtype("auto", device=torch.device(device), weights=bundle.dtype)


def _ours(bundle: ModelBundle, folder: Path, *, device: str) -> list[_Candidate]:
    """List the number formats of our own engine."""
    path = folder / "native"
    save_model(bundle, path)
    formats = ["float32", "bfloat16"]
    if device == "cpu" and has_int8_products():
        formats.append("int8")
    if device != "cpu":
        formats.append("float16")
    return [
        _Candidate(
            name=f"unheard {dtype}",
            log=folder / f"unheard-{dtype}.log",
            request={"runtime": "unheard", "path": str(path), "dtype": dtype},
        )
        for dtype in formats
    ]


def _peers(
    bundle: ModelBundle, folder: Path, *, device: str, left_out: dict[str, str]
) -> list[_Candidate]:
    """List the other programs that are installed, with the model in their format."""
    found: list[_Candidate] = []

    def add(runtime: str, dtype: str, path: Path) -> None:
        request = {"runtime": runtime, "path": str(path), "dtype": dtype}
        log = folder / f"{runtime}-{dtype}.log"
        found.append(_Candidate(name=f"{runtime} {dtype}", request=request, log=log))

    if _is_installed("transformers", left_out):
        path = folder / "transformers"
        try:
            convert(folder / "native", path, to="huggingface")
        except (ConfigError, FormatError) as error:
            left_out["transformers"] = str(error)
        else:
            for dtype in ("float32", "bfloat16"):
                add("transformers", dtype, path)
    graphs = [name for name in GRAPHS if _is_installed(name, left_out)]
    if device != "cpu":
        left_out |= dict.fromkeys(graphs, f"measured on the CPU only, not on {device}")
        return found
    if graphs:
        path = folder / "onnx"
        try:
            export(bundle, path, int8=True)
        except (ConfigError, FormatError, MissingExtraError) as error:
            left_out |= dict.fromkeys(graphs, str(error))
            return found
        if "onnxruntime" in graphs:
            add("onnxruntime", "float32", path / "model.onnx")
            add("onnxruntime", "int8", path / "model.int8.onnx")
        if "openvino" in graphs:
            add("openvino", "float32", path / "model.onnx")
            add("openvino", "bfloat16", path / "model.onnx")
    return found


def _is_installed(name: str, left_out: dict[str, str]) -> bool:
    """Whether a program can be imported; says so if it cannot."""
    if importlib.util.find_spec(name) is None:
        left_out[name] = f"not installed (pip install {name})"
        return False
    return True


def _run_all(
    candidates: list[_Candidate],
    lengths: tuple[float, ...],
    rounds: int,
    rate: int,
    folder: Path,
    progress: Progress,
    left_out: dict[str, str],
) -> list[tuple[_Candidate, np.ndarray]]:
    """Let all candidates take turns; gives those that ran, with their scores of one sound."""
    running: list[tuple[_Candidate, np.ndarray]] = []
    task = progress.add_task("opening", total=len(candidates) * (1 + rounds * len(lengths)))
    for number, one in enumerate(candidates):
        progress.update(task, description=one.name, advance=1)
        path = folder / f"scores{number}.npy"
        shortest = [round(min(lengths) * rate)]
        why = one.open() or one.ask({"lengths": shortest, "save": str(path)}).get("error")
        if why:
            left_out[one.name] = why
            continue
        running.append((one, np.load(path)))
    for _ in range(rounds):
        for length in lengths:
            for one, _ in list(running):
                progress.update(task, description=f"{one.name}, {length:g} s", advance=1)
                request = {"lengths": [round(length * rate)]}
                if length not in one.times:  # not counted: kernels are generated for the length
                    one.times[length] = []
                    one.ask(request)
                answer = one.ask(request)
                if "error" in answer:
                    left_out[one.name] = answer["error"]
                    running = [pair for pair in running if pair[0] is not one]
                    continue
                one.times[length].append(answer["seconds"])
                one.peak = answer["peak_bytes"]
    return running


def _difference(
    one: _Candidate, scores: np.ndarray, exact: torch.Tensor | None, bundle: ModelBundle
) -> float | None:
    """Largest difference of a log-probability from those of our float32; None for itself."""
    if exact is None or one.name == "unheard float32":
        return None
    if one.request["runtime"] in GRAPHS and bundle.alphabet is not None:
        outputs, _ = plan_outputs(bundle.alphabet)
        exact = torch.log_softmax(outputs.pick(exact), dim=-1)
    return float((torch.from_numpy(scores) - exact).abs().max())


def _row(one: _Candidate, difference: float | None, *, chosen: bool) -> BenchRow:
    """Sum a candidate up."""
    return BenchRow(
        name=one.name,
        version=one.opened["version"],
        chosen=chosen,
        seconds={length: statistics.median(times) for length, times in one.times.items()},
        spread={length: (min(times), max(times)) for length, times in one.times.items()},
        open_seconds=one.opened["seconds"],
        peak_bytes=one.peak,
        largest_difference=difference,
    )


def _describe(device: str) -> str:
    """Name what a device is."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    if device != "cpu":
        return device
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}"
