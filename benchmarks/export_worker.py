"""The other side of `benchmarks/export.py`: an exported folder in somebody else's hands.

    pip install sherpa-onnx openvino onnxruntime numpy

Nothing of this project is used here. Reads one JSON request a line from its standard input and
answers each with a line of JSON: what was written, and how long all utterances took together.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[np.ndarray], str]


def open_sherpa(folder: Path, graph: str, threads: int) -> Run:
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(folder / graph), tokens=str(folder / "tokens.txt"), num_threads=threads
    )

    def run(samples: np.ndarray) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, samples)
        recognizer.decode_stream(stream)
        return stream.result.text

    return run


def reader(folder: Path) -> Callable[[np.ndarray, Callable[[np.ndarray], np.ndarray]], str]:
    """As the README.md of an exported folder says."""
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    writes, epsilon = described["writes"], described["spec"]["normalize_epsilon"]

    def read(samples: np.ndarray, network: Callable[[np.ndarray], np.ndarray]) -> str:
        if epsilon is not None:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + epsilon)
        best = network(samples[None])[0].argmax(axis=-1)
        changes = np.flatnonzero(np.diff(best, prepend=-1))
        return " ".join("".join(writes[symbol] for symbol in best[changes]).split())

    return read


def open_onnxruntime(folder: Path, graph: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / graph, options)
    read = reader(folder)
    return lambda samples: read(samples, lambda x: session.run(None, {"x": x})[0])


def open_openvino(folder: Path, graph: str, threads: int, hint: str) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    network = openvino.compile_model(str(folder / graph), "CPU", settings)
    read = reader(folder)
    return lambda samples: read(samples, lambda x: network([x])[0])


def open_runtime(name: str, folder: Path, graph: str, threads: int) -> Run:
    if name == "sherpa-onnx":
        return open_sherpa(folder, graph, threads)
    if name == "onnxruntime":
        return open_onnxruntime(folder, graph, threads)
    return open_openvino(folder, graph, threads, name.partition(" ")[2])


def main() -> None:
    task = json.loads(sys.stdin.readline())
    stored = np.load(task["samples"])
    utterances = [stored[f"u{number}"] for number in range(len(stored.files))]
    folder, threads = Path(task["folder"]), task["threads"]
    names = ("sherpa-onnx", "onnxruntime", "openvino", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    print(json.dumps(found), flush=True)
    opened: dict[tuple[str, str], Run] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = request["runtime"], request["graph"]
        if key not in opened:
            opened[key] = open_runtime(key[0], folder, key[1], threads)
            opened[key](utterances[0])
        clock = time.perf_counter()
        texts = [opened[key](samples) for samples in utterances]
        print(json.dumps({"texts": texts, "seconds": time.perf_counter() - clock}), flush=True)


if __name__ == "__main__":
    main()
