"""Time and memory of loading a random checkpoint of XLS-R 1B in bfloat16, beside transformers.

    python -m benchmarks.load_model [--repeats 7] [--folder DIR] [--keep]

Writes the model twice, as a folder of transformers and as one of ours (4 GB in all), and loads it
in fresh processes in a random order. Prints a table in Markdown: medians and range of all runs.

transformers leaves the weights in their file until they are used and looks at none of them. So
that like is compared with like, each process then reads every weight once, and both times and both
peaks are given. Memory is the high-water mark of the process (VmHWM) beyond what it had after its
imports. "warm": the file was read just before, and is in the system's page cache; "cold": its
pages were dropped from there.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PARAMETERS = 965_514_752
LIMIT = 1.15
"""Most memory that a load may take, in sizes of the weights."""

WAYS = {
    "transformers": ("transformers", "transformers", {}),
    "unheard": ("unheard", "transformers", {}),
    "unheard, copied": ("unheard", "transformers", {"mapped": False}),
    "unheard, own folder": ("unheard", "unheard", {}),
    "unheard, own folder, copied": ("unheard", "unheard", {"mapped": False}),
}
"""What the row says -> who loads, which folder, with which options."""


def make_folders(folder: Path) -> None:
    """Write the model in both layouts."""
    import torch

    from unheard.audio.signal import InputSpec
    from unheard.interop import storage
    from unheard.interop.bundle import ModelBundle
    from unheard.interop.load import save_model
    from unheard.models.config import EncoderConfig, PretrainingConfig, QuantizerConfig

    config = PretrainingConfig(
        encoder=EncoderConfig(
            conv_norm="layer",
            conv_bias=True,
            dim=1280,
            ffn_dim=5120,
            layers=48,
            heads=16,
            norm_first=True,
        ),
        quantizer=QuantizerConfig(dim=1024),
        projection_dim=1024,
    )
    model = storage.build(config, source="the benchmark")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(weight.shape, generator=generator).mul_(0.02).to(torch.bfloat16)
        for name, weight in model.state_dict().items()
    }
    model.load_state_dict(weights, assign=True)
    found = sum(weight.numel() for weight in weights.values())
    if found != PARAMETERS:
        raise SystemExit(f"expected {PARAMETERS} parameters, found {found}")
    bundle = ModelBundle(model=model, alphabet=None, input_spec=InputSpec())
    save_model(bundle, folder / "transformers", format="huggingface")
    save_model(bundle, folder / "unheard", format="unheard")


def memory_bytes(name: str) -> int:
    """Read one line of the process's status, such as VmHWM."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def load_once(way: str, folder: Path) -> dict[str, float]:
    """Load the model in this process and measure."""
    import torch

    loader, layout, options = WAYS[way]
    path = str(folder / layout)
    if loader == "transformers":
        import transformers
        from transformers import Wav2Vec2ForPreTraining

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

        def load() -> torch.nn.Module:
            return Wav2Vec2ForPreTraining.from_pretrained(path, dtype=torch.bfloat16)
    else:
        from unheard.interop.load import load_model

        def load() -> torch.nn.Module:
            return load_model(path, dtype=torch.bfloat16, **options).model

    before = memory_bytes("VmRSS")
    started, cpu_started = time.perf_counter(), time.process_time()
    model = load()
    loaded, cpu_loaded = time.perf_counter(), time.process_time()
    peak_loaded = memory_bytes("VmHWM")
    for weight in model.state_dict().values():
        weight.view(torch.int16).max()
    used, cpu_used = time.perf_counter(), time.process_time()
    weights = sum(weight.nbytes for weight in model.state_dict().values())
    return {
        "load_seconds": loaded - started,
        "load_cpu_seconds": cpu_loaded - cpu_started,
        "use_seconds": used - started,
        "use_cpu_seconds": cpu_used - cpu_started,
        "load_peak_bytes": peak_loaded - before,
        "use_peak_bytes": memory_bytes("VmHWM") - before,
        "total_peak_bytes": memory_bytes("VmHWM"),
        "weights_bytes": weights,
    }


