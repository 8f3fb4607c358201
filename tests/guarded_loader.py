"""Loads model folders, each in a process that watches itself.

Run as a program: reads a sound folder and folders to try as a JSON list from the standard input,
and writes one JSON row for each of the latter: the error, the seconds, the memory beyond what the
process had before [bytes], and every event that Python reports to an audit hook meanwhile.
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
from unheard.interop.load import load_model


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Most memory that this process has had in use."""
    with Path("/proc/self/status").open() as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def watched(folder: Path) -> dict[str, Any]:
    """Load a folder and say what happened."""
    events: list[list[str]] = []
    watching = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching:
            events.append([event, *map(str, args[:2] if event == "open" else args[:1])])

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident_bytes()
    sys.addaudithook(hook)
    error, message = "", ""
    start = time.process_time()
    try:
        load_model(folder)
    except UnheardError as caught:
        error, message = type(caught).__name__, str(caught)
    seconds = time.process_time() - start
    watching = False
    memory = peak_bytes() - before
    return {
        "error": error,
        "message": message,
        "seconds": seconds,
        "memory": memory,
        "events": events,
    }


def main() -> None:
    """Warm up, then fork a child for each folder."""
    torch.set_num_threads(1)
    sound, *folders = json.load(sys.stdin)
    load_model(sound)
    for folder in folders:
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            with os.fdopen(sender, "wb") as pipe:
                pipe.write(json.dumps(watched(Path(folder))).encode())
            os._exit(0)
        os.close(sender)
        with os.fdopen(receiver, "rb") as pipe:
            print(pipe.read().decode(), flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
