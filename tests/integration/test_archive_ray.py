"""The verb `archive` on a Ray of its own: two workers, one file that kills them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.mixed_recordings import make_bundle, write_corpus, write_wav

import unheard
from unheard.archive.parts import DEAD_LETTERS, TRANSCRIPTS, iter_records
from unheard.archive.stores import open_store
from unheard.interop.native import save_model
from unheard.tasks.transcribe import transcribe_files

DEADLY = """
import os, signal, sys

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and "deadly" in arguments[0]:
        with os.fdopen(os.open(os.environ["DEATHS"], os.O_WRONLY | os.O_APPEND), "w") as file:
            print(os.getpid(), file=file)
        os.kill(os.getpid(), signal.SIGSEGV)

sys.addaudithook(watch)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_archive_on_two_workers_survives_a_file_that_kills_them(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source, model, out = tmp_path / "in", tmp_path / "model", tmp_path / "out"
    save_model(make_bundle(), model)
    reasons = write_corpus(source, good=20)
    # Long enough for several tickets.
    for number in range(3):
        write_wav(source / f"long{number}.wav", seconds=31.0, seed=number)
    plain = tmp_path / "plain"
    transcribe_files(model, [source], out=plain, format="jsonl", dtype="float32", progress=False)
    rows = map(json.loads, (plain / "transcripts.jsonl").read_text().splitlines())
    texts = {str(Path(row["path"]).relative_to(source)): row["text"] for row in rows}
    write_wav(source / "speech" / "deadly.wav", seconds=1.0)

    hooks, deaths = tmp_path / "hooks", tmp_path / "deaths"
    hooks.mkdir()
    deaths.touch()
    (hooks / "sitecustomize.py").write_text(DEADLY)
    command = [sys.executable, "-m", "unheard.cli", "archive", source, out, model]
    result = subprocess.run(
        [*map(str, command), "--workers", "2", "--dtype", "float32", "--json"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(hooks), str(Path(unheard.__file__).parents[1])]),
            "DEATHS": str(deaths),
        },
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert result.returncode == 3, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["done"], summary["skipped"], summary["failed"]) == (23, 0, 11)

    store = open_store(out)
    found = [(row["id"], row["text"]) for row in iter_records(store, TRANSCRIPTS)]
    assert sorted(found) == sorted(texts.items())
    letters = [(row["id"], row["reason"]) for row in iter_records(store, DEAD_LETTERS)]
    expected = {str(Path(path).relative_to(source)): why for path, why in reasons.items()}
    assert sorted(letters) == sorted({**expected, "speech/deadly.wav": "worker_crash"}.items())
    # Two processes, and no third.
    assert len(set(deaths.read_text().split())) == len(deaths.read_text().split()) == 2
    # What is said is ours, and nothing is left behind.
    for line in result.stderr.splitlines():
        assert line.startswith(("34 recordings to transcribe", "transcribing:"))
    assert list((out / "_work").iterdir()) == []
    assert not list(out.rglob("*.tmp-*"))
