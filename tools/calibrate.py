"""`python -m mmdiscard.calibrate`, with a clear message where mmdiscard is not installed."""

import _bootstrap  # noqa: F401  (before anything reads a config)

from mmdiscard.calibrate import main
from mmdiscard.engine import cli

if __name__ == '__main__':
    cli.run(main)
