"""The loader alone: shards in, batches of 8 s crops out; and an index of ten million rows.

    OMP_NUM_THREADS=1 python -m benchmarks.loader [--repeats 5] [--rows 10000000]

Decoding is timed on one core: the process is bound to it. FLAC and Opus shards are made here from
speech-like sound, samples of 12 to 30 s; crops of 8 s in batches of 88 s, normalised. Rounds of
both codecs alternate. Also, with every core of the machine: worker processes beside threads.
Appends nothing: paste the output into benchmarks/results/loader.md.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from unheard.audio.encode import Codec
from unheard.audio.io import write_wav
from unheard.audio.signal import InputSpec
from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import Prefetch, UnlabelledSource
from unheard.data.index import PackedRows, Rows, ShardIndex, ShardRows, Strings, build_index
from unheard.data.shard_store import ShardStore, open_shards
from unheard.tasks.shard import shard

RATE = 16_000
CROP_SECONDS = 8.0
BATCH_SECONDS = 88.0
ROWS_A_SHARD = 10_000
BATCHES = 40
BATCHES_AHEAD = 10


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """Voiced syllables of changing pitch with breath noise and pauses."""
    generator = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    time_axis = np.arange(samples) / RATE
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.7 * time_axis + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time_axis), 0, None)
    noise = generator.normal(0, 0.02, samples)
    return (0.15 * voice * syllables + noise).astype(np.float32)


def make_shards(folder: Path, codec: Codec, minutes: float) -> Path:
    """Encode some minutes of sound into shards."""
    generator = np.random.default_rng(1)
    total, number = 0.0, 0
    while total < minutes * 60:
        seconds = float(generator.uniform(12, 30))
        path = folder / "recordings" / f"{number:04d}.wav"
        if not path.exists():
            write_wav(path, speech_like(seconds, number), RATE, durable=False)
        total, number = total + seconds, number + 1
    shard(folder / "recordings", out=folder / codec, codec=codec, quiet=True)
    return folder / codec


def source_of(store: ShardStore) -> UnlabelledSource:
    return UnlabelledSource(
        store,
        input_spec=InputSpec(),
        batch_seconds=BATCH_SECONDS,
        min_seconds=1.0,
        max_seconds=CROP_SECONDS,
        seed=0,
    )


def audio_rate(load: Callable[[Position], float], batches: int, epoch: int) -> float:
    """Audio-seconds a second over some batches, by the clock."""
    began = time.perf_counter()
    seconds = sum(load(Position(epoch=epoch, batch=batch)) for batch in range(batches))
    return seconds / (time.perf_counter() - began)


def figures(values: list[float]) -> str:
    return f"{statistics.median(values):6.0f}  ({min(values):.0f} to {max(values):.0f})"


def measure_one_core(folders: dict[Codec, Path], work: Path, repeats: int) -> None:
    """Decode and batch within this process, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    found: dict[Codec, list[float]] = {codec: [] for codec in folders}
    of_cpu: dict[Codec, list[float]] = {codec: [] for codec in folders}
    stores = {codec: open_shards(at, work / codec, workers=0) for codec, at in folders.items()}
    sources = {codec: source_of(store) for codec, store in stores.items()}
    for repeat in range(repeats + 1):
        for codec, source in sources.items():
            count = sum(1 for _ in source.plan._plan(repeat))
            cpu = time.process_time()
            began = time.perf_counter()
            rate = audio_rate(lambda at, s=source: s.load(at).audio_seconds, count, repeat)
            share = (time.process_time() - cpu) / (time.perf_counter() - began)
            if repeat:  # the first round fills the page cache
                found[codec].append(rate)
                of_cpu[codec].append(rate / share)
    os.sched_setaffinity(0, cores)
    print("one core: audio-seconds a second, median (range)")
    print("                       by the clock           by CPU time")
    for codec in folders:
        size = sum(path.stat().st_size for path in folders[codec].glob("*.tar"))
        kilobits = size * 8 / 1000 / stores[codec].seconds
        print(
            f"  {codec:<5} {kilobits:4.0f} kbit/s   {figures(found[codec]):<22} "
            f"{figures(of_cpu[codec])}"
        )
        stores[codec].close()


def measure_workers(folders: dict[Codec, Path], work: Path, repeats: int, count: int) -> None:
    """Processes beside threads, `count` of either."""
    print(f"{count} workers on {len(os.sched_getaffinity(0))} cores: audio-seconds a second")
    for codec, at in folders.items():
        processes: list[float] = []
        threads: list[float] = []
        with (
            open_shards(at, work / codec, workers=count) as many,
            open_shards(at, work / codec, workers=0) as plain,
            ThreadPoolExecutor(count) as pool,
        ):
            source, alone = source_of(many), source_of(plain)
            for repeat in range(repeats + 1):
                start = Position(epoch=repeat)
                ahead = Prefetch(source, start)
                # What is made ahead before the clock starts is taken out first.
                stream = iter(ahead)
                for _ in range(BATCHES_AHEAD):
                    next(stream)
                began = time.perf_counter()
                heard = sum(next(stream)[1].audio_seconds for _ in range(BATCHES))
                rate = heard / (time.perf_counter() - began)
                ahead.close()
                places = [source.plan.ahead(start, number) for number in range(BATCHES)]
                began = time.perf_counter()
                heard = sum(batch.audio_seconds for batch in pool.map(alone.load, places))
                if repeat:
                    processes.append(rate)
                    threads.append(heard / (time.perf_counter() - began))
        print(f"  {codec:<5} processes {figures(processes)}   threads {figures(threads)}")


