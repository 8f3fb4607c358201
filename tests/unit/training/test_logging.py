import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from unheard.files import read_jsonl
from unheard.training import logging as run_logging
from unheard.training.logging import RunLog, Sample


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logging, "_tensorboard", lambda folder, step: None)


def make_log(folder: Path, stream: io.StringIO, **more: Any) -> RunLog:
    return RunLog(folder, "pretrain", stream=stream, **more)


SAMPLE = Sample(id="u1", reference="habari", hypothesis="abari")


def test_a_resumed_run_drops_rows_after_its_checkpoint(tmp_path: Path) -> None:
    log = make_log(tmp_path, io.StringIO())
    for step in (10, 20, 30):
        log.write("train", step, {"loss": step / 10})
        log.write("valid", step, {"cer": step / 100})
        log.write_samples(step, [SAMPLE])
    (tmp_path / "bad_batches.jsonl").write_text('{"step": 12}\n{"step": 21}\n')
    log.resume_at(20)
    log.write("train", 30, {"loss": 3.5})
    assert [(row["kind"], row["step"]) for row in read_jsonl(tmp_path / "metrics.jsonl")] == [
        ("train", 10),
        ("valid", 10),
        ("train", 20),
        ("valid", 20),
        ("train", 30),
    ]
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["loss"] == 3.5
    assert [row["step"] for row in read_jsonl(tmp_path / "samples.jsonl")] == [10, 20]
    assert [row["step"] for row in read_jsonl(tmp_path / "bad_batches.jsonl")] == [12]


def test_a_row_that_a_killed_process_left_unfinished_is_dropped(tmp_path: Path) -> None:
    log = make_log(tmp_path, io.StringIO())
    log.write("train", 10, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 1')
    log.resume_at(10)
    log.write("train", 20, {"loss": 2.0})
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [10, 20]


def test_rows_are_dropped_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between dropping and writing again must not lose the rows that stay."""
    log = make_log(tmp_path, io.StringIO())
    for step in (10, 20):
        log.write("train", step, {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("killed")

    monkeypatch.setattr(run_logging, "write_jsonl_atomic", fail)
    with pytest.raises(OSError, match="killed"):
        log.resume_at(10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_figures_that_are_not_finite_are_left_out_of_the_row(tmp_path: Path) -> None:
    log = make_log(tmp_path, io.StringIO())
    log.write("valid", 5, {"loss": math.nan, "cer": 0.5, "other": math.inf})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"kind": "valid", "step": 5, "cer": 0.5}


def test_the_live_line_is_renewed_in_place_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logging, "_columns", lambda: 79)
    stream = Terminal()
    log = make_log(tmp_path, stream)
    log.write_samples(1, [SAMPLE])
    log.show(40, {"loss": 1.25, "accuracy": 0.5, "cer": 0.25}, seconds_left=3725)
    shown = stream.getvalue()
    assert shown.startswith("\r\x1b[2Kpretrain step 40  loss 1.250  acc 50.0%  CER 25.0%")
    assert "1 h 02 min left" in shown
    assert "\n" not in shown
    assert "“abari”" in shown
    assert len(shown.removeprefix("\r\x1b[2K")) <= 78
    log.say("done")
    log.close()
    assert stream.getvalue().endswith("\r\x1b[2Kpretrain: done\n\n")


def test_without_a_terminal_a_plain_line_is_printed_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 131.0])
    monkeypatch.setattr(run_logging.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    log = make_log(tmp_path, stream)
    log.write_samples(1, [SAMPLE])
    for step in (1, 2, 3):
        log.show(step, {"loss": 1.0}, seconds_left=61)
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "step" in line] == [
        "pretrain step 1  loss 1.000  1 min 01 s left",
        "pretrain step 3  loss 1.000  1 min 01 s left",
    ]
    assert lines[1:3] == ["  reference: habari", "  heard:     abari"]
    assert "\x1b" not in stream.getvalue()


def test_an_unknown_time_left_is_no_error(tmp_path: Path) -> None:
    stream = Terminal()
    make_log(tmp_path, stream).show(0, {}, seconds_left=math.inf)
    assert "? left" in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_quiet_run_prints_nothing_and_logs_everything(
    tmp_path: Path, stream: io.StringIO
) -> None:
    log = make_log(tmp_path, stream, quiet=True)
    log.show(1, {"loss": 1.0}, seconds_left=1)
    log.say("hello")
    log.write("train", 1, {"loss": 1.0})
    log.close()
    assert stream.getvalue() == ""
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1
