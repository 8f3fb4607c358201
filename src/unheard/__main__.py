"""`python -m unheard` is the command `unheard`."""

import sys

from unheard.cli import main

if __name__ == "__main__":
    sys.exit(main())
