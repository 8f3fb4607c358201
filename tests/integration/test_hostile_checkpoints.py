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

from unheard import cli
from unheard.errors import CheckpointError, UnheardError
from unheard.interop.load import load_model
from unheard.interop.pickle_store import TensorHandle, open_pickle

CASES = CODE | FILES | TENSORS

ELSEWHERE = {"a bit of a tensor", "safetensors", "folder"}
"""What `load_model` tells apart by itself, before or instead of reading a pickle."""

FAIRSEQ = Path(__file__).parents[1] / "assets" / "fairseq"

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
    if sys.platform != "linux":
        pytest.skip("watches memory through /proc")
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


@pytest.mark.parametrize("name", [name for name in CASES if name not in ELSEWHERE])
def test_refused_as_a_model(name: str, tmp_path: Path) -> None:
    make, error, message = CASES[name]
    with pytest.raises(UnheardError, match=f"(?s){message}") as caught:
        load_model(make(tmp_path))
    assert type(caught.value).__name__ == error
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", ["os.system, zip", "compressed bomb", "meta"])
def test_refused_on_the_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, _, message = CASES[name]
    assert cli.main(["inspect", str(make(tmp_path))]) not in (cli.EXIT_DONE, cli.EXIT_SOME_FAILED)
    printed = capsys.readouterr()
    assert re.search(message, " ".join(printed.err.split()))
    assert "Traceback" not in printed.err
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    opened = open_pickle(FAIRSEQ / "wav2vec2_base.pt")
    weights = {name: opened.store.read(f"model.{name}") for name in opened.objects["model"]}
    kept = {key: item for key, item in opened.objects.items() if key in ("args", "cfg")}
    path = saved(tmp_path / "x.pt", kept | {"model": weights})
    assert load_model(path)
    weights["encoder.layers.1.fc1.bias"][3] = value
    path = saved(tmp_path / "y.pt", kept | {"model": weights})
    with pytest.raises(CheckpointError, match=r"are not finite: .*layers\.1\.inner\.bias"):
        load_model(path)


def test_a_number_becomes_none_in_an_old_file(tmp_path: Path) -> None:
    """Files of torch before 1.6 have no checksums: what is still a number is not noticed."""
    source = FAIRSEQ / "wav2vec2_base_old.pt"
    opened = open_pickle(source)
    handle = opened.objects["model"]["encoder.layers.1.fc1.bias"]
    assert isinstance(handle, TensorHandle)
    data = bytearray(source.read_bytes())
    first = opened.storages.spans[handle.storage.key].offset
    data[first : first + 4] = b"\x00\x00\xc0\x7f"
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"are not finite: .*layers\.1\.inner\.bias"):
        load_model(path)


def test_a_flipped_bit_of_a_model_is_found_when_it_is_loaded(tmp_path: Path) -> None:
    data = bytearray((FAIRSEQ / "wav2vec2_base.pt").read_bytes())
    opened = open_pickle(FAIRSEQ / "wav2vec2_base.pt")
    handle = opened.objects["model"]["encoder.layers.0.fc1.weight"]
    data[opened.storages.spans[handle.storage.key].offset] ^= 1
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"data/{handle.storage.key} are not those that"):
        load_model(path)
