"""How corpora lie on a disk: one entry of `LAYOUTS` for each convention, found by content.

A layout says what it sees in a folder's list of files and turns its tables into claims: what a
source says about an utterance. It opens no recording; `corpora` does, afterwards, for all alike.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from unheard.data import hub_datasets
from unheard.data.claims import (
    BadRow,
    Claim,
    Reading,
    claim_of_row,
    found_or_bad,
    open_in,
    read_label,
    read_seconds,
    read_table,
    read_text,
    split_of_name,
    without_text,
)
from unheard.data.folders import Tree, os_reason, split_suffix
from unheard.data.manifest import Skip, iter_lines, parse_json_line, printable
from unheard.errors import ConfigError, ManifestError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A convention for corpora.

    Attributes:
        name: short, for reports.
        recognises: says from a folder's list of files whether it is laid out so.
        read: gives its claims, and what it had to leave out.
    """

    name: str
    recognises: Callable[[Tree], bool]
    read: Callable[[Reading], Iterator[Claim | Skip]]


def detect(tree: Tree, *, told: bool = False) -> Layout:
    """Give the first layout that recognises a folder; the last one takes any.

    Args:
        tree: the folder.
        told: the caller said that it holds transcripts, so that lone text files are some too.
    """
    if told and not any(layout.recognises(tree) for layout in LAYOUTS[:-2]):
        return LAYOUTS[-2]
    return next(layout for layout in LAYOUTS if layout.recognises(tree))


# ----------------------------------------------------------------------------- folders of tables

_TABLE_SUFFIXES = frozenset((".tsv", ".csv", ".jsonl"))
_TABLE_TEXT_NAMES = re.compile(
    r"(?:transcripts?|transcriptions?|metadata|text|line_index)\.txt", re.IGNORECASE
)
_DEEPEST_TABLE = 4


def _table_names(tree: Tree) -> list[str]:
    """The files of a folder that may be transcript tables."""
    names = []
    for name in tree.names:
        base = name.rpartition("/")[2]
        if name.count("/") < _DEEPEST_TABLE and (
            split_suffix(base)[1].lower() in _TABLE_SUFFIXES
            or _TABLE_TEXT_NAMES.fullmatch(base)
            or (base.lower().endswith(".json") and _is_json_lines(tree.path(name)))
        ):
            names.append(name)
    return names


def _is_json_lines(path: Path) -> bool:
    """Say whether a file begins with a line that is a JSON object, as NeMo's manifests do."""
    try:
        return bool(parse_json_line(next(iter_lines(path), (0, b""))[1]))
    except (ManifestError, OSError):
        return False


def _has_tables(tree: Tree) -> bool:
    return bool(_table_names(tree))


def _read_tables(reading: Reading) -> Iterator[Claim | Skip]:
    """Read every table of a folder; a file that is none is listed and passed over.

    Raises:
        ConfigError: if columns were told and no table has them.
    """
    first_error: ConfigError | None = None
    for name in _table_names(reading.tree):
        path = reading.tree.path(name)
        split = split_of_name(name.rpartition("/")[2]) or split_of_name(
            name.rpartition("/")[0].rpartition("/")[2]
        )
        try:
            yield from read_table(path, reading, split=split)
        except (ManifestError, ConfigError) as error:
            if isinstance(error, ConfigError):
                first_error = first_error or error
            yield Skip(path=str(path), reason="not_a_table", detail=str(error))
        except OSError as error:
            yield Skip(path=str(path), reason=os_reason(error), detail=str(error))
    if first_error is not None and not reading.tables:
        raise first_error


# --------------------------------------------------------------------------------- one text each

_LONGEST_TEXT_BYTES = 1 << 20


def _text_names(tree: Tree) -> Iterator[str]:
    """The .txt and .lab files that lie beside a recording of the same name."""
    stems = {split_suffix(name)[0] for name in tree.audio}
    for name in tree.names:
        stem, suffix = split_suffix(name)
        if suffix.lower() in (".txt", ".lab") and stem in stems:
            yield name


def _has_texts(tree: Tree) -> bool:
    return next(_text_names(tree), None) is not None


def _read_texts(reading: Reading) -> Iterator[Claim | Skip]:
    """Read transcripts that each have a file of their own; line breaks become spaces."""
    names = (
        [name for name in reading.tree.names if split_suffix(name)[1].lower() in (".txt", ".lab")]
        if reading.told
        else list(_text_names(reading.tree))
    )
    for name in names:
        path = reading.tree.path(name)
        try:
            yield Claim(
                audio=found_or_bad(reading.finder.find(split_suffix(name)[0], reading.tree.root)),
                source=path,
                text=read_text(_read_small_text(path)),
            )
        except BadRow as bad:
            yield Skip(path=str(path), reason=bad.reason, detail=str(bad))
        except OSError as error:
            yield Skip(path=str(path), reason=os_reason(error), detail=str(error))


