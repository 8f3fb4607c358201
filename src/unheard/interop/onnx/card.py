"""The page of an exported model: what it is, how near it comes to its model, how to run it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unheard.interop.huggingface.card import public, shown
from unheard.interop.onnx.folder import DESCRIPTION_FILE, GRAPH_FILE, TOKENS_FILE, GraphSpec
from unheard.interop.onnx.graph import OPSET

CARD_FILE = "README.md"

RUN_WITH_ONNXRUNTIME = """\
import json
import wave

import numpy as np
import onnxruntime

with wave.open("talk.wav") as file:  # {rate} Hz, mono, 16 bits
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
{normalize}session = onnxruntime.InferenceSession("{graph}")
(logits,) = session.run(None, {{"{input}": samples[None]}})
best = logits[0].argmax(axis=-1)
with open("{description}", encoding="utf-8") as file:
    writes = json.load(file)["writes"]
text = "".join(writes[symbol] for symbol in best[np.flatnonzero(np.diff(best, prepend=-1))])
print(" ".join(text.split()))
"""

_NORMALIZE = "samples = (samples - samples.mean()) / np.sqrt(samples.var() + {epsilon!r})\n"

RUN_WITH_SHERPA = """\
import wave

import numpy as np
import sherpa_onnx

recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
    model="{graph}", tokens="{tokens}"
)
with wave.open("talk.wav") as file:  # mono, 16 bits
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    stream = recognizer.create_stream()
    stream.accept_waveform(file.getframerate(), samples)
recognizer.decode_stream(stream)
print(" ".join(stream.result.text.split()))
"""

RUN_WITH_OPENVINO = """\
import openvino

settings = {{"INFERENCE_PRECISION_HINT": "f32"}}  # else bfloat16 where the processor has it
network = openvino.compile_model("{graph}", "CPU", settings)
logits = network([samples[None]])[0]
"""


def write_card(
    *,
    title: str,
    spec: GraphSpec,
    symbols: int,
    files: Sequence[tuple[Path, str]],
    measured: Sequence[str],
    errors: Sequence[str],
    sherpa: Sequence[str] | None,
    provenance: Mapping[str, Any],
) -> str:
    """Write README.md.

    Args:
        title: what to call the model.
        spec: how to use its graph.
        symbols: outputs of the graph.
        files: graphs and weights with their sizes, in words.
        measured: sentences about how near the graphs come to the model.
        errors: lines of a table of error rates; none without a manifest.
        sherpa: where sherpa-onnx differs; None if it must not be used, which `measured` explains.
        provenance: of the model.
    """
    licence = provenance.get("licence")
    head: dict[str, Any] = {"library_name": "onnx"}
    if isinstance(licence, str):
        head["license"] = licence
    head["pipeline_tag"] = "automatic-speech-recognition"
    head["tags"] = ["unheard", "onnx", "wav2vec2", "ctc"]
    by_caller = spec.normalize_epsilon is not None
    normalize = _NORMALIZE.format(epsilon=spec.normalize_epsilon) if by_caller else ""
    names = {
        "rate": spec.sample_rate,
        "graph": GRAPH_FILE,
        "tokens": TOKENS_FILE,
        "input": spec.input,
        "description": DESCRIPTION_FILE,
        "normalize": normalize,
    }
    rate = f"{spec.sample_rate:,} Hz"
    lines = [
        "---",
        # Every JSON value is a YAML value.
        *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
        "---",
        "",
        f"# {title}",
        "",
        "A speech recogniser as an ONNX graph, written by Unheard.",
        "",
        f"- Licence: {shown(licence) if isinstance(licence, str) else 'not stated'}",
        *(f"- `{path.name}`: {size}" for path, size in files),
        f"- `{TOKENS_FILE}`: the {symbols} symbols; `{DESCRIPTION_FILE}`: the same for programs, "
        "with what goes in and where frames lie in time",
        f"- Operators of ONNX version {OPSET}; any number of utterances of any length",
        "",
        "## What goes in, what comes out",
        "",
        f"`{spec.input}` (N, samples), float32: mono sound at {rate}"
        + (
            f", each utterance at zero mean and unit variance (epsilon {spec.normalize_epsilon:g})."
            if by_caller
            else " within -1 .. 1, as it was recorded."
        ),
        f"`{spec.output}` (N, frames, {symbols}), float32: a score of each symbol, not normalised, "
        f"every {spec.frame_stride_samples} samples. Symbol 0 is the CTC blank.",
        "",
        "The rows of a batch have one length. An utterance's result does not depend on the others; "
        "utterances of different lengths go in one at a time, because padding would be heard. "
        f"Fewer than {spec.min_samples} samples give no frames.",
        "",
        "## How near it is to the model",
        "",
        *(f"- {sentence}" for sentence in measured),
        "",
    ]
    if errors:
        lines += [*errors, ""]
    lines += [
        "## ONNX Runtime",
        "",
        "```python",
        RUN_WITH_ONNXRUNTIME.format(**names).rstrip(),
        "```",
        "",
        "## OpenVINO",
        "",
        "With `samples` as above:",
        "",
        "```python",
        RUN_WITH_OPENVINO.format(**names).rstrip(),
        "```",
        "",
    ]
    if sherpa is not None:
        lines += [
            "## sherpa-onnx",
            "",
            "For phones, browsers and small computers. The model fits the place of Omnilingual "
            "ASR (`--omnilingual-asr-model` of its programs); the sound goes in as it was "
            "recorded, sherpa-onnx resamples and normalises it.",
            "",
            "```python",
            RUN_WITH_SHERPA.format(**names).rstrip(),
            "```",
            "",
            *(f"- {remark[0].upper()}{remark[1:]}." for remark in sherpa),
            *([""] if sherpa else []),
        ]
    lines += [
        "## Provenance",
        "",
        "```json",
        # Three back quotes would end the block.
        json.dumps(public(provenance), indent=2, ensure_ascii=True).replace("`", "\\u0060"),
        "```",
        "",
    ]
    return "\n".join(lines)
