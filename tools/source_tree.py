"""Write docs/source-tree.md from the modules' own first lines.

Run it after adding a module: python tools/source_tree.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unheard"
PAGE = ROOT / "docs" / "source-tree.md"
LAYERS = (
    ("__main__", "cli", "arguments"),
    ("serve", "archive"),
    ("tasks",),
    ("recipes", "report"),
    ("training", "inference"),
    ("objectives", "decoding", "interop"),
    ("models", "data", "lm"),
    ("audio", "text"),
    ("compiled", "config", "errors", "files", "tensors"),
)
"""Top layer first; the same as the import contract in pyproject.toml."""


def source_tree() -> str:
    """Return each module with the first line of its docstring, from the top layer down."""
    groups = []
    for layer in LAYERS:
        lines = []
        for package in layer:
            folder = SOURCE / package
            modules = sorted(folder.rglob("*.py")) or [SOURCE / f"{package}.py"]
            for path in modules:
                if path.exists() and path.name != "__init__.py":
                    name = path.relative_to(SOURCE).as_posix()
                    summary = ast.get_docstring(ast.parse(path.read_text())) or ""
                    lines.append(f"{name:<36}{summary.partition(chr(10))[0]}")
        if lines:
            groups.append("\n".join(lines))
    return "```\n" + "\n\n".join(groups) + "\n```"


def page() -> str:
    """Return the whole page."""
    return (
        "# The source tree\n\n"
        "Every module with its one idea, top layer first; a module imports only from lower layers\n"
        "or its own package. Written by `python tools/source_tree.py` from the modules;\n"
        "[architecture.md](architecture.md) says why it is cut this way.\n\n" + source_tree() + "\n"
    )


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
