"""How far an archive is: a bar on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from unheard.archive.worker import Outcome

LOOK_SECONDS = 2.0
LINE_SECONDS = 10.0
"""Between two lines where there is no terminal [seconds]."""


class Meter:
    """Shows counts and rates; a context manager."""

    def __init__(self, total: int, *, look: Callable[[], Outcome] | None, shown: bool) -> None:
        """Prepare.

        Args:
            total: recordings to do.
            look: says what became so far of the tickets that are not finished.
            shown: whether to show anything.
        """
        self.outcome = Outcome()
        self._total = total
        self._look = look
        self._shown = shown and total > 0
        self._started = time.monotonic()
        self._last_line = self._started
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: Progress | None = None
        self._open = Outcome()

    def __enter__(self) -> Self:
        if not self._shown:
            return self
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("transcribing"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, rate="")
        self._thread = threading.Thread(target=self._go_on, name="meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=LOOK_SECONDS)
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def add(self, outcome: Outcome) -> None:
        """Count a finished ticket."""
        self.outcome.done += outcome.done
        self.outcome.failed += outcome.failed
        self.outcome.audio_seconds += outcome.audio_seconds

    def report(self, outcome: Outcome) -> None:
        """Take what became so far of the only ticket at work."""
        self._open = outcome

    def _go_on(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._show()

    def _show(self) -> None:
        """Show the counts."""
        unfinished = self._open if self._look is None else self._look()
        ended = self.outcome.done + self.outcome.failed + unfinished.done + unfinished.failed
        # A ticket may be finished between the two looks.
        ended = min(ended, self._total)
        failed = self.outcome.failed + unfinished.failed
        sound = self.outcome.audio_seconds + unfinished.audio_seconds
        elapsed = time.monotonic() - self._started
        rate = describe_rate(
            ended=ended, total=self._total, failed=failed, sound=sound, elapsed=elapsed
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=ended, rate=rate)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            print(
                f"transcribing: {ended} of {self._total} recordings, {rate}",
                file=sys.stderr,
                flush=True,
            )


def describe_rate(*, ended: int, total: int, failed: int, sound: float, elapsed: float) -> str:
    """Say how fast it goes, and when it will be over.

    Args:
        ended: recordings that are done or failed.
        total: recordings in all.
        failed: recordings that failed.
        sound: transcribed so far [seconds].
        elapsed: time so far [seconds].
    """
    parts = [f"{failed} failed"] if failed else []
    parts.append(f"{sound / 3600:.1f} h of sound")
    parts.append(f"{sound / max(elapsed, 1e-9):.1f} times real time")
    if 0 < ended < total:
        left = elapsed * (total - ended) / ended
        shown = f"{left / 3600:.1f} h" if left >= 5400 else f"{max(left / 60, 1):.0f} min"
        parts.append(f"about {shown} left")
    return ", ".join(parts)
