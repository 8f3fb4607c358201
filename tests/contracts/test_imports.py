"""Every module imports alone, without the extras, and the light ones stay light."""

import json
import pkgutil
import subprocess
import sys

import pytest

import unheard

EXTRAS = (
    "espeakng_loader",
    "matplotlib",
    "tensorboard",
    "huggingface_hub",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "ray",
)
PEERS = ("transformers", "torchaudio", "torchcodec", "fairseq")
LIGHT = (
    "unheard",
    "unheard.cli",
    "unheard.config",
    "unheard.errors",
    "unheard.files",
    "unheard.audio.io",
    "unheard.audio.signal",
    "unheard.text.alphabet",
    "unheard.text.error_rate",
    "unheard.text.normalize",
    "unheard.text.subtitles",
    "unheard.data.audit",
    "unheard.data.corpora",
    "unheard.data.manifest",
)

# Forks a fresh child for each module, so that one module's imports cannot help the next; the
# parent has loaded what most modules need anyway, or each child would pay for it.
EACH_ALONE = """
import importlib, os, sys, traceback
for name in {blocked!r}:
    sys.modules[name] = None
{warm}
failed = []
for name in {modules!r}:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        loaded = [heavy for heavy in {heavy!r} if sys.modules.get(heavy) is not None]
        if loaded:
            print(name, "loads", *loaded, file=sys.stderr)
        os._exit(bool(loaded))
    if os.waitpid(child, 0)[1] != 0:
        failed.append(name)
print(*failed)
"""


def _modules() -> list[str]:
    found = pkgutil.walk_packages(unheard.__path__, prefix="unheard.", onerror=lambda name: None)
    return ["unheard", *sorted(module.name for module in found)]


def _import_each(
    modules: list[str], *, blocked: tuple[str, ...], warm: str, heavy: list[str]
) -> None:
    program = EACH_ALONE.format(modules=modules, blocked=blocked, warm=warm, heavy=heavy)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert result.stdout.split() == [], result.stderr
    assert result.returncode == 0, result.stderr


@pytest.mark.timeout(600)  # a child for each module: 15 s of processor, minutes on a busy machine
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_every_module_imports_alone_without_extras_and_peers() -> None:
    modules = _modules()
    assert len(modules) > 40
    _import_each(modules, blocked=(*EXTRAS, *PEERS), warm="import torch, numba, av", heavy=[])


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_the_light_modules_load_no_torch() -> None:
    _import_each(list(LIGHT), blocked=(), warm="", heavy=["torch", "numba", "tyro"])


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_the_check_itself_can_fail() -> None:
    with pytest.raises(AssertionError, match=r"unheard\.models\.ctc loads torch"):
        _import_each(["unheard.models.ctc"], blocked=(), warm="", heavy=["torch"])
    with pytest.raises(AssertionError, match="unheard"):
        _import_each(["unheard.nowhere"], blocked=(), warm="", heavy=[])


def test_the_package_and_its_help_load_next_to_nothing() -> None:
    program = (
        "import sys, json; before = set(sys.modules)\n"
        "import contextlib, io\n"
        "from unheard.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as shown:\n"
        "    assert main(['--help']) == 0\n"
        "assert 'transcribe' in shown.getvalue()\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    loaded = json.loads(result.stdout)
    heavy = {"torch", "numpy", "av", "soxr", "tyro", "rich", "numba", "rapidfuzz", "safetensors"}
    assert heavy.isdisjoint(loaded)
    assert len(loaded) < 80, loaded
