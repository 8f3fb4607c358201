"""How functions are compiled: numba's decorators with the settings that kernels here share.

A kernel takes its arrays gathered in named tuples and allocates nothing. Then nobody needs to
count who holds an array; left to itself, numba counts at every access, atomically, which was five
sixths of the time of a search. The glue to Python is left out where Python does not call: it was
most of the time of compilation. These switches of numba are not documented; a version that does
not know one compiles the same functions without it, slower, not otherwise.

What is compiled is kept beside the module, or in the user's cache if that is not writable, so that
only the first use on a machine takes seconds; where neither is, every process compiles for itself.
Numba asks for the age of the one module; here the modules whose compiled functions it calls must be
of the same age, too, or it is compiled anew.
"""

import functools
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.dispatcher import Dispatcher
from numba.core.options import DefaultOptions

logger = logging.getLogger(__name__)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls with arrays, and that makes none itself."""
    return _compile(function, _nrt=False, no_cfunc_wrapper=True)


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that only other compiled functions call."""
    return _compile(function, _nrt=False, no_cfunc_wrapper=True, no_cpython_wrapper=True)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put a function into the compiled ones that call it.

    For what is called in inner loops: named tuples of arrays are handed over number by number.
    """
    return numba.njit(inline="always")(function)


def _compile(function: Callable[..., Any], **switches: bool) -> Callable[..., Any]:
    """Compile on first use, and keep the result where there is a place for it."""
    known: dict[str, Any] = {
        name: on for name, on in switches.items() if hasattr(DefaultOptions, name)
    }
    try:
        compiled = numba.njit(cache=True, nogil=True, **known)(function)
    except RuntimeError as error:
        logger.info("compiled code is not kept, every process compiles anew: %s", error)
        compiled = numba.njit(nogil=True, **known)(function)
    _survive_unreadable(compiled)
    _date_with_callees(compiled)
    _collect_no_garbage(compiled)
    return compiled


def _survive_unreadable(compiled: Any) -> None:
    """Compile anew where what was kept cannot be read.

    Numba opens it before it looks at its age: it stops with an error where a type has another
    name since, and where the file is damaged.
    """
    cache = getattr(compiled, "_cache", None)
    load = getattr(cache, "load_overload", None)
    if cache is None or load is None:
        return

    def load_or_forget(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever unpickling may raise
            logger.info("compiled code is replaced, it cannot be read: %s", error)
            cache.flush()
            return None

    cache.load_overload = load_or_forget


def _date_with_callees(compiled: Any) -> None:
    """Make what is kept as young as the modules of all compiled functions that are called."""
    kept = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if kept is None or not hasattr(kept, "_source_stamp"):
        return
    kept._source_stamp = [kept._source_stamp, *_stamps(compiled.py_func)]


def _stamps(function: Callable[..., Any]) -> list[tuple[str, int, int]]:
    """Name, time and size of the files of other modules that a function's module compiles with."""
    files: set[str] = set()
    waiting = [function]
    while waiting:
        caller = waiting.pop()
        for value in caller.__globals__.values():
            callee = value.py_func if isinstance(value, Dispatcher) else None
            if callee is not None and callee.__code__.co_filename not in files:
                files.add(callee.__code__.co_filename)
                waiting.append(callee)
    files.discard(function.__code__.co_filename)
    states = [(path.name, path.stat()) for path in map(Path, sorted(files)) if path.exists()]
    return [(name, state.st_mtime_ns, state.st_size) for name, state in states]


def _collect_no_garbage(compiled: Any) -> None:
    """Compile without looking for garbage meanwhile.

    The compiler makes objects by the hundred thousand, and beside torch's own each search among
    them takes a tenth of a second: a fifth of the time of compilation.
    """
    compile_signature = compiled.compile

    @functools.wraps(compile_signature)
    def compile_in_one_go(signature: Any) -> Any:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return compile_signature(signature)
        finally:
            if collecting:
                gc.enable()

    compiled.compile = compile_in_one_go
