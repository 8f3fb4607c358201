"""An archive on a local Ray: exactly once whatever is killed, and as fast as plain processes.

    python -m benchmarks.archive --model MODEL --recordings FOLDER [--files 2000] [--repeats 3]

The archive is `--files` recordings of a folder, ten of them replaced by files that are none. Then

1. `unheard transcribe --shard i/n` in as many plain processes as there are workers, and
   `unheard archive` with those workers, by turns, one thread each. Throughput is recordings by
   wall time; processor time is counted over all processes, Ray's own too. Both commands also run
   over a handful of recordings, which is what starting costs.
2. `unheard archive` once more: one worker process is killed (SIGKILL) in the middle, later the
   command itself, and the command is run again. Every recording must have exactly one record, with
   the text or the reason that the plain command gives.

Prints the page, writes it with --out, and exits with 1 if a promise was broken.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.mixed_recordings import write_hostile

import unheard
from unheard.archive.parts import DEAD_LETTERS, TRANSCRIPTS, iter_records
from unheard.archive.stores import open_store

SETTINGS = ("--dtype", "float32")
"""One number format, so that texts can be compared to the letter."""
HANDFUL = 4
"""Recordings of the runs that say what starting costs."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one run took.

    Attributes:
        wall: [seconds].
        processor: over all its processes [seconds].
    """

    wall: float
    processor: float


@dataclass(kw_only=True)
class Timings:
    """Runs of one kind over all recordings, and over a handful."""

    whole: list[Timing] = field(default_factory=list)
    start: list[Timing] = field(default_factory=list)

    def median(self, name: str, *, beyond_start: bool = False) -> float:
        """The median of "wall" or "processor", without what starting takes if asked for."""
        value = statistics.median(getattr(one, name) for one in self.whole)
        if beyond_start:
            value -= statistics.median(getattr(one, name) for one in self.start)
        return value


def descendants(root: int) -> dict[int, tuple[str, float]]:
    """Find the processes below one: command line and processor time [seconds] by process id."""
    parents: dict[int, int] = {}
    facts: dict[int, tuple[str, float]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            )
            parents[int(folder.name)] = int(stat[1])
            facts[int(folder.name)] = (command, (int(stat[11]) + int(stat[12])) / _TICKS)
    found: dict[int, tuple[str, float]] = {}
    for process in facts:
        above = process
        while above in parents and above != root:
            above = parents[above]
        if above == root:
            found[process] = facts[process]
    return found


class Clock:
    """Counts the processor time of processes and all below them."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self._seen: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Clock":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return sum(self._seen.values())

    def _look(self) -> None:
        while not self._ended.wait(0.25):
            for root in self._roots:
                for process, (_, seconds) in descendants(root).items():
                    self._seen[process] = seconds


@contextlib.contextmanager
def started(words: Sequence[str | Path]) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the command in a process of its own, which never outlives the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(unheard.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "unheard.cli", *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def timed(commands: Sequence[Sequence[str | Path]], *, codes: set[int]) -> Timing:
    """Run commands side by side until all have ended."""
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(words)) for words in commands]
        with Clock([process.pid for process in processes]) as clock:
            for process in processes:
                code = process.wait(timeout=7200)
                if code not in codes:
                    raise SystemExit(f"exit code {code} of {commands}")
            wall = time.monotonic() - begun
    return Timing(wall=wall, processor=clock.seconds)


def plain_commands(model: Path, source: Path, out: Path, workers: int) -> list[list[str | Path]]:
    """One process a share of the recordings."""
    return [
        [
            *("transcribe", model, source, "--out", out / f"{number}", "--format", "jsonl"),
            *("--shard", f"{number}/{workers}", "--workers", "1", *SETTINGS),
        ]
        for number in range(1, workers + 1)
    ]


def archive_command(model: Path, source: Path, out: Path, workers: int) -> list[str | Path]:
    """The same by one command."""
    return [
        "archive",
        source,
        out,
        model,
        "--workers",
        f"{workers}",
        "--format",
        "jsonl",
        *SETTINGS,
    ]


