import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.small_corpora import RATE, jsonl, text, wav

from unheard.audio import io
from unheard.data import corpora, folders, hub_datasets, layouts
from unheard.data.corpora import REASONS, Scan, probe_all, scan_source
from unheard.data.manifest import Skip, read_manifest, write_manifest
from unheard.errors import ConfigError

SOURCES = Path(corpora.__file__).parent


def skips(scan: Scan) -> list[tuple[str, int | None, str]]:
    return [(Path(skip.path).name, skip.line, skip.reason) for skip in scan.skipped]


def ids(scan: Scan) -> list[str]:
    return [one.id for one in scan.utterances]


# Row 30 of the hostile inputs: what a table may hold, and what becomes of the row.
HOSTILE_ROWS = [
    (b"a.wav\tplain\t1.0", "plain"),
    (b"a.wav\tduration minus one\t-1", "duration"),
    (b"a.wav\tduration not a number\tNaN", "duration"),
    (b"a.wav\tduration infinite\tinf", "duration"),
    (b"a.wav\tduration absurd\t1e9", "past_end"),
    (b"a.wav\tduration a word\tlong", "duration"),
    (b"a.wav\tduration in milliseconds\t1000", "past_end"),
    (b"b.wav\tmissing file\t1.0", "missing"),
    (b"../a.wav\tescape\t1.0", "outside"),
    (b"/etc/passwd\tescape\t1.0", "outside"),
    (b"a\0.wav\tzero byte\t1.0", "bad_path"),
    (b"\tno name\t1.0", "no_audio"),
    (b"a.wav\tbytes \xff\xfe that are no UTF-8\t1.0", "encoding"),
    (b"a.wav\t\xed\xa0\x80 half a surrogate pair\t1.0", "encoding"),
    (b"a.wav\ttabs\tin\ttext\t1.0", "columns"),
    ("a.wav\t\u200b\u200d\ufeff\t1.0".encode(), "empty_text"),
    ("a.wav\tmixed \u00e9 e\u0301 NFC and NFD\t1.0".encode(), "mixed \u00e9 e\u0301 NFC and NFD"),
    ("a.wav\tjoiner ක්\u200dෂ\t1.0".encode(), "joiner ක්\u200dෂ"),
    ("a.wav\t\u202eoverride\u202c\t1.0".encode(), "\u202eoverride\u202c"),
    (b"a.wav\t  spaces kept \t1.0", "  spaces kept "),
    ("a.wav\tline\u2028separator\x85 next\t1.0".encode(), "line\u2028separator\x85 next"),
    (b"a.wav\t\t1.0", None),
]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("row", "expected"), HOSTILE_ROWS)
def test_hostile_rows(tmp_path: Path, row: bytes, expected: str | None, ending: bytes) -> None:
    wav(tmp_path / "a.wav")
    wav(tmp_path / "z.wav")
    lines = [b"\xef\xbb\xbfpath\ttext\tduration", row, b"z.wav\tthe row after\t1.0"]
    text(tmp_path / "t.tsv", ending.join(lines) + ending)
    scan = scan_source(tmp_path)
    texts = {Path(one.audio).name: one.text for one in scan.utterances}
    assert texts["z.wav"] == "the row after"
    if expected in REASONS:
        assert skips(scan) == [("t.tsv", 2, expected)]
        assert texts["a.wav"] is None, "the recording is used all the same"
        assert scan.skipped[0].detail
    else:
        assert skips(scan) == []
        assert texts["a.wav"] == expected


def test_good_texts_of_hostile_rows_come_through_a_manifest(tmp_path: Path) -> None:
    kept = [row for row, expected in HOSTILE_ROWS if expected not in (None, *REASONS)]
    lines = []
    for number, row in enumerate(kept):
        wav(tmp_path / f"{number}.wav")
        lines.append(row.replace(b"a.wav", f"{number}.wav".encode()))
    scan = scan_source(text(tmp_path / "t.tsv", b"path\ttext\tduration\n" + b"\n".join(lines)))
    assert len(scan.utterances) == len(kept) > 5
    write_manifest(tmp_path / "m.jsonl", scan.utterances)
    assert read_manifest(tmp_path / "m.jsonl") == list(scan.utterances)