def synthetic_rows(rows: int, number: int) -> PackedRows:
    """The part of the index of one shard, with names and texts of usual length."""
    generator = np.random.default_rng(number)
    found = Rows()
    columns = {name: np.zeros(0) for name in found.columns}
    sizes = generator.integers(30_000, 130_000, rows)
    columns |= {
        "offset": np.cumsum(sizes).astype("<u8"),
        "size": sizes.astype("<u4"),
        "crc": generator.integers(0, 1 << 32, rows).astype("<u4"),
        "num_samples": generator.integers(RATE, 30 * RATE, rows).astype("<u4"),
        "mean": generator.normal(0, 1e-4, rows),
        "variance": generator.uniform(1e-4, 1e-2, rows),
    }
    texts = {
        "id": Strings.of(f"corpus-{number % 7}_{number:06d}_{row:06d}" for row in range(rows)),
        "text": Strings.of("a sentence of some words that people read out" for _ in range(rows)),
        "speaker": Strings.of(f"{number}-{row % 50}" for row in range(rows)),
        "language": Strings.of(f"l{number % 100}" for _ in range(rows)),
    }
    return PackedRows(columns=columns, texts=texts)


def build_synthetic(folder: Path, rows: int) -> float:
    """Write an index of so many rows; returns the seconds of building it from its parts."""
    shards = [
        ShardRows(
            name=f"c{number % 7}/shard-{number:06d}.tar",
            rows=min(ROWS_A_SHARD, rows - first),
            load=lambda n=number, f=first: synthetic_rows(min(ROWS_A_SHARD, rows - f), n),
        )
        for number, first in enumerate(range(0, rows, ROWS_A_SHARD))
    ]
    began = time.perf_counter()
    build_index(shards, folder, fingerprint="synthetic")
    return time.perf_counter() - began


def open_synthetic(folder: Path) -> None:
    """In a process of its own: open, plan an epoch, look at some rows; print time and memory."""
    before = _peak_megabytes()
    began = time.perf_counter()
    index = ShardIndex(folder)
    opened = time.perf_counter() - began
    plan = BatchPlan(
        index.columns["num_samples"].astype(np.int64),
        batch_samples=int(87.5 * RATE),
        fit="crop",
        max_samples=int(15.6 * RATE),
        seed=0,
    )
    plan.batch(Position())
    planned = time.perf_counter() - began
    late = time.perf_counter()
    count = len(plan._plan(0))
    places = [Position(batch=batch) for batch in range(0, count, max(1, count // 100))]
    for place in places:
        for row in plan.batch(place):
            index.ids[int(row)], index.columns["offset"][row], index.texts[int(row)]
    looked = (time.perf_counter() - late) / len(places)
    print(
        f"  {len(index):>10,} rows: opened in {opened:.2f} s, first batch known after "
        f"{planned:.2f} s, each further one in {looked * 1e3:.2f} ms; peak memory "
        f"{_peak_megabytes():,.0f} MB, of which before {before:,.0f} MB"
    )


def _peak_megabytes() -> float:
    """Highest resident memory of this program; getrusage would count the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def measure_index(work: Path, rows: int) -> None:
    print("index: opening with hashes checked, planning an epoch, resident memory at the peak")
    for count in (1000, 10_000, 100_000, 1_000_000, 10_000_000):
        if count > rows:
            break
        folder = work / f"rows{count}"
        built = build_synthetic(folder, count)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        subprocess.run(
            [sys.executable, "-m", "benchmarks.loader", "--open", str(folder)], check=True
        )
        print(f"             built in {built:.1f} s, synthetic parts included; {size:,.0f} MB")
        sys.stdout.flush()


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("core", "workers", "index"), help="one part alone")
    parser.add_argument("--open", type=Path, help="only open this index (used by the benchmark)")
    chosen = parser.parse_args()
    if chosen.open is not None:
        open_synthetic(chosen.open)
        return
    import av

    print(
        f"commit {commit()} | Python {platform.python_version()} | PyAV {av.__version__} | numpy "
        f"{np.__version__} | {os.cpu_count()} cores {platform.machine()} | "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        codecs: tuple[Codec, ...] = () if chosen.only == "index" else ("flac", "opus")
        folders = {codec: make_shards(work, codec, chosen.minutes) for codec in codecs}
        if chosen.only in (None, "core"):
            measure_one_core(folders, work / "one", chosen.repeats)
        if chosen.only in (None, "workers"):
            measure_workers(folders, work / "many", chosen.repeats, chosen.workers)
        if chosen.only in (None, "index"):
            measure_index(work, chosen.rows)


if __name__ == "__main__":
    main()
