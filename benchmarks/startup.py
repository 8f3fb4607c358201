"""Time from start to end of `unheard --help` and `import unheard`, each in a fresh process."""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "unheard --help": [sys.executable, "-m", "unheard.cli", "--help"],
    "import unheard": [sys.executable, "-c", "import unheard"],
    "python -c pass": [sys.executable, "-c", "pass"],
}
RUNS = 15


def main() -> None:
    """Print the median and the range of several runs."""
    for name, command in COMMANDS.items():
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - started)
        print(
            f"{name:<16} {statistics.median(times):.3f} s  ({min(times):.3f} to {max(times):.3f})"
        )


if __name__ == "__main__":
    main()
