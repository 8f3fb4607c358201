"""Checkpoints that attack, lie or are broken: each refused in its own words, and nothing run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hostile_checkpoints import CODE, FILES, MARKER, TENSORS, saved, state

CASES = CODE | FILES | TENSORS

SOUND = "sound"
"""The case of a file with nothing wrong, which shows that the watching works."""

IMPORTS: frozenset[str] = frozenset()
"""Modules that reading a checkpoint may import beyond those of the package."""

Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    """What happened to every file, each read in a process that watches itself."""
    paths = {}
    for number, name in enumerate([*CASES, SOUND]):
        place = folder / str(number)
        place.mkdir()
        paths[name] = CASES[name][0](place) if name != SOUND else saved(place / "x.pt", state())
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.guarded_reader"],
        input=json.dumps([str(path) for path in paths.values()]),
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        name: row | {"path": str(path)}
        for (name, path), row in zip(paths.items(), rows, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_refused_in_its_own_words(name: str, rows: Rows) -> None:
    _, error, message = CASES[name]
    row = rows[name]
    assert row["error"] == error, row["message"]
    assert re.search(message, row["message"], re.DOTALL), row["message"]
    assert row["path"] in row["message"]


@pytest.mark.parametrize("name", [*CASES, SOUND])
def test_nothing_runs_and_no_other_file_is_opened(name: str, rows: Rows, folder: Path) -> None:
    row = rows[name]
    place = Path(row["path"]).parent
    for event, *details in row["events"]:
        match event:
            case "open":
                assert Path(details[0]).is_relative_to(place), details
                assert details[1] == "r", details
            case "builtins.id":
                pass
            case "import":
                assert details[0] in IMPORTS, details
            case _:
                pytest.fail(f"reading {name} made {event} {details}")
    assert not list(folder.rglob(MARKER))


@pytest.mark.parametrize("name", CASES)
def test_little_memory_and_time(name: str, rows: Rows) -> None:
    assert rows[name]["memory"] <= 64 << 20
    assert rows[name]["seconds"] <= 2


def test_a_sound_file_is_read_and_watched(rows: Rows) -> None:
    assert rows[SOUND]["error"] == ""
    assert [event for event, *_ in rows[SOUND]["events"]].count("open") >= 6


def test_payloads_do_run_in_a_reader_without_a_guard(tmp_path: Path) -> None:
    path = CODE["os.system, zip"][0](tmp_path)
    torch.load(path, weights_only=False)
    assert (tmp_path / MARKER).exists()
