"""Write tests/assets/kenlm from models that KenLM made.

    python tools/make_kenlm_assets.py FOLDER

FOLDER holds text.txt, and for each NAME below NAME.arpa.gz, made by lmplz from that text, and
NAME.scores.tsv, made by KenLM's query: score (log10), number of unknown words, sentence.
"""

import argparse
import gzip
import hashlib
import json
import shutil
from pathlib import Path

MODELS = {
    "2gram": {"order": 2, "prune": []},
    "3gram": {"order": 3, "prune": []},
    "3gram-prune": {"order": 3, "prune": [0, 0, 1]},
    "5gram": {"order": 5, "prune": []},
}
WHOLE = "3gram-prune"
"""The model that is kept as KenLM wrote it."""

SAMPLED = 50
ASSETS = Path(__file__).parents[1] / "tests" / "assets" / "kenlm"


def summarise(path: Path) -> list[dict]:
    """Describe each order of a model: how many n-grams, which, sums of numbers, some n-grams."""
    orders: list[list[tuple[str, float, float]]] = []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if line.endswith("-grams:"):
            orders.append([])
        elif orders and line and not line.startswith("\\"):
            score, words, *backoff = line.split("\t")
            orders[-1].append((words, float(score), float(backoff[0]) if backoff else 0.0))
    summary = []
    for rows in orders:
        rows.sort()
        names = "".join(f"{words}\n" for words, _, _ in rows)
        summary.append(
            {
                "ngrams": len(rows),
                "sha256": hashlib.sha256(names.encode()).hexdigest(),
                "sum_log10": round(sum(score for _, score, _ in rows), 4),
                "sum_backoff": round(sum(backoff for _, _, backoff in rows), 4),
                "sample": rows[:: len(rows) // SAMPLED + 1],
            }
        )
    return summary


def pack(source: Path, target: Path) -> None:
    """Compress a file, the same way every time."""
    with target.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(source.read_bytes())


def main() -> None:
    """Write the assets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    ASSETS.mkdir(parents=True, exist_ok=True)
    pack(folder / "text.txt", ASSETS / "text.txt.gz")
    shutil.copyfile(folder / f"{WHOLE}.arpa.gz", ASSETS / f"{WHOLE}.arpa.gz")
    models = {}
    for name, settings in MODELS.items():
        rows = (folder / f"{name}.scores.tsv").read_text().splitlines()
        scores = [row.split("\t") for row in rows[::5]]
        models[name] = {
            **settings,
            "orders": summarise(folder / f"{name}.arpa.gz"),
            "scores": [[float(score), int(unknown), text] for score, unknown, text in scores],
        }
    text = json.dumps(models, ensure_ascii=False, separators=(",", ":"))
    (ASSETS / "models.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
