"""Model folders that lie or are broken: refused in their own words, in no time and no memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.hostile_folders import FLIPPED, REPAIRED, SETTINGS, TENSORS, VOCABULARIES, native, sound

from unheard.interop.load import load_model

FLIP = "one byte flipped"
CASES = {**TENSORS, FLIP: FLIPPED, **SETTINGS, **VOCABULARIES}
SOUND = "sound"

SECONDS = 1.0
MEMORY_BYTES = 64 << 20

Rows = dict[str, dict[str, Any]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What happened to every folder, each loaded in a process that watches itself."""
    root = tmp_path_factory.mktemp("hostile")
    folders = {}
    for number, name in enumerate([*CASES, SOUND]):
        folder = (native if name == FLIP else sound)(root / str(number) / "model")
        if name in CASES:
            CASES[name][0](folder)
        folders[name] = folder
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.guarded_loader"],
        input=json.dumps([str(folders[SOUND]), *map(str, folders.values())]),
        capture_output=True,
        text=True,
        check=True,
        cwd=here,
        env=os.environ | {"PYTHONPATH": f"{here / 'src'}:{here}"},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        name: row | {"folder": str(folder)}
        for (name, folder), row in zip(folders.items(), rows, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_refused_in_its_own_words(name: str, rows: Rows) -> None:
    _, error, message = CASES[name]
    row = rows[name]
    assert row["error"] == error, row["message"]
    assert re.search(message, row["message"], re.DOTALL), row["message"]
    assert row["folder"] in row["message"]
    assert len(row["message"]) < 1500


def test_each_case_has_words_of_its_own(rows: Rows) -> None:
    messages = [rows[name]["message"].replace(rows[name]["folder"], "") for name in CASES]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("name", [*CASES, SOUND])
def test_no_file_outside_is_opened_and_nothing_runs(name: str, rows: Rows) -> None:
    row = rows[name]
    for event, *details in row["events"]:
        match event:
            case "open":
                assert Path(details[0]).is_relative_to(row["folder"]), details
                assert details[1] in ("r", "rb"), details
            case "os.listdir" | "os.scandir":
                assert Path(details[0]).is_relative_to(row["folder"]), details
            case "builtins.id" | "_thread.start_new_thread" | "_thread.start_joinable_thread":
                pass
            case _:
                pytest.fail(f"loading {name} made {event} {details}")


@pytest.mark.parametrize("name", CASES)
def test_in_little_time_and_memory(name: str, rows: Rows) -> None:
    assert rows[name]["seconds"] < SECONDS
    assert rows[name]["memory"] < MEMORY_BYTES


def test_a_sound_folder_is_loaded_and_watched(rows: Rows) -> None:
    assert rows[SOUND]["error"] == ""
    assert any(event[0] == "open" for event in rows[SOUND]["events"])


@pytest.mark.parametrize("name", REPAIRED)
def test_repaired_as_documented(name: str, tmp_path: Path) -> None:
    spoil, text, numbers, written = REPAIRED[name]
    folder = sound(tmp_path / "model")
    spoil(folder)
    alphabet = load_model(folder).alphabet
    assert alphabet is not None
    assert alphabet.encode(text) == numbers
    assert alphabet.decode(numbers) == written
    assert len(alphabet) == 8
