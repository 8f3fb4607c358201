"""Kill `unheard transcribe` at random moments, start it again, and compare with a calm run.

200 recordings in ten formats, ten of them broken. The run is killed with SIGKILL five times and
each time started again by the same command. At the end every recording must have exactly one
record, with the text that an undisturbed run gives, and each broken one the right reason.

    python -m benchmarks.transcribe_kill [--good 190] [--kills 5] [--seed 0]

Prints one line of JSON, and exits with 1 if a promise was broken.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mixed_recordings import make_bundle, write_corpus

import unheard
from unheard.interop.native import save_model

TRANSCRIPTS = "transcripts.jsonl"
DEAD_LETTERS = "dead_letters.jsonl"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the killed and the calm run left behind."""

    broken_promises: tuple[str, ...]
    transcripts: int
    dead_letters: int
    exit_code: int
    killed_at_records: tuple[int, ...]
    calm_seconds: float


@contextlib.contextmanager
def started(model: Path, recordings: Path, out: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the command in a process of its own, which never outlives the block."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = str(Path(unheard.__file__).parents[1])
    command = [sys.executable, "-m", "unheard.cli", "transcribe", str(model), str(recordings)]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run_calmly(model: Path, recordings: Path, out: Path) -> int:
    """Run the command to its end and return its exit code."""
    with started(model, recordings, out) as process:
        return process.wait(timeout=600)


def records(out: Path) -> list[dict]:
    """Read the whole lines of both record files."""
    rows = []
    for name in (TRANSCRIPTS, DEAD_LETTERS):
        if (out / name).exists():
            data = (out / name).read_bytes()
            rows += [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return rows


def count_records(out: Path) -> int:
    """Count the whole lines of both record files."""
    names = (out / TRANSCRIPTS, out / DEAD_LETTERS)
    return sum(path.read_bytes().count(b"\n") for path in names if path.exists())


def kill_at_random(process: "subprocess.Popen[bytes]", out: Path, total: int, chance) -> bool:
    """Kill a run after a random record, or before the first; False if it ended by itself."""
    before = count_records(out)
    target = chance.randint(before, max(before, total - 2))
    deadline = time.monotonic() + 120
    while count_records(out) < target or not (out / "transcribe.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.03))
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def check_while_killed(out: Path) -> list[str]:
    """Nothing half written may be visible under a final name."""
    broken = []
    for path in out.rglob("*.txt"):
        if not path.read_bytes().endswith(b"\n"):
            broken.append(f"half an output: {path.name}")
    paths = [row["path"] for row in records(out)]
    if len(paths) != len(set(paths)):
        broken.append("a recording has two records after a kill")
    return broken


def run(folder: Path, *, good: int, kills: int, seed: int) -> Outcome:
    """Make the corpus, run calmly, run with kills, compare."""
    chance = random.Random(seed)
    reasons = write_corpus(folder / "in", good=good, seed=seed)
    save_model(make_bundle(seed=seed), folder / "model")
    total = good + len(reasons)

    begun = time.monotonic()
    calm_code = run_calmly(folder / "model", folder / "in", folder / "calm")
    calm_seconds = time.monotonic() - begun
    calm = {row["path"]: row for row in records(folder / "calm")}

    out = folder / "out"
    broken: list[str] = []
    killed_at: list[int] = []
    while len(killed_at) < kills:
        with started(folder / "model", folder / "in", out) as process:
            was_killed = kill_at_random(process, out, total, chance)
        if was_killed:
            killed_at.append(count_records(out))
            broken += check_while_killed(out)
            continue
        if count_records(out) < total:
            broken.append(f"a run ended by itself after {count_records(out)} of {total} records")
            break
        # It was quicker than the kill: the rest of the kills begin with a new folder.
        shutil.rmtree(out)
    exit_code = run_calmly(folder / "model", folder / "in", out)

    rows = records(out)
    paths = [row["path"] for row in rows]
    if sorted(paths) != sorted(calm) or len(paths) != total:
        broken.append(f"{len(paths)} records of {len(set(paths))} recordings; expected {total}")
    for row in rows:
        other = calm.get(row["path"], {})
        if (row.get("text"), row.get("reason")) != (other.get("text"), other.get("reason")):
            broken.append(f"another result than the calm run: {row['path']}")
        expected = reasons.get(row["path"])
        if row.get("reason") != expected:
            broken.append(f"{row['path']}: reason {row.get('reason')}, expected {expected}")
        if expected is None:
            output = out / f"{row['output']}.txt"
            if not output.exists() or output.read_text(encoding="utf-8") != row["text"] + "\n":
                broken.append(f"the output differs from the record: {output}")
    if exit_code != 3 or calm_code != 3:
        broken.append(f"exit codes {calm_code} (calm) and {exit_code}; expected 3")
    if leftovers := list(out.rglob("*.tmp-*")):
        broken.append(f"left behind: {leftovers}")
    return Outcome(
        broken_promises=tuple(broken),
        transcripts=sum("reason" not in row for row in rows),
        dead_letters=sum("reason" in row for row in rows),
        exit_code=exit_code,
        killed_at_records=tuple(killed_at),
        calm_seconds=round(calm_seconds, 2),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--good", type=int, default=190)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), good=arguments.good, kills=arguments.kills, seed=arguments.seed)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({**vars(arguments), **vars(outcome), "machine": machine}))
    return 1 if outcome.broken_promises else 0


if __name__ == "__main__":
    sys.exit(main())
