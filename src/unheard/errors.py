"""Every error this package raises on purpose.

    UnheardError
    ├── ConfigError           a setting is unknown, missing or out of range
    │   └── LanguageError     a model with adapters has not this language, or none was named
    ├── AudioError            a recording cannot be read; `reason` is a short code
    ├── ManifestError         a line of a manifest or transcript table is wrong
    ├── AlphabetError         a text does not fit an alphabet, or an alphabet is malformed
    ├── AlignmentError        a text cannot be laid over a recording
    ├── ShapeError            a tensor has another shape than its contract says
    ├── FormatError           a file is not of the format it should be
    ├── CheckpointError       stored weights do not fit the model they are for
    │   └── NoCheckpointError a run has checkpoints and none of them is whole
    ├── DiskFullError         there is no room to write; also an OSError
    ├── WorkerError           a process that reads recordings crashed or hangs
    ├── RankError             another of the processes that train together ended or failed
    ├── TrainingDivergedError a loss or gradient stopped being finite
    └── MissingExtraError     an optional dependency is not installed

`Interrupted` is no error: a run was asked to stop and did.

A message says what happened, what was expected, what was found and where, and what to do.
"""

import signal
from collections.abc import Iterable
from typing import ClassVar


class UnheardError(Exception):
    """Base of all errors raised on purpose by this package.

    Attributes:
        exit_code: with which the command line ends.
    """

    exit_code: ClassVar[int] = 1


class ConfigError(UnheardError):
    """A setting is unknown, missing or out of range."""


class LanguageError(ConfigError):
    """A model with adapters has not this language, or none was named.

    Attributes:
        languages: those that it has.
    """

    def __init__(self, message: str, *, languages: Iterable[str]) -> None:
        super().__init__(message)
        self.languages = tuple(languages)


class AudioError(UnheardError):
    """A recording cannot be read.

    Attributes:
        reason: short stable code for dead-letter files, such as "unreadable", "no_audio_stream",
            "codec_not_allowed", "sample_rate", "channels", "too_long", "not_regular",
            "permission", "vanished".
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ManifestError(UnheardError):
    """A line of a manifest or of a transcript table is wrong."""


class AlphabetError(UnheardError):
    """A text does not fit an alphabet, or an alphabet is malformed."""


class AlignmentError(UnheardError):
    """A text cannot be laid over a recording."""


class ShapeError(UnheardError):
    """A tensor has another shape than its contract says."""


class FormatError(UnheardError):
    """A file is not of the format it should be."""


class CheckpointError(UnheardError):
    """Stored weights do not fit the model they are for.

    Attributes:
        missing: names the model has and the file lacks.
        unexpected: names the file has and the model lacks.
        mismatched: names whose shapes differ, as "name: expected (..), found (..)".
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        mismatched: Iterable[str] = (),
    ) -> None:
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.mismatched = tuple(mismatched)
        parts = [message]
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("mis-shaped", self.mismatched),
        ):
            if names:
                parts.append(f"{title}: {shorten(names)}")
        super().__init__(" ".join(parts))


class NoCheckpointError(CheckpointError):
    """A run has checkpoints and none of them is whole."""

    exit_code = 6


class DiskFullError(UnheardError, OSError):
    """There is no room to write."""

    exit_code = 5


class WorkerError(UnheardError):
    """A process that reads recordings crashed, or hangs.

    Attributes:
        reason: "worker_crash" or "worker_hung".
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class RankError(UnheardError):
    """Another of the processes that train together ended or failed, so this one cannot go on."""


class TrainingDivergedError(UnheardError):
    """A loss or gradient stopped being finite for too many steps in a row."""

    exit_code = 4

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


class MissingExtraError(UnheardError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f'{purpose} needs the package "{module}", which is not installed. '
            f'Install it with: pip install "unheard[{extra}]"'
        )
        self.extra = extra


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop by a signal and has saved everything.

    Attributes:
        signal: number of the signal.
        exit_code: 128 and the signal's number, as shells have it: 130 after Ctrl-C, 143 after
            SIGTERM; 75 after SIGUSR1, with which schedulers announce that time is running out.
            In sysexits.h, 75 is "try again".
    """

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
        self.exit_code = 75 if signal == SIGNAL_TO_REQUEUE else 128 + signal


SIGNAL_TO_REQUEUE = getattr(signal, "SIGUSR1", None)
"""Asks for a stop after which the same command is to be started again; None on Windows."""


def shorten(names: Iterable[str], *, limit: int = 5) -> str:
    """Join at most `limit` names and count the rest: "a, b and 37 more"."""
    listed = list(names)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"
