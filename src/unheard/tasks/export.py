"""The verb `export`: a model as an ONNX graph, for phones, browsers and other programs.

Checked before it takes its place: ONNX Runtime must give what the model gives.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import unheard
from unheard.audio import io
from unheard.data.manifest import Utterance, audio_path
from unheard.decoding.emissions import Emissions
from unheard.decoding.greedy import GreedyDecoder
from unheard.errors import AudioError, CheckpointError, ConfigError, FormatError, shorten
from unheard.files import write_text_atomic
from unheard.inference import exported
from unheard.inference.exported import (
    Agreement,
    Scores,
    after_norm,
    batches_to_compare,
    compare,
    graph_scores,
    network_scores,
)
from unheard.inference.inputs import ModelLike, as_bundle
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface.card import public
from unheard.interop.inspection_table import show_bytes
from unheard.interop.onnx import graph as graphs
from unheard.interop.onnx import sherpa
from unheard.interop.onnx.card import CARD_FILE, write_card
from unheard.interop.onnx.folder import (
    GRAPH_FILE,
    INT8_FILE,
    GraphSpec,
    is_exported_folder,
    plan_input,
    plan_outputs,
    write_description,
)
from unheard.interop.onnx.graph import OPSET, Graph, Value, write_graph
from unheard.interop.onnx.network import make_graph
from unheard.models.ctc import CtcModel
from unheard.tasks.evaluate import find_utterances
from unheard.text.alphabet import Alphabet
from unheard.text.error_rate import score

__all__ = ["Export", "TextCheck", "export"]

MAX_ERROR = 1e-3
"""Largest difference of a log-probability between graph and model that is exported [nats]."""

_SAY_SECONDS = 10.0
"""Time between two words on how far a check is [seconds]."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextCheck:
    """What one form of a model writes on the utterances of a manifest.

    Attributes:
        name: "model", "model.onnx" or "model.int8.onnx".
        cer: character error rate, as a fraction.
        wer: word error rate, as a fraction.
        equal: texts that are those of the model.
        utterances: how many there are.
    """

    name: str
    cer: float
    wer: float
    equal: int
    utterances: int


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `export` wrote.

    Attributes:
        source: the model, as it was asked for.
        out: the folder that was written.
        format: of the graph.
        opset: version of its operators.
        symbols: its outputs.
        files: name -> size of each file [bytes].
        agreement: how near the graph comes to the model.
        int8_agreement: the same of the one with 8 bits; None without.
        texts: error rates on a manifest, if one was given.
        unreadable: recordings of the manifest that could not be read.
        sherpa: whether sherpa-onnx runs it.
        warnings: what does not come out as the model has it.
        elapsed_seconds: time it took [seconds].
    """

    source: str
    out: str
    format: Literal["onnx"]
    opset: int
    symbols: int
    files: dict[str, int]
    agreement: Agreement
    int8_agreement: Agreement | None
    texts: tuple[TextCheck, ...]
    unreadable: tuple[str, ...]
    sherpa: bool
    warnings: tuple[str, ...]
    elapsed_seconds: float

    @property
    def failed(self) -> int:
        """How many recordings of the manifest could not be read."""
        return len(self.unreadable)

    def table(self) -> str:
        """Say it in a few lines."""
        sizes = ", ".join(f"{name} {show_bytes(size)}" for name, size in self.files.items())
        lines = [
            f"{self.source} -> {self.out} (ONNX {self.opset}, {self.symbols} symbols)",
            sizes,
            f"{GRAPH_FILE}: {_say(self.agreement)}",
        ]
        if self.int8_agreement is not None:
            lines.append(f"{INT8_FILE}: {_say(self.int8_agreement)}")
        lines += [
            f"{check.name}: CER {check.cer:.2%}, WER {check.wer:.2%}, {check.equal} of "
            f"{check.utterances} texts those of the model"
            for check in self.texts
        ]
        if self.unreadable:
            lines.append(
                f"{self.failed} utterances could not be read: {shorten(self.unreadable, limit=3)}"
            )
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def export(
    model: ModelLike,
    out: str | os.PathLike[str],
    *,
    to: Literal["onnx"] = "onnx",
    int8: bool = False,
    check: str | os.PathLike[str] | None = None,
    audio_root: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a model as an ONNX graph that other programs run, whole or not at all.

    The folder holds model.onnx, tokens.txt as sherpa-onnx reads it, model.json and a README.md
    that says how to run it. The graph is run and compared with the model before the folder takes
    its place.

    Args:
        model: a model with a CTC head: a loaded one, or what `load_model` takes.
        out: a new or empty folder.
        to: the format.
        int8: also write model.int8.onnx, whose products with weights are done in 8 bits;
            convolutions stay as they are.
        check: manifest (or what `scan` reads) of transcribed recordings on which to measure the
            error rates of the model and of what is written; they go into README.md.
        audio_root: what relative paths of those recordings start from, instead of the manifest's
            folder.
        adapter: for models with an adapter for each language, the language to open it for.
        overwrite: replace an older export in the folder.

    Returns:
        What was written and how near it comes to the model.

    Raises:
        ConfigError: if there is no such model or it writes no text.
        FormatError: if the folder is not empty.
        CheckpointError: if the graph does not give what the model gives.
        MissingExtraError: if onnx or onnxruntime is not installed.
    """
    started = time.monotonic()
    if to != "onnx":
        raise ConfigError(f"to must be onnx, got {to!r}.")
    folder = Path(out)
    graphs.check_installed()
    exported.check_installed()
    _check_free(folder, overwrite=overwrite)
    utterances = None if check is None else _find_transcribed(check, audio_root)
    bundle = as_bundle(model, adapter=adapter)
    network, alphabet = _check_model(bundle)
    outputs, written = plan_outputs(alphabet)
    spec, graph_epsilon = plan_input(network.config, bundle.input_spec)
    refusal = sherpa.refusal(bundle.input_spec, network.config.encoder)
    remarks = sherpa.remarks(written, bundle.input_spec, network.config.encoder)
    provenance = public(bundle.provenance)
    batches = batches_to_compare(bundle)
    reference = network_scores(bundle, outputs)
    with storage.atomic_folder(folder, is_ours=is_exported_folder) as temporary:
        files, agreements, measured = [], {}, []
        scores = {"model": reference}
        for name in (GRAPH_FILE, INT8_FILE) if int8 else (GRAPH_FILE,):
            logger.info("writing %s", name)
            graph = make_graph(
                network, outputs, normalize_epsilon=graph_epsilon, int8=name == INT8_FILE
            )
            files += _write(graph, temporary / name, bundle, spec, symbols=len(outputs))
            logger.info("comparing %s with the model", name)
            found = graph_scores(temporary / name, spec)
            agreements[name] = compare(reference, found, batches)
            _refuse_others(name, agreements[name])
            measured.append(f"`{name}`: {_say(agreements[name])}.")
            if name == GRAPH_FILE and refusal is None and not bundle.input_spec.normalize:
                heard = compare(reference, after_norm(found, sherpa.NORMALIZE_EPSILON), batches)
                measured.append(f"With the sound normalised, as by sherpa-onnx: {_say(heard)}.")
            if utterances is not None:  # else it need not stay in memory
                scores[name] = found
        if int8:
            measured.append(
                f"`{INT8_FILE}` scales what it computes by its largest number at that moment, over "
                "the whole batch: its utterances do depend on each other a little."
            )
        if refusal is not None:
            measured.append(f"sherpa-onnx would not write what the model writes: {refusal}.")
        texts, unreadable = (), ()
        if utterances is not None:
            texts, unreadable = _check_texts(scores, written, spec, *utterances, bundle)
        write_description(
            temporary,
            spec=spec,
            alphabet=written,
            files=tuple(files),
            provenance=provenance,
            measured={
                **{name: asdict(found) for name, found in agreements.items()},
                "texts": [asdict(found) for found in texts],
            },
        )
        card = write_card(
            title=_title(model, bundle),
            spec=spec,
            symbols=len(written),
            files=[(path, show_bytes(path.stat().st_size)) for path in files],
            measured=measured,
            errors=_error_table(texts, check),
            sherpa=None if refusal is not None else remarks,
            provenance=provenance,
        )
        write_text_atomic(temporary / CARD_FILE, card)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
    said = (
        [f"sherpa-onnx cannot run this: {refusal}"]
        if refusal is not None
        else [f"in sherpa-onnx, {remark}" for remark in remarks]
    )
    if outputs.blank_ids[1:]:
        names = shorten(alphabet.tokens[number] for number in outputs.blank_ids[1:])
        said.append(f"symbols that are never written are one with the blank: {names}")
    return Export(
        source=os.fspath(model) if not isinstance(model, ModelBundle) else "the loaded model",
        out=str(folder),
        format="onnx",
        opset=OPSET,
        symbols=len(written),
        files=sizes,
        agreement=agreements[GRAPH_FILE],
        int8_agreement=agreements.get(INT8_FILE),
        texts=texts,
        unreadable=unreadable,
        sherpa=refusal is None,
        warnings=tuple(said),
        elapsed_seconds=time.monotonic() - started,
    )


