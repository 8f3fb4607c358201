import ctypes
import subprocess
import sys

import pytest

from unheard.training import memory


def test_elsewhere_than_on_linux_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("loaded a library"))
    assert memory.keep_freed_memory() is False


def test_a_c_library_without_mallopt_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults of glibc")
def test_blocks_used_again_and_again_are_mapped_once() -> None:
    """In a process of its own, for the setting stays: page faults of blocks of 40 MB."""
    script = """
import resource, sys
from unheard.training.memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def churn():
    for _ in range(4):
        block = bytearray(40 << 20)
        del block
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    for mode in ("keep", "leave"):
        shown = subprocess.run(
            [sys.executable, "-c", script, mode], capture_output=True, text=True, check=True
        )
        kept, count = shown.stdout.split()
        faults[mode] = int(count)
        if mode == "keep" and kept == "False":
            pytest.skip("this C library is not glibc")
    assert faults["keep"] * 10 < faults["leave"]
