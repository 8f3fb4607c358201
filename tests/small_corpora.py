"""Tiny folders of recordings, written at test time."""

import json
import wave
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RATE = 8000


def wav(path: Path, seconds: float = 1.0, *, rate: int = RATE, value: int = 0) -> Path:
    """Write a mono 16-bit file of a constant value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(value.to_bytes(2, "little", signed=True) * round(seconds * rate))
    return path


def text(path: Path, content: str | bytes) -> Path:
    """Write a file byte for byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines."""
    return text(path, "".join(json.dumps(row) + "\n" for row in rows))
