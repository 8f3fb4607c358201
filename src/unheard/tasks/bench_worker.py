"""One runtime in a process of its own: how long it takes, and how much memory.

    python -m unheard.tasks.bench_worker

Reads one JSON request a line from standard input and answers each with one line. The first says
what to open, the others what to run:

    {"runtime": "unheard", "dtype": "bfloat16", "path": "kilingo/model", "threads": 2}
    {"lengths": [160000], "save": null}

The other runtimes are opened by name where they are installed, to be compared with. They hear the
same normalised sound, as one batch padded with zeros; time includes the best symbol of each frame.
Nothing of this package but the runtime "unheard" is needed here, so that an environment with other
programs only can run it (PYTHONPATH).
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]
Run = Callable[[list[Sound]], list[NDArray[Any]]]
"""Scores a batch: (frames, vocab) of each recording, perhaps with frames of padding behind."""


def open_unheard(request: dict[str, Any]) -> Run:
    """Open our own engine."""
    import torch

    from unheard.inference.engine import Engine
    from unheard.interop.load import load_model

    torch.set_num_threads(request["threads"])
    bundle = load_model(request["path"], device=request["device"])
    engine = Engine(bundle, dtype=request["dtype"], padding="masked", writes_text=False)

    def run(batch: list[Sound]) -> list[NDArray[Any]]:
        return [one.numpy() for one in engine.log_probs(batch)]

    return run


def open_transformers(request: dict[str, Any]) -> Run:
    """Open a folder of transformers with transformers."""
    import torch

    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    dtype = getattr(torch, request["dtype"])
    network = transformers.AutoModelForCTC.from_pretrained(request["path"], dtype=dtype)
    network = network.to(request["device"]).eval()

    def run(batch: list[Sound]) -> list[NDArray[Any]]:
        inputs = torch.from_numpy(padded(batch)).to(request["device"], dtype)
        lengths = torch.tensor([one.shape[0] for one in batch])
        mask = torch.arange(inputs.shape[1])[None] < lengths[:, None]
        given = {"attention_mask": mask.long().to(request["device"])} if len(batch) > 1 else {}
        with torch.inference_mode():
            logits = network(inputs, **given).logits.float().log_softmax(dim=-1)
        return list(logits.cpu().numpy())

    return run


def open_onnxruntime(request: dict[str, Any]) -> Run:
    """Open an ONNX graph with ONNX Runtime."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        request["path"], options, providers=["CPUExecutionProvider"]
    )
    (name,) = [one.name for one in session.get_inputs()]
    return lambda batch: list(session.run(None, {name: padded(batch)})[0])


def open_openvino(request: dict[str, Any]) -> Run:
    """Open an ONNX graph with OpenVINO."""
    openvino: Any = importlib.import_module("openvino")
    short = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
    settings = {
        "INFERENCE_NUM_THREADS": request["threads"],
        "INFERENCE_PRECISION_HINT": short[request["dtype"]],
    }
    network = openvino.compile_model(request["path"], "CPU", settings)
    return lambda batch: list(network([padded(batch)])[0])


RUNTIMES: dict[str, Callable[[dict[str, Any]], Run]] = {
    "unheard": open_unheard,
    "transformers": open_transformers,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}


def padded(batch: list[Sound]) -> Sound:
    """Put recordings below each other, with zeros behind the shorter ones."""
    longest = max(one.shape[0] for one in batch)
    return np.stack([np.pad(one, (0, longest - one.shape[0])) for one in batch])


def make_sounds(lengths: list[int]) -> list[Sound]:
    """Make noise that swells, with mean 0 and deviation 1: (samples,) for each length."""
    generator = np.random.default_rng(len(lengths))
    sounds: list[Sound] = []
    for length in lengths:
        swell = 1.1 + np.sin(np.arange(length) / 3000)
        noise = generator.standard_normal(length) * swell
        sounds.append(((noise - noise.mean()) / noise.std()).astype(np.float32))
    return sounds


def peak_bytes() -> int | None:
    """Most memory that this process has held [bytes]; None where nobody can say."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a runtime prints is no answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    request = {"device": "cpu"} | json.loads(sys.stdin.readline())
    started = time.perf_counter()
    try:
        run = RUNTIMES[request["runtime"]](request)
        version = importlib.import_module(request["runtime"]).__version__
    except Exception as error:  # noqa: BLE001 - whatever a foreign runtime may raise; it is told
        answer(error=f"{type(error).__name__}: {str(error)[:500]}")
        return
    answer(seconds=time.perf_counter() - started, version=version, peak_bytes=peak_bytes())
    for line in sys.stdin:
        request = json.loads(line)
        sounds = make_sounds(request["lengths"])
        try:
            started = time.perf_counter()
            found = run(sounds)
            best = [scores.argmax(axis=-1) for scores in found]
            seconds = time.perf_counter() - started
        except Exception as error:  # noqa: BLE001 - as above
            answer(error=f"{type(error).__name__}: {str(error)[:500]}")
            continue
        if request.get("save"):
            np.save(request["save"], np.asarray(found[0], np.float32))
        answer(seconds=seconds, frames=sum(map(len, best)), peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
