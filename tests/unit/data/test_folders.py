import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.small_corpora import text, wav

from unheard.data.folders import AudioFinder, Tree, relative_id, split_suffix, walk
from unheard.data.manifest import Skip

SUFFIXES = frozenset((".wav", ".mp3", ".opus"))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and odd names of Unix")


def walked(root: Path) -> Tree:
    return walk(root, audio_suffixes=SUFFIXES)


def finder(root: Path, *more: Path) -> AudioFinder:
    return AudioFinder([walked(root)], roots=more, audio_suffixes=SUFFIXES)


def reasons(tree: Tree) -> dict[str, str]:
    return {Path(skip.path).name: skip.reason for skip in tree.skipped}


def test_a_walk_lists_recordings_in_order_and_counts_the_rest(tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/1.WAV", "a.mp3", "a.wav"):
        wav(tmp_path / name)
    text(tmp_path / "notes.txt", "x")
    text(tmp_path / "b" / "table.tsv", "x")
    tree = walked(tmp_path)
    assert tree.audio == ("a.mp3", "a.wav", "b/1.WAV", "b/2.wav")
    assert tree.names == ("a.mp3", "a.wav", "b/1.WAV", "b/2.wav", "b/table.tsv", "notes.txt")
    assert tree.other_suffixes == {".tsv": 1, ".txt": 1}
    assert tree.skipped == ()


def test_odd_entries_are_skipped_with_their_reasons(tmp_path: Path) -> None:
    wav(tmp_path / "out" / "secret.wav")
    root = tmp_path / "root"
    wav(root / "good.wav")
    wav(root / "._good.wav")
    wav(root / ".cache" / "x.wav")
    text(root / "empty.wav", "")
    text(root / ".DS_Store", "x")
    os.mkfifo(root / "pipe.wav")
    (root / "loop").symlink_to(root)
    (root / "self.wav").symlink_to(root / "self.wav")
    (root / "dangling.wav").symlink_to(root / "nowhere.wav")
    (root / "leak.wav").symlink_to(tmp_path / "out" / "secret.wav")
    (root / "leaks").symlink_to(tmp_path / "out")
    tree = walked(root)
    assert tree.audio == ("good.wav",)
    assert reasons(tree) == {
        "._good.wav": "hidden",
        ".cache": "hidden",
        "empty.wav": "empty",
        "pipe.wav": "not_regular",
        "self.wav": "outside",
        "dangling.wav": "outside",
        "leak.wav": "outside",
        "leaks": "outside",
    }


def test_a_link_within_the_root_is_one_recording(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    text(tmp_path / "blobs" / "123", b"RIFF")
    (tmp_path / "again.wav").symlink_to(tmp_path / "a.wav")
    (tmp_path / "annexed.wav").symlink_to(tmp_path / "blobs" / "123")
    (tmp_path / "annexed2.wav").symlink_to(tmp_path / "blobs" / "123")
    tree = walked(tmp_path)
    assert tree.audio == ("a.wav", "annexed.wav")
    assert finder(tmp_path).find("again.wav") == tmp_path / "a.wav"


def test_an_unreadable_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wav(tmp_path / "a.wav")
    wav(tmp_path / "closed" / "b.wav")
    scandir = os.scandir

    def refuse(path: Path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    tree = walked(tmp_path)
    assert tree.audio == ("a.wav",)
    assert reasons(tree) == {"closed": "permission"}


@pytest.mark.parametrize(
    "name",
    [
        "http:foo.wav",
        "-dash.wav",
        "a|b.wav",
        "new\nline.wav",
        "#?%20.wav",
        " spaces .wav",
        "\u202eevaw.wav",
        "👩‍👩‍👧.wav",
        "CON.wav",
        os.fsdecode(b"\xff\xfe.wav"),
        "x" * 251 + ".wav",
    ],
)
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    wav(tmp_path / name)
    tree = walked(tmp_path)
    assert tree.audio == (name,)
    assert finder(tmp_path).find(name) == tmp_path / name
    relative_id(tmp_path / name, tmp_path).encode("utf-8")


def test_composed_and_decomposed_names_are_two_recordings(tmp_path: Path) -> None:
    wav(tmp_path / "\u00e9.wav")
    wav(tmp_path / "e\u0301.wav")
    look = finder(tmp_path)
    assert look.find("\u00e9.wav") == tmp_path / "\u00e9.wav"
    assert look.find("e\u0301.wav") == tmp_path / "e\u0301.wav"


def test_a_name_in_another_composition_finds_its_recording(tmp_path: Path) -> None:
    wav(tmp_path / "e\u0301.wav")
    assert finder(tmp_path).find("\u00e9.wav") == tmp_path / "e\u0301.wav"


@pytest.mark.parametrize(
    "name",
    [
        "clips/one.opus",
        "./clips/one.opus",
        "clips\\one.opus",
        "clips/one",
        "clips/one.wav",
        "one.opus",
        "one.mp3",
        "one",
        "/elsewhere/data/clips/one.wav",
        "C:\\data\\one.wav",
    ],
)
def test_a_recording_is_found_by_path_or_unique_name(tmp_path: Path, name: str) -> None:
    wav(tmp_path / "clips" / "one.opus")
    wav(tmp_path / "clips" / "two.opus")
    assert finder(tmp_path).find(name) == tmp_path / "clips" / "one.opus"


def test_a_dot_in_a_name_is_no_suffix(tmp_path: Path) -> None:
    wav(tmp_path / "s1.v2.wav")
    look = finder(tmp_path)
    assert look.find("s1.v2") == tmp_path / "s1.v2.wav"
    assert isinstance(look.find("s1"), Skip)
    assert split_suffix("a.b/c") == ("a.b/c", "")
    assert split_suffix(".hidden") == (".hidden", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.wav", "outside"),
        ("a/../../secret.wav", "outside"),
        ("..\\secret.wav", "outside"),
        ("link.wav", "outside"),
        ("twice.wav", "ambiguous"),
        ("absent.wav", "missing"),
        ("", "bad_path"),
        ("  ", "bad_path"),
        ("a\0.wav", "bad_path"),
        ("\ud800.wav", "missing"),
        ("pipe.wav", "not_regular"),
        ("x" * 5000, "missing"),
        ("clips", "missing"),
    ],
)
def test_a_name_that_may_not_be_read_says_why(tmp_path: Path, name: str, reason: str) -> None:
    wav(tmp_path / "secret.wav")
    root = tmp_path / "root"
    wav(root / "clips" / "twice.wav")
    wav(root / "more" / "twice.wav")
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    os.mkfifo(root / "pipe.wav")
    found = finder(root).find(name, root / "clips" / "deeper")
    assert isinstance(found, Skip)
    assert found.reason == reason


def test_absolute_paths_are_followed_under_declared_roots_only(tmp_path: Path) -> None:
    inside, outside = wav(tmp_path / "root" / "a.wav"), wav(tmp_path / "other" / "b.wav")
    assert finder(tmp_path / "root").find(str(inside)) == inside
    refused = finder(tmp_path / "root").find(str(outside))
    assert isinstance(refused, Skip)
    assert refused.reason == "outside"
    assert finder(tmp_path / "root", tmp_path / "other").find(str(outside)) == outside


def test_further_roots_are_walked_only_when_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav(tmp_path / "root" / "a.wav")
    wav(tmp_path / "more" / "deep" / "b.wav")
    look = finder(tmp_path / "root", tmp_path / "more")
    visits: Counter[str] = Counter()
    scandir = os.scandir

    def count(path: Path):
        visits[Path(path).name] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)
    assert look.find("a.wav") == tmp_path / "root" / "a.wav"
    assert visits == {}
    assert look.find("b") == tmp_path / "more" / "deep" / "b.wav"
    assert look.find("b.wav") == tmp_path / "more" / "deep" / "b.wav"
    assert visits == {"more": 1, "deep": 1}
