import os

import pytest

from unheard.errors import ConfigError
from unheard.tasks.listing import LONGEST_NAME_BYTES, list_recordings, parse_shard, shorten_name


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(listing):
    return [one.name for one in listing.recordings]


def test_folders_are_walked_and_other_files_passed_over(tmp_path):
    for name in ("b.wav", "a.MP3", "notes.txt", ".hidden.wav", "deep/er/c.flac", ".git/d.wav"):
        touch(tmp_path / name)
    assert names(list_recordings([tmp_path])) == ["a.MP3", "b.wav", "deep/er/c.flac"]


def test_named_files_are_listed_whatever_they_are(tmp_path):
    odd = touch(tmp_path / "sound.xyz")
    listing = list_recordings([odd, tmp_path / "not there.wav"])
    assert names(listing) == ["sound.xyz", "not there.wav"]
    assert [one.num_bytes for one in listing.recordings] == [1, None]


def test_several_folders_keep_their_names_apart(tmp_path):
    touch(tmp_path / "anna/1.wav")
    touch(tmp_path / "ben/1.wav")
    listing = list_recordings([tmp_path / "anna", tmp_path / "ben"])
    assert names(listing) == ["anna/1.wav", "ben/1.wav"]


def test_each_file_is_listed_once(tmp_path, monkeypatch):
    real = touch(tmp_path / "real.wav")
    (tmp_path / "a link.wav").symlink_to(real)
    monkeypatch.chdir(tmp_path)
    listing = list_recordings([tmp_path, real, "real.wav", f"{tmp_path}/./real.wav"])
    assert [one.path for one in listing.recordings] == [str(real)]
    assert listing.duplicates == (str(tmp_path / "a link.wav"),)


def test_loops_of_links_end(tmp_path):
    touch(tmp_path / "in/a.wav")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    (tmp_path / "in/loop.wav").symlink_to(tmp_path / "in/loop.wav")
    (tmp_path / "elsewhere").mkdir()
    touch(tmp_path / "elsewhere/b.wav")
    (tmp_path / "in/other").symlink_to(tmp_path / "elsewhere")
    assert names(list_recordings([tmp_path / "in"])) == ["a.wav", "loop.wav", "other/b.wav"]


def test_a_folder_that_cannot_be_listed_is_listed_with_its_error(tmp_path, monkeypatch):
    touch(tmp_path / "locked/a.wav")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (one,) = list_recordings([tmp_path]).recordings
    assert one.error is not None
    assert one.error.reason == "permission"
    assert one.path == str(tmp_path / "locked")


def test_the_output_folder_is_not_an_input(tmp_path):
    touch(tmp_path / "a.wav")
    touch(tmp_path / "out/b.wav")
    assert names(list_recordings([tmp_path], exclude=tmp_path / "out")) == ["a.wav"]


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_shards_are_disjoint_complete_and_stable(tmp_path, parts):
    for number in range(40):
        touch(tmp_path / f"{number}.wav")

    def shards():
        return [set(names(list_recordings([tmp_path], shard=(i + 1, parts)))) for i in range(parts)]

    before = shards()
    assert sum(map(len, before)) == 40
    assert set.union(*before) == {f"{number}.wav" for number in range(40)}
    touch(tmp_path / "new.wav")
    for old, new in zip(before, shards(), strict=True):
        assert old <= new


def test_shards_are_read_and_checked(tmp_path):
    assert parse_shard("2/4") == (2, 4)
    with pytest.raises(ConfigError, match="1/4"):
        parse_shard("two")
    with pytest.raises(ConfigError, match="5/4"):
        list_recordings([tmp_path], shard=(5, 4))


def test_long_names_leave_room_for_suffixes():
    long, other = "d/" + "ŋ" * 125 + ".wav", "d/" + "ŋ" * 126 + ".wav"
    shortened = shorten_name(long)
    assert len(os.fsencode(shortened.rpartition("/")[2])) <= LONGEST_NAME_BYTES
    assert shortened.startswith("d/ŋ")
    assert shortened != shorten_name(other)
    assert shorten_name("d/short.wav") == "d/short.wav"
