"""How states are computed."""

from .rows import Computed, Levels, RowExecutor

__all__ = ['Computed', 'Levels', 'RowExecutor']
