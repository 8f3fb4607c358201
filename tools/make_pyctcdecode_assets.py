"""Make tests/assets/pyctcdecode: readings by pyctcdecode of small random emissions.

    pip install "numpy<2" pygtrie && pip install --no-deps pyctcdecode==0.5.0
    python tools/make_pyctcdecode_assets.py tests/assets/pyctcdecode

Needs an environment of its own, because pyctcdecode wants numpy 1. Nothing is pruned.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
from pyctcdecode import build_ctcdecoder

CASES = 24
READINGS = 5


def main() -> None:
    """Write readings.json into the folder named on the command line."""
    folder = Path(sys.argv[1])
    logging.disable(logging.WARNING)
    rng = np.random.default_rng(0)
    decoder = build_ctcdecoder(["", " ", "a", "b"])
    cases = []
    for _ in range(CASES):
        shares = rng.dirichlet(np.full(4, 0.8), size=int(rng.integers(2, 9)))
        log_probs = np.round(np.log(shares + 1e-9), 4)
        beams = decoder.decode_beams(
            log_probs.astype(np.float32),
            beam_width=5000,
            beam_prune_logp=-1e9,
            token_min_logp=-1e9,
            prune_history=False,
        )
        readings = [[beam[0], round(float(beam[-2]), 5)] for beam in beams[:READINGS]]
        cases.append({"log_probs": log_probs.tolist(), "readings": readings})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (folder / "readings.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
