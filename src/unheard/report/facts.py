"""What a `learn` output folder says, read with tolerance.

A report must come out of any run, finished or not.

Files, all optional (a missing one leaves its part of the report out):

    learn.json                  {"request": {...}, "stages": {...}, "result": {...}}
    data/{train,valid,test,unlabelled}.jsonl    manifests
    data/scan.json              {"layout", "facts": {...},
                                "skipped": [{path, line, reason, detail}]}
    data/audit.json             {"findings": [...]} or any tree of counts
    {pretrain,finetune}/config.json, metrics.jsonl, samples.jsonl, health.jsonl
    model/*.json                the first with an alphabet names the vocabulary
    evaluation/result.json      {"error_rate": ErrorReport.to_dict(), "manifest", "normalizer",
                                "failed": [...]}
    evaluation/utterances.jsonl {id, audio, start, num_samples, sample_rate, speaker, reference,
                                hypothesis, char_errors, char_total, word_errors, word_total,
                                confidence}

Of learn.json the report reads, where they are there:

    request                     every setting of the command; flattened into a table.
        "command" (text or list of words), "seed", "language", "start" and "recipe" are named
    stages.<name>               {"state", "seconds", "started", "finished", ...}; seconds are shown
    result.scratch              the comparison run: {"error_rate": ErrorReport.to_dict()} or that
                                dictionary itself, and "run": its run folder (relative to the
                                output folder), whose validation curve is drawn beside;
                                "difference": PairedDifference.to_dict(), with pre-training first
    result.search               with a language model or lexicon: {"error_rate", "difference",
                                "options": words of the command line that ask for it}
    result.made_with            {"unheard", "commit", "python", "torch", "machine", "device", ...}
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unheard.report.numbers import quantity
from unheard.text import normalize

SPLITS = ("train", "valid", "test", "unlabelled")
"""Manifests of a learn folder, in the order in which the report lists them."""

DURATION_STEP_SECONDS = 0.5
"""Resolution at which lengths of utterances are counted."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An error rate with its 95 % interval and the counts behind it.

    Attributes:
        value: edits over reference length, as a share of one; may pass one.
        low: lower end of the interval, or None when not known.
        high: upper end of the interval, or None when not known.
        substitutions: symbols written as another.
        deletions: symbols left out.
        insertions: symbols written that nobody said.
        total: symbols in the references.
    """

    value: float
    low: float | None = None
    high: float | None = None
    substitutions: int | None = None
    deletions: int | None = None
    insertions: int | None = None
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Error rates of one model on the held-out recordings."""

    cer: Rate | None = None
    wer: Rate | None = None
    speakers: tuple[tuple[str, Rate, int | None], ...] = ()
    """Name, character error rate and utterances of each speaker, the best first."""
    warnings: tuple[str, ...] = ()
    """What makes the figures doubtful."""
    resample: str | None = None
    """What the intervals were drawn over: "utterances" or "speakers"."""


@dataclass(frozen=True, kw_only=True)
class ScoredUtterance:
    """One held-out utterance with what the model wrote."""

    id: str
    audio: str
    start: int
    num_samples: int | None
    sample_rate: int
    speaker: str | None
    reference: str
    hypothesis: str
    char_errors: int
    char_total: int
    word_errors: int
    word_total: int
    confidence: float | None

    @property
    def cer(self) -> float:
        """Character errors over reference characters; errors themselves when there are none."""
        return self.char_errors / max(1, self.char_total)

    @property
    def seconds(self) -> float | None:
        """Length in seconds, or None when not known."""
        return None if self.num_samples is None else self.num_samples / max(1, self.sample_rate)


