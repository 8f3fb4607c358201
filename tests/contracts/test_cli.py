"""The command line: exit codes, streams, messages, options."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unheard import cli
from unheard.errors import AudioError
from unheard.tasks import doctor

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _restore_logging():
    logger = logging.getLogger("unheard")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def _install(monkeypatch: pytest.MonkeyPatch, run: Callable[[list[str]], int], **more: Any) -> None:
    monkeypatch.setitem(cli.VERBS, "learn", cli.Verb(summary="", run=run, **more))


def test_help_lists_every_verb_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr()
    for verb in (
        "learn",
        "scan",
        "pretrain",
        "finetune",
        "evaluate",
        "lm",
        "transcribe",
        "archive",
        "listen",
        "align",
        "inspect",
        "convert",
        "export",
        "bench",
        "demo",
        "doctor",
    ):
        assert re.search(rf"^  {verb} ", shown.out, re.MULTILINE)
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 88


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"unheard {declared}\n"


@pytest.mark.parametrize("word", ["--help", "recipes"])
def test_a_reader_that_has_gone_is_no_fault(word: str) -> None:
    gone, ours = os.pipe()
    os.close(gone)
    with os.fdopen(ours, "wb") as output:
        ended = subprocess.run(
            [sys.executable, "-m", "unheard", word],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: unheard VERB"),
        (["lern"], 'Unknown verb "lern". Did you mean "learn"?'),
        (["zzz"], 'Unknown verb "zzz". There are: learn, scan,'),
        (["doctor", "--josn"], "--json"),
        (["doctor", "extra"], "extra"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert f"usage: unheard {verb}" in shown.out
    assert "--json" in shown.out
    assert shown.err == ""


def test_an_error_is_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise AudioError("a.wav cannot be read.", reason="unreadable")

    _install(monkeypatch, fail)
    monkeypatch.delenv("UNHEARD_DEBUG", raising=False)
    assert cli.main(["learn"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "error: a.wav cannot be read.\n"
    assert shown.out == ""
    monkeypatch.setenv("UNHEARD_DEBUG", "1")
    with pytest.raises(AudioError):
        cli.main(["learn"])


def test_errors_are_red_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for no_colour, expected in (("", "\033[31merror:\033[0m"), ("1", "error:")):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("NO_COLOR", no_colour)
        cli.main(["lern"])
        assert stream.getvalue().startswith(f"{expected} Unknown verb")


@pytest.mark.parametrize("resumes", [True, False])
def test_ctrl_c_says_how_to_go_on(
    resumes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(words: list[str]) -> int:
        raise KeyboardInterrupt

    _install(monkeypatch, stop, resumes=resumes)
    assert cli.main(["learn", "my recordings", "--out", "x"]) == 130
    shown = capsys.readouterr().err
    assert "Stopped." in shown
    assert ("unheard learn 'my recordings' --out x" in shown) == resumes


@dataclass(frozen=True)
class Outcome:
    name: str
    rate: float
    failed: int
    items: tuple[int, ...] = (1, 2)


def test_results_are_tables_or_json_and_failures_are_three(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(name: str, *, failed: int = 0) -> Outcome:
        """Do some work.

        Args:
            name: of it.
            failed: how many inputs fail.
        """
        return Outcome(name=name, rate=0.123456, failed=failed)

    assert cli._call("work", work, ["a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name    a",
        "rate    0.1235",
        "failed  0",
        "items   2",
    ]
    assert cli._call("work", work, ["a", "--failed", "2", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "name": "a",
        "rate": 0.123456,
        "failed": 2,
        "items": [1, 2],
    }


def test_messages_of_the_package_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(words: list[str]) -> int:
        logging.getLogger("unheard.tasks.learn").info("stage 1 of 3")
        return 0

    _install(monkeypatch, speak)
    assert cli.main(["learn"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "stage 1 of 3\n")


def test_doctor_sees_this_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert found["cpus"] >= 1
    assert found["ffmpeg"]["libavcodec"]
    assert found["folders"][1]["writable"] is True
    assert cli.main(["doctor"]) == 0
    assert "extra demo" in capsys.readouterr().out


def test_doctor_knows_the_extras_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(doctor.EXTRAS) <= set(extras)
    for name, modules in doctor.EXTRAS.items():
        declared = {re.split(r"[<>=\[]", item)[0].replace("-", "_") for item in extras[name]}
        assert set(modules) == declared


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "unheard.cli", "doctor"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_real_interrupt_ends_with_130() -> None:
    # What a shell starts in the background ignores interrupts, and so do its children.
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from unheard import cli\n"
        "def run(words):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.VERBS['learn'] = cli.Verb(summary='', run=run, resumes=True)\n"
        "sys.exit(cli.main(['learn', 'r']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate()
    assert process.returncode == 130
    assert "unheard learn r" in complaint
    assert "Traceback" not in complaint