def _read_small_text(path: Path) -> str:
    """Read a text file of one utterance."""
    with path.open("rb") as file:
        data = file.read(_LONGEST_TEXT_BYTES + 1)
    if len(data) > _LONGEST_TEXT_BYTES:
        raise BadRow("text", "the file is longer than 1 MiB: not the text of one utterance")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("encoding", f"the file is not UTF-8 (byte {error.start + 1})") from error
    return " ".join(line.strip() for line in text.split("\n") if line.strip())


# ----------------------------------------------------------------------------------- LibriSpeech


def _is_librispeech(tree: Tree) -> bool:
    return any(name.endswith(".trans.txt") for name in tree.names)


def _read_librispeech(reading: Reading) -> Iterator[Claim | Skip]:
    """Read LibriSpeech: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside the recordings."""
    for name in reading.tree.names:
        if not name.endswith(".trans.txt"):
            continue
        path = reading.tree.path(name)
        split = next(filter(None, map(split_of_name, name.split("/")[:-1])), None)
        for line, key, text in _keyed_lines(path):
            if isinstance(key, Skip):
                yield key
                continue
            try:
                yield Claim(
                    audio=found_or_bad(reading.finder.find(key, path.parent)),
                    source=path,
                    line=line,
                    id=key,
                    text=read_text(text),
                    speaker=key.partition("-")[0],
                    split=split,
                )
            except BadRow as bad:
                yield Skip(path=str(path), line=line, reason=bad.reason, detail=str(bad))


def _keyed_lines(path: Path) -> Iterator[tuple[int, str | Skip, str]]:
    """Read lines of a key, white space, and the rest, which may be empty."""
    try:
        for number, line in iter_lines(path):
            if line is None:
                yield number, _skip(path, number, "long_line", "the line is too long"), ""
                continue
            parts = line.decode("utf-8", "surrogateescape").split(None, 1)
            if parts:
                yield number, parts[0], parts[1] if len(parts) > 1 else ""
    except OSError as error:
        yield 0, _skip(path, None, os_reason(error), str(error)), ""


def _skip(path: Path, line: int | None, reason: str, detail: str) -> Skip:
    return Skip(path=str(path), line=line, reason=reason, detail=detail)


# ---------------------------------------------------------------------------------- Common Voice


def _common_voice_folders(tree: Tree) -> list[str]:
    """Folders, as prefixes that are empty or end in "/", that hold clips/ and validated.tsv."""
    heads = {f"/{name}".rpartition("/clips/")[0] for name in tree.audio if "/clips/" in f"/{name}"}
    prefixes = sorted(f"{head[1:]}/" if head else "" for head in heads)
    names = set(tree.names) if prefixes else set()
    return [prefix for prefix in prefixes if f"{prefix}validated.tsv" in names]


def _is_common_voice(tree: Tree) -> bool:
    return bool(_common_voice_folders(tree))


def _read_common_voice(reading: Reading) -> Iterator[Claim | Skip]:
    """Read Mozilla Common Voice: clips/, and validated, train, dev, test, other, invalidated.tsv.

    The transcripts are those of validated.tsv; the splits are its own. Clips that nobody has
    validated are recordings without transcript; their speakers are known all the same.
    """
    names = set(reading.tree.names)
    for prefix in _common_voice_folders(reading.tree):
        split_of_clip: dict[Path, str] = {}
        for base in ("train", "dev", "test"):
            if f"{prefix}{base}.tsv" in names:
                for claim in _common_voice_rows(f"{prefix}{base}.tsv", reading):
                    if isinstance(claim, Claim):
                        split_of_clip[claim.audio] = base
        for base in ("validated", "other", "invalidated"):
            if f"{prefix}{base}.tsv" not in names:
                continue
            for claim in _common_voice_rows(f"{prefix}{base}.tsv", reading):
                if isinstance(claim, Skip):
                    yield claim
                elif base == "validated":
                    yield replace(claim, split=split_of_clip.get(claim.audio))
                else:
                    yield without_text(claim)


def _common_voice_rows(name: str, reading: Reading) -> Iterator[Claim | Skip]:
    """Read one of its tables, whose names are relative to clips/ and whose quotes are letters."""
    path = reading.tree.path(name)
    try:
        table = open_in(reading, path, quoted=False)
    except ManifestError as error:
        yield _skip(path, None, "not_a_table", str(error))
        return
    for row in table.rows():
        if isinstance(row, Skip):
            yield row
            continue
        clip = row.cells.get("audio")
        if isinstance(clip, str) and "/" not in clip:
            row.cells["audio"] = f"clips/{clip}"
        try:
            yield claim_of_row(row, path, reading, split=None)
        except BadRow as bad:
            yield _skip(path, row.line, bad.reason, str(bad))


