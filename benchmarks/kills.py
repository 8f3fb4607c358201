"""Kill a training with SIGKILL at random moments, start it again, and compare with a calm one.

A tiny network learns masked units; a checkpoint is saved every third of a second. Each start is
the same call in a new process. At the end weights, moments, position and the log must be those of
the run that nothing happened to, to the last bit.

    python -m benchmarks.kills [--kills 50] [--steps 600] [--seed 0] [--write]

Prints one line of JSON, and exits with 1 if a promise was broken; --write keeps it in
benchmarks/results/kills.json.
"""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests import reliable_runs
from tests.reliable_runs import Run

from unheard.errors import CheckpointError
from unheard.files import write_json_atomic
from unheard.training.checkpoint import verify_checkpoint

RESULT = Path(__file__).parent / "results" / "kills.json"
EVERY_SECONDS = 0.3
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What one kill cost.

    Attributes:
        step: of the newest checkpoint it left.
        steps_lost: updates that had been done after it.
        in_a_save: whether it came while a checkpoint was being written or deleted.
    """

    step: int
    steps_lost: int
    in_a_save: bool


def steps_done(folder: Path) -> int:
    """Last step in the log, as far as its lines are whole."""
    path = folder / "metrics.jsonl"
    data = path.read_bytes() if path.exists() else b""
    rows = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return max((row["step"] for row in rows), default=0)


def kill_once(run: Run, chance: random.Random, steps_apart: int) -> Kill | None:
    """Start the training and kill it a few updates later; None if it ended by itself."""
    before = steps_done(run.folder)
    target = before + chance.randint(0, steps_apart)
    process = reliable_runs.start(reliable_runs.work, run)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while steps_done(run.folder) <= target and process.is_alive():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no update after step {before} in {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    newest = reliable_runs.newest_step(run.folder)
    return Kill(
        step=newest,
        steps_lost=max(0, steps_done(run.folder) - newest),
        in_a_save=bool(reliable_runs.leftovers(run.folder)),
    )


def broken_by(run: Run) -> list[str]:
    """What a kill has broken, before anybody has cleared up."""
    broken = []
    for path in (run.folder / "checkpoints").glob("step_*"):
        try:
            verify_checkpoint(path, with_optimizer=True)
        except CheckpointError as error:
            broken.append(str(error))
    unfinished = [name for name in reliable_runs.leftovers(run.folder) if ".tmp" in name]
    if len({name.split("/")[1] for name in unfinished if "/" in name}) > 1:
        broken.append(f"more than one unfinished checkpoint: {unfinished}")
    return broken


def compare(whole: Run, killed: Run, steps: int) -> list[str]:
    """Where the two runs differ at the end."""
    broken = []
    last = f"checkpoints/step_{steps:08d}"
    expected = reliable_runs.digest(whole.folder / last)
    if reliable_runs.digest(killed.folder / last) != expected:
        broken.append("the last checkpoints differ")
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = [reliable_runs.rows_without_times(each.folder / name) for each in (whole, killed)]
        if rows[0] != rows[1]:
            broken.append(f"{name} differs")
    if left := reliable_runs.leftovers(killed.folder):
        broken.append(f"left behind: {left}")
    return broken


def run(folder: Path, *, kills: int, steps: int, seed: int) -> dict[str, Any]:
    """Train calmly, train with kills, compare."""
    torch.set_num_threads(1)
    data = reliable_runs.write_data(folder / "data")
    config = reliable_runs.settings(
        steps,
        accumulation=1,
        checkpoint_every_seconds=EVERY_SECONDS,
        log_every_steps=1,
        validate_every_steps=50,
    )
    whole = Run(kind="units", data=data, folder=folder / "whole", config=config)
    began = time.monotonic()
    reliable_runs.do(whole)
    calm_seconds = time.monotonic() - began
    killed = replace(whole, folder=folder / "killed")
    chance = random.Random(seed)
    found: list[Kill] = []
    broken: list[str] = []
    began = time.monotonic()
    while len(found) < kills:
        kill = kill_once(killed, chance, max(1, steps // kills))
        if kill is None:
            broken.append(f"it ended by itself after {len(found)} kills: give it more --steps")
            break
        found.append(kill)
        broken += broken_by(killed)
    if reliable_runs.sit(killed) != 0:
        broken.append("the last start did not end well")
    broken += compare(whole, killed, steps)
    lost = sorted(kill.steps_lost for kill in found)
    return {
        "broken_promises": broken,
        "kills": len(found),
        "kills_in_a_save": sum(kill.in_a_save for kill in found),
        "steps": steps,
        "steps_lost_median": lost[len(lost) // 2],
        "steps_lost_most": lost[-1],
        "checkpoint_every_seconds": EVERY_SECONDS,
        "calm_seconds": round(calm_seconds, 1),
        "killed_seconds": round(time.monotonic() - began, 1),
        "killed_at_steps": [kill.step for kill in found],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            Path(folder), kills=arguments.kills, steps=arguments.steps, seed=arguments.seed
        )
    outcome |= {
        "seed": arguments.seed,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
    }
    print(json.dumps(outcome))
    if arguments.write:
        write_json_atomic(RESULT, outcome)
    return 1 if outcome["broken_promises"] else 0


if __name__ == "__main__":
    sys.exit(main())
