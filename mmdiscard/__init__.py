"""mmdiscard: more accuracy from trained MM models, out of activations that subsampling discards."""

import sys

from .compat import check_versions
from .errors import MissingPackageError

try:
    check_versions()
except MissingPackageError as error:
    if sys.argv[:1] != ['-m']:  # so it is while `python -m mmdiscard.test` looks for the module
        raise
    raise SystemExit(f'mmdiscard: error: {error}') from error

from . import (  # noqa: E402, F401  (they register)
    aggregation,
    calibration,
    engine,
    learned,
    models,
    search,
    subsampling,
    tta,
)
from .apis import attach, find_subsampling, translation_oracle  # noqa: E402
from .errors import MMDiscardError  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    'MMDiscardError',
    '__version__',
    'attach',
    'find_subsampling',
    'translation_oracle',
]
