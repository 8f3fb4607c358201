"""The verb `scan`: recordings and transcripts of any known layout in, manifests out."""

import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unheard.data.audit import Finding, audit
from unheard.data.claims import split_of_name
from unheard.data.corpora import REASONS, SCAN_RECORD, Progress, Scan, scan_source
from unheard.data.manifest import Skip, Utterance, printable, write_manifest
from unheard.data.split import Split, split
from unheard.data.tables import ColumnChoice
from unheard.errors import ConfigError
from unheard.files import write_json_atomic

logger = logging.getLogger(__name__)

SETS = ("train", "valid", "test", "unlabelled")
"""The manifests that a scan writes, as <name>.jsonl."""

_HARMLESS = frozenset(("hidden", "not_a_table"))
"""Reasons that cost neither a recording nor a transcript."""


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What a scan found and wrote.

    Attributes:
        out: the folder of the manifests, scan.json and audit.json.
        layout: how the source was laid out.
        manifests: path of each set's manifest.
        utterances: number in each set.
        hours: of sound in each set.
        speakers: number of known speakers in each set.
        transcribed: utterances with a transcript, over all sets.
        removed: utterances left out of every set, since what the test measures shall be unheard.
        split_by: what keeps the test set apart: "given", "speaker", "recording" or "utterance".
        warnings: what a reader of the error rate should know about the split.
        findings: what the audit found odd.
        skipped: what could not be used, and why.
        facts: counts and columns; see `Scan`.
    """

    out: str
    layout: str
    manifests: dict[str, str]
    utterances: dict[str, int]
    hours: dict[str, float]
    speakers: dict[str, int]
    transcribed: int
    removed: int
    split_by: str
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skip, ...]
    facts: dict[str, Any]

    @property
    def failed(self) -> int:
        """Rows and recordings that could not be used."""
        return count_failed(self.skipped)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; of what was skipped, the counts: scan.json has the list."""
        return {
            "out": self.out,
            "layout": self.layout,
            "manifests": self.manifests,
            "utterances": self.utterances,
            "hours": self.hours,
            "speakers": self.speakers,
            "transcribed": self.transcribed,
            "removed": self.removed,
            "split_by": self.split_by,
            "warnings": list(self.warnings),
            "findings": [
                {"severity": one.severity, "code": one.code, "message": one.message}
                for one in self.findings
            ],
            "skipped": _counted(skip.reason for skip in self.skipped),
            "facts": self.facts,
        }

    def table(self) -> str:
        """The result for a person at a terminal."""
        lines = [f"layout: {self.layout}", ""]
        lines.append(f"{'':<12}{'utterances':>11}{'hours':>9}{'speakers':>10}")
        for name in SETS:
            lines.append(
                f"{name:<12}{self.utterances[name]:>11,}{self.hours[name]:>9.2f}"
                f"{self.speakers[name] or '-':>10}"
            )
        if self.removed:
            lines.append(
                f"{self.removed:,} more are set aside: same sound as, or a speaker of, a held-out "
                "set."
            )
        if self.skipped:
            lines += ["", f"skipped: {len(self.skipped):,}"]
            for reason, count in _counted(skip.reason for skip in self.skipped).items():
                first = next(skip for skip in self.skipped if skip.reason == reason)
                place = printable(first.path) + (f" line {first.line}" if first.line else "")
                lines.append(f"  {count:>7,}  {reason}: {REASONS.get(reason, '')}")
                lines.append(f"           such as {place}: {printable(first.detail)}")
        notes = [f"warning: {warning}" for warning in self.warnings]
        for finding in self.findings:
            notes.append(f"{finding.severity}: {finding.message}")
            notes += [f"    {example}" for example in finding.examples[:3]]
        if notes:
            lines += ["", *notes]
        lines += [
            "",
            f"written to {self.out}: {', '.join(f'{name}.jsonl' for name in SETS)}, "
            "scan.json, audit.json",
        ]
        return "\n".join(lines)


