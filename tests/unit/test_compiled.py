import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from unheard import compiled

SOURCE = """
from typing import NamedTuple
import numpy as np
from unheard.compiled import inner, kernel

class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray

@inner
def dot(pair):
    total = 0.0
    for place in range(pair.first.shape[0]):
        total += pair.first[place] * pair.second[place]
    return total

@kernel
def twice(pair):
    return 2.0 * dot(pair)
"""


def load(path, name="kernel_under_test"):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module_path(tmp_path):
    path = tmp_path / "kernel_under_test.py"
    path.write_text(SOURCE, encoding="utf-8")
    yield path
    sys.modules.pop("kernel_under_test", None)


def result(module, name="Pair"):
    pair = getattr(module, name)(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    return module.twice(pair)


def test_a_kernel_is_kept_and_its_arrays_are_not_counted(module_path):
    module = load(module_path)
    assert result(module) == 22.0
    assert list(module_path.parent.glob("__pycache__/*.nbi"))


def test_a_kernel_does_not_count_its_arrays(module_path):
    counted = SOURCE.replace("@inner", "@numba.njit").replace("@kernel", "@numba.njit")
    for source, counts in ((SOURCE, False), ("import numba" + counted, True)):
        module_path.write_text(source, encoding="utf-8")
        module = load(module_path)
        assert result(module) == 22.0
        (code,) = module.twice.inspect_llvm().values()
        assert ("NRT_" in code) == counts


def test_what_a_renamed_type_left_behind_is_replaced(module_path):
    assert result(load(module_path)) == 22.0
    module_path.write_text(SOURCE.replace("Pair", "Couple"), encoding="utf-8")
    assert result(load(module_path), "Couple") == 22.0


def test_a_damaged_file_is_replaced(module_path):
    assert result(load(module_path)) == 22.0
    for kept in module_path.parent.glob("__pycache__/*.nb?"):
        kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    assert result(load(module_path)) == 22.0


def test_without_a_place_to_keep_it_a_kernel_still_runs(tmp_path):
    """As in a container whose file system is read only and whose user has no home."""
    script = textwrap.dedent(
        """
        import numba.core.caching as caching
        caching.CacheImpl._locator_classes = []
        from unheard.compiled import kernel

        @kernel
        def double(value):
            return 2 * value

        print(double(21))
        """
    )
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "42"


def test_an_unknown_switch_is_left_out(monkeypatch):
    monkeypatch.setattr(compiled, "DefaultOptions", object)
    assert compiled.kernel(lambda value: value + 1)(1) == 2
