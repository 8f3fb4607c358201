"""Writes tests/assets/align: the paths that torchaudio finds for tests/alignment_cases.py.

    python tools/make_align_assets.py

Needs a torchaudio that imports; tests/assets/align/README.md says how one was had beside a torch
without CUDA.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torchaudio
from tests.alignment_cases import make_cases

FOLDER = Path(__file__).parents[1] / "tests" / "assets" / "align"


def main() -> None:
    """Align every case and store the paths."""
    labels, lengths, scores, hashed = [], [], [], hashlib.sha256()
    for case in make_cases():
        path, values = torchaudio.functional.forced_align(
            torch.from_numpy(case.log_probs)[None],
            torch.tensor([case.tokens], dtype=torch.int32),
            blank=0,
        )
        labels.append(path[0].numpy().astype(np.int8))
        lengths.append(path.shape[1])
        scores.append(float(values.double().sum()))
        hashed.update(case.log_probs.tobytes())
        hashed.update(bytes(case.tokens))
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        FOLDER / "forced_align.npz",
        labels=np.concatenate(labels),
        lengths=np.array(lengths, np.int32),
        scores=np.array(scores),
        inputs_sha256=np.array(hashed.hexdigest()),
        torchaudio=np.array(torchaudio.__version__),
    )


if __name__ == "__main__":
    main()
