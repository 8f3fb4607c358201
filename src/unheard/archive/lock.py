"""One run at a time writes to an output, or several that share it out by `--shard`.

On a disk the operating system holds the lock. Object stores have none, so there a run writes a
beat every few seconds, and who comes second waits to see whether it goes on.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator

from unheard import files
from unheard.archive.stores import LocalStore, Store
from unheard.errors import ConfigError

WORK = "_work"
BEAT_SECONDS = 10.0
WAIT_SECONDS = 25.0
"""A run whose beat does not change for so long has ended [seconds]."""


def label_of(shard: tuple[int, int] | None) -> str:
    """Name the part of an archive that a run does."""
    part, parts = shard or (1, 1)
    return f"{part}of{parts}"


def owner_name(label: str) -> str:
    """Name the file that says which run may write this part of an archive."""
    return f"{WORK}/owner-{label}.json"


@contextlib.contextmanager
def owned(store: Store, *, run: str, label: str) -> Iterator[None]:
    """Hold an output, or one shard of it.

    Args:
        store: the output.
        run: name of this run.
        label: see `label_of`.

    Raises:
        ConfigError: if another run does the same part of the archive, or shares it out otherwise.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(store, LocalStore):
            stack.enter_context(files.locked(store.folder / WORK / f"lock-{label}"))
        _refuse_others(store, label)
        beat = _Beat(store, run=run, label=label)
        beat.write()
        stack.enter_context(beat.going_on())
        yield


class _Beat:
    """Says that a run is alive."""

    def __init__(self, store: Store, *, run: str, label: str) -> None:
        self._store = store
        self._name = owner_name(label)
        self._facts = {"run": run, "host": socket.gethostname(), "process": os.getpid()}
        self._count = 0

    def write(self) -> None:
        """Write the next beat."""
        self._count += 1
        self._store.write(self._name, json.dumps({**self._facts, "beat": self._count}).encode())

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Beat until the block ends."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                # A beat that is missed is no reason to end a run.
                with contextlib.suppress(OSError):
                    self.write()

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=BEAT_SECONDS)
            with contextlib.suppress(OSError):
                self._store.remove(self._name)


def _refuse_others(store: Store, label: str) -> None:
    """Look for runs that would write the same records."""
    parts = label.partition("of")[2]
    suspects: dict[str, bytes] = {}
    for name in store.names(WORK):
        found = re.fullmatch(rf"{WORK}/owner-(\d+)of(\d+)\.json", name)
        if found and (found[0] == owner_name(label) or found[2] != parts):
            with contextlib.suppress(FileNotFoundError):
                suspects[name] = store.read(name)
    if isinstance(store, LocalStore):
        # The lock has been taken already; of other shares, see whether somebody holds theirs.
        suspects = {
            name: data
            for name, data in suspects.items()
            if name != owner_name(label) and _is_held(store, name)
        }
        alive = suspects
    else:
        alive = _still_beating(store, suspects)
    for name, data in alive.items():
        raise ConfigError(
            f"{store.url} is in use: expected no other run for the same recordings, found "
            f"{_named(data)} with the shard {name.rpartition('-')[2].removesuffix('.json')}. Wait "
            "for it to end, or end it."
        )


def _is_held(store: LocalStore, name: str) -> bool:
    """Whether the lock that belongs to an owner file is held."""
    label = name.rpartition("-")[2].removesuffix(".json")
    try:
        with files.locked(store.folder / WORK / f"lock-{label}"):
            return False
    except ConfigError:
        return True


def _still_beating(store: Store, suspects: dict[str, bytes]) -> dict[str, bytes]:
    """Wait to see which runs are alive."""
    deadline = time.monotonic() + WAIT_SECONDS
    while suspects and time.monotonic() < deadline:
        time.sleep(min(1.0, WAIT_SECONDS / 5))
        for name, before in suspects.items():
            with contextlib.suppress(FileNotFoundError):
                if store.read(name) != before:
                    return {name: before}
    return {}


def _named(data: bytes) -> str:
    try:
        owner = json.loads(data)
        return f"process {owner['process']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
