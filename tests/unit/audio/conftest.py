"""A guard around hostile recordings: nothing outside the test's folder, no network, no child."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_FORBIDDEN = {
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
}
_state: dict[str, Path | None] = {"root": None}
_seen: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    root = _state["root"]
    if root is None:
        return
    if event in _FORBIDDEN and _in_package():
        _seen.append(f"{event} {arguments!r}")
    elif event == "open" and isinstance(arguments[0], str | bytes) and _in_package():
        path = Path(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100  links stay
        is_module = path.suffix in {".py", ".pyc", ".so", ".pyd"}  # imported when first needed
        if not is_module and not path.is_relative_to(root):
            _seen.append(f"open {path}")


def _in_package() -> bool:
    """Whether the event comes from the package, not from pytest or a test."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("unheard."):
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """Fail the test if Python opens, connects or spawns anything outside `tmp_path`.

    An audit hook cannot be removed, so one is installed once and switched on and off. It does not
    see what C code opens: the tests plant files and a listener for that.
    """
    if not getattr(sys, "_unheard_audit_hook", False):
        sys.addaudithook(_hook)
        sys._unheard_audit_hook = True  # type: ignore[attr-defined]
    _seen.clear()
    _state["root"] = tmp_path
    try:
        yield tmp_path
    finally:
        _state["root"] = None
    assert _seen == []