@dataclass(kw_only=True)
class SplitFacts:
    """Sums over one manifest."""

    name: str
    utterances: int = 0
    seconds: float = 0.0
    transcribed: int = 0
    unknown_speakers: int = 0
    """Utterances whose speaker is not known."""
    speakers: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    words: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Utterances by length, counted in steps of `DURATION_STEP_SECONDS`."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Curves and samples of one training run."""

    train: tuple[Mapping[str, Any], ...] = ()
    valid: tuple[Mapping[str, Any], ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()
    health: tuple[Mapping[str, Any], ...] = ()
    """What the watch over the run has found, in order: {code, severity, step, message, advice}."""
    config: Mapping[str, Any] = field(default_factory=dict)

    def series(self, kind: str, name: str) -> tuple[tuple[float, float], ...]:
        """Pairs of update number and finite value, in order of updates."""
        rows = self.train if kind == "train" else self.valid
        return tuple(
            (float(row["step"]), value)
            for row in rows
            if (value := number(row.get(name))) is not None
        )

    def last(self, kind: str, name: str) -> float | None:
        """Last finite value of a metric, or None."""
        points = self.series(kind, name)
        return points[-1][1] if points else None

    def non_finite(self, name: str) -> int:
        """Logged updates at which a metric was not finite."""
        values = [row[name] for row in self.train if name in row]
        return sum(isinstance(v, float) and not math.isfinite(v) for v in values)

    @property
    def seconds(self) -> float | None:
        """Time the run has taken, or None."""
        elapsed = [number(row.get("elapsed_seconds")) for row in (*self.train, *self.valid)]
        return max((e for e in elapsed if e is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class LearnFacts:
    """Everything the report is made of.

    Attributes:
        folder: the output folder.
        request: settings of the command.
        stages: state of each stage.
        result: what learn.json says of the result.
        splits: sums over the manifests that are there, by name.
        scan: content of data/scan.json.
        audit: content of data/audit.json.
        pretraining: None when there was none.
        finetuning: None when there was none.
        scores: of the evaluation, or None when there was none.
        scratch: scores of the same fine-tuning without pre-training, or None.
        scratch_run: its curves, or None.
        difference: character error rate minus that of `scratch` on the same utterances, with
            the interval of the paired bootstrap, or None.
        search: scores with a language model or a lexicon, or None.
        search_options: words of the command line that ask for that search, or None.
        normalizer: name of the text normaliser, or None when not known; characters of the
            manifests are counted after it.
        evaluated: folder of the manifest that was scored, when the evaluation names it.
        num_failed: held-out recordings that could not be read and are not in the rates.
        utterances: the held-out utterances.
        vocabulary: symbols the model can write, special ones left out.
        unreadable: file name -> lines or whole files that could not be read.
    """

    folder: Path
    request: Mapping[str, Any]
    stages: Mapping[str, Any]
    result: Mapping[str, Any]
    splits: Mapping[str, SplitFacts]
    scan: Mapping[str, Any]
    audit: Mapping[str, Any]
    pretraining: RunFacts | None
    finetuning: RunFacts | None
    scores: Scores | None
    scratch: Scores | None
    scratch_run: RunFacts | None
    difference: Rate | None
    search: Scores | None
    search_options: str | None
    normalizer: str | None
    evaluated: Path | None
    num_failed: int
    utterances: tuple[ScoredUtterance, ...]
    vocabulary: tuple[str, ...]
    unreadable: Mapping[str, int]

    @property
    def name(self) -> str:
        """Name of the output folder."""
        return self.folder.resolve().name or "Recogniser"

    @property
    def start(self) -> str | None:
        """The model that the run began with; None if it began with random weights."""
        start = self.request.get("start")
        return start if isinstance(start, str) and start not in ("", "none") else None

    @property
    def labelled_seconds(self) -> float:
        """Transcribed speech that the model learnt from or was tuned on (train and valid)."""
        return sum(self.splits[n].seconds for n in ("train", "valid") if n in self.splits)

    @property
    def language(self) -> str | None:
        """The most frequent language tag of the transcribed recordings, or None."""
        counts: Counter[str] = Counter()
        for name in ("train", "valid", "test"):
            if name in self.splits:
                counts.update(self.splits[name].languages)
        requested = self.request.get("language")
        if isinstance(requested, str):
            return requested
        return counts.most_common(1)[0][0] if counts else None

    @property
    def speakers_are_new(self) -> bool | None:
        """Whether no test speaker was in training; None when speakers are not known."""
        train, test = self.splits.get("train"), self.splits.get("test")
        if train is None or test is None or not train.speakers or not test.speakers:
            return None
        if train.unknown_speakers or test.unknown_speakers:
            return None
        return not (train.speakers.keys() & test.speakers.keys())


def read_facts(folder: Path) -> LearnFacts:
    """Read a `learn` output folder; parts that are missing or unreadable are left out.

    Args:
        folder: output folder of `learn`, finished or not.
    """
    unreadable: Counter[str] = Counter()
    learn = _read_object(folder, "learn.json", unreadable)
    result = mapping(learn.get("result"))
    evaluation = _read_object(folder, "evaluation/result.json", unreadable)
    request = mapping(learn.get("request"))
    normalizer = _text(evaluation.get("normalizer")) or _text(request.get("normalizer"))
    manifest = _text(evaluation.get("manifest"))
    failed = evaluation.get("failed")
    scratch = mapping(result.get("scratch"))
    run = scratch.get("run")
    search = mapping(result.get("search"))
    return LearnFacts(
        folder=folder,
        request=request,
        stages=mapping(learn.get("stages")),
        result=result,
        splits={
            name: split
            for name in SPLITS
            if (split := _read_split(folder, name, normalizer, unreadable)) is not None
        },
        scan=_read_object(folder, "data/scan.json", unreadable),
        audit=_read_object(folder, "data/audit.json", unreadable),
        pretraining=_read_run(folder, "pretrain", unreadable),
        finetuning=_read_run(folder, "finetune", unreadable),
        scores=_scores(evaluation),
        scratch=_scores(scratch),
        scratch_run=_read_run(folder, run, unreadable) if isinstance(run, str) else None,
        difference=_rate(mapping(scratch.get("difference")).get("cer")),
        search=_scores(search),
        search_options=_text(search.get("options")),
        normalizer=normalizer,
        evaluated=None if manifest is None else Path(manifest).parent,
        num_failed=len(failed) if isinstance(failed, list) else 0,
        utterances=tuple(_read_utterances(folder, unreadable)),
        vocabulary=_read_vocabulary(folder),
        unreadable=dict(unreadable),
    )


def mapping(value: object) -> Mapping[str, Any]:
    """Give back a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def number(value: object) -> float | None:
    """Give back a finite number as float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def find_number(tree: object, key: str) -> float | None:
    """Find the first finite number under `key` anywhere in nested JSON data."""
    if isinstance(tree, dict):
        direct = number(tree.get(key))
        if direct is not None:
            return direct
        branches = list(tree.values())
    elif isinstance(tree, list):
        branches = tree
    else:
        return None
    for branch in branches:
        found = find_number(branch, key)
        if found is not None:
            return found
    return None


def flatten(data: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """Write nested settings as pairs of dotted name and value; long lists are counted."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += flatten(value, prefix=f"{name}.")
        elif isinstance(value, list):
            plain = all(isinstance(item, str | int | float | bool) for item in value)
            short = plain and len(value) <= 8
            text = (
                ", ".join(map(str, value))
                if short
                else quantity(len(value), "entry", plural="entries")
            )
            rows.append((name, text))
        elif isinstance(value, float):
            rows.append((name, f"{value:.6g}"))
        elif value is not None:
            rows.append((name, str(value)))
    return rows


def _count(value: object) -> int | None:
    """Read a count."""
    read = number(value)
    return None if read is None else int(read)


def _text(value: object) -> str | None:
    """Read a non-empty text."""
    return value if isinstance(value, str) and value else None


def _read_object(folder: Path, name: str, unreadable: Counter[str]) -> Mapping[str, Any]:
    """Read a JSON object; an absent file is empty, a broken one is counted."""
    try:
        return mapping(json.loads((folder / name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        unreadable[name] += 1
        return {}


def _read_rows(folder: Path, name: str, unreadable: Counter[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON lines file one by one; broken lines are counted."""
    try:
        with (folder / name).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if isinstance(row, dict):
                    yield row
                else:
                    unreadable[name] += 1
    except FileNotFoundError:
        return
    except (OSError, ValueError):  # ValueError: a name that no file can have
        unreadable[name] += 1


def _read_split(
    folder: Path, name: str, normalizer: str | None, unreadable: Counter[str]
) -> SplitFacts | None:
    """Sum over one manifest without keeping it; None when there is no such file."""
    known = normalizer if normalizer in normalize.NORMALIZERS else "none-1"
    simplify = normalize.get(known)
    file = f"data/{name}.jsonl"
    if not (folder / file).is_file():
        return None
    split = SplitFacts(name=name)
    for row in _read_rows(folder, file, unreadable):
        split.utterances += 1
        samples, rate = number(row.get("num_samples")), number(row.get("sample_rate"))
        seconds = samples / rate if samples is not None and rate else 0.0
        split.seconds += seconds
        split.lengths[int(seconds / DURATION_STEP_SECONDS)] += 1
        speaker, language, text = (_text(row.get(k)) for k in ("speaker", "language", "text"))
        if speaker is None:
            split.unknown_speakers += 1
        else:
            split.speakers[speaker] += 1
        if language is not None:
            split.languages[language] += 1
        if text is not None:
            split.transcribed += 1
            written = simplify(text)
            split.words += len(written.split())
            split.characters.update(written)
    return split


def _read_run(folder: Path, name: str, unreadable: Counter[str]) -> RunFacts | None:
    """Read a run folder; a step that was logged again after a restart counts once, the last."""
    rows: dict[tuple[str, float], Mapping[str, Any]] = {}
    for row in _read_rows(folder, f"{name}/metrics.jsonl", unreadable):
        step = number(row.get("step"))
        if step is not None:
            rows[str(row.get("kind")), step] = row
    config = _read_object(folder, f"{name}/config.json", unreadable)
    health = tuple(_read_rows(folder, f"{name}/health.jsonl", unreadable))
    if not rows:
        return None
    samples: dict[tuple[float, str], Mapping[str, Any]] = {}
    for row in _read_rows(folder, f"{name}/samples.jsonl", unreadable):
        step = number(row.get("step"))
        if step is not None:
            samples[step, str(row.get("id"))] = row
    ordered = sorted(rows.items(), key=lambda item: item[0][1])
    return RunFacts(
        train=tuple(row for (kind, _), row in ordered if kind == "train"),
        valid=tuple(row for (kind, _), row in ordered if kind == "valid"),
        samples=tuple(row for _, row in sorted(samples.items(), key=lambda item: item[0])),
        health=health,
        config=config,
    )


def _rate(data: object) -> Rate | None:
    """Read an error rate with its interval and counts."""
    fields = mapping(data)
    counts = {**fields, **mapping(fields.get("counts"))}
    value = number(fields.get("value"))
    if value is None:
        return None
    return Rate(
        value=value,
        low=number(fields.get("low")),
        high=number(fields.get("high")),
        substitutions=_count(counts.get("substitutions")),
        deletions=_count(counts.get("deletions")),
        insertions=_count(counts.get("insertions")),
        total=_count(counts.get("reference_length")),
    )


def _scores(data: Mapping[str, Any]) -> Scores | None:
    """Read the error rates of an evaluation, wrapped in "error_rate" or not."""
    report = mapping(data.get("error_rate")) or data
    cer, wer = _rate(report.get("cer")), _rate(report.get("wer"))
    if cer is None and wer is None:
        return None
    warnings = report.get("warnings")
    return Scores(
        cer=cer,
        wer=wer,
        speakers=tuple(sorted(_speaker_scores(report), key=lambda s: (s[1].value, s[0]))),
        warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
        resample=_text(report.get("resample")),
    )


def _speaker_scores(report: Mapping[str, Any]) -> Iterator[tuple[str, Rate, int | None]]:
    """Yield name, character error rate and utterances of each speaker."""
    by_speaker = report.get("by_speaker")
    for row in map(mapping, by_speaker if isinstance(by_speaker, list) else ()):
        counts = mapping(row.get("characters"))
        rate = _rate({"value": counts.get("rate"), "counts": counts})
        if rate is not None:
            yield _text(row.get("speaker")) or "not known", rate, _count(row.get("utterances"))


def _read_utterances(folder: Path, unreadable: Counter[str]) -> Iterator[ScoredUtterance]:
    """Yield the scored utterances; a row without texts is counted as unreadable."""
    name = "evaluation/utterances.jsonl"
    for row in _read_rows(folder, name, unreadable):
        reference, hypothesis = row.get("reference"), row.get("hypothesis")
        if not isinstance(reference, str) or not isinstance(hypothesis, str):
            unreadable[name] += 1
            continue
        yield ScoredUtterance(
            id=str(row.get("id")),
            audio=str(row.get("audio") or ""),
            start=_count(row.get("start")) or 0,
            num_samples=_count(row.get("num_samples")),
            sample_rate=_count(row.get("sample_rate")) or 16_000,
            speaker=_text(row.get("speaker")),
            reference=reference,
            hypothesis=hypothesis,
            char_errors=_count(row.get("char_errors")) or 0,
            char_total=_count(row.get("char_total")) or 0,
            word_errors=_count(row.get("word_errors")) or 0,
            word_total=_count(row.get("word_total")) or 0,
            confidence=number(row.get("confidence")),
        )


def _read_vocabulary(folder: Path) -> tuple[str, ...]:
    """Read the symbols of the model's alphabet that stand for something written."""
    for path in sorted((folder / "model").glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        alphabet = mapping(mapping(data).get("alphabet")) or mapping(data)
        tokens = alphabet.get("tokens")
        if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
            special = {alphabet.get(k) for k in ("blank", "word_boundary", "unknown")}
            special.update(alphabet.get("special") or ())
            return tuple(token for token in tokens if token not in special)
    return ()
