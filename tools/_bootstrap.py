"""What every tool imports first, before anything reads a config.

`mmdiscard` lets `_base_ = 'mmseg::...'` be found on every build of MMSegmentation. Without
mmdiscard, or without what it needs, a tool ends here in one line.
"""

try:
    from mmdiscard import compat  # noqa: F401
except ImportError as error:
    raise SystemExit(
        f'mmdiscard: error: {error}. Run this with the Python that has mmdiscard: activate its '
        'environment (after `make`: . .venv/onedl/bin/activate), or pip install it into yours'
    ) from error
