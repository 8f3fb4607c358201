import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.shard_folders import tone

from unheard.audio import io
from unheard.audio.encode import encode
from unheard.data.places import LocalPlace
from unheard.data.sample_codec import Stretch
from unheard.data.workers import WorkerPool, default_workers
from unheard.errors import AudioError, ConfigError, FormatError, UnheardError, WorkerError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def wanted(tmp_path: Path) -> Stretch:
    """A sample that lies in a file by itself."""
    data = encode(tone(1, 8000), "flac")
    (tmp_path / "x.tar").write_bytes(data)
    return stretch(tmp_path, data)


def stretch(folder: Path, data: bytes, **more: object) -> Stretch:
    facts = {
        "place": str(folder),
        "shard": "x.tar",
        "offset": 0,
        "size": len(data),
        "crc": zlib.crc32(data),
        "num_samples": 8000,
        "start": 100,
        "count": 500,
        "id": "u1",
    }
    return Stretch(**{**facts, **more})  # pyright: ignore[reportArgumentType]


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def expect_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(process):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_asked_for(wanted: Stretch, tmp_path: Path, workers: int) -> None:
    whole = io.read(tmp_path / "x.tar").samples
    starts = [300, 0, 7000, 20, 300, 4000, 1]
    with WorkerPool(workers) as pool:
        found = pool.run([Stretch(**{**wanted.__dict__, "start": start}) for start in starts])
    for start, samples in zip(starts, found, strict=True):
        np.testing.assert_array_equal(samples, whole[start : start + 500])


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_gives_an_error_that_names_it_and_the_file(
    wanted: Stretch, name: signal.Signals
) -> None:
    with WorkerPool(1) as pool:
        expected = pool.run([wanted])[0]
        (process,) = pool.processes
        os.kill(process, signal.SIGSTOP)
        future = pool.submit(wanted)
        os.kill(process, name)
        os.kill(process, signal.SIGCONT)
        message = rf"Worker 0 \(process {process}\) crashed \(signal {name.value}\).*x\.tar.*'u1'"
        with pytest.raises(WorkerError, match=message) as caught:
            future.result(timeout=30)
        assert caught.value.reason == "worker_crash"
        # The pool goes on with a new process.
        np.testing.assert_array_equal(pool.run([wanted])[0], expected)
        assert pool.processes != [process]


def test_a_worker_that_hangs_is_ended_in_time(wanted: Stretch) -> None:
    with WorkerPool(1, patience_seconds=1.0) as pool:
        pool.run([wanted])
        (process,) = pool.processes
        os.kill(process, signal.SIGSTOP)
        began = time.monotonic()
        message = (
            rf"Worker 0 \(process {process}\) was ended: it hung for more than 1 s on .*x\.tar"
        )
        with pytest.raises(WorkerError, match=message) as caught:
            pool.run([wanted])
        assert caught.value.reason == "worker_hung"
        assert 0.9 < time.monotonic() - began < 10
        expect_gone(process)


def test_a_hung_or_killed_worker_is_replaced_where_that_is_wanted(wanted: Stretch) -> None:
    with WorkerPool(1, patience_seconds=1.0, retries=1) as pool:
        expected = pool.run([wanted])[0]
        os.kill(pool.processes[0], signal.SIGSTOP)
        np.testing.assert_array_equal(pool.run([wanted])[0], expected)


def test_ctrl_c_and_a_schedulers_signal_are_not_for_the_workers(wanted: Stretch) -> None:
    """They reach the whole process group; the loop must be able to finish its step."""
    with WorkerPool(1) as pool:
        pool.run([wanted])
        (process,) = pool.processes
        os.kill(process, signal.SIGINT)
        os.kill(process, signal.SIGTERM)
        pool.run([wanted])
        assert pool.processes == [process]


def test_closing_ends_the_processes_and_whoever_waits(wanted: Stretch) -> None:
    before = threading.active_count()
    pool = WorkerPool(2)
    pool.run([wanted] * 6)
    processes = pool.processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    futures = [pool.submit(wanted) for _ in range(5)]
    pool.close()
    for process in processes:
        expect_gone(process)
    for future in futures:
        with pytest.raises(BaseException, match=r"ended|^$"):
            future.result(timeout=10)
    with pytest.raises(ConfigError, match="ended already"):
        pool.submit(wanted)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == before


def test_workers_end_when_nobody_holds_them_any_more(wanted: Stretch) -> None:
    pool = WorkerPool(1)
    pool.run([wanted])
    (process,) = pool.processes
    del pool
    gc.collect()
    expect_gone(process)


def test_no_worker_outlives_a_process_that_is_killed(wanted: Stretch, tmp_path: Path) -> None:
    program = (
        "import os, pickle, sys, time\n"
        "from unheard.data.workers import WorkerPool\n"
        "pool = WorkerPool(1)\n"
        "pool.run([pickle.load(open(sys.argv[1], 'rb'))])\n"
        "print(pool.processes[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "request").write_bytes(pickle.dumps(wanted))
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "request")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    ) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        assert is_alive(process)
        parent.kill()
    expect_gone(process)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_keep_their_kind_and_name_the_file(
    wanted: Stretch, tmp_path: Path, workers: int
) -> None:
    def fail(kind: type[Exception], match: str, **more: object) -> None:
        with pytest.raises(kind, match=match):
            pool.run([Stretch(**{**wanted.__dict__, **more})])

    noise = b"this is no sound" * 20
    (tmp_path / "noise.tar").write_bytes(noise)
    with WorkerPool(workers) as pool:
        fail(FormatError, r"x\.tar \(utterance 'u1'\) is damaged", crc=1)
        fail(FormatError, "ends too soon: expected 9999999 bytes", size=9_999_999)
        fail(FormatError, "another length", count=9000)
        fail(UnheardError, r"u1.*No such file.*y\.tar", shard="y.tar")
        fail(FormatError, "no name of a shard", shard="../x.tar")
        changed = {"size": len(noise), "crc": zlib.crc32(noise), "shard": "noise.tar"}
        fail(AudioError, r"noise\.tar \(utterance 'u1'\).*cannot be read as sound", **changed)
        pool.run([wanted])


def test_workers_do_without_torch() -> None:
    program = "import sys, unheard.data.worker; print('torch' in sys.modules)"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout == "False\n"


def test_processors_are_shared_by_the_processes_that_train() -> None:
    assert 1 <= default_workers(1000) <= default_workers(2) <= default_workers() <= 8
    with pytest.raises(ConfigError, match="0 or more"):
        WorkerPool(-1)


def test_many_shards_are_read_with_few_open_files(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]) * 10)
    place = LocalPlace(tmp_path)
    before = open_files()
    for number in [*range(200), 0, 199]:
        assert place.read(f"{number}.tar", start=3, size=2) == bytes([number]) * 2
    assert open_files() <= before + 64
    place.close()
    assert open_files() == before
