"""Processes that train together, and what they agree on.

`torchrun` starts one process a graphics processor, or several on a CPU, and tells each by its
environment who it is. What they compute together is what one process computes alone with as many
micro-batches to an update: docs/scaling.md. Whatever they tell each other is numbers or JSON,
never a pickle.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from unheard.errors import ConfigError, RankError

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=30)
"""A process that hangs in a step without ending is given up after this time."""
MEETING_TIMEOUT = timedelta(minutes=10)
"""All processes must have started within this time of each other."""
WORK_TIMEOUT = timedelta(days=7)
"""The others wait this long for what one process does alone, such as decoding a corpus."""
BEAT_SECONDS = 2.0
PATIENCE_SECONDS = 40.0
"""Silence after which a process counts as dead [seconds]."""
GRACE_SECONDS = 5.0
"""Time that is left to end in order once another process is dead [seconds]."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together.

    Every method but the properties is a meeting: all processes must call it, in the same order.
    A process alone meets nobody and pays nothing.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
        device: where this process computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _control: "dist.ProcessGroup | None" = None

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, logs and decides by the clock."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, on the device it is on."""
        if not self.alone:
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up anywhere."""
        if self.alone:
            return flag
        raised = torch.tensor([float(flag)])
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self._control)
        return bool(raised[0])

    def of_first(self, value: float) -> float:
        """Give everybody the number of the first process."""
        if self.alone:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, src=0, group=self._control)
        return float(told[0])

    def wait(self) -> None:
        """Wait until all are here."""
        if not self.alone:
            dist.barrier(group=self._control)

    def tell_all(self, data: Any) -> list[Any]:
        """Give plain data to all; returns that of each process, by rank."""
        if self.alone:
            return [data]
        coded = torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([coded.numel()]), group=self._control)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: coded.numel()] = coded
        told = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(told, padded, group=self._control)
        return [
            json.loads(bytes(row[: int(size)].tolist()))
            for row, size in zip(told, sizes, strict=True)
        ]

    @contextmanager
    def same_fate(self, kind: type[Exception]) -> Iterator[None]:
        """Let an error in the block of one process stop all of them there.

        Args:
            kind: what the others raise when the failing process raised that.

        Raises:
            RankError: where the block went well, when another process raised something else.
        """
        failed: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again when the others know
            failed = error
        if self.alone:
            if failed is not None:
                raise failed
            return
        told = self.tell_all(None if failed is None else [isinstance(failed, kind), str(failed)])
        if failed is not None:
            raise failed
        for rank, fate in enumerate(told):
            if fate is not None:
                known, message = fate
                raise (kind if known else RankError)(f"Process {rank}: {message}")

    def ask_first(self, work: Callable[[], T]) -> T:
        """Let the first process do something; all get what it returns, which is plain data.

        Raises:
            RankError: in the others, when it failed.
        """
        if self.alone:
            return work()
        answer: Any = None
        with self.same_fate(RankError):
            if self.first:
                answer = work()
        return self.tell_all(answer)[0]

    def first_then(self, work: Callable[[], T], then: Callable[[], T]) -> T:
        """Let the first process make something that stays, and the others read it after that."""
        made: list[T] = []
        with self.same_fate(RankError):
            if self.first:
                made.append(work())
        return made[0] if self.first else then()


ALONE = Ranks()
"""One process."""


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes that `torchrun` started; alone where it started none.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR (127.0.0.1 by default) and
    MASTER_PORT. Gradients go over NCCL between graphics processors and over gloo otherwise;
    processes of one machine talk over its loopback interface unless GLOO_SOCKET_IFNAME says
    otherwise.

    Args:
        device: "cuda" without a number becomes that of this process's place on its machine.

    Raises:
        ConfigError: if the environment is no place among several processes.
        RankError: in place of the transport's own error, when another process ended.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield replace(ALONE, device=device)
        return
    rank = _number("RANK", None)
    if not 0 <= rank < world:
        raise ConfigError(f"RANK must be within 0 .. {world - 1}, got {rank}.")
    local_rank = _number("LOCAL_RANK", rank)
    if device.type == "cuda":
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise ConfigError(f'Several processes train on "cpu" or "cuda", not on {device.type!r}.')
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if _number("LOCAL_WORLD_SIZE", 0) == world and sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store, _, _ = next(rendezvous("env://", rank, world, timeout=MEETING_TIMEOUT))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("unheard", store),
        rank=rank,
        world_size=world,
        timeout=STEP_TIMEOUT,
    )
    control = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=WORK_TIMEOUT))
    ranks = Ranks(rank=rank, world=world, device=device, _control=control)
    pulse = Pulse(_another_connection(), rank=rank, world=world, on_loss=_end)
    pulse.start(ranks.wait)
    in_order = False
    try:
        yield ranks
        ranks.wait()
        in_order = True
    except KeyboardInterrupt as stop:
        # A class of its own is what all have agreed on; the plain one stops this process alone.
        in_order = type(stop) is not KeyboardInterrupt
        raise
    except RuntimeError as error:
        if not _is_of_the_transport(error):
            raise
        raise RankError(
            "Another of the processes that train together ended, so this one ends too: "
            f"{_first_line(error)} What it said before is above, or in its own log. Start all of "
            "them again to go on from the last checkpoint."
        ) from error
    finally:
        pulse.stop(in_order=in_order)
        # A NCCL group with a dead member may wait for it for ever.
        if in_order or device.type == "cpu":
            dist.destroy_process_group()


def refuse_several(verb: str) -> None:
    """Raise ConfigError where `torchrun` started several processes of a verb that is for one."""
    if (world := _number("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"{verb} is the work of one process, {world} were started. Start pretrain and "
            "finetune with torchrun instead, and everything else without."
        )


class Pulse:
    """Notices within a minute that another process is dead, whatever this one is doing.

    A dead peer breaks a gloo connection at once, but not NCCL's between machines: there the
    others would wait until their time-out. So each process counts up a number in the store that
    they met through, and watches those of the others.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world: int,
        on_loss: Callable[[str], None],
        beat_seconds: float = BEAT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Prepare.

        Args:
            store: a connection that nobody else uses.
            rank: of this process.
            world: how many there are.
            on_loss: called once, in a thread, with what happened.
            beat_seconds: time from one beat to the next.
            patience_seconds: silence after which a process counts as dead.
        """
        self._store = store
        self._rank = rank
        self._keys = [f"unheard/pulse/{number}" for number in range(world)]
        self._on_loss = on_loss
        self._beat_seconds = beat_seconds
        self._patience_seconds = patience_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self, wait: Callable[[], None]) -> None:
        """Beat for the first time, wait until all have, and go on beside whatever comes."""
        self._store.set(self._keys[self._rank], "0")
        wait()
        self._thread.start()

    def stop(self, *, in_order: bool) -> None:
        """Stop beating; the others are told whether all is well."""
        self._stopped.set()
        self._thread.join(timeout=self._beat_seconds + 1)
        try:
            self._store.set(self._keys[self._rank], "left" if in_order else "failed")
        except RuntimeError:
            # The store went with the process or agent that held it.
            return

    def _work(self) -> None:
        heard = [("", time.monotonic())] * len(self._keys)
        beat = 0
        while not self._stopped.wait(self._beat_seconds):
            beat += 1
            try:
                self._store.set(self._keys[self._rank], str(beat))
                found = [value.decode() for value in self._store.multi_get(self._keys)]
            except RuntimeError as error:
                self._lose(f"the place where the processes meet is gone ({_first_line(error)})")
                return
            now = time.monotonic()
            for rank, value in enumerate(found):
                if value != heard[rank][0]:
                    heard[rank] = (value, now)
                silent = now - heard[rank][1]
                if value == "failed":
                    self._lose(f"process {rank} failed")
                    return
                if value != "left" and silent > self._patience_seconds:
                    self._lose(f"process {rank} has not been heard of for {silent:.0f} s")
                    return

    def _lose(self, what: str) -> None:
        if not self._stopped.is_set():
            self._on_loss(what)


def _end(what: str) -> None:
    """End this process, whatever it is waiting for: after a moment in which it may do so itself."""
    time.sleep(GRACE_SECONDS)
    sys.stderr.write(
        f"error: {what}, so this process ends too. Start all of them again to go on from the "
        "last checkpoint.\n"
    )
    sys.stderr.flush()
    os._exit(1)


def _another_connection() -> TCPStore:
    """Connect once more to where the processes met: a connection serves one thread at a time."""
    return TCPStore(
        host_name=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=PATIENCE_SECONDS / 2),
    )


def _number(name: str, default: int | None) -> int:
    """Read a number from the environment."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise ConfigError(
            f"The environment says WORLD_SIZE={os.environ.get('WORLD_SIZE')}: expected a whole "
            f"number as {name} too, found {text!r}. Start with torchrun: docs/scaling.md."
        ) from error


def _is_of_the_transport(error: RuntimeError) -> bool:
    """Whether an error came from the connections between processes."""
    text = str(error)
    signs = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
