"""Choice of states: greedy search, predefined states, criteria, gates, budgets."""

from .budget import Budget, Prices, gain_per_cost
from .criteria import (
    AttentionCriterion,
    Criterion,
    DisplacementCriterion,
    EntropyCriterion,
    RandomCriterion,
    Signals,
)
from .gates import GATE_FILE, EntropyGate, Gate, MarginGate
from .greedy import GreedySearch
from .interface import Feedback, Rows, Search, SearchRounds, branches, each_of, next_round
from .predefined import STATE_FILE, ExhaustiveSearch, FixedStates, KnownStates, SpreadStates

__all__ = [
    'AttentionCriterion',
    'Budget',
    'Criterion',
    'DisplacementCriterion',
    'EntropyCriterion',
    'EntropyGate',
    'ExhaustiveSearch',
    'Feedback',
    'FixedStates',
    'GATE_FILE',
    'Gate',
    'GreedySearch',
    'KnownStates',
    'MarginGate',
    'Prices',
    'RandomCriterion',
    'Rows',
    'Search',
    'STATE_FILE',
    'SearchRounds',
    'Signals',
    'SpreadStates',
    'branches',
    'each_of',
    'gain_per_cost',
    'next_round',
]
