"""A module imports only lower layers: the contracts in pyproject.toml, held by import-linter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_import_contracts_hold() -> None:
    program = (
        "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_sub_packages_run_nothing_at_import() -> None:
    initialisers = [
        path
        for path in (ROOT / "src" / "unheard").rglob("__init__.py")
        if path.parent.name != "unheard"
    ]
    assert len(initialisers) >= 9
    assert [path for path in initialisers if path.read_text().strip()] == []
