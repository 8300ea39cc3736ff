"""Executors that compute states, and the cost of states."""

from .cost_model import CostModel, measure_cost
from .memory_limits import DEFAULT_CACHE_BYTES, MemoryLimits
from .prefix_executor import PrefixExecutor
from .reentry import ReentryPoints, find_reentry_points
from .reference_executor import BackboneOutputs, Levels, ReferenceExecutor

__all__ = [
    'BackboneOutputs',
    'CostModel',
    'DEFAULT_CACHE_BYTES',
    'Levels',
    'MemoryLimits',
    'PrefixExecutor',
    'ReentryPoints',
    'ReferenceExecutor',
    'find_reentry_points',
    'measure_cost',
]
