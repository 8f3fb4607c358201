"""Length does not cost memory."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

STREAM = """
import json, resource, sys
from unheard.audio import io
with io.stream({path!r}) as stream:
    next(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = max(float(abs(block).max()) for block in stream)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([stream.num_samples, peak, (after - before) * unit, stream.warnings]))
"""


def test_an_hour_of_silence_in_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "hour.flac"
    with av.open(str(path), "w") as output:
        track = output.add_stream("flac", rate=8_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 65_535), np.int16), format="s16", layout="mono"
        )
        silence.sample_rate = 8_000
        for index in range(440):
            silence.pts = index * 65_535
            output.mux(track.encode(silence))
        output.mux(track.encode(None))
    assert path.stat().st_size < 800_000
    script = STREAM.format(path=str(path))
    result = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
    )
    num_samples, peak, growth_bytes, warnings = json.loads(result.stdout)
    assert num_samples == 2 * 440 * 65_535 > 3_600 * 16_000
    assert peak == 0.0
    assert growth_bytes < 16_000_000  # the decoded hour would be 230 MB
    assert warnings == []
    assert result.stderr == ""