# ----------------------------------------------------------------------------------------- Kaldi


def _is_kaldi(tree: Tree) -> bool:
    return any(name == "wav.scp" or name.endswith("/wav.scp") for name in tree.names)


def _read_kaldi(reading: Reading) -> Iterator[Claim | Skip]:
    """Read Kaldi data folders: wav.scp, text, utt2spk, segments, utt2lang.

    An entry of wav.scp that is a command is refused, never run.
    """
    for name in reading.tree.names:
        if name == "wav.scp" or name.endswith("/wav.scp"):
            yield from _read_kaldi_folder(reading.tree.path(name).parent, reading)


def _read_kaldi_folder(folder: Path, reading: Reading) -> Iterator[Claim | Skip]:
    """Read one data folder; its name says which split it is."""
    recordings: dict[str, Path] = {}
    lines_of: dict[str, int] = {}
    refused: dict[str, str] = {}
    for line, key, value in _keyed_lines(folder / "wav.scp"):
        if isinstance(key, Skip):
            yield key
            continue
        try:
            recordings[key] = _kaldi_recording(value.strip(), folder, reading)
            lines_of[key] = line
        except BadRow as bad:
            refused[key] = bad.reason
            yield _skip(folder / "wav.scp", line, bad.reason, str(bad))
    columns: dict[str, dict[str, str]] = {}
    text_lines: dict[str, int] = {}
    for name in ("text", "utt2spk", "utt2lang"):
        columns[name] = {}
        if not (folder / name).is_file():
            continue
        for line, key, value in _keyed_lines(folder / name):
            if isinstance(key, Skip):
                yield key
                continue
            if key in columns[name]:
                yield _skip(folder / name, line, "duplicate", f"{printable(key)} stands here twice")
                continue
            columns[name][key] = value
            if name == "text":
                text_lines[key] = line
    unused = dict(text_lines)
    split = split_of_name(folder.name)
    for source, line, key, recording, start, end in _kaldi_stretches(folder, recordings, lines_of):
        unused.pop(key, None)
        try:
            if recording not in recordings:
                if recording in refused:
                    raise BadRow(refused[recording], f"the recording {recording} was refused")
                raise BadRow("missing", f"wav.scp has no recording {printable(recording)}")
            begins = read_seconds(start, "start")
            ends = None if end is None or end.startswith("-") else read_seconds(end, "end")
            duration = None if ends is None else ends - (begins or 0.0)
            if duration is not None and not duration > 0.0:
                raise BadRow("duration", f"the segment ends before it starts: {duration:g} s")
            yield Claim(
                audio=recordings[recording],
                source=folder / "text" if key in text_lines else source,
                line=text_lines.get(key, line),
                id=read_label(key, "id"),
                text=read_text(columns["text"].get(key)),
                speaker=read_label(columns["utt2spk"].get(key), "speaker"),
                language=read_label(columns["utt2lang"].get(key), "language"),
                split=split,
                start_seconds=begins,
                duration_seconds=duration,
            )
        except BadRow as bad:
            yield _skip(source, line, bad.reason, str(bad))
    for key, line in unused.items():
        if key not in refused:
            yield _skip(
                folder / "text", line, "missing", f"no recording for {printable(key)} in wav.scp"
            )


def _kaldi_recording(value: str, folder: Path, reading: Reading) -> Path:
    """Find what an entry of wav.scp means."""
    if value.endswith("|") or value.startswith("|"):
        raise BadRow("pipe", f"a command, which is never run: {printable(value)}")
    if re.search(r"\.ark(?::\d+)?$", value):
        raise BadRow("archive", f"sound inside a Kaldi archive is not read: {printable(value)}")
    return found_or_bad(reading.finder.find(value, folder))


def _kaldi_stretches(
    folder: Path, recordings: dict[str, Path], lines_of: dict[str, int]
) -> Iterator[tuple[Path, int | None, str, str, str | None, str | None]]:
    """Give (source, line, utterance, recording, start, end): segments, or whole recordings."""
    segments = folder / "segments"
    if not segments.is_file():
        for key in recordings:
            yield folder / "wav.scp", lines_of[key], key, key, None, None
        return
    for line, key, value in _keyed_lines(segments):
        if isinstance(key, Skip):
            continue
        parts = value.split()
        if len(parts) < 3:
            yield segments, line, key, "", None, None
        else:
            yield segments, line, key, parts[0], parts[1], parts[2]


# --------------------------------------------------------------------------------------- fairseq


