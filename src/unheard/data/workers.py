"""Worker processes that decode and encode: parallel, and a crash or a hang costs one request.

Processes and not threads, since a decoder that crashes takes its whole process along, and since
threads share one interpreter (benchmarks/results/loader.md has both measured).
"""

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from unheard.data.sample_codec import release
from unheard.data.worker import Done, Failed, Request, answer, receive, send
from unheard.errors import AudioError, ConfigError, FormatError, UnheardError, WorkerError

PATIENCE_SECONDS = 25.0
"""A request that takes longer means that its worker hangs."""

CRASHED = "worker_crash"
HUNG = "worker_hung"
"""Reasons of a WorkerError, and of a dead letter that came of one."""

_START_SECONDS = 120.0
_LOOK_EVERY_SECONDS = 0.25


class WorkerPool:
    """A few processes that take requests in turn; results come in the order asked for."""

    def __init__(
        self,
        workers: int,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        retries: int = 0,
    ) -> None:
        """Prepare; a process starts with its first request.

        Args:
            workers: number of processes; 0 works in the process that asks, without protection.
            patience_seconds: after which a worker that is busy with one request counts as hung.
            retries: how often a request is tried again in a new worker when one is lost.

        Raises:
            ConfigError: if `workers` is negative.
        """
        if workers < 0:
            raise ConfigError(f"workers must be 0 or more, got {workers}.")
        self.workers = workers
        self._patience_seconds = patience_seconds
        self._retries = retries
        self._queue: SimpleQueue[tuple[Request, Future[Any]] | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end_all, self._workers, self._queue, self._closed)

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers that run."""
        return [one.process.pid for one in self._workers if one.process is not None]

    def submit(self, request: Request) -> "Future[Any]":
        """Ask for one thing.

        Returns:
            A future; its exception is WorkerError if the worker was lost.

        Raises:
            ConfigError: if the pool was closed.
        """
        if self._closed.is_set():
            raise ConfigError("These workers were ended already; open the shards again.")
        future: Future[Any] = Future()
        if self.workers == 0:
            _settle(future, *answer(request))
            return future
        self._start()
        self._queue.put((request, future))
        return future

    def run(self, requests: Iterable[Request]) -> list[Any]:
        """Ask for many things and wait for all; the first error is raised."""
        futures = [self.submit(request) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """End the workers; whoever waits for a result gets an error.

        Happens by itself when nobody holds the pool any more.
        """
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        with self._lock:
            if self._workers:
                return
            self._workers.extend(
                _Worker(number, self._queue, self._closed, self._retries)
                for number in range(self.workers)
            )
            threading.Thread(
                target=_watch,
                args=(self._workers, self._closed, self._patience_seconds),
                daemon=True,
            ).start()


def _watch(workers: "list[_Worker]", closed: threading.Event, patience_seconds: float) -> None:
    """End workers that hang."""
    while not closed.wait(_LOOK_EVERY_SECONDS):
        for worker in workers:
            worker.end_if_hung(patience_seconds)


def _end_all(
    workers: "list[_Worker]",
    queue: "SimpleQueue[tuple[Request, Future[Any]] | None]",
    closed: threading.Event,
) -> None:
    """End workers and their threads."""
    closed.set()
    release()
    for _ in workers:
        queue.put(None)
    for worker in workers:
        worker.end()
    for worker in workers:
        if worker.thread is not threading.current_thread():
            worker.thread.join(timeout=5)


class _Worker:
    """One process, and the thread that feeds it."""

    def __init__(
        self,
        number: int,
        queue: "SimpleQueue[tuple[Request, Future[Any]] | None]",
        closed: threading.Event,
        retries: int,
    ) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self._queue = queue
        self._closed = closed
        self._retries = retries
        self._since: float | None = None
        self._limit_seconds: float | None = None
        self._hung_after_seconds: float | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """End the process."""
        process = self.process
        if process is not None:
            process.kill()

    def end_if_hung(self, patience_seconds: float) -> None:
        """End the process if it has been busy with one request for too long."""
        since = self._since
        limit = self._limit_seconds or patience_seconds
        if since is not None and time.monotonic() - since > limit:
            self._hung_after_seconds = limit
            self.end()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            request, future = item
            if self._closed.is_set() or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            self._fulfil(request, future)
        self._stop()

    def _fulfil(self, request: Request, future: "Future[Any]") -> None:
        """Ask the process; try again with a new one as often as allowed."""
        for left in reversed(range(self._retries + 1)):
            try:
                kind, result = self._ask(request)
            except (OSError, EOFError) as error:
                lost = self._lost(request, error)
                if self._closed.is_set():
                    future.set_exception(CancelledError("the workers were ended"))
                    return
                if left:
                    continue
                future.set_exception(lost)
                return
            _settle(future, kind, result)
            return

    def _ask(self, request: Request) -> tuple[Done | Failed, Any]:
        if self.process is None:
            self._launch()
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError("the worker has no pipes")
        if self._closed.is_set():
            raise EOFError("the workers were ended")
        self._limit_seconds = None
        self._since = time.monotonic()
        try:
            send(process.stdin, request)  # pyright: ignore[reportArgumentType]
            return receive(process.stdout)  # pyright: ignore[reportArgumentType]
        finally:
            self._since = None

    def _launch(self) -> None:
        paths = [path for path in sys.path if path]
        self.process = subprocess.Popen(
            # -P: the current folder must not stand in for a package.
            [sys.executable, "-P", "-m", "unheard.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
            },
        )
        if self.process.stdout is None:
            raise EOFError("the worker has no pipes")
        self._limit_seconds = _START_SECONDS
        self._since = time.monotonic()
        try:
            receive(self.process.stdout)  # pyright: ignore[reportArgumentType]
        finally:
            self._since = None

    def _lost(self, request: Request, error: Exception) -> WorkerError:
        """Take leave of a process that died, and say how."""
        process = self.process
        hung_seconds, self._hung_after_seconds = self._hung_after_seconds, None
        self._stop()
        name = f"Worker {self.number}" + ("" if process is None else f" (process {process.pid})")
        if hung_seconds is not None:
            return WorkerError(
                f"{name} was ended: it hung for more than {hung_seconds:g} s on {request.label}. "
                "Look at that file, or leave it out.",
                reason=HUNG,
            )
        code = None if process is None else process.returncode
        how = f"{error}" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerError(
            f"{name} crashed ({how}) while it read {request.label}. If it was not ended from "
            "outside (no memory left?), look at that file, or leave it out.",
            reason=CRASHED,
        )

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _settle(future: "Future[Any]", kind: Done | Failed, result: Any) -> None:
    """Give a future its result or its error."""
    if kind == "done":
        future.set_result(result)
    elif kind == "audio":
        message, reason = result
        future.set_exception(AudioError(message, reason=reason))
    elif kind == "format":
        future.set_exception(FormatError(result))
    else:
        future.set_exception(UnheardError(result))


def default_workers(sharers: int = 1) -> int:
    """Processes that decode on this machine: one a processor, at most eight.

    Args:
        sharers: training processes on this machine, which share the processors.
    """
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        processors = os.cpu_count() or 1
    return max(1, min(8, processors // max(1, sharers)))