def _check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that something is in, unless it is an older export to be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FormatError(f"{folder} is a file: expected a new or empty folder. Choose another.")
    entries = sorted(entry.name for entry in folder.iterdir())
    if entries and not is_exported_folder(folder):
        raise FormatError(
            f"{folder} is not empty and no exported model: expected a new or empty folder, found "
            f"{shorten(entries)}. Choose another folder."
        )
    if entries and not overwrite:
        raise FormatError(
            f"{folder} holds an exported model already: expected a new or empty folder. Choose "
            "another folder, or replace it with --overwrite."
        )


def _check_model(bundle: ModelBundle) -> tuple[CtcModel, Alphabet]:
    """Refuse a model that writes no text."""
    if not isinstance(bundle.model, CtcModel):
        raise ConfigError(
            "Cannot export: expected a model with an alphabet and a CTC head, found one without a "
            'CTC head. Fine-tune it first: "unheard finetune".'
        )
    if bundle.alphabet is None:
        raise ConfigError(
            "Cannot export: expected a model with an alphabet, found none. Put the model's "
            "vocab.json beside its weights, or list its labels beside a file of torchaudio or "
            "fairseq2 (docs/state-dicts.md)."
        )
    return bundle.model, bundle.alphabet


def _find_transcribed(
    check: str | os.PathLike[str], audio_root: str | os.PathLike[str] | None
) -> tuple[list[Utterance], Path]:
    """Find the utterances that have a text."""
    utterances, folder, name = find_utterances(check, audio_root)
    scored = [utterance for utterance in utterances if utterance.text is not None]
    if not scored:
        raise ConfigError(
            f"Cannot measure error rates on {name}: expected utterances with a text, found "
            f"{len(utterances)} without."
        )
    return scored, folder