def _fairseq_tables(tree: Tree) -> list[str]:
    """The .tsv files that begin with the root folder alone on its line."""
    found = []
    for name in tree.names:
        if not name.endswith(".tsv"):
            continue
        try:
            lines = iter_lines(tree.path(name))
            first = (next(lines, (0, b""))[1] or b"").decode("utf-8", "replace")
            second = (next(lines, (0, b""))[1] or b"").decode("utf-8", "replace")
        except OSError:
            continue
        parts = second.split("\t")
        if (
            first.strip()
            and "\t" not in first
            and (first.startswith(("/", ".")) or "/" in first)
            and (not second or (len(parts) == 2 and parts[1].strip().isdigit()))
        ):
            found.append(name)
    return found


def _is_fairseq(tree: Tree) -> bool:
    return bool(_fairseq_tables(tree))


def _read_fairseq(reading: Reading) -> Iterator[Claim | Skip]:
    """Read fairseq manifests: NAME.tsv with the recordings, NAME.wrd or NAME.ltr with the texts.

    Source: fairseq examples/wav2vec/wav2vec_manifest.py and libri_labels.py.
    """
    for name in _fairseq_tables(reading.tree):
        path = reading.tree.path(name)
        texts = _fairseq_texts(path)
        rows = list(_fairseq_rows(path))
        if isinstance(texts, Skip):
            yield texts
            texts = None
        elif texts is not None and len(texts[1]) != len(rows):
            yield _skip(
                texts[0],
                None,
                "line_count",
                f"{len(texts[1])} texts for {len(rows)} recordings: not used, since nobody can "
                "say which belongs to which",
            )
            texts = None
        root = (next(iter_lines(path))[1] or b"").decode("utf-8", "surrogateescape").strip()
        for index, (line, recording) in enumerate(rows):
            if recording is None:
                yield _skip(path, line, "long_line", "the line is too long")
                continue
            relative = recording.partition("\t")[0]
            try:
                yield Claim(
                    audio=_fairseq_recording(relative, root, path, reading),
                    source=path if texts is None else texts[0],
                    line=line if texts is None else index + 1,
                    text=None if texts is None else read_text(texts[1][index]),
                    split=split_of_name(path.stem),
                )
            except BadRow as bad:
                yield _skip(path, line, bad.reason, str(bad))


def _fairseq_rows(path: Path) -> Iterator[tuple[int, str | None]]:
    """The lines after the first."""
    for number, line in iter_lines(path):
        if number > 1 and (line is None or line.strip()):
            yield number, None if line is None else line.decode("utf-8", "surrogateescape")


def _fairseq_recording(relative: str, root: str, table: Path, reading: Reading) -> Path:
    """Find a recording: under the folder of the first line if that may be read, or by its name."""
    if root.startswith("/"):
        found = reading.finder.find(f"{root.rstrip('/')}/{relative}", table.parent)
        if isinstance(found, Path):
            return found
    return found_or_bad(reading.finder.find(relative, table.parent / root, table.parent))


def _fairseq_texts(table: Path) -> tuple[Path, list[str]] | Skip | None:
    """Read the texts beside a fairseq table: words as they are, letters joined to words."""
    for suffix in (".wrd", ".ltr"):
        path = table.with_suffix(suffix)
        if not path.is_file():
            continue
        try:
            lines = [
                (line or b"").decode("utf-8", "surrogateescape") for _, line in iter_lines(path)
            ]
        except OSError as error:
            return _skip(path, None, os_reason(error), str(error))
        if suffix == ".ltr":
            lines = [line.replace(" ", "").replace("|", " ").strip() for line in lines]
        return path, lines
    return None


# ------------------------------------------------------------------------------------- plain audio


def _any(tree: Tree) -> bool:  # noqa: ARG001
    return True


def _read_nothing(reading: Reading) -> Iterator[Claim | Skip]:  # noqa: ARG001
    """A folder of recordings says nothing about them."""
    return iter(())


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="hugging-face",
        recognises=hub_datasets.is_dataset,
        read=hub_datasets.read_dataset,
    ),
    Layout(name="common-voice", recognises=_is_common_voice, read=_read_common_voice),
    Layout(name="librispeech", recognises=_is_librispeech, read=_read_librispeech),
    Layout(name="kaldi", recognises=_is_kaldi, read=_read_kaldi),
    Layout(name="fairseq", recognises=_is_fairseq, read=_read_fairseq),
    Layout(name="tables", recognises=_has_tables, read=_read_tables),
    Layout(name="texts", recognises=_has_texts, read=_read_texts),
    Layout(name="recordings", recognises=_any, read=_read_nothing),
)
"""Every layout, the most particular first."""
