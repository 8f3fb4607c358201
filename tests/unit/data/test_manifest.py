import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tests.small_corpora import text, wav

from unheard.data.manifest import (
    Utterance,
    audio_path,
    iter_lines,
    printable,
    read_manifest,
    utterance_from_row,
    write_manifest,
)
from unheard.errors import ManifestError

GOOD = {"id": "u1", "audio": "a.wav", "start": 0, "num_samples": 8000, "sample_rate": 8000}


def utterance(**changes: Any) -> Utterance:
    return Utterance(**{**GOOD, **changes})


def written(path: Path, *rows: dict[str, Any] | str | bytes) -> Path:
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    return text(path, b"\n".join(x.encode() if isinstance(x, str) else x for x in lines) + b"\n")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    utterances = [
        utterance(id="a", text="Ŋŋ ẹ̀ ሰላም ‏שלום‎ 한국 \u2028x", speaker="s", language="lg", label="l"),
        utterance(id="b", start=5, extra={"age": 3, "note": "x"}),
        utterance(id="c", audio=os.fsdecode(b"odd\xff name.wav"), text=" spaces kept  "),
        utterance(id="e\u0301", audio="e\u0301.wav"),
        utterance(id="\u00e9", audio="\u00e9.wav", text='"quoted"\ttab\nline'),
    ]
    path = tmp_path / "train.jsonl"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances
    lines = path.read_bytes().decode("utf-8").splitlines(keepends=False)
    assert "Ŋŋ ẹ̀ ሰላም" in lines[0]
    assert "\\udcff" in path.read_text(encoding="utf-8")


def test_keys_stand_by_meaning_and_unknown_fields_are_left_out(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [utterance(text="x"), utterance(id="u2")])
    first, second = (tmp_path / "m.jsonl").read_text().splitlines()
    assert list(json.loads(first)) == ["id", "audio", "start", "num_samples", "sample_rate", "text"]
    assert "text" not in json.loads(second)


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [utterance()])
    with pytest.raises(ManifestError, match='"u1" stands twice'):
        write_manifest(path, [utterance(), utterance()])
    with pytest.raises(ManifestError, match="no form for"):
        write_manifest(path, [utterance(extra={"x": float("nan")})])
    assert read_manifest(path) == [utterance()]
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": -1}, '"num_samples" must be a whole number of at least 1, but is -1'),
        ({"num_samples": float("nan")}, "but is nan"),
        ({"num_samples": 0}, "at least 1"),
        ({"num_samples": 1.5}, "whole number"),
        ({"num_samples": True}, "whole number"),
        ({"num_samples": 8000 * 10**9}, "above the limit"),
        ({"start": -1}, '"start" must be a whole number of at least 0'),
        ({"start": 10**30}, "above the limit"),
        ({"sample_rate": 0}, "at least 1"),
        ({"sample_rate": 10**9}, "at most 768000 Hz"),
        ({"id": ""}, '"id" is empty'),
        ({"id": 7}, '"id" must be a text'),
        ({"audio": ""}, '"audio" must be a path'),
        ({"audio": "a\0b"}, '"audio" must be a path'),
        ({"audio": "../a.wav"}, 'must not hold ".."'),
        ({"audio": "C:..\\..\\a.wav"}, 'must not hold ".."'),
        ({"text": "\ud800"}, "half a surrogate pair"),
        ({"text": 7}, '"text" must be a text'),
        ({"extra": []}, '"extra" must be an object'),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "m.jsonl", {**GOOD, "id": "fine"}, {**GOOD, **changes})
    with pytest.raises(ManifestError, match=r"m\.jsonl has 1 wrong line\. line 2: ") as caught:
        read_manifest(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"id": "u", "audio": "a.wav", "duration": 3.0}', "unheard scan"),
    ],
)
def test_a_line_that_is_no_utterance_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = written(tmp_path / "m.jsonl", GOOD, "", line)
    with pytest.raises(ManifestError, match=r"line 3: .*(" + message + ")"):
        read_manifest(path)


def test_byte_order_mark_and_crlf_are_no_mistakes(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    path = text(tmp_path / "m.jsonl", b"\xef\xbb\xbf" + line + b"\r\n\r\n")
    assert read_manifest(path) == [utterance()]


def test_repeated_ids_are_named_with_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", GOOD, {**GOOD, "id": "other"}, GOOD)
    with pytest.raises(ManifestError, match='line 3: the id "u1" stands on line 1 already'):
        read_manifest(path)


def test_five_wrong_lines_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", *["x"] * 9)
    with pytest.raises(ManifestError, match=r"9 wrong lines.*line 5: .*And 4 more") as caught:
        read_manifest(path)
    assert "line 6" not in str(caught.value)


def test_missing_recordings_are_found_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", GOOD)
    assert len(read_manifest(path)) == 1
    with pytest.raises(ManifestError, match=r"line 1: there is no recording at .*a\.wav"):
        read_manifest(path, check_files=True)
    wav(tmp_path / "a.wav")
    assert len(read_manifest(path, check_files=True)) == 1


def test_a_huge_line_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with path.open("wb") as file:
        file.write(b"first\n")
        file.seek(48 << 20, os.SEEK_CUR)
        file.write(b"\nlast\n")
    tracemalloc.start()
    lines = list(iter_lines(path, longest_bytes=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == [(1, b"first"), (2, None), (3, b"last")]
    assert peak < 8 << 20


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_lines_at_the_limit_are_read(tmp_path: Path, ending: bytes) -> None:
    path = text(tmp_path / "m", b"x" * 100 + ending)
    assert list(iter_lines(path, longest_bytes=100)) == [(1, b"x" * 100)]
    assert next(iter_lines(path, longest_bytes=98)) == (1, None)


def test_keys_that_nobody_knows_are_kept() -> None:
    assert utterance_from_row({**GOOD, "mood": "calm", "extra": {"a": 1}}).extra == {
        "mood": "calm",
        "a": 1,
    }


def test_audio_paths_start_from_the_manifest(tmp_path: Path) -> None:
    assert audio_path(utterance(), tmp_path) == tmp_path / "a.wav"
    assert audio_path(utterance(audio="/x/a.wav"), tmp_path) == Path("/x/a.wav")


def test_printable_is_one_line() -> None:
    assert printable("a\nb\udcff\u202e") == "a\\nb\\udcff\\u202e"
    assert len(printable("x" * 1000)) == 201
