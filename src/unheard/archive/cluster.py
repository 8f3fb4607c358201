"""Tickets on Ray Data: a pool of workers that grows and shrinks, here or on a cluster.

Ray starts and restarts processes, places them and feeds them. It never sees a recording or a
transcript: a row of its data set is the number of a ticket, and what comes back is a count. So its
object store stays almost empty, and a row that fails is one that we wrote.
"""

import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unheard.archive.plan import Ticket
from unheard.archive.worker import Job, Outcome, Worker
from unheard.errors import ConfigError, MissingExtraError, UnheardError

OBJECT_STORE_BYTES = 100 << 20
"""Shared memory of a local Ray: tickets are small [bytes]."""

MOST_BLOCKS = 10_000
"""Pieces of Ray's data set; of more tickets several are in one."""

_ENVIRONMENT = {
    # Ray reports to its makers what runs where unless it is told not to.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

_FOLDER_PREFIX = "unheard-"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many workers there are, and what each of them needs.

    Attributes:
        address: of a cluster to join ("auto", "10.0.0.1:6379", "ray://..."); None starts Ray here.
        least: workers at least.
        most: workers at most; None is as many as the cluster has room for.
        threads: processors of a worker.
        gpus: accelerators of a worker; a part of one where several share it.
    """

    address: str | None
    least: int
    most: int | None
    threads: int
    gpus: float


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A ticket that is finished.

    Attributes:
        ticket: its number.
        outcome: what became of its recordings.
    """

    ticket: int
    outcome: Outcome


class Board:
    """Where workers say how far they are; an actor of Ray's. It may be lost without harm."""

    def __init__(self) -> None:
        self._open: dict[int, Mapping[str, float]] = {}

    def put(self, ticket: int, outcome: Mapping[str, float]) -> None:
        """Take what became of a ticket so far."""
        self._open[ticket] = outcome

    def drop(self, ticket: int) -> None:
        """Forget a ticket that is finished."""
        self._open.pop(ticket, None)

    def look(self) -> list[Mapping[str, float]]:
        """Return what became of the tickets that are not finished."""
        return list(self._open.values())


class RayWorker:
    """A worker as Ray Data calls it.

    Faults that are nobody's intent end a worker with Ray's error. Those that we raise on purpose
    come back as rows, since Ray would begin anew with a worker that failed to start.
    """

    def __init__(self, job: Job, board: Any) -> None:
        self._board = board
        self._ticket = -1
        self._error: str | None = None
        import torch

        torch.set_num_threads(job.threads)
        try:
            self._worker = Worker(job, report=self._report)
        except (UnheardError, OSError) as error:
            self._error = str(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Work off one ticket."""
        values = {name: column[0].item() for name, column in batch.items()}
        ticket = Ticket(**values)
        self._ticket = ticket.number
        outcome = Outcome()
        error = self._error
        if error is None:
            try:
                outcome = self._worker.work(ticket)
            except (UnheardError, OSError) as fault:
                error = str(fault)
        if self._board is not None:
            self._board.drop.remote(ticket.number)
        row = {"ticket": ticket.number, **asdict(outcome), "error": error or ""}
        return {name: [value] for name, value in row.items()}

    def _report(self, outcome: Outcome) -> None:
        if self._board is not None:
            self._board.put.remote(self._ticket, asdict(outcome))


@dataclass(frozen=True, kw_only=True)
class Running:
    """A job on Ray.

    Attributes:
        ended: tickets as they are finished, in any order.
        look: says what became so far of those that are not.
    """

    ended: Iterator[Ended]
    look: Callable[[], Outcome]


@contextlib.contextmanager
def running(job: Job, tickets: Sequence[Ticket], pool: Pool) -> Iterator[Running]:
    """Work off tickets on Ray.

    Args:
        job: what each worker is told.
        tickets: in the order in which they are to be begun.
        pool: the workers.

    Raises:
        MissingExtraError: if Ray is not installed.
        ConfigError: if the cluster cannot be reached.
        UnheardError: if a worker could not go on, while tickets are taken.
    """
    ray = import_ray()
    with _joined(ray, pool):
        board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=0).remote()
        yield Running(ended=_ended(ray, job, tickets, pool, board), look=lambda: _look(ray, board))


def import_ray() -> Any:
    """Import Ray, told to be quiet and to report to nobody.

    Raises:
        MissingExtraError: if it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.data
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            "ray", extra="ray", purpose="An archive with several workers"
        ) from error
    return ray


def _ended(
    ray: Any, job: Job, tickets: Sequence[Ticket], pool: Pool, board: Any
) -> Iterator[Ended]:
    """Run tickets through a pool of actors."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    # It need not watch what hardly takes memory and tells of its progress itself.
    context.memory_usage_poll_interval_s = None
    context.issue_detectors_config.detectors = []
    data = ray.data.from_items(
        [asdict(ticket) for ticket in tickets],
        override_num_blocks=min(len(tickets), MOST_BLOCKS),
    ).map_batches(
        RayWorker,
        fn_constructor_kwargs={"job": job, "board": board},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.least, max_size=pool.most, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=pool.threads,
        num_gpus=pool.gpus or None,
    )
    try:
        for row in data.iter_rows():
            if row["error"]:
                raise UnheardError(row["error"])
            yield Ended(
                ticket=row["ticket"],
                outcome=Outcome(
                    done=row["done"], failed=row["failed"], audio_seconds=row["audio_seconds"]
                ),
            )
    except ray.exceptions.RayError as error:
        raise UnheardError(
            f"Ray could not go on: {_last_line(error)} The same command goes on where it stopped."
        ) from error


def _look(ray: Any, board: Any) -> Outcome:
    """Ask how far the workers are; nothing if nobody answers at once."""
    total = Outcome()
    try:
        found = ray.get(board.look.remote(), timeout=0.5)
    except ray.exceptions.RayError:
        return total
    for one in found:
        total.done += int(one["done"])
        total.failed += int(one["failed"])
        total.audio_seconds += one["audio_seconds"]
    return total


@contextlib.contextmanager
def _joined(ray: Any, pool: Pool) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster; one that runs in this process is used."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    folder: Path | None = None
    try:
        with _quietly():
            if pool.address is not None:
                try:
                    ray.init(address=pool.address, **quiet)
                except (ConnectionError, ValueError, RuntimeError) as error:
                    raise ConfigError(
                        f"Cannot join the cluster at {pool.address!r}: {_last_line(error)} Check "
                        "the address (ray status). A cluster that asks for a token needs "
                        "RAY_AUTH_MODE=token here too. Without an address this machine works."
                    ) from error
            else:
                _sweep()
                folder = _folder()
                workers = pool.most or pool.least
                ray.init(
                    address="local",
                    # One more than workers need, for Ray's own tasks.
                    num_cpus=workers * pool.threads + 1,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                    **quiet,
                )
        _silence()
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what Ray says while it starts; what goes wrong is an exception."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if not os.environ.get("UNHEARD_DEBUG"):
            # Its compiled part writes past Python's own stream.
            sys.stderr.flush()
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)
        yield


def _silence() -> None:
    """Stop Ray from printing that a worker ended, on the stream where results go.

    It is started again, and we say what matters. Ray has no switch for it.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _say_nothing


def _say_nothing(*_: object, **__: object) -> None:
    """Take the place of a function that prints."""


def _folder() -> Path:
    """Make a folder for a local Ray; its sockets have names of at most 107 bytes."""
    folder = tempfile.gettempdir()
    if len(folder) > 10 and Path("/tmp").is_dir():
        folder = "/tmp"
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{_host()}-{os.getpid()}-", dir=folder))


def _sweep() -> None:
    """Remove what runs left that were killed on this machine."""
    for parent in {tempfile.gettempdir(), "/tmp"}:
        for folder in Path(parent).glob(f"{_FOLDER_PREFIX}{_host()}-*"):
            process = folder.name.rsplit("-", 2)[1]
            if process.isdecimal() and not _is_alive(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def _host() -> str:
    """A short name of this machine for file names."""
    return "".join(filter(str.isalnum, socket.gethostname()))[:6] or "host"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _last_line(error: BaseException) -> str:
    """What an error of Ray's says in the end; its whole text is many pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
