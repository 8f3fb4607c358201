import gc
import importlib.util
import inspect
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


def test_a_change_of_what_is_called_is_compiled_anew(module_path):
    """Numba itself would go on with the old function: it asks for the caller's age alone."""
    head, tail = SOURCE.split("@kernel")
    caller = f"""
from unheard.compiled import kernel
from callee_under_test import Pair, dot

@kernel{tail}"""
    callee_path = module_path.with_name("callee_under_test.py")
    module_path.write_text(caller, encoding="utf-8")
    for start, expected in ((0.0, 22.0), (100.5, 223.0)):
        changed = head.replace("total = 0.0", f"total = {start}")
        callee_path.write_text(changed, encoding="utf-8")
        load(callee_path, "callee_under_test")
        try:
            assert result(load(module_path)) == expected
        finally:
            sys.modules.pop("callee_under_test")


def test_nothing_is_collected_while_a_kernel_is_compiled(module_path):
    def collected(source):
        """Tell whether garbage was looked for in the midst of compilation."""
        module_path.write_text(source, encoding="utf-8")
        found = []

        def look(phase, info):
            names = [frame.function for frame in inspect.stack(0)]
            found.append("_compile_for_args" in names and "compile" in names)

        module = load(module_path)
        gc.callbacks.append(look)
        try:
            assert result(module) == 22.0
        finally:
            gc.callbacks.remove(look)
        assert gc.isenabled()
        return any(found)

    plain = SOURCE.replace("@inner", "@numba.njit").replace("@kernel", "@numba.njit")
    assert collected("import numba" + plain)
    assert not collected(SOURCE)


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
