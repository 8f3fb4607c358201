"""The documents tell the truth: links, examples, commands and the source tree."""

import ast
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
from tools import source_tree

import unheard

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "unheard"
README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def python_blocks() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for number, block in enumerate(
            re.findall(r"```python\n(.*?)```", document.read_text(), re.S)
        ):
            found.append((f"{document.name}:{number}", block))
    return found


def test_the_page_of_the_source_tree_is_the_tree() -> None:
    assert source_tree.PAGE.read_text() == source_tree.page(), "run: python tools/source_tree.py"


def test_the_readme_names_every_package_and_no_other() -> None:
    block = re.search(r"## The source tree.*?```\n(.*?)```", README.read_text(), re.S)
    assert block is not None
    named = set(re.findall(r"(\w+)/", " ".join(line[:31] for line in block[1].splitlines())))
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert named == packages


def test_every_module_has_a_layer() -> None:
    top = {
        path.stem
        for path in SOURCE.iterdir()
        if path.name not in ("__init__.py", "__pycache__")
        and (path.suffix == ".py" or any(path.rglob("*.py")))
    }
    layers = {name for layer in source_tree.LAYERS for name in layer}
    assert top <= layers
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    declared = re.findall(r"\w+", " ".join(contract["contracts"][0]["layers"]))
    assert set(declared) == layers


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(("name", "block"), python_blocks(), ids=lambda value: value[:20])
def test_examples_call_what_there_is_as_it_is(name: str, block: str) -> None:
    tree = ast.parse(block)
    assert len(block.splitlines()) <= 12
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_package(node.value):
            assert node.attr in unheard.__all__, f"{name}: unheard.{node.attr}"
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and _is_package(called.value):
            _bind(getattr(unheard, called.attr), cast(ast.Call, node))


def _is_package(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "unheard"


def _bind(function: Any, call: ast.Call) -> None:
    """Fail unless the call fits the function's signature."""
    named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    inspect.signature(function).bind(*call.args, **named)


def test_the_check_of_examples_can_fail() -> None:
    call = ast.parse("unheard.transcribe('m', 'a.wav', nonsense=1)").body[0].value  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="nonsense"):
        _bind(unheard.transcribe, call)


def test_commands_in_the_readme_are_verbs_with_those_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from unheard import cli

    commands = re.findall(r"^    unheard (.+?)(?:\s+#.*)?$", README.read_text(), re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        verb, *words = command.split()
        assert verb in cli.VERBS
        cli.main([verb, "--help"])
        shown = capsys.readouterr().out
        for word in words:
            if word.startswith("--"):
                assert word in shown
