"""Keep freed memory within the process.

A training step allocates and frees the same few hundred megabytes again and again. glibc gives
large blocks back to the kernel at once and gets them back zeroed, page fault by page fault; in a
long run with varying lengths that took two thirds of all CPU time.
"""

import ctypes
import logging
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_KEEP_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 256 * 2**20

log = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Tell glibc to serve all blocks from one heap and never to shrink it.

    For processes that train: they keep their peak memory until they end.

    Returns:
        Whether the C library took the settings; False on anything but glibc.

    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        log.info("This C library has no mallopt; training may spend time on page faults.")
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _KEEP_BYTES),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
