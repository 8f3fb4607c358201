"""Write the source tree into README.md, from the modules' own first lines.

Run it after adding a module: python tools/source_tree.py
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unheard"
README = ROOT / "README.md"
LAYERS = (
    ("cli", "arguments"),
    ("serve", "archive"),
    ("tasks",),
    ("recipes", "report"),
    ("training", "inference"),
    ("objectives", "decoding", "interop"),
    ("models", "data"),
    ("audio", "text"),
    ("config", "errors", "files", "tensors"),
)
"""Top layer first; the same as the import contract in pyproject.toml."""


def source_tree() -> str:
    """Return each module with the first line of its docstring, from the top layer down."""
    groups = []
    for layer in LAYERS:
        lines = []
        for package in layer:
            folder = SOURCE / package
            modules = sorted(folder.glob("*.py")) if folder.is_dir() else [SOURCE / f"{package}.py"]
            for path in modules:
                if path.exists() and path.name != "__init__.py":
                    name = path.relative_to(SOURCE).as_posix()
                    summary = ast.get_docstring(ast.parse(path.read_text())) or ""
                    lines.append(f"{name:<30}{summary.partition(chr(10))[0]}")
        if lines:
            groups.append("\n".join(lines))
    return "```\n" + "\n\n".join(groups) + "\n```"


def shown_tree() -> str:
    """Return the tree that README.md shows."""
    match = re.search(r"<!-- tree -->\n(.*?)\n<!-- /tree -->", README.read_text(), re.DOTALL)
    return match.group(1) if match else ""


def main() -> None:
    """Replace the tree in README.md."""
    before, _, rest = README.read_text().partition("<!-- tree -->\n")
    after = rest.partition("<!-- /tree -->")[2]
    README.write_text(f"{before}<!-- tree -->\n{source_tree()}\n<!-- /tree -->{after}")


if __name__ == "__main__":
    main()
