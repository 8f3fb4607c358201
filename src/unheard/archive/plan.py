"""What is left of an archive, cut into tickets: stretches of a list, each the work of minutes.

The list lies beside the output while a run lasts, one line of JSON a recording, so that workers on
any machine read their stretch of it and nobody holds all of it. The process that plans needs 16
bytes of memory for each recording that is left, and 16 for each that has a record.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unheard.archive.parts import DIGEST_BYTES, Known
from unheard.archive.recordings import DUPLICATE, Item, Recordings
from unheard.archive.stores import Store

BYTES_A_SECOND = 16_000
"""What a second of sound is taken to weigh in a file, where its length is not known [bytes]."""
UNKNOWN_SECONDS = 60.0
"""Length that a recording is taken to have where nothing is known of it [seconds]."""
LEAST_SECONDS = 1.0
"""What the shortest recording costs, since each is opened and written down [seconds]."""

TICKETS_A_WORKER = 12
"""Tickets that each worker gets at least, so that all of them end at about the same time."""


SMALLEST_TICKET_SECONDS = 30.0
"""Less sound is not worth a ticket [seconds]."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Some recordings that one worker transcribes.

    Attributes:
        number: within its run, from 0.
        start: where its lines begin in the list [bytes].
        size: of its lines [bytes].
        count: its recordings.
        cost_seconds: about how much sound that is [seconds].
    """

    number: int
    start: int
    size: int
    count: int
    cost_seconds: float


@dataclass(frozen=True, kw_only=True)
class TicketLimits:
    """How large a ticket may become.

    Attributes:
        recordings: at most.
        seconds: of sound at most; a longer recording is a ticket alone [seconds].
    """

    recordings: int
    seconds: float


CPU_LIMITS = TicketLimits(recordings=1024, seconds=4 * 3600.0)
ACCELERATOR_LIMITS = TicketLimits(recordings=4096, seconds=24 * 3600.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do.

    Attributes:
        tickets: the largest first.
        pending: recordings in them.
        done: recordings that have a transcript already.
        failed: recordings that have a dead letter already.
        retried: sorted digests of those of `pending` that have a dead letter, which goes.
    """

    tickets: tuple[Ticket, ...]
    pending: int
    done: int
    failed: int
    retried: np.ndarray


def make_plan(
    recordings: Recordings,
    known: Known,
    store: Store,
    name: str,
    *,
    shard: tuple[int, int] | None = None,
    retry_failed: bool = False,
    workers: int = 1,
    limits: TicketLimits = CPU_LIMITS,
) -> Plan:
    """List what is left to do, and cut it into tickets.

    Args:
        recordings: the input.
        known: what has a record.
        store: the output, where the list is written.
        name: of the list.
        shard: (i, n) keeps the i-th of n parts.
        retry_failed: try again what has a dead letter.
        workers: that will work at a time, as far as that is known.
        limits: of a ticket.
    """
    listed = _list(recordings, known, store, name, shard=shard, retry_failed=retry_failed)
    if doubled := listed.doubled():
        # Rare, and only known at the end: list again, knowing them.
        listed = _list(
            recordings, known, store, name, shard=shard, retry_failed=retry_failed, doubled=doubled
        )
    starts, costs = listed.starts, listed.costs
    tickets = _cut(starts, costs, end=listed.end, workers=workers, limits=limits)
    # The largest come first, so that none of them is alone at the end.
    tickets.sort(key=lambda ticket: -ticket.cost_seconds)
    return Plan(
        tickets=tuple(tickets),
        pending=len(starts),
        done=listed.done,
        failed=listed.failed,
        retried=np.sort(np.array(listed.retried, f"S{DIGEST_BYTES}")),
    )


def read_ticket(store: Store, name: str, ticket: Ticket) -> list[Item]:
    """Read the recordings of a ticket, the longest first so that like lengths come together."""
    lines = store.read(name, start=ticket.start, size=ticket.size).splitlines()
    items = [Item.from_line(line) for line in lines]
    return sorted(items, key=lambda item: -cost_seconds(item))


