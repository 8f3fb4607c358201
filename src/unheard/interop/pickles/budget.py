"""What reading a pickle may cost, paid before the memory is taken."""

from pathlib import Path

from unheard.errors import CheckpointError

BASE_BYTES = 40 << 20
"""Memory that the description of any file may take [bytes]."""

BYTES_PER_BYTE = 1 / 8
"""Further memory for each byte of the file: the description of a large model is larger. A tensor
costs about 4,500 by our estimates, and takes less than half of that."""

STEP_BYTES = 32
"""Least price of a step of a pickle, so that the budget limits time as well [bytes]."""


class Budget:
    """A sum of bytes that only shrinks.

    A pickle is a program: a short one can ask for much memory or run for long. Every step of ours
    pays for the Python objects it makes, by an estimate from above, and a file that asks for more
    than its size allows is refused.
    """

    def __init__(self, file: Path, file_bytes: int) -> None:
        self._file = file
        self._total = BASE_BYTES + int(file_bytes * BYTES_PER_BYTE)
        self._left = self._total

    def spend(self, size: int) -> None:
        """Pay for `size` bytes.

        Raises:
            CheckpointError: if there is not that much left.
        """
        self._left -= size
        if self._left < 0:
            raise CheckpointError(
                f"{self._file}: the description of what the file holds takes more than "
                f"{self._total} bytes of memory, which is more than a model of this size needs. "
                "The file is damaged or made to harm."
            )
