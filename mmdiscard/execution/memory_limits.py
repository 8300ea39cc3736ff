"""How much memory the computation of states may take."""

from dataclasses import dataclass, replace
from typing import Any

from ..errors import MMDiscardError

DEFAULT_CACHE_BYTES = 2**28


@dataclass(frozen=True)
class MemoryLimits:
    """Bounds that keep memory from growing with the number of states.

    Attributes:
        max_rows: at most so many rows (image times state) are in one forward; None for as many as
            the batch has images, which is what fits in memory without mmdiscard.
        max_cache_bytes: what is kept for later states of the same images, in bytes; states that
            find nothing there are computed from further ahead.

    Raises:
        MMDiscardError: if either is not a whole number, of at least 1 and 0.
    """

    max_rows: int | None = None
    max_cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        if self.max_rows is not None:
            _check('max_rows', self.max_rows, 1)
        _check('max_cache_bytes', self.max_cache_bytes, 0)

    def rows(self, num_images: int) -> int:
        """How many rows of a batch of ``num_images`` may be in one forward."""
        return self.max_rows or num_images

    def halved(self, num_images: int) -> 'MemoryLimits | None':
        """Half of everything; None if one row is the limit already."""
        rows = self.rows(num_images)
        if rows == 1:
            return None
        return replace(self, max_rows=rows // 2, max_cache_bytes=self.max_cache_bytes // 2)


def _check(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MMDiscardError(f'{name} must be a whole number of at least {least}; got {value!r}')