def test_hostile_json_rows(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    rows = [
        '{"audio": "a.wav", "text": "fine"}',
        '{"audio": "a.wav", "text": ["a", "list"]}',
        '{"audio": "a.wav", "text": true}',
        '{"audio": 7, "text": "x"}',
        '{"audio": null, "text": "x"}',
        '{"audio": "a.wav", "text": "\\ud83d half"}',
        '{"audio": "a.wav", "text": "x", "duration": NaN}',
        '{"audio": "a.wav", "text": "x", "duration": true}',
        '{"audio": "a.wav", "text": "x", "offset": -0.5}',
        '{"audio": "a.wav", "text": "x", "speaker": {"name": "x"}}',
        '{"audio": "a.wav", "text": "x", "speaker": "\\udc00"}',
        '{"audio": {"path": "a.wav"}, "text": "x", "speaker": NaN, "offset": 0.5, "more": NaN}',
        "{'audio': 'a.wav'}",
        "[" * 5000,
    ]
    scan = scan_source(text(tmp_path / "t.jsonl", "\n".join(rows)))
    assert [(line, reason) for _, line, reason in skips(scan)] == [
        (2, "text"),
        (3, "text"),
        (4, "no_audio"),
        (5, "no_audio"),
        (6, "encoding"),
        (7, "duration"),
        (8, "duration"),
        (9, "start"),
        (10, "speaker"),
        (11, "encoding"),
        (13, "json"),
        (14, "json"),
    ]
    assert [(u.text, u.start, u.speaker, u.extra) for u in scan.utterances] == [
        ("fine", 0, None, {}),
        ("x", RATE // 2, None, {}),
    ]


def test_numbers_may_stand_for_texts(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    (one,) = scan_source(
        jsonl(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": 7, "speaker": 3}])
    ).utterances
    assert (one.text, one.speaker) == ("7", "3")


def test_repeated_ids_and_stretches_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        wav(tmp_path / f"{name}.wav")
    rows = [
        {"id": "u", "audio": "a.wav", "text": "x"},
        {"id": "u", "audio": "b.wav", "text": "y"},
        {"id": "v", "audio": "a.wav", "text": "x"},
        {"id": "w", "audio": "a.wav", "text": "another"},
    ]
    scan = scan_source(jsonl(tmp_path / "t.jsonl", rows))
    assert ids(scan) == ["u"]
    assert skips(scan) == [
        ("t.jsonl", 2, "duplicate"),
        ("t.jsonl", 3, "duplicate"),
        ("t.jsonl", 4, "conflict"),
    ]
    assert "t.jsonl line 1" in scan.skipped[0].detail


def test_ids_are_stable_and_relative(tmp_path: Path) -> None:
    root = tmp_path / "here"
    wav(root / "x" / "b.wav", 3.0)
    wav(root / os.fsdecode(b"\xff.wav"))
    text(root / "t.csv", "path,start,end,text\nx/b.wav,1,2,t\n")
    before = ids(scan_source(root))
    assert before == ["x/b.wav@1.000-2.000", "\\xff.wav"]
    wav(root / "a.wav")
    root.rename(tmp_path / "there")
    assert set(before) < set(ids(scan_source(tmp_path / "there")))


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("1.9", 2 * RATE),
        ("2.1", 2 * RATE),
        ("2.24", 2 * RATE),
        ("2.3", None),
        ("1.0", RATE),
    ],
)
def test_a_duration_near_the_whole_means_the_whole(
    tmp_path: Path, duration: str, expected: int | None
) -> None:
    wav(tmp_path / "a.wav", 2.0)
    scan = scan_source(text(tmp_path / "t.csv", f"path,duration,text\na.wav,{duration},x\n"))
    assert [one.num_samples for one in scan.utterances] == ([] if expected is None else [expected])


def test_milliseconds_are_suspected(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 2.0)
    scan = scan_source(text(tmp_path / "t.csv", "path,duration,text\na.wav,2000,x\n"))
    assert "(milliseconds?)" in scan.skipped[0].detail
    scan = scan_source(text(tmp_path / "t.csv", "path,duration_ms,text\na.wav,2000,x\n"))
    assert [one.num_samples for one in scan.utterances] == [2 * RATE]


def tree_of_many(tmp_path: Path) -> Path:
    for number in range(60):
        wav(tmp_path / f"{number % 7}" / f"{number:03}.wav", 0.1 + 0.01 * (number % 13))
    for number in range(0, 60, 9):
        text(tmp_path / f"{number % 7}" / f"{number:03}.wav", "broken")
    text(
        tmp_path / "t.tsv",
        "path\ttext\n" + "".join(f"{n:03}\ttext {n}\n" for n in range(0, 80, 2)),
    )
    return tmp_path


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    root = tree_of_many(tmp_path)
    scans = [scan_source(root, workers=workers) for workers in (1, 3, 16, None)]
    assert all(scan == scans[0] for scan in scans)
    assert len(scans[0].utterances) == 53
    assert len({one.id for one in scans[0].utterances}) == 53
    with pytest.raises(ConfigError, match="workers: expected at least 1, found 0"):
        scan_source(root, workers=0)


def test_headers_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree_of_many(tmp_path)

    def refuse(*_: object, **__: object) -> Iterator[object]:
        raise AssertionError("decoded a recording")

    monkeypatch.setattr(io, "stream", refuse)
    monkeypatch.setattr(io, "read", refuse)
    assert len(scan_source(root).utterances) == 53


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    scan_source(tree_of_many(tmp_path), progress=lambda *call: calls.append(call))
    assert calls == [("reading headers", 50, 60), ("reading headers", 60, 60)]


def test_each_recording_is_probed_once(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav")
    headers = probe_all([path, path, tmp_path / "gone.wav"])
    assert list(headers) == [path, tmp_path / "gone.wav"]
    gone = headers[tmp_path / "gone.wav"]
    assert isinstance(gone, Skip)
    assert gone.reason == "vanished"


def test_recordings_too_short_for_any_model_are_listed(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 0.02)
    assert skips(scan_source(tmp_path)) == [("a.wav", None, "too_short")]


def test_the_output_folder_is_not_looked_into(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    wav(tmp_path / "out" / "b.wav")
    assert ids(scan_source(tmp_path, exclude=[tmp_path / "out"])) == ["a.wav"]


def test_further_roots_may_be_declared(tmp_path: Path) -> None:
    recording = wav(tmp_path / "store" / "a.wav")
    table = text(tmp_path / "tables" / "t.csv", f"path,text\n{recording},x\n")
    assert skips(scan_source(table)) == [("t.csv", 2, "outside")]
    assert len(scan_source(table, roots=[tmp_path / "store"]).utterances) == 1


def test_a_source_given_through_a_link(tmp_path: Path) -> None:
    wav(tmp_path / "real" / "a.wav")
    text(tmp_path / "real" / "t.csv", "path,text\na.wav,x\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [one.text for one in scan_source(tmp_path / "link").utterances] == ["x"]
    assert [one.text for one in scan_source(tmp_path / "link" / "t.csv").utterances] == ["x"]


def test_every_reason_in_the_code_is_explained() -> None:
    used = set()
    for module in (corpora, folders, hub_datasets, layouts):
        assert module.__file__
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = {"skip": 1, "_skip": 2, "BadRow": 0, "_no": 0}.get(name)
            arguments = [k.value for k in node.keywords if k.arg == "reason"]
            if place is not None and len(node.args) > place:
                arguments.append(node.args[place])
            used |= {a.value for a in arguments if isinstance(a, ast.Constant)}
    assert len(used) > 20
    reasons = re.findall(r'"(\w+)"', (SOURCES.parent / "errors.py").read_text())
    assert used - {None} <= REASONS.keys()
    assert {"unreadable", "no_audio_stream", "codec_not_allowed"} <= set(reasons) & REASONS.keys()


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    """Hostile names, watched from outside: an audit hook sees every file that is opened."""
    root = tmp_path / "root"
    wav(root / "a.wav")
    secret = text(tmp_path / "secret.wav", "secret")
    (root / "link.wav").symlink_to(secret)
    names = [
        "../secret.wav",
        str(secret),
        "link.wav",
        "file:///etc/passwd",
        "http://127.0.0.1/x.wav",
    ]
    text(root / "t.tsv", "path\ttext\na.wav\tx\n" + "".join(f"{name}\ty\n" for name in names))
    text(root / "data" / "wav.scp", f"r1 cat {secret} |\nr2 ../../secret.wav\nr3 {secret}\n")
    program = f"""
import sys
from unheard.data.corpora import scan_source
opened = []
watched = ("open", "socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
sys.addaudithook(lambda event, args: event in watched and opened.append((event, str(args[0]))))
scan_source({str(root)!r})
scan_source({str(root / "t.tsv")!r})
bad = [one for one in opened if one[0] != "open" or "secret" in one[1] or "passwd" in one[1]]
print(len(opened), bad)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(SOURCES.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, bad = result.stdout.strip().partition(" ")
    assert int(count) > 3
    assert bad == "[]"