def _write(
    graph: Graph, path: Path, bundle: ModelBundle, spec: GraphSpec, *, symbols: int
) -> tuple[Path, ...]:
    """Write one graph with the metadata that sherpa-onnx's own exports have."""
    language = bundle.adapter or bundle.provenance.get("language")
    facts = {
        "model_type": sherpa.MODEL_TYPE,
        "version": "1",
        "vocab_size": str(symbols),
        "sample_rate": str(spec.sample_rate),
        "model_author": "unheard",
        "comment": "a CTC model of the wav2vec 2.0 family",
        "license": str(bundle.provenance.get("licence", "not stated")),
        "normalized_input": str(int(spec.normalize_epsilon is not None)),
    }
    if isinstance(language, str):
        facts["language"] = language
    return write_graph(
        graph,
        path,
        source=Value(name=spec.input, axes=("N", "samples")),
        result=Value(name=spec.output, axes=("N", "frames", symbols)),
        name="unheard_ctc",
        metadata=facts,
        producer_version=unheard.__version__,
    )


def _refuse_others(name: str, found: Agreement) -> None:
    """Refuse a graph in float32 that does not give what the model gives."""
    if name == GRAPH_FILE and not found.max_error <= MAX_ERROR:
        utterances, samples = found.at
        raise CheckpointError(
            f"The exported graph does not give what the model gives: expected log-probabilities "
            f"within {MAX_ERROR:g}, found a difference of {found.max_error:.3g} (in a batch of "
            f"{utterances} utterances of {samples} samples). Nothing was written. Please report "
            "it, with the versions that unheard doctor shows."
        )


