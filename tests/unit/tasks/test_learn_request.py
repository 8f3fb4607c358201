"""What `learn` takes for the same run."""

from pathlib import Path

import pytest

import unheard
from unheard.errors import ConfigError


def test_a_command_that_did_nothing_yet_may_be_corrected(tmp_path: Path) -> None:
    for name in ("mistyped", "mistyped again"):
        with pytest.raises(ConfigError, match=rf"no recordings at .*{name}: expected a folder"):
            unheard.learn(tmp_path / name, out=tmp_path / "out", quiet=True)
