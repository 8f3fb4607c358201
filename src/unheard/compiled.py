"""How functions are compiled: numba's decorators with the settings that kernels here share.

A kernel takes its arrays gathered in named tuples and allocates nothing. Then nobody needs to
count who holds an array; left to itself, numba counts at every access, atomically, which was five
sixths of the time of a search. The glue to Python is left out where Python does not call: it was
most of the time of compilation.

These switches of numba are not documented. A version that does not know one compiles the same
functions without it: slower, not otherwise.
"""

import numba
from numba.core.options import DefaultOptions

_SWITCHES = {
    name: value
    for name, value in {"_nrt": False, "no_cfunc_wrapper": True}.items()
    if hasattr(DefaultOptions, name)
}
_UNSEEN = {"no_cpython_wrapper": True} if hasattr(DefaultOptions, "no_cpython_wrapper") else {}

kernel = numba.njit(cache=True, nogil=True, **_SWITCHES)
"""For a function that Python calls with arrays, and that makes none itself."""

inner = numba.njit(cache=True, nogil=True, **_SWITCHES, **_UNSEEN)
"""For one that only other compiled functions call."""