def cost_seconds(item: Item) -> float:
    """Guess how much sound a recording is [seconds]."""
    if item.fault is not None:
        return LEAST_SECONDS
    if item.length_seconds is not None:
        return max(item.length_seconds, LEAST_SECONDS)
    if item.num_bytes is not None:
        return max(item.num_bytes / BYTES_A_SECOND, LEAST_SECONDS)
    return UNKNOWN_SECONDS


@dataclass(kw_only=True)
class _Listed:
    """A list that was written, and what is known of its lines.

    Attributes:
        starts: where each line begins [bytes].
        costs: of each [seconds].
        end: of the list [bytes].
        done: recordings left out since they have a transcript.
        failed: recordings left out since they have a dead letter.
        retried: digests of those on the list that have one.
        digests: of all rows of a manifest.
    """

    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    costs: "array[float]" = field(default_factory=lambda: array("d"))
    end: int = 0
    done: int = 0
    failed: int = 0
    retried: list[bytes] = field(default_factory=list)
    digests: "array[int]" = field(default_factory=lambda: array("B"))

    def doubled(self) -> set[bytes]:
        """Find the ids that stand on several rows."""
        values = np.sort(np.frombuffer(self.digests, f"S{DIGEST_BYTES}"))
        again = values[1:][values[1:] == values[:-1]]
        return {bytes(value).ljust(DIGEST_BYTES, b"\0") for value in again}


def _list(
    recordings: Recordings,
    known: Known,
    store: Store,
    name: str,
    *,
    shard: tuple[int, int] | None,
    retry_failed: bool,
    doubled: set[bytes] | None = None,
) -> _Listed:
    """Write the list of what is left to do.

    Args:
        recordings: the input.
        known: what has a record.
        store: where the list is written.
        name: of the list.
        shard: (i, n) keeps the i-th of n parts.
        retry_failed: try again what has a dead letter.
        doubled: ids of which only the first row is a recording; None looks for them.
    """
    listed = _Listed()
    seen: set[bytes] = set()
    with store.writing(name) as file:
        for place, item in enumerate(recordings.items(shard=shard), start=1):
            digest = item.digest
            # A folder has no two files of one name.
            if doubled is None and recordings.is_manifest:
                listed.digests.frombytes(digest)
            elif doubled and digest in doubled:
                if digest in seen:
                    item = _double(item, place)
                    digest = item.digest
                seen.add(digest)
            if known.is_done(digest):
                listed.done += 1
                continue
            if known.is_failed(digest):
                if not retry_failed:
                    listed.failed += 1
                    continue
                listed.retried.append(digest)
            line = item.to_line()
            file.write(line)
            listed.starts.append(listed.end)
            listed.costs.append(cost_seconds(item))
            listed.end += len(line)
    return listed


def _double(item: Item, place: int) -> Item:
    """Make a fault of a row whose id stands on an earlier one."""
    detail = (
        f'The id "{item.id}" stands on an earlier row of the manifest. Ids must be unique; give '
        "this row another one."
    )
    return Item(id=f"{item.id}#{place}", audio=item.audio, fault=(DUPLICATE, detail))


def _cut(
    starts: Sequence[int],
    costs: Sequence[float],
    *,
    end: int,
    workers: int,
    limits: TicketLimits,
) -> list[Ticket]:
    """Cut the list into stretches of about equal cost, small enough that all workers have some."""
    total = sum(costs)
    share = total if workers < 2 else total / (workers * TICKETS_A_WORKER)
    most_seconds = min(limits.seconds, max(share, SMALLEST_TICKET_SECONDS))
    tickets: list[Ticket] = []
    first = 0
    cost = 0.0
    for place in range(len(costs) + 1):
        is_end = place == len(costs)
        full = place - first >= limits.recordings or (
            not is_end and cost + costs[place] > most_seconds
        )
        if place > first and (is_end or full):
            stop = end if is_end else starts[place]
            tickets.append(
                Ticket(
                    number=len(tickets),
                    start=starts[first],
                    size=stop - starts[first],
                    count=place - first,
                    cost_seconds=cost,
                )
            )
            first, cost = place, 0.0
        if not is_end:
            cost += costs[place]
    return tickets
