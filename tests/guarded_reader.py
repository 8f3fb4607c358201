"""Reads checkpoints as `open_pickle` does, each in a process that watches itself.

Run as a program: reads paths as a JSON list from the standard input, and writes one JSON row a
path: the error, the seconds of the processor, the memory beyond what the process had before
[bytes], and every event that Python reports to an audit hook meanwhile.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from unheard.errors import UnheardError
from unheard.interop.pickle_store import open_pickle


def watched(path: Path) -> dict[str, Any]:
    """Read a checkpoint whole, and say what happened."""
    events: list[list[str]] = []
    watching = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching:
            shown = args[:2] if event == "open" else args[:1]
            events.append([event, *map(str, shown)])

    with Path("/proc/self/statm").open() as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    sys.addaudithook(hook)
    error, message = "", ""
    start = time.process_time()
    try:
        store = open_pickle(path).store
        store.verify()
        for name in store.tensors:
            store.read(name)
    except UnheardError as caught:
        error, message = type(caught).__name__, str(caught)
    seconds = time.process_time() - start
    watching = False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "error": error,
        "message": message,
        "seconds": seconds,
        "memory": peak - before,
        "events": events,
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.zeros(8).copy_(torch.ones(8))
    for path in json.load(sys.stdin):
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(sender, json.dumps(watched(Path(path))).encode())
            os._exit(0)
        os.close(sender)
        with os.fdopen(receiver, "rb") as pipe:
            print(pipe.read().decode(), flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
