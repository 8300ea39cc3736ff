"""How states are computed, and what they cost."""

from .cost import CostModel, measure_cost
from .entry import Entries, find_entries
from .limits import DEFAULT_CACHE_BYTES, Limits
from .prefix import PrefixExecutor, PrefixRun
from .rows import Computed, Levels, RowExecutor

__all__ = [
    'DEFAULT_CACHE_BYTES',
    'Computed',
    'CostModel',
    'Entries',
    'Levels',
    'Limits',
    'PrefixExecutor',
    'PrefixRun',
    'RowExecutor',
    'find_entries',
    'measure_cost',
]
