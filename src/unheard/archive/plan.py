"""What is left of an archive, cut into tickets: stretches of a list, each the work of minutes.

The list lies beside the output while a run lasts, one line of JSON a recording, so that workers on
any machine read their stretch of it and nobody holds all of it. The process that plans needs 16
bytes of memory for each recording that is left, and 16 for each that has a record.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    starts, costs = array("Q"), array("d")
    done = failed = 0
    position = 0
    retried: list[bytes] = []
    with store.writing(name) as file:
        for item in _unique(recordings, shard=shard):
            digest = item.digest
            if known.is_done(digest):
                done += 1
                continue
            if known.is_failed(digest):
                if not retry_failed:
                    failed += 1
                    continue
                retried.append(digest)
            line = item.to_line()
            file.write(line)
            starts.append(position)
            costs.append(cost_seconds(item))
            position += len(line)
    tickets = _cut(starts, costs, end=position, workers=workers, limits=limits)
    # The largest come first, so that none of them is alone at the end.
    tickets.sort(key=lambda ticket: -ticket.cost_seconds)
    return Plan(
        tickets=tuple(tickets),
        pending=len(starts),
        done=done,
        failed=failed,
        retried=np.sort(np.array(retried, f"S{DIGEST_BYTES}")),
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


def _unique(recordings: Recordings, *, shard: tuple[int, int] | None) -> Iterable[Item]:
    """List recordings; of rows with one id the first stands, and the others are faults."""
    if not recordings.is_manifest:
        # A folder has no two files of one name.
        yield from recordings.items(shard=shard)
        return
    digests = array("B")
    for item in recordings.items(shard=shard):
        digests.frombytes(item.digest)
    values, counts = np.unique(np.frombuffer(digests, f"S{DIGEST_BYTES}"), return_counts=True)
    doubled = {bytes(value).ljust(DIGEST_BYTES, b"\0") for value in values[counts > 1]}
    seen: set[bytes] = set()
    for place, item in enumerate(recordings.items(shard=shard), start=1):
        if item.digest in doubled:
            if item.digest in seen:
                where = f"{item.id}#{place}"
                detail = (
                    f'The id "{item.id}" stands on an earlier row of the manifest. Ids must be '
                    "unique; give this row another one."
                )
                yield Item(id=where, audio=item.audio, fault=(DUPLICATE, detail))
                continue
            seen.add(item.digest)
        yield item


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
