"""How states are computed, and what they cost."""

from .cost import CostModel, measure_cost
from .prefix import PrefixExecutor, PrefixRun
from .rows import Computed, Levels, RowExecutor, check_max_rows

__all__ = [
    'Computed',
    'CostModel',
    'Levels',
    'PrefixExecutor',
    'PrefixRun',
    'RowExecutor',
    'check_max_rows',
    'measure_cost',
]
