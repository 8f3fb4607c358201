"""The worker process: requests in on standard input, samples out on standard output.

Started by `data.workers` as `python -m unheard.data.worker`. It holds no state: a worker that dies
is replaced. It ends when its standard input does, so none outlives the process that started it.
"""

import os
import pickle
import signal
import struct
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any, BinaryIO, Literal

from unheard.data.sample_codec import (
    Encoding,
    Measurement,
    Stretch,
    encode_pieces,
    measure,
    read_stretch,
)
from unheard.errors import AudioError, FormatError, UnheardError

_LENGTH = struct.Struct("<Q")
Request = Stretch | Encoding | Measurement
Done = Literal["done"]
Failed = Literal["audio", "format", "failed"]
"""What went wrong: the recording, the shard, or anything else."""


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message to the process that one has started, or was started by."""
    data = pickle.dumps(message, protocol=5)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message.

    Raises:
        EOFError: if the other side has gone.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the other process has ended")
    size = _LENGTH.unpack(head)[0]
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("the other process ended in the middle of a message")
    return pickle.loads(data)


def perform(request: Request) -> Any:
    """Do what a request asks for."""
    if isinstance(request, Stretch):
        return read_stretch(request)
    if isinstance(request, Encoding):
        return encode_pieces(request)
    return measure(request)


def main() -> None:
    """Answer requests until there are no more."""
    # Ctrl-C and a scheduler's signals are for the process that trains; it ends its workers.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not come between the answers.
    os.dup2(2, 1)
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    send(answers, os.getpid())
    while True:
        send(answers, answer(requests.get()))


def _listen(stream: BinaryIO, requests: "SimpleQueue[Request]") -> None:
    """Read requests; end the process at once when there can be no more, whatever it is doing."""
    while True:
        try:
            requests.put(receive(stream))
        except (EOFError, OSError):
            os._exit(0)


def answer(request: Request) -> tuple[Done | Failed, Any]:
    """Give ("done", the result), or what kind of error there was and what it says."""
    try:
        return "done", perform(request)
    except AudioError as error:
        return "audio", (f"{request.label}: {error}", error.reason)
    except FormatError as error:
        return "format", str(error)
    except (UnheardError, OSError) as error:
        return "failed", f"{request.label}: {error}"
    except Exception:  # noqa: BLE001 - told to the process that asked
        return "failed", f"{request.label}:\n{traceback.format_exc()}"


if __name__ == "__main__":
    main()
