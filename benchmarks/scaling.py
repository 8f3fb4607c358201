"""Weak scaling: audio-seconds a second of two processes, over twice that of one.

Both do the same work a process: one micro-batch of random sound to an update, recipe nano or
mini, one thread a process. One process, two with copies (DDP) and two with shards (FSDP2) take
turns, several times; the ratio is that of the medians. Two processes on two threads of one core
share its arithmetic units, and a busy machine is unfair to whoever needs both at once: take the
figure of such a machine for a lower bound. `python -m benchmarks.scaling`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import AudioBatch
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.contrastive import contrastive_objective
from unheard.recipes.catalogue import get_recipe
from unheard.training.config import Execution, Parallel
from unheard.training.distributed import join_ranks
from unheard.training.loop import Validation, train
from unheard.training.schedule import Budget

WARM_UP = 3


class Noise:
    """Batches of random sound, ready in memory."""

    def __init__(self, *, rows: int, seconds: float) -> None:
        lengths = np.full(64 * rows, int(16_000 * seconds))
        size = int(lengths[0]) * rows
        self.plan = BatchPlan(
            lengths, batch_samples=size, fit="crop", max_samples=int(lengths[0]), seed=0
        )
        generator = torch.Generator().manual_seed(0)
        samples = torch.randn(rows, int(lengths[0]), generator=generator)
        self._batch = AudioBatch(samples=samples, ids=("noise",) * rows)

    def load(self, position: Position) -> AudioBatch:  # noqa: ARG002 - all are alike
        """Give the batch."""
        return self._batch


def work(
    environment: dict[str, str], recipe: str, way: Parallel, options: argparse.Namespace, out: Path
) -> None:
    """Train as one of the processes of a measurement; the first writes its times."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    chosen = get_recipe(recipe)
    with join_ranks(torch.device("cpu")) as ranks:
        torch.manual_seed(0)
        config = replace(
            chosen.pretraining,
            budget=Budget(max_steps=WARM_UP + options.steps),
            accumulation=ranks.world,
            precision="float32",
            log_every_steps=1,
            validate_every_steps=10**9,
            checkpoint_every_seconds=1e9,
        )
        train(
            PretrainingModel(chosen.network),
            contrastive_objective,
            Noise(rows=options.batch, seconds=options.seconds),
            config,
            folder=out,
            name="scaling",
            validate=lambda: Validation(metric=0.0, values={}),
            quiet=True,
            ranks=ranks,
            execution=Execution(parallel=way),
        )


def measure(world: int, way: Parallel, options: argparse.Namespace) -> float:
    """Train in `world` new processes; returns audio-seconds a second, the median of the steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(world):
            environment = {
                "RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            }
            out = Path(folder)
            process = context.Process(
                target=work, args=(environment, options.recipe, way, options, out)
            )
            process.start()
            processes.append(process)
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("A process of the measurement failed.")
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rates = [row["audio_seconds_per_second"] for row in rows if row["kind"] == "train"]
    return statistics.median(rates[WARM_UP:])


def main() -> None:
    """Measure and print a table; with --write also into benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=("nano", "mini"), default="mini")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    ways: dict[str, tuple[int, Parallel]] = {
        "1 process": (1, "ddp"),
        "2 processes, ddp": (2, "ddp"),
        "2 processes, fsdp": (2, "fsdp"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, (world, way) in ways.items():
            rates[name].append(measure(world, way, options))
    medians = {name: statistics.median(listed) for name, listed in rates.items()}
    alone = medians["1 process"]
    lines = [
        f"recipe {options.recipe}, float32, batch {options.batch} x {options.seconds:g} s a "
        f"process, 1 thread a process, {options.steps} steps a turn, {options.turns} turns each",
        f"commit {_commit()} | Python {platform.python_version()} | torch {torch.__version__} | "
        f"{platform.machine()}, {os.cpu_count()} logical processors, load "
        f"{os.getloadavg()[0]:.1f} at the end",
        "",
        f"{'':<20}{'audio-s a s':>12}{'range':>16}{'weak scaling':>14}",
    ]
    for name, (world, _) in ways.items():
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        ratio = medians[name] / (world * alone)
        lines.append(f"{name:<20}{medians[name]:>12.0f}{spread:>16}{ratio:>14.2f}")
    print("\n".join(lines))
    if options.write:
        path = Path(__file__).parent / "results" / f"scaling_{options.recipe}.md"
        command = f"python -m benchmarks.scaling --recipe {options.recipe}"
        body = "\n".join(f"    {line}".rstrip() for line in lines)
        path.write_text(
            f"# Weak scaling of two processes\n\n    {command}\n\n{body}\n", encoding="utf-8"
        )


def _commit() -> str:
    """Name the commit that was measured."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
