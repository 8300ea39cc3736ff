"""Which states: the greedy tree, criteria, known state sets. Pure: no model, no features."""

from .base import Feedback, Rows, Search, SearchRounds, each_of
from .budget import Budget, Prices
from .criteria import (
    Criterion,
    DisplacementCriterion,
    EntropyCriterion,
    RandomCriterion,
    Signals,
)
from .gates import EntropyGate, Gate, MarginGate
from .greedy import GreedySearch
from .known import ExhaustiveSearch, FixedStates, KnownStates, SpreadStates

__all__ = [
    'Budget',
    'Criterion',
    'DisplacementCriterion',
    'EntropyCriterion',
    'EntropyGate',
    'ExhaustiveSearch',
    'Feedback',
    'FixedStates',
    'Gate',
    'GreedySearch',
    'KnownStates',
    'MarginGate',
    'Prices',
    'RandomCriterion',
    'Rows',
    'Search',
    'SearchRounds',
    'Signals',
    'SpreadStates',
    'each_of',
]
