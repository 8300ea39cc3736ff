"""Limits on the memory that the computation of states takes."""

from dataclasses import dataclass, replace

from ..errors import MMDiscardError
from ..utils import is_whole

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
        """Maximum number of rows in one forward, for a batch of ``num_images``."""
        return self.max_rows or num_images

    def halved(self, num_images: int) -> 'MemoryLimits | None':
        """The limits halved; None if the limit is one row already."""
        rows = self.rows(num_images)
        if rows == 1:
            return None
        return replace(self, max_rows=rows // 2, max_cache_bytes=self.max_cache_bytes // 2)


def _check(name: str, value: object, least: int) -> None:
    if not is_whole(value, least):
        raise MMDiscardError(f'{name} must be a whole number of at least {least}; got {value!r}')
