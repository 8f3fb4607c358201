"""From recordings and transcripts, wherever they lie, to a list of utterances.

`scan_source` finds out how a source is laid out (`layouts`), collects what its tables say
(`claims`), reads the header of every recording, and joins the two. Recordings are never decoded.
What cannot be used is listed with its place and reason; the scan goes on.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unheard.audio.io import AUDIO_SUFFIXES, MIN_SECONDS, AudioInfo, probe
from unheard.data import hub_datasets
from unheard.data.claims import Claim, Reading, read_table, split_of_name
from unheard.data.folders import AudioFinder, Tree, relative_id, walk
from unheard.data.layouts import detect
from unheard.data.manifest import LONGEST_UTTERANCE_SECONDS, Skip, Utterance, printable
from unheard.data.tables import ColumnChoice
from unheard.errors import AudioError, ConfigError, FormatError, ManifestError
from unheard.files import read_json

REASONS: dict[str, str] = {
    "ambiguous": "the name fits several recordings",
    "archive": "the sound lies inside an archive that is not read",
    "bad_path": "the name of the recording is no file name",
    "channels": "the recording has no channel, or too many",
    "codec_not_allowed": "the recording is coded in a way that is not decoded",
    "columns": "the row has another number of cells than the table has columns",
    "conflict": "another table gives the same stretch another text; the first was kept",
    "duplicate": "the id, or the same stretch of the same recording, stands there already",
    "duration": "the duration is no number above zero",
    "empty": "the file has no bytes",
    "empty_text": "the transcript has nothing to see, such as zero-width letters only",
    "encoding": "the text is not proper Unicode",
    "hidden": "the name begins with a dot",
    "id": "the id is no text",
    "json": "the line is not a JSON object",
    "label": "the label is no text",
    "language": "the language is no text",
    "line_count": "a file of texts has another number of lines than its list of recordings",
    "long_line": "the line is too long to be one utterance",
    "manifest": "the line breaks the rules of a manifest",
    "missing": "no recording of that name is there",
    "no_audio": "the row names no recording",
    "no_audio_stream": "the file has no sound in it",
    "no_duration": "nobody can say how long the recording is without decoding it",
    "not_a_table": "the file names no recordings",
    "not_regular": "not a regular file, such as a pipe or a device",
    "outside": "the path leaves the declared folders",
    "past_end": "the stretch ends after the end of the recording",
    "permission": "the system does not let us read it",
    "pipe": "a command instead of a recording; commands are never run",
    "quotes": "the quotes of the row do not match",
    "sample_rate": "the sample rate is out of range",
    "speaker": "the speaker is no text",
    "split": "the split is no text",
    "start": "the start is no number of at least zero",
    "text": "the transcript is no text",
    "too_long": "the header says a length that cannot be",
    "too_short": "the recording is shorter than any model can hear",
    "unreadable": "the file cannot be read as sound",
    "vanished": "the file went away meanwhile",
}
"""Every reason code that a scan can give, and what it means."""

END_TOLERANCE_SECONDS = 0.25
"""A stretch may end this much after its recording, as rounded tables say; it is cut there [s]."""

END_TOLERANCE = 0.02
"""The same, as a part of the stated duration; the larger of the two counts."""

FEWEST_REPEATED_IDS = 10
"""Up to so many repeated ids in a table are mistakes, and the rows are left out."""

REPEATED_IDS_SHARE = 0.2
"""Beyond this part as well, the column is no id of utterances, and ids are made of the paths."""

SCAN_RECORD = "scan.json"
"""The file beside manifests that names the folders their recordings lie in."""

HUB_PREFIX = "hf:"
"""Marks a data set of the Hugging Face hub: "hf:owner/name", "hf:owner/name/folder"."""

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how many are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a source holds.

    Attributes:
        utterances: with absolute paths of recordings, transcribed ones first, in the order of
            their tables; `extra["split"]` keeps the corpus's own "train", "valid" or "test".
        skipped: what was left out, and why.
        layout: the name of the layout, or "table".
        root: the folder of the recordings.
        roots: all folders in which recordings might be named.
        facts: counts and columns, as plain JSON data.
    """

    utterances: tuple[Utterance, ...]
    skipped: tuple[Skip, ...]
    layout: str
    root: Path
    roots: tuple[Path, ...]
    facts: dict[str, Any]


