"""Ten thousand short files: does memory grow, and what does all but the network cost?

    python -m benchmarks.many_files --files 10000

Writes that many files of 2 seconds and transcribes them into a folder with the command's own
function, in a process of its own. Every 100 files its memory is read (resident, without what other
processes share of it); the slope over files from the 500th on is a least-squares line. The engine's
own speed is that of its batches alone: the same sounds, already decoded, in the same batches,
without search, records and disk. The two alternate in turns, so that a busy machine treats both
alike. What is not the network costs about a millisecond of the processor a file (opening and
decoding it, three waits for the disk), whatever the model; so the share depends on its size.

Passes if the slope is at most 1 kB a file and the whole goes at 0.9 of the engine's own speed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
SECONDS = 2.0
SKIPPED_FILES = 500
DISTINCT = 50


def write_files(folder: Path, *, files: int) -> None:
    """Write short recordings; a few distinct ones over and over, under names of their own."""
    from tests.mixed_recordings import make_sound

    from unheard.audio import io

    generator = np.random.default_rng(0)
    for number in range(min(files, DISTINCT)):
        sound = make_sound(generator, seconds=SECONDS)
        io.write_wav(folder / f"{number:05}.wav", sound, SAMPLE_RATE, durable=False)
    for number in range(DISTINCT, files):
        data = (folder / f"{number % DISTINCT:05}.wav").read_bytes()
        (folder / f"{number:05}.wav").write_bytes(data)


def resident_kb() -> int:
    """Anonymous memory of this process [kB]: what it has allocated and not given back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise RuntimeError("RssAnon is not in /proc/self/status")


def measure_memory(folder: Path, out: Path, shape: str) -> dict[str, float]:
    """Transcribe a folder and watch memory by the number of records on disk."""
    from benchmarks.long_file import make_model

    from unheard.tasks.transcribe import transcribe_files

    samples: list[tuple[int, int]] = []
    ended = threading.Event()
    records = out / "transcripts.jsonl"

    def watch() -> None:
        files = position = 0
        while not ended.wait(0.1):
            if not records.exists():
                continue
            with records.open("rb") as file:
                file.seek(position)
                while block := file.read(1 << 16):
                    files += block.count(b"\n")
                position = file.tell()
            if not samples or files >= samples[-1][0] + 100:
                samples.append((files, resident_kb()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    summary = transcribe_files(make_model(shape), [folder], out=out, progress=False)
    ended.set()
    watcher.join()
    late = np.array([sample for sample in samples if sample[0] >= SKIPPED_FILES], float)
    slope, _ = np.polyfit(late[:, 0], late[:, 1], 1) if len(late) > 2 else (float("nan"), 0)
    return {
        "files": summary.done,
        "slope_kb_a_file": round(float(slope), 3),
        "first_mb": round(late[0, 1] / 1024, 1),
        "last_mb": round(late[-1, 1] / 1024, 1),
        "points": len(late),
        "seconds": round(summary.elapsed_seconds, 1),
    }


def measure_speed(folder: Path, work: Path, shape: str, *, files: int, turns: int) -> dict:
    """Alternate the whole command and the engine alone over the same files."""
    from benchmarks.long_file import make_model

    from unheard.audio import io
    from unheard.inference.engine import Engine, plan_batches
    from unheard.inference.pipeline import POOL_RECORDINGS
    from unheard.tasks.transcribe import transcribe_files

    bundle = make_model(shape)
    engine = Engine(bundle)
    paths = sorted(folder.iterdir())[:files]
    sounds = [io.read(path).samples for path in paths]
    whole: list[float] = []
    alone: list[float] = []
    busy: list[tuple[float, float]] = []
    for turn in range(turns + 1):
        begun, spent = time.perf_counter(), time.process_time()
        transcribe_files(bundle, paths, out=work / f"out{turn}", progress=False)
        whole.append(time.perf_counter() - begun)
        middle = time.process_time()
        begun = time.perf_counter()
        for first in range(0, len(sounds), POOL_RECORDINGS):
            pool = sounds[first : first + POOL_RECORDINGS]
            lengths = [sound.shape[0] for sound in pool]
            for batch in plan_batches(lengths, budget_samples=engine.batch_samples):
                engine.log_probs([pool[place] for place in batch])
        alone.append(time.perf_counter() - begun)
        busy.append((middle - spent, time.process_time() - middle))
    # The first turn loads libraries.
    ratios = [one / other for one, other in zip(alone[1:], whole[1:], strict=True)]
    seconds = files * SECONDS
    return {
        "shape": shape,
        "files_a_turn": files,
        "ratio_median": round(float(np.median(ratios)), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        # Of the time of the processor, over all threads: what is there to be had by one core.
        "processor_ratio": round(float(np.median([two / one for one, two in busy[1:]])), 3),
        "whole_times_real_time": round(seconds / float(np.median(whole[1:])), 1),
        "engine_times_real_time": round(seconds / float(np.median(alone[1:])), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    shapes = ("nano", "mini", "base")
    parser.add_argument("--memory-shape", choices=shapes, default="nano")
    parser.add_argument("--speed-shape", choices=shapes, default="base")
    parser.add_argument("--speed-files", type=int, default=128, help="files of one turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--part", choices=("memory", "speed"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "memory":
        out = arguments.folder.parent / "out"
        print(json.dumps(measure_memory(arguments.folder, out, arguments.memory_shape)))
        return 0
    if arguments.part == "speed":
        files, turns = arguments.speed_files, arguments.turns
        work = arguments.folder.parent
        shape = arguments.speed_shape
        found = measure_speed(arguments.folder, work, shape, files=files, turns=turns)
        print(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "recordings"
        folder.mkdir()
        write_files(folder, files=max(arguments.files, arguments.speed_files))
        results = {}
        for part in ("speed", "memory"):
            if part == "memory" and arguments.files < 2 * SKIPPED_FILES:
                continue
            command = [sys.executable, "-m", "benchmarks.many_files", "--part", part]
            command += ["--folder", str(folder), "--speed-shape", arguments.speed_shape]
            command += ["--memory-shape", arguments.memory_shape]
            command += ["--speed-files", str(arguments.speed_files)]
            command += ["--turns", str(arguments.turns)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[part] = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps({part: results[part]}), flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"machine": machine}))
    steep = results.get("memory", {}).get("slope_kb_a_file", 0.0) > 1.0
    return 1 if steep or results["speed"]["ratio_median"] < 0.9 else 0


if __name__ == "__main__":
    sys.exit(main())