def scan(
    recordings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    transcripts: str | os.PathLike[str] | None = None,
    valid: float | str | os.PathLike[str] = 0.1,
    test: float | str | os.PathLike[str] = 0.1,
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
    language: str | None = None,
    roots: Sequence[str | os.PathLike[str]] = (),
    workers: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ScanResult:
    """List recordings and transcripts in manifests, split into training, validation and test sets.

    Reads folders of recordings with or without a table of transcripts or text files of the same
    names, Common Voice, LibriSpeech, Kaldi, NeMo, fairseq and Hugging Face data sets, and our own
    manifests. Only headers are read, never whole recordings. What cannot be used is listed with
    its reason in scan.json, and the scan goes on.

    Args:
        recordings: a folder, a table or manifest of recordings, or "hf:owner/name" for a data set
            of the Hugging Face hub.
        out: folder for train.jsonl, valid.jsonl, test.jsonl, unlabelled.jsonl, scan.json and
            audit.json.
        transcripts: a table (TSV, CSV, JSON lines) or a folder of texts, where they do not lie
            with the recordings.
        valid: part of the transcripts to validate with, or a folder or table of its own.
        test: part of the transcripts to measure with, or a folder or table of its own.
        audio_column: column of the table that names the recordings, where it is not found.
        text_column: column of the table that holds the transcripts.
        speaker_column: column of the table that holds the speakers.
        language: language tag of utterances that do not say theirs.
        roots: further folders in which tables may name recordings.
        workers: threads that read headers; by default as many as there are processors.
        seed: of the split.
        progress: show on the standard error how far it is.

    Returns:
        Counts, paths, and what was odd.

    Raises:
        ConfigError: if nothing usable was found, or an argument makes no sense.
        ManifestError: if a table that was named is no table of recordings.
    """
    target = Path(out)
    columns = ColumnChoice(audio=audio_column, text=text_column, speaker=speaker_column)
    with _shown(progress) as report:

        def look(source: str | os.PathLike[str], *, main: bool) -> Scan:
            return scan_source(
                source,
                transcripts=transcripts if main else None,
                columns=columns if main else None,
                language=language,
                roots=roots,
                exclude=[target],
                extract_to=target / "recordings",
                workers=workers,
                progress=report,
            )

        found = look(recordings, main=True)
        held_out = {
            name: look(choice, main=False)
            for name, choice in (("valid", valid), ("test", test))
            if not isinstance(choice, int | float)
        }
    skipped = [*found.skipped, *(skip for one in held_out.values() for skip in one.skipped)]
    facts = {**found.facts, **{name: one.facts for name, one in held_out.items()}}
    if not found.utterances:
        _write_scan(target, [found], facts, skipped, None)
        raise ConfigError(nothing_found(recordings, skipped, target / SCAN_RECORD))
    copies = _same_sounds(
        [one for scanned in held_out.values() for one in scanned.utterances], found.utterances
    )
    parted = split(
        found.utterances,
        valid=valid if isinstance(valid, int | float) else held_out["valid"].utterances,
        test=test if isinstance(test, int | float) else held_out["test"].utterances,
        seed=seed,
        sound_of=copies,
    )
    sets = {
        name: tuple(_placed(one, target, name) for one in members)
        for name, members in parted.sets().items()
    }
    checked = audit(sets)
    manifests = {name: str(target / f"{name}.jsonl") for name in SETS}
    for name, members in sets.items():
        write_manifest(manifests[name], members)
    write_json_atomic(target / "audit.json", checked.to_dict())
    _write_scan(target, [found, *held_out.values()], facts, skipped, parted)
    return ScanResult(
        out=str(target),
        layout=found.layout,
        manifests=manifests,
        utterances={name: len(members) for name, members in sets.items()},
        hours={name: round(checked.sets[name].hours, 4) for name in SETS},
        speakers={name: checked.sets[name].speakers for name in SETS},
        transcribed=sum(one.text is not None for members in sets.values() for one in members),
        removed=len(parted.removed),
        split_by=parted.by,
        warnings=parted.warnings,
        findings=checked.findings,
        skipped=tuple(skipped),
        facts=facts,
    )


def _placed(utterance: Utterance, folder: Path, name: str) -> Utterance:
    """Fit an utterance to the manifest it goes to.

    A recording within the manifest's folder is named relative to it, others stay absolute; and a
    part of the corpus that this set contradicts is forgotten.
    """
    audio, base = Path(utterance.audio), folder.resolve()
    if audio.is_relative_to(base):
        utterance = replace(utterance, audio=audio.relative_to(base).as_posix())
    own = split_of_name(str(utterance.extra.get("split")))
    if own is not None and own != name:
        extra = {key: value for key, value in utterance.extra.items() if key != "split"}
        utterance = replace(utterance, extra=extra)
    return utterance


def _write_scan(
    folder: Path,
    scans: Sequence[Scan],
    facts: dict[str, Any],
    skipped: Sequence[Skip],
    parted: Split | None,
) -> None:
    """Write scan.json; its roots let the manifests beside it be scanned again."""
    roots = sorted({str(root) for one in scans for root in one.roots})
    data: dict[str, Any] = {"layout": scans[0].layout, "roots": roots, "facts": facts}
    if parted is not None:
        data["split"] = {
            "by": parted.by,
            "removed": [one.id for one in parted.removed],
            "warnings": list(parted.warnings),
        }
    data["skipped_by_reason"] = _counted(skip.reason for skip in skipped)
    data["skipped"] = [skip.to_dict() for skip in skipped]
    write_json_atomic(folder / SCAN_RECORD, data)


def count_failed(skipped: Iterable[Skip]) -> int:
    """Count rows and recordings that were meant to be used and could not be."""
    return sum(skip.reason not in _HARMLESS for skip in skipped)


def nothing_found(recordings: str | os.PathLike[str], skipped: Sequence[Skip], record: Path) -> str:
    """Say what was there instead of recordings."""
    message = f"There is nothing to use in {recordings}: expected recordings, found "
    if not skipped:
        return message + "none. Is it the right folder?"
    reasons = ", ".join(
        f"{count} of them {reason}"
        for reason, count in _counted(skip.reason for skip in skipped).items()
    )
    first = skipped[0]
    place = printable(first.path) + ("" if first.line is None else f" line {first.line}")
    return (
        f"{message}{len(skipped)} that had to be skipped ({reasons}). The first: {place}: "
        f"{printable(first.detail)}. All stand in {record}."
    )


def _same_sounds(
    held_out: Iterable[Utterance], utterances: Iterable[Utterance]
) -> Callable[[Utterance], Hashable]:
    """Make a function that gives copies of one recording the same name.

    Only recordings of the size of a held-out one are read: none, if no set was given apart.
    """
    sizes: dict[int, set[str]] = {}
    for one in held_out:
        sizes.setdefault(Path(one.audio).stat().st_size, set()).add(one.audio)
    names: dict[str, str] = {}
    if sizes:
        others = {one.audio for one in utterances}
        for path in others:
            alike = sizes.get(Path(path).stat().st_size, set())
            if alike - {path}:
                for same in (path, *alike):
                    if same not in names:
                        names[same] = _digest(same)
    return lambda utterance: names.get(utterance.audio, utterance.audio)


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _counted(values: Iterable[str]) -> dict[str, int]:
    """Count values, the commonest first."""
    return dict(Counter(values).most_common())


@contextmanager
def _shown(wanted: bool) -> Iterator[Progress | None]:
    """Give a function that shows progress on a terminal's standard error."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
