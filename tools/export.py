"""`python -m mmdiscard.export`, with a clear message where mmdiscard is not installed."""

import _bootstrap  # noqa: F401  (before anything reads a config)

from mmdiscard.engine import cli
from mmdiscard.export import main

if __name__ == '__main__':
    cli.run(main)
