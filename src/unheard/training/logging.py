"""What a run tells: metrics.jsonl, TensorBoard files and a live line."""

import logging
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from unheard.files import append_jsonl, read_jsonl, write_jsonl_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A reference beside what the model makes of the recording now."""

    id: str
    reference: str
    hypothesis: str


@dataclass
class RunLog:
    """Writes the rows of one run; the only place where training prints or logs figures.

    Attributes:
        folder: the run folder.
        name: shown at the head of the live line ("pretrain", "finetune").
        quiet: no live line.
    """

    folder: Path
    name: str
    quiet: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    plain_every_seconds: float = 30.0
    _last_plain: float = 0.0
    _sample: Sample | None = None
    _writer: Any = None

    def resume_at(self, step: int) -> None:
        """Drop rows after `step`: a run that fell back to a checkpoint logs them again."""
        for name in ("metrics.jsonl", "samples.jsonl", "bad_batches.jsonl"):
            path = self.folder / name
            if not path.exists():
                continue
            rows = read_jsonl(path, repair_torn_tail=True)
            kept = [row for row in rows if row["step"] <= step]
            if len(kept) < len(rows):
                write_jsonl_atomic(path, kept)
        self._writer = _tensorboard(self.folder, step)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append a row of figures and send it to TensorBoard; JSON has no form for NaN."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        append_jsonl(self.folder / "metrics.jsonl", {"kind": kind, "step": step, **finite})
        if self._writer is not None:
            for name, value in finite.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def write_samples(self, step: int, samples: list[Sample]) -> None:
        """Append sample predictions; the first goes into the live line."""
        for sample in samples:
            append_jsonl(
                self.folder / "samples.jsonl",
                {
                    "step": step,
                    "id": sample.id,
                    "reference": sample.reference,
                    "hypothesis": sample.hypothesis,
                },
            )
        if samples:
            self._sample = samples[0]
            if self._writer is not None:
                text = f"reference: {samples[0].reference}  \nheard: {samples[0].hypothesis}"
                self._writer.add_text("sample", text, step)

    def show(self, step: int, values: Mapping[str, float], *, seconds_left: float) -> None:
        """Renew the live line on a terminal; print a plain line now and then elsewhere."""
        if self.quiet:
            return
        line = _line(self.name, step, values, seconds_left)
        if self.stream.isatty():
            sample = self._sample
            tail = "" if sample is None else f"  “{sample.hypothesis}” ← “{sample.reference}”"
            columns = _columns()
            self.stream.write("\r\x1b[2K" + (line + tail)[: columns - 1])
            self.stream.flush()
            return
        now = time.monotonic()
        if now - self._last_plain >= self.plain_every_seconds:
            self._last_plain = now
            self.stream.write(line + "\n")
            if self._sample is not None:
                self.stream.write(
                    f"  reference: {self._sample.reference}\n"
                    f"  heard:     {self._sample.hypothesis}\n"
                )
            self.stream.flush()

    def say(self, message: str) -> None:
        """Print a line of its own."""
        if self.quiet:
            return
        start = "\r\x1b[2K" if self.stream.isatty() else ""
        self.stream.write(f"{start}{self.name}: {message}\n")
        self.stream.flush()

    def close(self) -> None:
        """Finish the live line and the TensorBoard file."""
        if not self.quiet and self.stream.isatty():
            self.stream.write("\n")
        if self._writer is not None:
            self._writer.close()


class NoLog(RunLog):
    """Writes nothing: the log of every process but the first."""

    def resume_at(self, step: int) -> None:
        """See `RunLog.resume_at`."""

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """See `RunLog.write`."""

    def write_samples(self, step: int, samples: list[Sample]) -> None:
        """See `RunLog.write_samples`."""

    def show(self, step: int, values: Mapping[str, float], *, seconds_left: float) -> None:
        """See `RunLog.show`."""

    def say(self, message: str) -> None:
        """See `RunLog.say`."""

    def close(self) -> None:
        """See `RunLog.close`."""


_SHOWN = (
    ("loss", "loss", "{:.3f}"),
    ("accuracy", "acc", "{:.1%}"),
    ("code_perplexity", "codes", "{:.0f}"),
    ("blank_ratio", "blank", "{:.0%}"),
    ("cer", "CER", "{:.1%}"),
    ("audio_seconds_per_second", "audio-s/s", "{:.0f}"),
)


def _line(name: str, step: int, values: Mapping[str, float], seconds_left: float) -> str:
    parts = [f"{name} step {step}"]
    parts += [f"{label} {form.format(values[key])}" for key, label, form in _SHOWN if key in values]
    parts.append(f"{_duration(seconds_left)} left")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {int(seconds % 60):02d} s"


def _columns() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def _tensorboard(folder: Path, step: int) -> Any:
    """Open a TensorBoard writer, or None when the extra is not installed."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except (ImportError, OSError):
        log.info('TensorBoard is not installed; pip install "unheard[track]" adds its files.')
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
