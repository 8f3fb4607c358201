"""Decoding of one hour of MP3 (44.1 kHz, stereo) to 16 kHz mono, on one core.

    OMP_NUM_THREADS=1 python benchmarks/decode.py [--minutes 60] [--repeats 5]

Prints how many times faster than real time `unheard.audio.io.stream` is, and the peak memory of
the process; then the time that `read` and `probe` take for utterance-sized files. The sound is
made and encoded here. Appends nothing: paste the output into benchmarks/results/decode.md.
"""

import argparse
import io
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soxr

from unheard.audio import io as audio_io


def encode(
    path: Path | io.BytesIO, seconds: float, *, codec: str, container: str, rate: int, channels: int
) -> None:
    """Sweeps and noise with pauses, unlike from second to second, at 64 kbit/s a channel."""
    generator = np.random.default_rng(0)
    layout = "mono" if channels == 1 else "stereo"
    target = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        if codec not in {"flac", "pcm_s16le"}:
            stream.bit_rate = 64_000 * channels
        converter = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        time_axis = np.arange(rate) / rate
        for second in range(max(1, round(seconds))):
            tones = [
                np.sin(2 * np.pi * f * time_axis) * np.sin(np.pi * (1 + second % 5) * time_axis)
                for f in generator.uniform(100, 4_000, channels)
            ]
            samples = 0.3 * np.stack(tones) + 0.03 * generator.standard_normal((channels, rate))
            samples = samples[:, : round(seconds * rate) - second * rate]
            packed = samples.T.astype(np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, second * rate
            frame.time_base = Fraction(1, rate)
            for converted in converter.resample(frame):
                output.mux(stream.encode(converted))
        output.mux(stream.encode(None))


def repeat_mp3(source: io.BytesIO, path: Path, times: int) -> None:
    """Write the packets of an MP3 many times over, which encoding again would take minutes for."""
    with av.open(str(path), "w", format="mp3") as output:
        stream = None
        end = 0
        for _ in range(times):
            source.seek(0)
            with av.open(source) as input_:
                if stream is None:
                    stream = output.add_stream_from_template(input_.streams.audio[0])
                for packet in input_.demux(audio=0):
                    if packet.size:
                        packet.stream = stream
                        packet.pts = packet.dts = end
                        end += packet.duration or 0
                        output.mux(packet)


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def spread(values: list[float], unit: str, digits: int) -> str:
    return (
        f"{statistics.median(values):.{digits}f} {unit} "
        f"({min(values):.{digits}f} to {max(values):.{digits}f})"
    )


def long_file(path: Path, repeats: int) -> None:
    before = peak_bytes()
    cpu, wall = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        with audio_io.stream(path) as stream:
            for _block in stream:
                pass
        seconds = stream.num_samples / stream.sample_rate
        cpu.append(seconds / (time.process_time() - began_cpu))
        wall.append(seconds / (time.perf_counter() - began))
    megabytes = path.stat().st_size / 1e6
    print(f"{path.suffix[1:]}: {seconds:.0f} s of sound in {megabytes:.1f} MB, {repeats} runs")
    print(f"  real time / CPU time   {spread(cpu, 'x', 0)}")
    print(f"  real time / wall time  {spread(wall, 'x', 0)}")
    print(f"  peak memory {peak_bytes() / 1e6:.0f} MB, of which before {before / 1e6:.0f} MB")


def utterances(folder: Path, repeats: int) -> None:
    print(f"\n4 s utterances, mono, milliseconds of CPU each ({repeats} runs of 50)")
    for codec, container, rate in (
        ("libopus", "ogg", 48_000),
        ("libmp3lame", "mp3", 44_100),
        ("aac", "mp4", 44_100),
        ("flac", "flac", 16_000),
        ("pcm_s16le", "wav", 16_000),
    ):
        path = folder / f"utterance.{container}"
        encode(path, 4, codec=codec, container=container, rate=rate, channels=1)
        row = f"  {codec:11s} {container:5s}"
        for verb in (audio_io.probe, audio_io.read):
            times = []
            for _ in range(repeats):
                began = time.process_time()
                for _ in range(50):
                    verb(path)
                times.append((time.process_time() - began) / 50 * 1e3)
            row += f"  {verb.__name__} {spread(times, 'ms', 2)}"
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"commit {commit} | Python {platform.python_version()} | PyAV {av.__version__} "
        f"(FFmpeg {av.ffmpeg_version_info}) | soxr {soxr.__version__} | numpy {np.__version__} | "
        f"{os.cpu_count()} cores {platform.machine()} | load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp3"
        # In a process of its own, so that the encoder is not in the peak memory.
        subprocess.run(
            [sys.executable, __file__, "--encode", str(path), str(arguments.minutes)],
            check=True,
        )
        long_file(path, arguments.repeats)
        utterances(Path(folder), arguments.repeats)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--encode"]:
        minute = io.BytesIO()
        encode(minute, 60, codec="libmp3lame", container="mp3", rate=44_100, channels=2)
        repeat_mp3(minute, Path(sys.argv[2]), times=round(float(sys.argv[3])))
    else:
        main()
