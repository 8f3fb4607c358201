"""Each convention for corpora, read from a tiny tree as `scan_source` reads it."""

import json
import types
from pathlib import Path
from typing import Any

import pytest
from tests.small_corpora import RATE, jsonl, text, wav

from unheard.data.claims import split_of_name
from unheard.data.corpora import REASONS, Scan, scan_source
from unheard.data.manifest import Utterance, write_manifest
from unheard.data.tables import ColumnChoice
from unheard.errors import ConfigError, ManifestError


def said(scan: Scan) -> dict[str, str | None]:
    """Transcripts by the stem of the recording."""
    return {Path(one.audio).stem: one.text for one in scan.utterances}


def skips(scan: Scan) -> list[tuple[str, int | None, str]]:
    assert {skip.reason for skip in scan.skipped} <= REASONS.keys()
    return sorted((Path(skip.path).name, skip.line, skip.reason) for skip in scan.skipped)


def one(scan: Scan, stem: str) -> Utterance:
    (found,) = [one for one in scan.utterances if Path(one.audio).stem == stem]
    return found


# ------------------------------------------------------------------------- recordings and tables


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    wav(tmp_path / "b.wav", 2.0)
    wav(tmp_path / "a" / "x.wav", 1.0, rate=16000)
    text(tmp_path / "broken.wav", "<html>not found</html>")
    text(tmp_path / "README.txt", "about")
    scan = scan_source(tmp_path, language="lg")
    assert scan.layout == "recordings"
    assert [(u.id, u.num_samples, u.sample_rate, u.text, u.language) for u in scan.utterances] == [
        ("a/x.wav", 16000, 16000, None, "lg"),
        ("b.wav", 2 * RATE, RATE, None, "lg"),
    ]
    assert skips(scan) == [("broken.wav", None, "unreadable")]
    assert scan.facts["recordings"] == 2
    assert scan.facts["other_files"] == {".txt": 1}


@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_and_a_table(tmp_path: Path, inside: bool) -> None:
    for name in ("a", "b", "c"):
        wav(tmp_path / "audio" / f"{name}.wav")
    place = tmp_path / "audio" if inside else tmp_path
    table = text(
        place / "transcripts.tsv", "file\ttext\tspeaker\na.wav\teen\ts1\nb\ttwee\ts2\nd\tvier\ts3\n"
    )
    scan = scan_source(tmp_path / "audio", transcripts=None if inside else table)
    assert said(scan) == {"a": "een", "b": "twee", "c": None}
    assert one(scan, "a").speaker == "s1"
    assert skips(scan) == [("transcripts.tsv", 4, "missing")]


def test_a_table_alone(tmp_path: Path) -> None:
    wav(tmp_path / "audio" / "a.opus.wav", 1.5)
    wav(tmp_path / "unlisted.wav")
    table = jsonl(
        tmp_path / "dev.jsonl",
        [
            {
                "id": "u1",
                "audio": "audio/a.opus.wav",
                "duration_seconds": 1.4931,
                "text": "Ennaku zino",
                "speaker": "lug_f",
                "language": "lg",
                "mood": "calm",
            }
        ],
    )
    scan = scan_source(table)
    assert scan.utterances == (
        Utterance(
            id="u1",
            audio=str(tmp_path / "audio" / "a.opus.wav"),
            num_samples=12000,
            sample_rate=RATE,
            text="Ennaku zino",
            speaker="lug_f",
            language="lg",
            extra={"mood": "calm", "split": "valid"},
        ),
    )


