import json
import shutil
from pathlib import Path

import pytest
from tests.small_corpora import jsonl, text, wav

from unheard import cli
from unheard.data.manifest import audio_path, read_manifest
from unheard.errors import ConfigError
from unheard.tasks.scan import SETS, ScanResult, scan


def corpus(root: Path, speakers: int = 8, each: int = 4) -> Path:
    rows = ["file\tsentence\tspeaker"]
    for speaker in range(speakers):
        for number in range(each):
            wav(root / f"s{speaker}" / f"{number}.wav", 1.0 + 0.1 * number, value=speaker)
            rows.append(f"s{speaker}/{number}.wav\tijambo {speaker} rya {number}\tspk{speaker}")
    wav(root / "extra.wav")
    return text(root / "transcripts.tsv", "\n".join([*rows, "lost.wav\tntaryo\tspk0"]))


def ids(result: ScanResult, name: str) -> set[str]:
    return {one.id for one in read_manifest(result.manifests[name])}


def test_a_folder_becomes_manifests(tmp_path: Path) -> None:
    corpus(tmp_path / "audio")
    result = scan(tmp_path / "audio", out=tmp_path / "out", language="rw")
    assert result.utterances == {"train": 24, "valid": 4, "test": 4, "unlabelled": 1}
    assert result.speakers == {"train": 6, "valid": 1, "test": 1, "unlabelled": 0}
    assert result.transcribed == 32
    assert result.split_by == "speaker"
    assert result.failed == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "audit.json",
        "scan.json",
        "test.jsonl",
        "train.jsonl",
        "unlabelled.jsonl",
        "valid.jsonl",
    ]
    for name in SETS:
        for one in read_manifest(result.manifests[name], check_files=True):
            assert audio_path(one, tmp_path / "out").is_file()
            assert one.language == "rw"
    record = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert record["layout"] == "tables"
    assert record["skipped"] == [
        {
            "path": str(tmp_path / "audio" / "transcripts.tsv"),
            "line": 34,
            "reason": "missing",
            "detail": "no recording lost.wav here",
        }
    ]
    assert record["facts"]["recordings"] == 33
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["sets"].keys() == set(SETS)


def test_the_result_does_not_depend_on_workers_or_repetition(tmp_path: Path) -> None:
    corpus(tmp_path / "audio")
    written = []
    for workers in (1, 8, 1):
        scan(tmp_path / "audio", out=tmp_path / "out", workers=workers)
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        written.append({name: (tmp_path / "out" / name).read_bytes() for name in names})
    assert written[0] == written[1] == written[2]


def test_output_within_the_recordings(tmp_path: Path) -> None:
    corpus(tmp_path)
    first = scan(tmp_path, out=tmp_path / "mine")
    second = scan(tmp_path, out=tmp_path / "mine")
    assert first.utterances == second.utterances
    assert second.skipped == first.skipped


def test_manifests_can_be_scanned_again(tmp_path: Path) -> None:
    corpus(tmp_path / "audio")
    first = scan(tmp_path / "audio", out=tmp_path / "out")
    again = scan(first.manifests["train"], out=tmp_path / "again", test=0, valid=0)
    assert ids(again, "train") == ids(first, "train")
    assert again.skipped == ()
    whole = scan(tmp_path / "out", out=tmp_path / "whole")
    assert whole.split_by == "given"
    assert whole.skipped == ()
    assert all(ids(whole, name) == ids(first, name) for name in SETS)
    (tmp_path / "out" / "scan.json").unlink()
    with pytest.raises(ConfigError, match="24 of them outside"):
        scan(first.manifests["train"], out=tmp_path / "again")


def test_held_out_tables_of_their_own(tmp_path: Path) -> None:
    table = corpus(tmp_path / "audio")
    rows = [
        {"audio": "s3/0.wav", "text": "ikizamini", "speaker": "spk3"},
        {"audio": "copy.wav", "text": "ikindi", "speaker": "spk9"},
    ]
    shutil.copy(tmp_path / "audio" / "s5" / "1.wav", tmp_path / "audio" / "copy.wav")
    test = jsonl(tmp_path / "audio" / "test.jsonl", rows)
    result = scan(tmp_path / "audio", transcripts=table, out=tmp_path / "out", test=test, valid=0.2)
    assert ids(result, "test") == {"s3/0.wav", "copy.wav"}
    assert "s5/1.wav" not in ids(result, "train") | ids(result, "valid")
    assert "copy.wav" not in ids(result, "unlabelled")
    assert result.removed == 1
    assert result.speakers["valid"] >= 1
    assert not [one for one in result.findings if one.code == "sound_leak"]


def test_told_columns(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    text(tmp_path / "t.csv", "what,heard,text\na.wav,told,not this\n")
    result = scan(tmp_path, out=tmp_path / "out", audio_column="what", text_column="heard")
    assert [one.text for one in read_manifest(result.manifests["train"])] == ["told"]


@pytest.mark.parametrize("broken", [True, False])
def test_nothing_to_use_is_an_error_that_says_what_was_there(tmp_path: Path, broken: bool) -> None:
    text(tmp_path / "audio" / ("a.wav" if broken else "a.doc"), "not sound")
    found = r"found 1 that had to be skipped \(1 of them unreadable\)" if broken else "found none"
    with pytest.raises(ConfigError, match=f"nothing to use in .*: expected recordings, {found}"):
        scan(tmp_path / "audio", out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "scan.json").read_text())["layout"] == "recordings"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus(tmp_path / "audio")
    words = ["scan", str(tmp_path / "audio"), "--out", str(tmp_path / "out"), "--test", "0.3"]
    assert cli.main(words) == cli.EXIT_SOME_FAILED
    shown = capsys.readouterr().out
    assert "unlabelled" in shown
    assert "1  missing: no recording of that name is there" in shown
    assert "transcripts.tsv line 34" in shown
    (tmp_path / "audio" / "transcripts.tsv").unlink()
    assert cli.main([*words, "--json"]) == cli.EXIT_DONE
    data = json.loads(capsys.readouterr().out)
    assert data["utterances"] == {"train": 0, "valid": 0, "test": 0, "unlabelled": 33}
    assert data["skipped"] == {}