def scan_source(
    source: str | os.PathLike[str],
    *,
    transcripts: str | os.PathLike[str] | None = None,
    columns: ColumnChoice | None = None,
    language: str | None = None,
    roots: Iterable[str | os.PathLike[str]] = (),
    exclude: Iterable[str | os.PathLike[str]] = (),
    extract_to: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Find the utterances of a source; see `layouts.LAYOUTS` for the conventions it knows.

    Args:
        source: a folder in any known layout, a table or manifest of recordings, or a data set of
            the Hugging Face hub ("hf:owner/name").
        transcripts: a table, or a folder of texts, for the recordings of `source`; the tables
            that `source` itself may hold are then not read.
        columns: columns of the tables, told instead of found.
        language: language tag of utterances that do not say theirs.
        roots: further folders that tables may name recordings in.
        exclude: folders under `source` that are not looked into.
        extract_to: folder for recordings that lie inside a data set's tables; needed for those.
        workers: threads that read headers; None for as many as there are processors, at most 8.
            The result does not depend on it.
        progress: told how far the scan is.

    Raises:
        ConfigError: if `source` or `transcripts` is not there, or a told column is not.
        ManifestError: if a table that was named is no table of recordings.
    """
    excluded = [Path(folder) for folder in exclude]
    extracted = None if extract_to is None else Path(extract_to).resolve()
    if extracted is not None:
        excluded.append(extracted)
    origin = _located(source, extracted)
    excluded.append(origin / ".cache")  # of the hub's client
    told = None if transcripts is None else _existing(transcripts, "transcripts")
    declared = [Path(root).resolve() for root in roots] + _recorded_roots(origin)

    trees: list[Tree] = []
    lazy_roots = list(declared)
    for place in (origin, told):
        if place is not None and place.is_dir():
            trees.append(walk(place, audio_suffixes=AUDIO_SUFFIXES, exclude=excluded))
        elif place is not None:
            lazy_roots.append(place.parent)
    finder = AudioFinder(trees, roots=lazy_roots, audio_suffixes=AUDIO_SUFFIXES, exclude=excluded)
    tables: list[dict[str, Any]] = []

    def reading(tree: Tree | None, *, is_told: bool) -> Reading:
        return Reading(
            tree=tree or Tree(root=origin.parent),
            finder=finder,
            columns=columns or ColumnChoice(),
            told=is_told,
            audio_suffixes=AUDIO_SUFFIXES,
            extract_to=extracted,
            tables=tables,
        )

    tree_of_origin = trees[0] if origin.is_dir() else None
    found: list[Claim | Skip] = []
    if told is None:
        layout, said = _read_place(origin, reading(tree_of_origin, is_told=False))
        found.extend(said)
    else:
        tree_of_told = trees[-1] if told.is_dir() else None
        layout, said = _read_place(told, reading(tree_of_told, is_told=True))
        found.extend(said)
        if tree_of_origin is None:
            # The columns that were told are those of the transcripts.
            plain = replace(reading(None, is_told=False), columns=ColumnChoice())
            found.extend(_read_place(origin, plain)[1])
    tree = tree_of_origin or Tree(root=origin.parent)
    found.extend(tree.skipped)
    claims = [one for one in found if isinstance(one, Claim)]
    skipped = [one for one in found if isinstance(one, Skip)]
    pool = [tree.path(name) for name in tree.audio]
    wanted = [*(claim.audio for claim in claims), *pool]
    headers = probe_all(wanted, workers=workers, progress=progress)
    id_roots = [tree.root for tree in trees] + lazy_roots + ([extracted] if extracted else [])
    joined = _join(claims, pool, headers, id_roots, language)
    skipped.extend(joined.skipped)
    return Scan(
        utterances=joined.utterances,
        skipped=tuple(skipped),
        layout=layout,
        root=tree.root,
        roots=tuple(dict.fromkeys(id_roots)),
        facts={
            "layout": layout,
            "tables": tables,
            "repeated_rows": joined.num_merged,
            "other_files": tree.other_suffixes,
            **_facts_of_headers(headers),
        },
    )


def probe_all(
    paths: Iterable[Path], *, workers: int | None = None, progress: Progress | None = None
) -> dict[Path, AudioInfo | Skip]:
    """Read the headers of recordings, each once.

    Threads suffice: a header takes 0.3 ms from a local disk, less than a process takes to start
    for thousands of them, and from a slow disk the waiting is what threads overlap.

    Returns:
        For each path what its header says, or a Skip with the reason.
    """
    wanted = list(dict.fromkeys(paths))
    count = workers if workers is not None else min(8, os.cpu_count() or 1)
    if count < 1:
        raise ConfigError(f"workers: expected at least 1, found {count}. Leave it out to choose.")
    headers: dict[Path, AudioInfo | Skip] = {}
    with ThreadPoolExecutor(max_workers=count) as pool:
        for path, header in zip(wanted, pool.map(_probe, wanted), strict=True):
            headers[path] = header
            if progress is not None and (len(headers) % 50 == 0 or len(headers) == len(wanted)):
                progress("reading headers", len(headers), len(wanted))
    return headers


def _probe(path: Path) -> AudioInfo | Skip:
    """Read one header."""
    try:
        info = probe(path)
    except AudioError as error:
        return Skip(path=str(path), reason=error.reason, detail=str(error))
    if info.num_samples is None:
        detail = "the header does not say how long the recording is"
        return Skip(path=str(path), reason="no_duration", detail=detail)
    seconds = info.num_samples / info.sample_rate
    if seconds < MIN_SECONDS:
        detail = f"{info.num_samples} samples at {info.sample_rate} Hz"
        return Skip(path=str(path), reason="too_short", detail=detail)
    if seconds > LONGEST_UTTERANCE_SECONDS:
        detail = f"the header says {seconds:.6g} s"
        return Skip(path=str(path), reason="too_long", detail=detail)
    return info


def _located(source: str | os.PathLike[str], extracted: Path | None) -> Path:
    """Find the source on this machine, bringing it here first if it is on the hub."""
    name = os.fspath(source)
    if not name.startswith(HUB_PREFIX):
        return _existing(source, "recordings")
    if extracted is None:
        raise ConfigError(
            f"{name} has to be downloaded: expected a folder to extract to, found none. "
            "Say where the output goes."
        )
    return hub_datasets.download(name.removeprefix(HUB_PREFIX), extracted).resolve()


def _recorded_roots(origin: Path) -> list[Path]:
    """Give the folders that an earlier scan, whose manifests these are, was given."""
    record = (origin if origin.is_dir() else origin.parent) / SCAN_RECORD
    if not record.is_file():
        return []
    try:
        roots = read_json(record)["roots"]
    except (FormatError, KeyError, TypeError):
        # Another program's file of that name.
        return []
    return [Path(root) for root in roots if isinstance(root, str) and Path(root).is_dir()]


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    """Resolve a path that the caller gave, which must be there."""
    resolved = Path(path).resolve()
    if not resolved.exists():
        hint = ""
        if not Path(path).is_absolute() and len(Path(path).parts) == 2:
            hint = f' A data set of the Hugging Face hub is written "{HUB_PREFIX}{path}".'
        raise ConfigError(
            f"There are no {what} at {path}: expected a folder or a table, found nothing.{hint}"
        )
    return resolved


def _read_place(place: Path, reading: Reading) -> tuple[str, list[Claim | Skip]]:
    """Read a table, or a folder by the layout it has; give the layout's name too."""
    if place.is_dir():
        layout = detect(reading.tree, told=reading.told)
        return layout.name, list(layout.read(reading))
    try:
        return "table", list(read_table(place, reading, split=split_of_name(place.name)))
    except OSError as error:
        raise ManifestError(f"{place} cannot be read: {error}.") from error


@dataclass(frozen=True, kw_only=True)
class _Joined:
    """Claims joined with headers."""

    utterances: tuple[Utterance, ...]
    skipped: tuple[Skip, ...]
    num_merged: int


def _join(
    claims: Sequence[Claim],
    pool: Sequence[Path],
    headers: Mapping[Path, AudioInfo | Skip],
    id_roots: Sequence[Path],
    language: str | None,
) -> _Joined:
    """Make utterances of claims: times checked, the same stretch once, ids unique.

    Where several tables speak of the same stretch, the first one's word counts and the others
    fill in what it leaves open. Recordings of the pool that no table could make use of are
    utterances without transcript.
    """
    utterances: dict[tuple[Path, int, int], Utterance] = {}
    origin: dict[tuple[Path, int, int], Claim] = {}
    stretch_of_id: dict[str, tuple[Path, int, int]] = {}
    skipped: list[Skip] = []
    num_merged = 0

    def skip(claim: Claim, reason: str, detail: str) -> None:
        skipped.append(Skip(path=str(claim.source), line=claim.line, reason=reason, detail=detail))

    not_unique = _sources_with_repeated_ids(claims)
    claimed = {claim.audio for claim in claims}

    def unused() -> Iterator[Claim]:
        used = {path for path, _, _ in utterances}
        for path in dict.fromkeys(pool):
            is_known_to_be_bad = path in claimed and isinstance(headers[path], Skip)
            if path not in used and not is_known_to_be_bad:
                yield Claim(audio=path, source=path)

    for claim in itertools.chain(claims, unused()):
        if claim.source in not_unique:
            claim = replace(claim, id=None)
        header = headers[claim.audio]
        if isinstance(header, Skip):
            skip(claim, header.reason, header.detail)
            continue
        stretch = _stretch(claim, header)
        if isinstance(stretch, str):
            skip(claim, "past_end", stretch)
            continue
        key = (claim.audio, *stretch)
        whole = stretch == (0, header.num_samples)
        identity = claim.id or _derived_id(claim.audio, id_roots, stretch, header, whole=whole)
        known = utterances.get(key)
        if known is None:
            if identity in stretch_of_id:
                first = origin[stretch_of_id[identity]]
                skip(claim, "duplicate", f'the id "{printable(identity)}" is that of {_at(first)}')
                continue
            stretch_of_id[identity] = key
            origin[key] = claim
            utterances[key] = _utterance(claim, identity, stretch, header, language)
            continue
        first = origin[key]
        if claim.text is not None and known.text is not None and claim.text != known.text:
            skip(claim, "conflict", f"the same stretch has another text in {_at(first)}")
        elif claim.source == first.source:
            skip(claim, "duplicate", f"the same stretch stands in {_at(first)}")
        else:
            num_merged += 1
            new_id = claim.id if first.id is None and claim.id not in stretch_of_id else None
            if new_id is not None:
                del stretch_of_id[known.id]
                stretch_of_id[new_id] = key
            if first.text is None and claim.text is not None:
                origin[key] = replace(claim, id=new_id or first.id)
            utterances[key] = _merged(known, claim, new_id)
    return _Joined(
        utterances=tuple(utterances.values()), skipped=tuple(skipped), num_merged=num_merged
    )


def _sources_with_repeated_ids(claims: Iterable[Claim]) -> set[Path]:
    """Find tables whose "id" numbers something else than utterances, such as sentences."""
    ids: dict[Path, Counter[str]] = {}
    for claim in claims:
        if claim.id is not None:
            ids.setdefault(claim.source, Counter())[claim.id] += 1
    return {
        source
        for source, counts in ids.items()
        if counts.total() - len(counts)
        > max(FEWEST_REPEATED_IDS, REPEATED_IDS_SHARE * counts.total())
    }


def _at(claim: Claim) -> str:
    """Say where a claim stands."""
    place = printable(claim.source.name)
    return place if claim.line is None else f"{place} line {claim.line}"


def _stretch(claim: Claim, header: AudioInfo) -> tuple[int, int] | str:
    """Work out (start, length) in samples of the recording; or say why it does not fit."""
    total = header.num_samples or 0
    rate = header.sample_rate
    seconds = total / rate
    begins = claim.start_seconds or 0.0
    if begins > seconds - MIN_SECONDS:
        return f"it starts at {begins:.3f} s, but the recording has {seconds:.3f} s"
    start = round(begins * rate)
    if claim.duration_seconds is None:
        return start, total - start
    ends = begins + claim.duration_seconds
    tolerance = max(END_TOLERANCE_SECONDS, END_TOLERANCE * claim.duration_seconds)
    if ends > seconds + tolerance:
        hint = " (milliseconds?)" if ends / 1000.0 <= seconds + tolerance else ""
        return f"it ends at {ends:.3f} s{hint}, but the recording has {seconds:.3f} s"
    if claim.start_seconds is None and ends > seconds - tolerance:
        # A table that gives no start means the whole recording and how long it takes it to be.
        return 0, total
    return start, min(round(claim.duration_seconds * rate), total - start)


def _derived_id(
    audio: Path,
    roots: Sequence[Path],
    stretch: tuple[int, int],
    header: AudioInfo,
    *,
    whole: bool,
) -> str:
    """Make an id of where the sound lies: stable however the source is scanned."""
    root = next((root for root in roots if audio.is_relative_to(root)), Path("/"))
    name = relative_id(audio, root)
    if whole:
        return name
    begins = stretch[0] / header.sample_rate
    ends = (stretch[0] + stretch[1]) / header.sample_rate
    return f"{name}@{begins:.3f}-{ends:.3f}"


def _utterance(
    claim: Claim, identity: str, stretch: tuple[int, int], header: AudioInfo, language: str | None
) -> Utterance:
    """Make an utterance of a claim."""
    extra = dict(claim.extra)
    if claim.split is not None:
        extra["split"] = claim.split
    return Utterance(
        id=identity,
        audio=str(claim.audio),
        start=stretch[0],
        num_samples=stretch[1],
        sample_rate=header.sample_rate,
        text=claim.text,
        speaker=claim.speaker,
        language=claim.language or language,
        label=claim.label,
        extra=extra,
    )


def _merged(known: Utterance, claim: Claim, new_id: str | None) -> Utterance:
    """Fill in what is not known yet."""
    extra = {**claim.extra, **known.extra}
    if claim.split is not None:
        extra.setdefault("split", claim.split)
    return replace(
        known,
        id=new_id or known.id,
        text=known.text if known.text is not None else claim.text,
        speaker=known.speaker or claim.speaker,
        language=claim.language if known.language is None else known.language,
        label=known.label or claim.label,
        extra=extra,
    )


def _facts_of_headers(headers: Mapping[Path, AudioInfo | Skip]) -> dict[str, Any]:
    """Count what the recordings are."""
    infos = [header for header in headers.values() if isinstance(header, AudioInfo)]
    seconds = sum((info.num_samples or 0) / info.sample_rate for info in infos)
    return {
        "recordings": len(infos),
        "recording_hours": round(seconds / 3600.0, 4),
        "codecs": _counted(info.codec for info in infos),
        "sample_rates_hz": _counted(info.sample_rate for info in infos),
        "channels": _counted(info.channels for info in infos),
    }


def _counted(values: Iterable[Any]) -> dict[str, int]:
    """Count values, the commonest first."""
    return {str(value): count for value, count in Counter(values).most_common()}
