"""Bounds on memory."""

import pytest

from mmdiscard import MMDiscardError
from mmdiscard.execution import MemoryLimits


@pytest.mark.parametrize('max_rows', [0, -1, 1.5, True, '2'])
def test_limits_that_are_no_count_are_refused(max_rows):
    with pytest.raises(MMDiscardError, match=f'max_rows .* at least 1; got {max_rows!r}'):
        MemoryLimits(max_rows)


@pytest.mark.parametrize('size', [-1, 0.5, None])
def test_caches_of_no_size_are_refused(size):
    with pytest.raises(MMDiscardError, match='max_cache_bytes .* at least 0'):
        MemoryLimits(max_cache_bytes=size)


def test_halving_ends_at_one_row():
    limits = MemoryLimits(max_cache_bytes=100).halved(6)
    assert limits == MemoryLimits(3, 50)
    assert limits.rows(6) == 3
    assert limits.halved(6) == MemoryLimits(1, 25)
    assert limits.halved(6).halved(6) is None