def plain_results(out: Path, source: Path) -> dict[str, str]:
    """What the plain processes wrote: text or reason by relative name."""
    found: dict[str, str] = {}
    for name in ("transcripts.jsonl", "dead_letters.jsonl"):
        for path in out.glob(f"*/{name}"):
            for row in map(json.loads, path.read_text().splitlines()):
                key = str(Path(row["path"]).relative_to(source))
                assert key not in found, key
                found[key] = row.get("text", f"({row.get('reason')})")
    return found


def archive_results(out: Path) -> list[tuple[str, str]]:
    """What the archive holds, record by record."""
    store = open_store(out)
    return [
        *((row["id"], row["text"]) for row in iter_records(store, TRANSCRIPTS)),
        *((row["id"], f"({row['reason']})") for row in iter_records(store, DEAD_LETTERS)),
    ]


def count(out: Path) -> int:
    """Records that can be seen now."""
    names = [*out.glob("transcripts/*.jsonl"), *out.glob("dead_letters/*.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in names)


def wait_for(out: Path, records: int, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until there are so many records; False if the command ends before."""
    while count(out) < records:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return process.poll() is None


def run_with_kills(
    model: Path, source: Path, out: Path, workers: int, expected: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Kill a worker, then the job; run it again. Returns broken promises, and what happened."""
    broken: list[str] = []
    story: list[str] = []
    total = len(expected)
    command = archive_command(model, source, out, workers)
    with started(command) as process:
        if not wait_for(out, total // 5, process):
            return ["the job ended before a worker could be killed"], story
        alive = {
            one: line
            for one, (line, _) in descendants(process.pid).items()
            if line.startswith("ray::MapWorker")
        }
        victim = next(iter(alive), None)
        if victim is None:
            return ["no worker process was found"], story
        os.kill(victim, signal.SIGKILL)
        story.append(f"worker {victim} of {sorted(alive)} killed at {count(out)} records")
        if not wait_for(out, total * 3 // 5, process):
            return ["the job ended before it could be killed"], story
        processes = set(descendants(process.pid))
        process.kill()
        process.wait()
        story.append(f"job killed at {count(out)} records")
    deadline = time.monotonic() + 120
    while left := {one for one in processes if Path(f"/proc/{one}").exists()}:
        if time.monotonic() > deadline:
            broken.append(f"{len(left)} processes outlived the job by two minutes")
            break
        time.sleep(0.1)
    found = archive_results(out)
    if len(found) != len({name for name, _ in found}):
        broken.append("a recording has two records after the kills")
    before = len(found)
    with started(command) as process:
        code = process.wait(timeout=7200)
    found = archive_results(out)
    story.append(f"run again: {before} records kept, {len(found) - before} added, exit code {code}")
    if code != 3:
        broken.append(f"exit code {code}, expected 3 (some inputs failed)")
    if sorted(name for name, _ in found) != sorted(expected):
        broken.append(f"{len(found)} records of {len({n for n, _ in found})}; expected {total}")
    differing = [name for name, text in found if expected.get(name) != text]
    if differing:
        broken.append(f"{len(differing)} texts differ from the plain command's: {differing[:5]}")
    leftovers = [*out.rglob("*.tmp-*"), *(out / "_work").iterdir()]
    if leftovers:
        broken.append(f"left behind: {leftovers[:5]}")
    return broken, story


def make_corpus(recordings: Path, folder: Path, files: int) -> None:
    """Copy recordings, and write ten files beside them that are none."""
    names = sorted(path for path in recordings.rglob("*") if path.is_file())[: files - 10]
    if len(names) < files - 10:
        raise SystemExit(f"{recordings} holds {len(names)} files, fewer than {files - 10}")
    (folder / "speech").mkdir(parents=True)
    for path in names:
        shutil.copyfile(path, folder / "speech" / path.name)
    write_hostile(folder / "odd")


def page(arguments: argparse.Namespace, plain: Timings, ray: Timings, kills: list[str]) -> str:
    """Lay the results out."""

    def row(name: str, one: Timings) -> str:
        walls = [run.wall for run in one.whole]
        return (
            f"| {name} | {one.median('wall'):.1f} ({min(walls):.1f} to {max(walls):.1f}) | "
            f"{statistics.median(run.wall for run in one.start):.1f} | "
            f"{one.median('wall', beyond_start=True):.1f} | {one.median('processor'):.1f} | "
            f"{one.median('processor', beyond_start=True):.1f} |"
        )

    def ratio(name: str, *, beyond_start: bool) -> str:
        before = plain.median(name, beyond_start=beyond_start)
        return f"{before / ray.median(name, beyond_start=beyond_start):.2f}"

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    import ray as package
    import torch

    machine = f"{os.cpu_count()} cores {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    facts = [f"commit {commit}", f"Python {platform.python_version()}"]
    facts += [f"torch {torch.__version__}", f"ray {package.__version__}", machine]
    lines = [
        "# An archive on a local Ray",
        "",
        "`unheard archive` beside as many plain processes of `unheard transcribe --shard i/n`, one "
        "thread each, the same",
        f'model and recordings, by turns. "Start" is the same command over {HANDFUL} recordings; '
        "processor time counts all",
        "processes, Ray's own too.",
        "",
        "    python -m benchmarks.archive --model MODEL --recordings FOLDER "
        f"--files {arguments.files} --workers {arguments.workers} --repeats {arguments.repeats}",
        "",
        f"    {' | '.join(facts)}",
        "",
        "| | wall [s] | start [s] | beyond start [s] | processor [s] | beyond start [s] |",
        "|---|---|---|---|---|---|",
        row(f"{arguments.workers} plain processes", plain),
        row(f"archive, {arguments.workers} workers", ray),
        "",
        "Throughput of the archive by that of the plain processes:",
        "",
        f"- by wall time {ratio('wall', beyond_start=True)} beyond start, "
        f"{ratio('wall', beyond_start=False)} start and all",
        f"- by processor time {ratio('processor', beyond_start=True)} beyond start, "
        f"{ratio('processor', beyond_start=False)} start and all",
        "",
        "Killed in the middle:",
        "",
        *(f"- {line}" for line in kills),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model, workers = arguments.model.absolute(), arguments.workers
    plain, ray = Timings(), Timings()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        source, few = root / "in", root / "few"
        make_corpus(arguments.recordings, source, arguments.files)
        few.mkdir()
        for path in sorted((source / "speech").iterdir())[:HANDFUL]:
            shutil.copyfile(path, few / path.name)
        for turn in range(arguments.repeats):
            for kind in (0, 1) if turn % 2 == 0 else (1, 0):
                for folder, runs in ((few, "start"), (source, "whole")):
                    out = root / f"{turn}-{kind}-{runs}"
                    if kind == 0:
                        timing = timed(plain_commands(model, folder, out, workers), codes={0, 3})
                        getattr(plain, runs).append(timing)
                    else:
                        command = archive_command(model, folder, out, workers)
                        timing = timed([command], codes={0, 3})
                        getattr(ray, runs).append(timing)
                    print(f"{out.name}: {timing}", file=sys.stderr, flush=True)
        expected = plain_results(root / "0-0-whole", source)
        broken: list[str] = []
        calm = archive_results(root / "0-1-whole")
        if sorted(calm) != sorted(expected.items()):
            differing = {name for name, text in calm if expected.get(name) != text}
            broken.append(f"the undisturbed archive differs: {sorted(differing)[:5]}")
        more, story = run_with_kills(model, source, root / "killed", workers, expected)
        broken += more
    story.append(
        "BROKEN: " + "; ".join(broken)
        if broken
        else f"every one of {len(expected)} recordings has exactly one record, with the text (or, "
        "for ten files that are no recordings, the reason) of the plain command"
    )
    text = page(arguments, plain, ray, story)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
