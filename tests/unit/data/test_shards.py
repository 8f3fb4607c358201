import json
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from tests import shard_folders, small_corpora
from tests.shard_folders import foreign_tar, make, sample, tone

from unheard.audio import io
from unheard.audio.encode import encode
from unheard.audio.signal import InputSpec
from unheard.data.batching import Position
from unheard.data.corpora import scan_source
from unheard.data.dataset import LabelledSource, UnlabelledSource
from unheard.data.pcm import open_store
from unheard.data.shard_store import ShardStore, open_shards
from unheard.data.shards import is_shard_folder, read_shards
from unheard.data.store import Cut
from unheard.errors import AudioError, ConfigError, FormatError, UnheardError
from unheard.files import read_jsonl
from unheard.tasks.shard import ShardResult, shard

LENGTHS = [4000 + 37 * number for number in range(24)]
PLAIN = InputSpec(normalize=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings/ and shards/ of them, several shards."""
    folder = tmp_path_factory.mktemp("made")
    make(folder, LENGTHS, transcribed=True, megabytes=0.02)
    return folder


def store_of(folder: Path, tmp_path: Path) -> ShardStore:
    return open_shards(folder, tmp_path / "work", workers=0)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("request.json", "lock")
    }


def test_a_shard_is_a_tar_file_of_webdataset(made: Path) -> None:
    """Others group files by what stands before the first dot of a name."""
    listed = read_shards(made / "shards")
    assert len(listed) > 2
    found: list[dict[str, str]] = []
    for one in listed:
        with tarfile.open(made / "shards" / one.shard) as tar:
            members = tar.getmembers()
            assert len(members) == 2 * one.rows
            for audio, facts in zip(members[::2], members[1::2], strict=True):
                key, _, suffix = audio.name.partition(".")
                assert (suffix, facts.name) == ("flac", f"{key}.json")
                data = tar.extractfile(audio)
                text = tar.extractfile(facts)
                assert data is not None
                assert text is not None
                row = json.load(text)
                samples = io.read(data.read()).samples
                number = int(row["recording"][1:4])
                assert row["num_samples"] == len(samples) == LENGTHS[number]
                np.testing.assert_allclose(samples, tone(number, len(samples)), atol=2e-5)
                assert row["mean"] == pytest.approx(samples.astype(float).mean(), abs=1e-12)
                found.append(row)
    texts = {row["recording"]: (row["text"], row["speaker"]) for row in found}
    assert len(texts) == len(LENGTHS)
    assert texts["u005.wav"] == ("ab ab c5", "s0")


def test_shards_and_decoded_recordings_give_the_same_batches(made: Path, tmp_path: Path) -> None:
    found = scan_source(made / "recordings")
    decoded = open_store(found.utterances, tmp_path / "pcm", root=Path())
    with store_of(made / "shards", tmp_path) as store:
        assert list(store.ids) == decoded.ids
        assert store.num_samples.tolist() == decoded.num_samples.tolist()
        assert store.seconds == decoded.seconds
        assert list(store.texts) == [one.text for one in found.utterances]
        assert store.names("speaker") == [one.speaker for one in found.utterances]
        for spec in (PLAIN, InputSpec()):
            more = {"input_spec": spec, "batch_seconds": 1.0, "seed": 5}
            crops = {"min_seconds": 0.1, "max_seconds": 0.26, **more}
            pairs = [
                (UnlabelledSource(decoded, **crops), UnlabelledSource(store, **crops)),  # pyright: ignore
                (
                    LabelledSource(decoded, [[1, 2]] * len(decoded), **more),  # pyright: ignore
                    LabelledSource(store, [[1, 2]] * len(store), **more),  # pyright: ignore
                ),
            ]
            for expected, got in pairs:
                position = Position()
                while position.epoch < 2:
                    one, other = expected.load(position), got.load(position)
                    assert one.ids == other.ids
                    np.testing.assert_allclose(one.samples, other.samples, atol=5e-4)
                    position = expected.plan.after(position)


def test_a_crop_is_cut_from_the_normalised_whole(made: Path, tmp_path: Path) -> None:
    with store_of(made / "shards", tmp_path) as store:
        number = 7
        whole = store.samples(number)
        (crop,) = store.read([Cut(number=number, start=1000, count=500)], spec=InputSpec())
    normalised = (whole - whole.mean()) / np.sqrt(whole.var() + InputSpec().normalize_epsilon)
    np.testing.assert_allclose(crop, normalised[1000:1500], atol=1e-5)
    own = whole[1000:1500]
    assert abs((own - own.mean()) / own.std() - crop).max() > 1e-3


def test_any_part_of_a_long_sample_is_found(tmp_path: Path) -> None:
    """Beyond five seconds the decoder seeks."""
    length = 16_000 * 12 + 77
    make(tmp_path, [length])
    with store_of(tmp_path / "shards", tmp_path) as store:
        whole = store.samples(0)
        assert len(whole) == length
        for start, count in ((0, 1), (90_000, 7000), (150_001, 42_076), (length - 1, 1)):
            part = store.samples(0, start=start, count=count)
            np.testing.assert_allclose(part, whole[start : start + count], atol=1e-6)


def test_a_view_of_some_utterances_is_numbered_anew(made: Path, tmp_path: Path) -> None:
    with store_of(made / "shards", tmp_path) as store:
        chosen = store.only([9, 3, 5]).only([2, 0])
        assert list(chosen.ids) == [store.ids[5], store.ids[9]]
        assert list(chosen.texts) == [store.texts[5], store.texts[9]]
        assert chosen.names("speaker") == ["s0", "s4"]
        assert len(chosen) == 2
        np.testing.assert_array_equal(chosen.samples(1), store.samples(9))


def test_the_same_recordings_give_the_same_shards_by_any_number_of_workers(
    made: Path, tmp_path: Path
) -> None:
    shard(made / "recordings", out=tmp_path / "s", shard_megabytes=0.02, workers=3, quiet=True)
    assert files(tmp_path / "s") == files(made / "shards")


def test_a_stopped_command_goes_on_and_ends_with_the_same_files(made: Path, tmp_path: Path) -> None:
    """As if killed after two shards, within the third, with a torn line."""
    whole = files(made / "shards")
    folder = tmp_path / "s"
    lines = whole["shards.jsonl"].splitlines(keepends=True)
    kept = {name: data for name, data in whole.items() if "00000" in name and name[10] in "012"}
    kept["shards.jsonl"] = b"".join(lines[:2]) + lines[2][:40]
    kept["shard-000003.tar.tmp-77"] = b"half"
    for name, data in kept.items():
        small_corpora.text(folder / name, data)
    shard(made / "recordings", out=folder, shard_megabytes=0.02, workers=1, quiet=True)
    assert files(folder) == whole


def test_new_recordings_and_lost_shards_are_added(tmp_path: Path) -> None:
    first = make(tmp_path, LENGTHS[:6], megabytes=0.02)
    (tmp_path / "shards" / "shard-000000.tar").unlink()
    again = make(tmp_path, LENGTHS[:9], megabytes=0.02)
    assert (first.samples, again.samples) == (6, 9)
    with store_of(tmp_path / "shards", tmp_path) as store:
        assert sorted(store.ids) == [f"u{number:03d}.wav" for number in range(9)]
        for number, name in enumerate(store.ids):
            expected = tone(int(name[1:4]), LENGTHS[int(name[1:4])])
            np.testing.assert_allclose(store.samples(number), expected, atol=2e-5)


def test_repeating_a_finished_command_changes_nothing(made: Path, tmp_path: Path) -> None:
    before = files(made / "shards")
    result = shard(
        made / "recordings",
        out=made / "shards",
        shard_megabytes=0.02,
        workers=1,
        verify=True,
        quiet=True,
    )
    assert files(made / "shards") == before
    assert result == ShardResult(
        out=str(made / "shards"),
        shards=len(read_shards(made / "shards")),
        samples=len(LENGTHS),
        hours=pytest.approx(sum(LENGTHS) / 16_000 / 3600, abs=1e-4),
        megabytes=round(sum(len(d) for n, d in before.items() if n.endswith("tar")) / 1e6, 3),
        failed=0,
    )


def test_what_cannot_be_decoded_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    source = shard_folders.write_recordings(tmp_path / "recordings", [5000, 6000])
    whole = encode(tone(1, 30_000), "flac")
    small_corpora.text(source / "broken.flac", whole[:200] + bytes(3000))
    result = shard(source, out=tmp_path / "s", workers=1, quiet=True)
    assert (result.samples, result.failed) == (2, 1)
    (row,) = read_jsonl(tmp_path / "s" / "unreadable.jsonl")
    assert row["audio"].endswith("broken.flac")
    assert row["reason"] == "unreadable"
    assert shard(source, out=tmp_path / "s", workers=1, quiet=True) == result


def test_long_recordings_without_a_text_are_cut_into_equal_pieces(tmp_path: Path) -> None:
    source = shard_folders.write_recordings(tmp_path / "recordings", [160_001, 16_000])
    shard(source, out=tmp_path / "s", piece_seconds=0.3, workers=1, quiet=True)
    with store_of(tmp_path / "s", tmp_path) as store:
        by_name = {name: store.samples(number) for number, name in enumerate(store.ids)}
    assert [name for name in by_name if name.startswith("u000")] == [
        f"u000.wav@{number}" for number in range(34)
    ]
    lengths = {len(samples) for name, samples in by_name.items() if name.startswith("u000")}
    assert max(lengths) <= 4800
    assert max(lengths) - min(lengths) <= 1
    together = np.concatenate([by_name[f"u000.wav@{number}"] for number in range(34)])
    np.testing.assert_allclose(together, tone(0, 160_001), atol=2e-5)


@pytest.mark.parametrize(
    ("codec", "suffix", "kept"),
    [("keep", "wav", True), ("flac", "flac", False), ("opus", "opus", False)],
)
def test_recordings_are_kept_or_encoded(
    tmp_path: Path, codec: str, suffix: str, kept: bool
) -> None:
    source = shard_folders.write_recordings(tmp_path / "recordings", [9000])
    shard(source, out=tmp_path / "s", codec=codec, workers=1, quiet=True)  # pyright: ignore
    with tarfile.open(tmp_path / "s" / "shard-000000.tar") as tar:
        (audio, _) = tar.getmembers()
        data = tar.extractfile(audio)
        assert data is not None
        assert audio.name.endswith(f".{suffix}")
        assert (data.read() == (source / "u000.wav").read_bytes()) == kept


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_what_is_stored_as_wanted_already_is_taken_byte_for_byte(
    tmp_path: Path, codec: str
) -> None:
    data = encode(tone(4, 20_000), codec)  # pyright: ignore[reportArgumentType]
    small_corpora.text(tmp_path / "recordings" / f"a.{codec}", data)
    shard(tmp_path / "recordings", out=tmp_path / "s", codec=codec, workers=1, quiet=True)  # pyright: ignore
    tar = (tmp_path / "s" / "shard-000000.tar").read_bytes()
    assert tar[512 : 512 + len(data)] == data


def test_a_finished_folder_refuses_other_settings(made: Path) -> None:
    with pytest.raises(ConfigError, match="codec was 'flac', is 'opus'"):
        shard(made / "recordings", out=made / "shards", codec="opus", shard_megabytes=0.02)


@pytest.mark.parametrize("setting", ["shard_megabytes", "piece_seconds", "opus_kilobits"])
def test_impossible_settings_are_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        shard(tmp_path, out=tmp_path / "s", **{setting: 0})  # pyright: ignore[reportArgumentType]


def corrupt(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_sample_is_found_when_it_is_read_or_verified(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for name, data in files(made / "shards").items():
        small_corpora.text(folder / name, data)
    corrupt(folder / "shard-000001.tar", 700)
    with store_of(folder, tmp_path) as store:
        first = next(n for n, name in enumerate(store.names("shard")) if "000001" in name)
        with pytest.raises(
            FormatError, match=r"shard-000001.tar \(utterance 'u\d+.wav'\) is damaged"
        ):
            store.samples(first)
        store.samples(first + 1)
    with pytest.raises(FormatError, match=r"damaged shards: shard-000001\.tar"):
        shard(made / "recordings", out=folder, shard_megabytes=0.02, workers=1, verify=True)


def test_shards_that_are_cut_or_missing_are_named_at_the_start(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for name, data in files(made / "shards").items():
        small_corpora.text(folder / name, data)
    path = folder / "shard-000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    with pytest.raises(FormatError, match=r"shard-000001.tar is damaged: expected \d+ bytes"):
        store_of(folder, tmp_path)
    path.unlink()
    with pytest.raises(FormatError, match=r"lacks 1 shards .*shard-000001.tar"):
        store_of(folder, tmp_path)
    path.write_bytes(data)
    corrupt(folder / "shard-000001.index.npz", 300)
    (folder / "index" / "index.json").unlink()
    with pytest.raises(FormatError, match=r"shard-000001.index.npz is damaged: its hash"):
        store_of(folder, tmp_path)


def test_folders_of_shards_are_joined_and_the_index_is_kept(tmp_path: Path) -> None:
    for name, count in (("lg", 3), ("wo", 2)):
        source = shard_folders.write_recordings(tmp_path / name, LENGTHS[:count])
        shard(source, out=tmp_path / "all" / name, language=name, workers=1, quiet=True)
    with store_of(tmp_path / "all", tmp_path) as store:
        assert store.names("corpus") == ["lg"] * 3 + ["wo"] * 2
        assert store.names("language") == ["lg"] * 3 + ["wo"] * 2
        assert len(store.samples(4)) == LENGTHS[1]
        written = (tmp_path / "work" / "index" / "index.json").stat().st_mtime_ns
    with store_of(tmp_path / "all", tmp_path):
        pass
    assert (tmp_path / "work" / "index" / "index.json").stat().st_mtime_ns == written
    make(tmp_path, LENGTHS[:1])
    (tmp_path / "shards").rename(tmp_path / "all" / "more")
    with store_of(tmp_path / "all", tmp_path) as store:
        assert sorted(set(store.names("corpus"))) == ["lg", "more", "wo"]


def test_shards_of_others_are_measured_and_read(tmp_path: Path) -> None:
    samples = {
        "a/k1": sample(1, 5000, text="moja", speaker="s", language="sw", id="first"),
        "a/k2": {"flac": encode(tone(2, 6000), "flac"), "txt": b" mbili\n"},
        "a/k3.x": {"cls": b"7"},
        "a/k4": {"mp3": b"this is no sound"},
        "a/k5": {"opus": encode(tone(5, 7000), "opus"), "png": b"...", "json": b"{}"},
    }
    foreign_tar(tmp_path / "s" / "x-0.tar", samples)
    with store_of(tmp_path / "s", tmp_path) as store:
        assert list(store.ids) == ["first", "a/k2", "a/k5"]
        assert list(store.texts) == ["moja", "mbili", ""]
        assert store.num_samples.tolist() == [5000, 6000, 7000]
        np.testing.assert_allclose(store.samples(1), tone(2, 6000), atol=2e-5)


@pytest.mark.parametrize(
    "data", [b"no tar", b"", encode(tone(0, 1000), "flac")], ids=["text", "empty", "flac"]
)
def test_a_tar_file_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    small_corpora.text(tmp_path / "s" / "x.tar", data)
    with pytest.raises(UnheardError, match="no tar file"):
        store_of(tmp_path / "s", tmp_path)


def test_a_manifest_may_not_name_files_elsewhere(made: Path, tmp_path: Path) -> None:
    row = json.loads((made / "shards" / "shards.jsonl").read_text().splitlines()[0])
    foreign_tar(tmp_path / "s" / "x.tar", {"k": sample(0, 1000)})
    for name in ("../x.tar", "/etc/passwd", "a\\..\\x.tar"):
        text = json.dumps({**row, "shard": name}) + "\n"
        small_corpora.text(tmp_path / "s" / "shards.jsonl", text)
        with pytest.raises(FormatError, match="lies elsewhere"):
            store_of(tmp_path / "s", tmp_path)
    small_corpora.text(tmp_path / "s" / "shards.jsonl", "{}\n")
    with pytest.raises(FormatError, match="no shard"):
        store_of(tmp_path / "s", tmp_path)


def test_one_of_several_processes_builds_the_index_and_the_others_wait(
    made: Path, tmp_path: Path
) -> None:
    """Here as threads: the lock excludes its own process too."""
    folder = tmp_path / "s"
    for name, data in files(made / "shards").items():
        if not name.startswith("index"):
            small_corpora.text(folder / name, data)
    found: list[list[str]] = []

    def work() -> None:
        with store_of(folder, tmp_path) as store:
            found.append(list(store.ids))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_what_is_a_folder_of_shards(made: Path, tmp_path: Path) -> None:
    assert is_shard_folder(made / "shards")
    assert is_shard_folder(made)
    assert not is_shard_folder(made / "recordings")
    assert not is_shard_folder(tmp_path / "nothing")
    foreign_tar(tmp_path / "tars" / "x.tar", {"k": sample(0, 1000)})
    assert is_shard_folder(tmp_path / "tars")
    small_corpora.wav(tmp_path / "tars" / "a.wav")
    assert not is_shard_folder(tmp_path / "tars")
    with pytest.raises(ConfigError, match="There are no shards"):
        open_shards(os.fspath(made / "recordings"), tmp_path / "w", workers=0)
    with pytest.raises(ConfigError, match="There is no folder"):
        open_shards(tmp_path / "nothing", tmp_path / "w", workers=0)


def test_nothing_but_broken_recordings_is_an_error(tmp_path: Path) -> None:
    whole = encode(tone(1, 30_000), "flac")
    small_corpora.text(tmp_path / "r" / "broken.flac", whole[:200] + bytes(3000))
    with pytest.raises(ConfigError, match="None of the 1 recordings"):
        shard(tmp_path / "r", out=tmp_path / "s", workers=1, quiet=True)
    with pytest.raises(AudioError):
        io.read(tmp_path / "r" / "broken.flac")
