"""The other side of `benchmarks/prefix_search.py`: pyctcdecode in its own environment.

    pip install "numpy<2" pygtrie kenlm && pip install --no-deps pyctcdecode

It needs an environment of its own, because it wants numpy 1. Reads one JSON request a line from
its standard input and answers each with a line of JSON. The first request names the labels, the
ARPA file and the emissions; each one after that names settings and how many processes decode.
"""

import json
import logging
import multiprocessing
import sys
import time

import numpy as np
from pyctcdecode import build_ctcdecoder


def main() -> None:
    logging.disable(logging.WARNING)
    task = json.loads(sys.stdin.readline())
    stored = np.load(task["emissions"])
    emissions = [stored[f"u{number}"] for number in range(len(stored.files))]
    decoder = build_ctcdecoder(task["labels"], task["arpa"], task["words"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        decoder.reset_params(
            alpha=request["alpha"],
            beta=request["beta"],
            unk_score_offset=request["unk_score_offset"],
        )
        settings = {
            "beam_width": request["beam_width"],
            "beam_prune_logp": request["beam_prune_logp"],
            "token_min_logp": request["token_min_logp"],
        }
        clock, processor = time.perf_counter(), time.process_time()
        if request["processes"] == 1:
            texts = [decoder.decode(one, **settings) for one in emissions]
        else:
            with multiprocessing.get_context("fork").Pool(request["processes"]) as pool:
                texts = decoder.decode_batch(pool, emissions, **settings)
        answer = {
            "processor_seconds": time.process_time() - processor,
            "clock_seconds": time.perf_counter() - clock,
            "texts": texts,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