def set_cache(folder: Path, *, warm: bool) -> None:
    """Bring the file of weights into the page cache, or out of it."""
    path = folder / "model.safetensors"
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if warm:
            block = bytearray(1 << 20)
            while file.readinto(block):
                pass


def measure(folder: Path, *, repeats: int) -> list[dict[str, object]]:
    """Load in every way by turns, each time in a process of its own."""
    rows: list[dict[str, object]] = []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    order = random.Random(0)
    for cache in ("warm", "cold"):
        for _ in range(repeats if cache == "warm" else max(1, repeats // 2)):
            for way in order.sample(list(WAYS), k=len(WAYS)):
                set_cache(folder / WAYS[way][1], warm=cache == "warm")
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.load_model", "--load", way, str(folder)],
                    check=True,
                    capture_output=True,
                    text=True,
                    env=environment,
                    cwd=REPOSITORY,
                )
                row = {"cache": cache, "way": way} | json.loads(done.stdout.splitlines()[-1])
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Write the medians, with the range of all runs, and the ratios to transformers."""
    lines: list[str] = []
    for cache in ("warm", "cold"):
        lines += [
            f"Page cache {cache}:",
            "",
            "| | load [s] | load and read every weight [s] | the same in CPU time [s] "
            "| peak while loading [MB] | peak after reading [MB] | process in all [MB] |",
            "|---|---|---|---|---|---|---|",
        ]
        for way in WAYS:
            own = [row for row in rows if row["cache"] == cache and row["way"] == way]
            cells = [way]
            for key in ("load_seconds", "use_seconds", "use_cpu_seconds"):
                values = [float(str(row[key])) for row in own]
                cells.append(
                    f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
                )
            for key in ("load_peak_bytes", "use_peak_bytes", "total_peak_bytes"):
                cells.append(f"{max(float(str(row[key])) for row in own) / 1e6:,.0f}")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        for way in list(WAYS)[1:]:
            parts = [
                f"{label} {_ratio(rows, cache, way, key, statistics.median):.2f} of medians, "
                f"{_ratio(rows, cache, way, key, min):.2f} of the quickest"
                for label, key in (
                    ("load", "load_seconds"),
                    ("load and read", "use_seconds"),
                    ("in CPU time", "use_cpu_seconds"),
                )
            ]
            parts.append(f"memory {_ratio(rows, cache, way, 'use_peak_bytes', max):.2f}")
            lines.append(f"- {way} / transformers: {'; '.join(parts)}")
        lines.append("")
    return "\n".join(lines)


def _ratio(
    rows: list[dict[str, object]],
    cache: str,
    way: str,
    key: str,
    summary: Callable[[list[float]], float],
) -> float:
    """Compare one way with transformers."""
    one, other = (
        summary(
            [float(str(row[key])) for row in rows if (row["cache"], row["way"]) == (cache, who)]
        )
        for who in (way, "transformers")
    )
    return one / other


def main() -> None:
    """Run the benchmark; fails if a load took more memory than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write the model; a temporary folder")
    parser.add_argument("--keep", action="store_true", help="use or leave the model there")
    parser.add_argument("--load", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load_once(options.load[0], Path(options.load[1]))))
        return
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "unheard").exists():
            make_folders(folder)
        rows = measure(folder, repeats=options.repeats)
        if not options.keep:
            for layout in ("transformers", "unheard"):
                shutil.rmtree(folder / layout)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    ).stdout.strip()
    print(
        f"    commit {commit} | Python {platform.python_version()} | torch {torch.__version__} | "
        f"transformers {transformers.__version__} | {os.cpu_count()} cores {platform.machine()} | "
        f"load {os.getloadavg()[1]:.1f} | {options.repeats} runs of each in a random order, half "
        "as many cold\n"
    )
    print(table(rows))
    weights = float(str(rows[0]["weights_bytes"]))
    largest = max(float(str(row["use_peak_bytes"])) for row in rows if row["way"] != "transformers")
    print(f"Weights {weights / 1e6:,.0f} MB; most that a load here took: {largest / weights:.3f} x")
    if largest > LIMIT * weights:
        raise SystemExit(f"more than {LIMIT} x the weights")


if __name__ == "__main__":
    main()
