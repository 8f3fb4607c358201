"""What this machine and this installation can do."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import torch

import unheard

EXTRAS = {
    "data": ("pyarrow",),
    "demo": ("espeakng_loader",),
    "hub": ("huggingface_hub",),
    "microphone": ("sounddevice",),
    "onnx": ("onnx", "onnxruntime"),
    "ray": ("ray",),
    "remote": ("fsspec",),
    "track": ("tensorboard",),
}
"""Extra -> the modules it brings, for the extras that a verb uses today."""

CORE = ("torch", "numpy", "av", "soxr", "safetensors", "rapidfuzz", "tyro", "rich", "numba")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that work is written to.

    Attributes:
        purpose: what it is for.
        path: where it is.
        writable: whether a file can be made there.
        free_bytes: room left on its disk [bytes].
    """

    purpose: str
    path: Path
    writable: bool
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `unheard doctor` found.

    Attributes:
        unheard: version of this package.
        python: version of the interpreter.
        system: operating system and machine.
        packages: core dependency -> installed version.
        cpus: cores this process may use.
        cpu_features: the widest vector instructions torch uses here.
        cpu_bf16: whether torch computes in bfloat16 on this CPU natively.
        accelerators: names of the accelerators torch sees.
        extras: extra -> whether all its packages are importable.
        ffmpeg: library -> version, of the ones inside PyAV.
        compiler: C++ compiler that `torch.compile` would use, or None. Nothing needs it.
        folders: where work is written.
    """

    unheard: str
    python: str
    system: str
    packages: dict[str, str]
    cpus: int
    cpu_features: str
    cpu_bf16: bool
    accelerators: tuple[str, ...]
    extras: dict[str, bool]
    ffmpeg: dict[str, str]
    compiler: str | None
    folders: tuple[Folder, ...]

    def table(self) -> str:
        """Lay the findings out for a person, one a line."""
        rows = [
            ("unheard", self.unheard),
            ("python", f"{self.python} on {self.system}"),
            *self.packages.items(),
            ("ffmpeg", ", ".join(f"{name} {version}" for name, version in self.ffmpeg.items())),
            ("cpu", f"{self.cpus} cores, {self.cpu_features}"),
            ("cpu bfloat16", "yes" if self.cpu_bf16 else "no: training on the CPU uses float32"),
            ("accelerators", ", ".join(self.accelerators) or "none"),
            ("compiler", self.compiler or "none (not needed)"),
        ]
        for name, installed in self.extras.items():
            advice = "installed" if installed else f'missing: pip install "unheard[{name}]"'
            rows.append((f"extra {name}", advice))
        for folder in self.folders:
            state = f"{folder.free_bytes / 1e9:.1f} GB free" if folder.writable else "NOT WRITABLE"
            rows.append((folder.purpose, f"{folder.path} ({state})"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def doctor() -> Diagnosis:
    """Show what this machine and this installation can do.

    Versions, vector instructions, bfloat16, accelerators, extras, FFmpeg's libraries and the
    folders that work is written to. Attach the output of this command to a bug report.

    Returns:
        The findings.
    """
    return Diagnosis(
        unheard=unheard.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: importlib.metadata.version(name) for name in CORE},
        cpus=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        cpu_features=torch.backends.cpu.get_cpu_capability(),
        cpu_bf16=torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        accelerators=tuple(
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        )
        + (("Apple GPU",) if torch.backends.mps.is_available() else ()),
        extras={name: all(map(_importable, modules)) for name, modules in EXTRAS.items()},
        ffmpeg={name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        compiler=shutil.which(os.environ.get("CXX", "g++")),
        folders=(
            _folder("working folder", Path.cwd()),
            _folder("temporary files", Path(tempfile.gettempdir())),
            _folder("downloaded models", _hub_cache()),
        ),
    )


def _importable(module: str) -> bool:
    """Whether a module can be imported; a broken shared library counts as missing."""
    if importlib.util.find_spec(module) is None:
        return False
    try:
        importlib.import_module(module)
    except (ImportError, OSError):
        return False
    return True


def _hub_cache() -> Path:
    """Return the folder that Hugging Face models are downloaded to."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _folder(purpose: str, path: Path) -> Folder:
    """Try a folder, or the nearest parent that exists."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = True
    except OSError:
        writable = False
    return Folder(
        purpose=purpose,
        path=path,
        writable=writable,
        free_bytes=shutil.disk_usage(existing).free,
    )