def _check_texts(
    scores: dict[str, Scores],
    alphabet: Alphabet,
    spec: GraphSpec,
    utterances: Sequence[Utterance],
    folder: Path,
    bundle: ModelBundle,
) -> tuple[tuple[TextCheck, ...], tuple[str, ...]]:
    """Let each form of the model write every utterance, whole, and measure the errors."""
    decoder = GreedyDecoder(alphabet)
    texts: dict[str, list[str]] = {name: [] for name in scores}
    kept: list[Utterance] = []
    unreadable: list[str] = []
    logger.info("transcribing %d utterances with %s", len(utterances), ", ".join(scores))
    said = time.monotonic()
    for number, utterance in enumerate(utterances):
        if time.monotonic() - said > _SAY_SECONDS:
            logger.info("%d of %d utterances", number, len(utterances))
            said = time.monotonic()
        try:
            waveform = io.read(
                audio_path(utterance, folder),
                sample_rate=spec.sample_rate,
                start_seconds=utterance.start / utterance.sample_rate,
                max_seconds=utterance.duration_seconds,
            )
        except AudioError as error:
            unreadable.append(f"{utterance.id}: {error}")
            continue
        kept.append(utterance)
        for name, run in scores.items():
            emissions = Emissions(
                log_probs=run(waveform.samples[None])[0],
                frame_stride_samples=spec.frame_stride_samples,
                frame_offset_samples=spec.frame_offset_samples,
                num_samples=waveform.samples.shape[0],
                sample_rate=spec.sample_rate,
            )
            texts[name].append(decoder.decode(emissions)[0].text)
    if not kept:
        raise ConfigError(
            f"None of the {len(utterances)} utterances to check with could be read; the first: "
            f"{unreadable[0]}"
        )
    normalizer = bundle.provenance.get("normalizer")
    found = []
    for name, hypotheses in texts.items():
        errors = score(
            [utterance.text or "" for utterance in kept],
            hypotheses,
            normalizer=normalizer if isinstance(normalizer, str) else None,
            resamples=1,
        )
        found.append(
            TextCheck(
                name=name,
                cer=errors.cer.value,
                wer=errors.wer.value,
                equal=sum(map(str.__eq__, hypotheses, texts["model"])),
                utterances=len(kept),
            )
        )
    return tuple(found), tuple(unreadable)


def _say(found: Agreement) -> str:
    """Say how near a graph comes."""
    return (
        f"log-probabilities within {found.max_error:.2g} nats of the model's, "
        f"{found.mean_error:.2g} on average; the same best symbol in {found.same_symbol:.2%} of "
        f"{found.frames} frames"
    )


def _error_table(
    texts: Sequence[TextCheck], check: str | os.PathLike[str] | None
) -> tuple[str, ...]:
    """Lay error rates out as a table in Markdown."""
    if not texts or check is None:
        return ()
    return (
        f"On the {texts[0].utterances} utterances of `{Path(check).name}`, by the most probable "
        "symbol of each frame:",
        "",
        "| | character errors | word errors | texts equal to the model's |",
        "|---|---|---|---|",
        *(
            f"| {found.name} | {found.cer:.2%} | {found.wer:.2%} | {found.equal} |"
            for found in texts
        ),
    )


def _title(model: ModelLike, bundle: ModelBundle) -> str:
    """Name a model without saying where on somebody's machine it is."""
    language = f" ({bundle.adapter})" if bundle.adapter else ""
    if isinstance(model, ModelBundle):
        return f"Speech recogniser{language}"
    path = Path(os.fspath(model))
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    return f"{name}{language}"
