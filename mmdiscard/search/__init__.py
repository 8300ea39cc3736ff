"""Which states: the greedy tree, criteria, known state sets. Pure: no model, no features."""

from .base import Rows, Search, SearchRounds, check_budget
from .criteria import (
    Criterion,
    DisplacementCriterion,
    EntropyCriterion,
    RandomCriterion,
    Signals,
)
from .greedy import GreedySearch
from .known import ExhaustiveSearch, FixedStates, KnownStates, SpreadStates

__all__ = [
    'Criterion',
    'DisplacementCriterion',
    'EntropyCriterion',
    'ExhaustiveSearch',
    'FixedStates',
    'GreedySearch',
    'KnownStates',
    'RandomCriterion',
    'Rows',
    'Search',
    'SearchRounds',
    'Signals',
    'SpreadStates',
    'check_budget',
]
