"""mmdiscard: more accuracy from trained MM models, out of activations that subsampling discards."""

from .compat import check_versions

check_versions()

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