def test_a_table_of_recordings_and_a_table_of_transcripts(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        wav(tmp_path / f"{name}.wav")
    everything = jsonl(
        tmp_path / "all.jsonl",
        [{"id": n, "audio": f"{n}.wav", "speaker": f"s{n}"} for n in ("a", "b")],
    )
    few = jsonl(tmp_path / "few.jsonl", [{"id": "b", "audio": "b.wav", "text": "x"}])
    scan = scan_source(everything, transcripts=few)
    assert said(scan) == {"b": "x", "a": None}
    assert one(scan, "b").speaker == "sb"
    assert scan.facts["repeated_rows"] == 1
    assert scan.skipped == ()


def test_several_tables_of_one_folder_add_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        wav(tmp_path / f"{name}.wav")
    jsonl(tmp_path / "all.jsonl", [{"id": n, "audio": f"{n}.wav"} for n in ("a", "b")])
    jsonl(tmp_path / "test.jsonl", [{"audio": "b.wav", "text": "said", "speaker": "s"}])
    text(tmp_path / "speakers.csv", "name,age\ns,40\n")
    text(tmp_path / "wrong.csv", "path,text\nb.wav,another\n")
    scan = scan_source(tmp_path)
    assert scan.layout == "tables"
    assert [(u.id, u.text, u.speaker, u.extra) for u in scan.utterances] == [
        ("a", None, None, {}),
        ("b", "said", "s", {"split": "test"}),
    ]
    assert skips(scan) == [("speakers.csv", None, "not_a_table"), ("wrong.csv", 2, "conflict")]


def test_stretches_of_one_recording(tmp_path: Path) -> None:
    wav(tmp_path / "long.wav", 10.0)
    text(
        tmp_path / "t.csv",
        "audio,start,end,text\nlong.wav,0,2.5,a\nlong.wav,2.5,4,b\nlong.wav,9.5,10.2,c\n"
        "long.wav,9,12,d\nlong.wav,11,12,e\nlong.wav,3,3,f\nlong.wav,-1,2,g\n",
    )
    scan = scan_source(tmp_path)
    assert [(u.id, u.start, u.num_samples, u.text) for u in scan.utterances] == [
        ("long.wav@0.000-2.500", 0, 20000, "a"),
        ("long.wav@2.500-4.000", 20000, 12000, "b"),
        ("long.wav@9.500-10.000", 76000, 4000, "c"),
    ]
    assert skips(scan) == [
        ("t.csv", 5, "past_end"),
        ("t.csv", 6, "past_end"),
        ("t.csv", 7, "duration"),
        ("t.csv", 8, "start"),
    ]


def test_told_columns(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    text(tmp_path / "t.csv", "which,heard,text,by\na.wav,told,not this,me\n")
    choice = ColumnChoice(audio="which", text="heard", speaker="by")
    scan = scan_source(tmp_path, columns=choice)
    assert (one(scan, "a").text, one(scan, "a").speaker) == ("told", "me")
    with pytest.raises(ConfigError, match='no column "lost"'):
        scan_source(tmp_path, columns=ColumnChoice(text="lost"))


def test_a_told_table_that_is_none_is_an_error(tmp_path: Path) -> None:
    wav(tmp_path / "audio" / "a.wav")
    table = text(tmp_path / "t.csv", "name,age\nx,3\n")
    with pytest.raises(ManifestError, match=r"No column of .* names recordings"):
        scan_source(tmp_path / "audio", transcripts=table)


@pytest.mark.parametrize("name", ["nowhere", "owner/dataset"])
def test_a_missing_source_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="There are no recordings at") as caught:
        scan_source(name)
    assert ('"hf:owner/dataset"' in str(caught.value)) == ("/" in name)


def test_ljspeech_metadata(tmp_path: Path) -> None:
    for number in (1, 2):
        wav(tmp_path / "wavs" / f"LJ001-000{number}.wav")
    text(
        tmp_path / "metadata.csv",
        'LJ001-0001|Printing, in 1455|Printing, in fourteen fifty-five\nLJ001-0002|a "b"|a "b"\n',
    )
    assert said(scan_source(tmp_path)) == {
        "LJ001-0001": "Printing, in fourteen fifty-five",
        "LJ001-0002": 'a "b"',
    }


def test_texts_of_the_same_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        wav(tmp_path / "deep" / f"{name}.wav")
    text(tmp_path / "deep" / "a.txt", b"\xef\xbb\xbfeen\r\ntwee \r\n")
    text(tmp_path / "deep" / "b.lab", "drie")
    text(tmp_path / "deep" / "c.txt", b"\xff\xfe")
    text(tmp_path / "README.txt", "about")
    scan = scan_source(tmp_path)
    assert scan.layout == "texts"
    assert said(scan) == {"a": "een twee", "b": "drie", "c": None}
    assert skips(scan) == [("c.txt", None, "encoding")]


def test_texts_in_another_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        wav(tmp_path / "audio" / f"{name}.wav")
    text(tmp_path / "texts" / "a.txt", "een")
    text(tmp_path / "texts" / "lost.txt", "niets")
    scan = scan_source(tmp_path / "audio", transcripts=tmp_path / "texts")
    assert said(scan) == {"a": "een", "b": None}
    assert skips(scan) == [("lost.txt", None, "missing")]


# ------------------------------------------------------------------------------------- corpora


def test_librispeech(tmp_path: Path) -> None:
    for subset, speaker in (("train-clean-100", 19), ("dev-other", 116)):
        folder = tmp_path / "LibriSpeech" / subset / str(speaker) / "198"
        for number in range(2):
            wav(folder / f"{speaker}-198-000{number}.flac")
        text(
            folder / f"{speaker}-198.trans.txt",
            f"{speaker}-198-0000 NORTHANGER ABBEY\n"
            f"{speaker}-198-0001 A B\n"
            f"{speaker}-198-0009 LOST\n",
        )
    scan = scan_source(tmp_path / "LibriSpeech")
    assert scan.layout == "librispeech"
    assert [(u.id, u.text, u.speaker, u.extra["split"]) for u in scan.utterances] == [
        ("116-198-0000", "NORTHANGER ABBEY", "116", "valid"),
        ("116-198-0001", "A B", "116", "valid"),
        ("19-198-0000", "NORTHANGER ABBEY", "19", "train"),
        ("19-198-0001", "A B", "19", "train"),
    ]
    assert [reason for _, _, reason in skips(scan)] == ["missing", "missing"]


def test_multilingual_librispeech(tmp_path: Path) -> None:
    wav(tmp_path / "train" / "audio" / "7" / "8" / "7_8_0001.flac")
    text(tmp_path / "train" / "transcripts.txt", "7_8_0001\tdzień dobry\n")
    scan = scan_source(tmp_path)
    assert one(scan, "7_8_0001").text == "dzień dobry"
    assert one(scan, "7_8_0001").extra["split"] == "train"


COMMON_VOICE = "client_id\tpath\tsentence\tup_votes\tage\tlocale\n"


def test_common_voice(tmp_path: Path) -> None:
    root = tmp_path / "cv" / "rw"
    for name in ("a", "b", "c", "d", "e"):
        wav(root / "clips" / f"{name}.mp3")
    text(
        root / "validated.tsv",
        COMMON_VOICE + 's1\ta.mp3\t"Yego."\t2\t30\trw\ns2\tb.mp3\tOya\t2\t\trw\n',
    )
    text(root / "test.tsv", COMMON_VOICE + "s2\tb.mp3\tOya\t2\t\trw\n")
    text(root / "other.tsv", COMMON_VOICE + "s3\tc.mp3\tWenda\t0\t\trw\n")
    text(root / "invalidated.tsv", COMMON_VOICE + "s4\td.mp3\tNibi\t0\t\trw\n")
    text(root / "reported.tsv", "sentence_id\tsentence\n1\tx\n")
    scan = scan_source(tmp_path / "cv")
    assert scan.layout == "common-voice"
    assert said(scan) == {"a": '"Yego."', "b": "Oya", "c": None, "d": None, "e": None}
    assert one(scan, "a").extra == {"up_votes": "2", "age": "30"}
    assert one(scan, "a").language == "rw"
    assert one(scan, "b").extra["split"] == "test"
    assert one(scan, "c").speaker == "s3"
    assert one(scan, "d").extra["text_unverified"] == "Nibi"
    assert one(scan, "e").speaker is None
    assert scan.skipped == ()


def test_kaldi(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = tmp_path / "data" / "test"
    wav(tmp_path / "wavs" / "rec1.wav", 10.0)
    text(
        data / "wav.scp",
        f"rec1 {tmp_path}/wavs/rec1.wav\n"
        f"rec2 touch {marker} |\n"
        "rec3 /data/raw.ark:12\n"
        "rec4 /gone.wav\n",
    )
    text(data / "segments", "u1 rec1 0.5 2.0\nu2 rec1 2.0 -1\nu3 rec2 0 1\nu4 rec1 5 4\nu5 rec1\n")
    text(data / "text", "u1 muraho neza\nu2\nu1 again\nu9 nobody\n")
    text(data / "utt2spk", "u1 spk\nu2 spk\n")
    text(data / "utt2lang", "u1 rw\n")
    scan = scan_source(tmp_path)
    assert scan.layout == "kaldi"
    assert [
        (u.id, u.start, u.num_samples, u.text, u.speaker, u.language) for u in scan.utterances
    ] == [
        ("u1", 4000, 12000, "muraho neza", "spk", "rw"),
        ("u2", 16000, 64000, None, "spk", None),
    ]
    assert scan.utterances[0].extra["split"] == "test"
    assert skips(scan) == [
        ("segments", 3, "pipe"),
        ("segments", 4, "duration"),
        ("segments", 5, "missing"),
        ("text", 3, "duplicate"),
        ("text", 4, "missing"),
        ("wav.scp", 2, "pipe"),
        ("wav.scp", 3, "archive"),
        ("wav.scp", 4, "missing"),
    ]
    assert not marker.exists()


def test_kaldi_without_segments(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    text(tmp_path / "wav.scp", "utt-a a.wav\n")
    text(tmp_path / "text", "utt-a muraho\n")
    scan = scan_source(tmp_path)
    assert [(u.id, u.text, u.num_samples) for u in scan.utterances] == [("utt-a", "muraho", RATE)]


def test_nemo(tmp_path: Path) -> None:
    wav(tmp_path / "wav" / "a.wav", 4.0)
    jsonl(
        tmp_path / "train_manifest.json",
        [
            {"audio_filepath": "wav/a.wav", "duration": 1.5, "text": "x", "offset": 0.0},
            {"audio_filepath": "wav/a.wav", "duration": 2.5, "text": "y", "offset": 1.5},
        ],
    )
    scan = scan_source(tmp_path)
    assert [(u.start, u.num_samples, u.text) for u in scan.utterances] == [
        (0, 12000, "x"),
        (12000, 20000, "y"),
    ]


@pytest.mark.parametrize("kind", ["ltr", "wrd"])
@pytest.mark.parametrize("root", ["here", "elsewhere"])
def test_fairseq(tmp_path: Path, kind: str, root: str) -> None:
    wav(tmp_path / "audio" / "x" / "a.wav")
    wav(tmp_path / "audio" / "y" / "b.wav")
    first = f"{tmp_path}/audio" if root == "here" else "/checkpoint/someone/audio"
    text(tmp_path / "valid.tsv", f"{first}\nx/a.wav\t8000\ny/b.wav\t8000\n")
    letters = {"ltr": "M U R A H O | N E Z A |\nY E G O |\n", "wrd": "MURAHO NEZA\nYEGO\n"}
    text(tmp_path / f"valid.{kind}", letters[kind])
    text(tmp_path / "dict.ltr.txt", "| 1\nA 1\n")
    scan = scan_source(tmp_path)
    assert scan.layout == "fairseq"
    assert said(scan) == {"a": "MURAHO NEZA", "b": "YEGO"}
    assert one(scan, "a").extra["split"] == "valid"


def test_fairseq_texts_that_do_not_match_are_not_guessed(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    wav(tmp_path / "b.wav")
    text(tmp_path / "train.tsv", f"{tmp_path}\na.wav\t8000\nb.wav\t8000\n")
    text(tmp_path / "train.wrd", "only one\n")
    scan = scan_source(tmp_path)
    assert said(scan) == {"a": None, "b": None}
    assert skips(scan) == [("train.wrd", None, "line_count")]


def test_our_own_manifest(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 3.0)
    utterances = [
        Utterance(
            id=f"u{start}",
            audio=str(tmp_path / "a.wav") if start else "a.wav",
            start=start,
            num_samples=7001,
            sample_rate=RATE,
            text=f" kept as {start}\t",
            speaker="s",
            label="l",
            extra={"age": 3},
        )
        for start in (0, 7001, 14002)
    ]
    write_manifest(tmp_path / "mine.jsonl", utterances)
    scan = scan_source(tmp_path / "mine.jsonl")
    assert [(u.id, u.start, u.num_samples, u.text, u.label, u.extra) for u in scan.utterances] == [
        (u.id, u.start, u.num_samples, u.text, u.label, u.extra) for u in utterances
    ]


def test_wrong_lines_of_our_own_manifest_are_listed(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 3.0)
    good = {"id": "u", "audio": "a.wav", "start": 0, "num_samples": 8000, "sample_rate": RATE}
    rows: list[dict[str, Any]] = [
        good,
        {**good, "id": "v", "num_samples": -1},
        {**good, "id": "w", "start": 10**9},
        {**good, "id": "x", "audio": "b.wav"},
        {**good, "id": "y", "start": 9000, "num_samples": float("nan")},
    ]
    scan = scan_source(jsonl(tmp_path / "m.jsonl", rows))
    assert [u.id for u in scan.utterances] == ["u"]
    assert skips(scan) == [
        ("m.jsonl", 2, "manifest"),
        ("m.jsonl", 3, "past_end"),
        ("m.jsonl", 4, "missing"),
        ("m.jsonl", 5, "manifest"),
    ]


def test_names_of_splits() -> None:
    names = {
        "train": ("train", "train-clean-100", "train_10min.jsonl", "Training"),
        "valid": ("dev", "dev-other", "valid.tsv", "validation", "val"),
        "test": ("test", "test.tsv", "eval"),
        None: (None, "", "validated", "invalidated", "other", "trained", "device", "contest"),
    }
    for split, given in names.items():
        assert {split_of_name(name) for name in given} == {split}


# -------------------------------------------------------------------------------- Hugging Face


def dataset_rows(tmp_path: Path, count: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "audio": {
                "bytes": wav(tmp_path / "x.wav", 1 + n).read_bytes(),
                "path": f"clip {n}.wav",
            },
            "text": f"text {n}",
            "speaker_id": n,
            "id": f"row-{n}",
        }
        for n in range(count)
    ]


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def test_a_parquet_data_set(tmp_path: Path) -> None:
    rows = dataset_rows(tmp_path)
    root = tmp_path / "set"
    parquet(root / "data" / "train-00000-of-00001.parquet", rows[:2])
    parquet(root / "data" / "test-00000-of-00001.parquet", rows[2:])
    text(root / "data" / "broken-00000-of-00001.parquet", "PAR1 not really")
    out = tmp_path / "out"
    scan = scan_source(root, extract_to=out)
    assert scan.layout == "hugging-face"
    assert [
        (u.id, u.text, u.speaker, u.num_samples, u.extra["split"]) for u in scan.utterances
    ] == [
        ("row-2", "text 2", "2", 3 * RATE, "test"),
        ("row-0", "text 0", "0", 1 * RATE, "train"),
        ("row-1", "text 1", "1", 2 * RATE, "train"),
    ]
    assert all(Path(u.audio).is_relative_to(out) for u in scan.utterances)
    assert Path(scan.utterances[0].audio).read_bytes() == rows[2]["audio"]["bytes"]
    assert skips(scan) == [("broken-00000-of-00001.parquet", None, "not_a_table")]
    again = scan_source(root, extract_to=out)
    assert again.utterances == scan.utterances


def test_a_data_set_saved_by_datasets(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    root = tmp_path / "set"
    table = arrow.Table.from_pylist(dataset_rows(tmp_path))
    (root / "validation").mkdir(parents=True)
    path = str(root / "validation" / "data-00000-of-00001.arrow")
    with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    text(root / "dataset_dict.json", json.dumps({"splits": ["validation"]}))
    text(root / "validation" / "state.json", "{}")
    scan = scan_source(root, extract_to=tmp_path / "out")
    assert [u.text for u in scan.utterances] == ["text 0", "text 1", "text 2"]
    assert {u.extra["split"] for u in scan.utterances} == {"valid"}


def test_an_audio_folder(tmp_path: Path) -> None:
    wav(tmp_path / "train" / "a.wav")
    text(tmp_path / "train" / "metadata.csv", "file_name,transcription\na.wav,een\n")
    scan = scan_source(tmp_path)
    assert one(scan, "a").text == "een"
    assert one(scan, "a").extra["split"] == "train"


def test_hostile_rows_of_a_data_set(tmp_path: Path) -> None:
    sound = wav(tmp_path / "x.wav").read_bytes()
    wav(tmp_path / "set" / "beside.wav")
    parquet(
        tmp_path / "set" / "0.parquet",
        [
            {"audio": {"bytes": sound, "path": "../../../escape.wav"}, "text": "a"},
            {"audio": {"bytes": sound, "path": None}, "text": "b"},
            {"audio": {"bytes": b"", "path": "x.wav"}, "text": "c"},
            {"audio": {"bytes": None, "path": "beside.wav"}, "text": "d"},
            {"audio": {"bytes": None, "path": "/etc/passwd"}, "text": "e"},
            {"audio": {"bytes": b"<html>", "path": "x.wav"}, "text": "f"},
            {"audio": None, "text": "g"},
        ],
    )
    out = tmp_path / "out"
    scan = scan_source(tmp_path / "set", extract_to=out)
    assert [u.text for u in scan.utterances] == ["a", "b", "d"]
    assert [(line, reason) for _, line, reason in skips(scan)] == [
        (3, "empty"),
        (5, "outside"),
        (6, "unreadable"),
        (7, "no_audio"),
    ]
    assert all(path.is_relative_to(out) for path in out.rglob("*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set", "x.wav"]


def test_a_data_set_needs_a_folder_for_its_sound(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "0.parquet", dataset_rows(tmp_path))
    with pytest.raises(ConfigError, match="expected a folder to write them to"):
        scan_source(tmp_path / "set")
    with pytest.raises(ConfigError, match="has to be downloaded"):
        scan_source("hf:owner/name")


def test_configurations_are_not_mixed(tmp_path: Path) -> None:
    for name in ("lg", "rw"):
        parquet(tmp_path / "set" / name / "train-0.parquet", dataset_rows(tmp_path, 1))
    with pytest.raises(ConfigError, match="holds 2 configurations: expected one, found lg, rw"):
        scan_source(tmp_path / "set", extract_to=tmp_path / "out")
    scan = scan_source(tmp_path / "set" / "rw", extract_to=tmp_path / "out")
    assert len(scan.utterances) == 1


def test_a_column_that_numbers_sentences_is_no_id(tmp_path: Path) -> None:
    rows = [{**row, "id": number % 20} for number, row in enumerate(dataset_rows(tmp_path, 1) * 60)]
    parquet(tmp_path / "set" / "0.parquet", rows)
    scan = scan_source(tmp_path / "set", extract_to=tmp_path / "out")
    assert len({u.id for u in scan.utterances}) == 60
    assert scan.skipped == ()


@pytest.mark.parametrize("step", ["ask", "fetch"])
def test_a_hub_that_does_not_answer_is_an_error_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class TransportError(Exception):
        pass

    class Api:
        def dataset_info(self, *_: Any, **__: Any) -> Any:
            if step == "ask":
                raise TransportError("no route\nto host")
            file = types.SimpleNamespace(rfilename="data/0.parquet", size=1)
            return types.SimpleNamespace(sha="abc", siblings=[file])

    def refuse(*_: Any, **__: Any) -> None:
        raise TransportError("no route\nto host")

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ConfigError, match=r"owner/name could not be .* no route\)"):
        scan_source("hf:owner/name", extract_to=tmp_path / "out")


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[Any] = []

    class File:
        def __init__(self, name: str) -> None:
            self.rfilename, self.size = name, 10

    class Info:
        def __init__(self, revision: str | None) -> None:
            self.sha = "abc123"
            converted = ["lg/train/0000.parquet", "rw/train/0000.parquet"]
            self.siblings = [File(n) for n in (converted if revision else ["script.py"])]

    class Api:
        def dataset_info(self, name: str, *, revision: str | None, files_metadata: bool) -> Info:
            asked.append((name, revision))
            return Info(revision)

    def snapshot(name: str, *, allow_patterns: list[str], local_dir: Path, **others: Any) -> None:
        asked.append((name, others["revision"], allow_patterns))
        for file in allow_patterns:
            parquet(local_dir / file, dataset_rows(tmp_path, 1))

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    scan = scan_source("hf:owner/name/rw", extract_to=tmp_path / "out")
    assert [u.text for u in scan.utterances] == ["text 0"]
    assert asked == [
        ("owner/name", None),
        ("owner/name", "refs/convert/parquet"),
        ("owner/name", "abc123", ["rw/train/0000.parquet"]),
    ]
    with pytest.raises(ConfigError, match="configurations"):
        scan_source("hf:owner/name", extract_to=tmp_path / "out")
    with pytest.raises(ConfigError, match='"owner" is no data set'):
        scan_source("hf:owner", extract_to=tmp_path / "out")
