"""Which states: the greedy tree, criteria, known state sets. Pure: no model, no features."""

from .base import Feedback, Rows, Search, SearchRounds, branches, each_of
from .budget import Budget, Prices
from .criteria import (
    AttentionCriterion,
    Criterion,
    DisplacementCriterion,
    EntropyCriterion,
    RandomCriterion,
    Signals,
)
from .gates import GATE_FILE, EntropyGate, Gate, MarginGate, Witness
from .greedy import GreedySearch
from .known import ExhaustiveSearch, FixedStates, KnownStates, SpreadStates
from .selection import ForwardSelection, Step
from .state_file import read_states, write_states
from .trails import RecordedSearch, Trails
from .worth import worth

__all__ = [
    'AttentionCriterion',
    'GATE_FILE',
    'Budget',
    'Criterion',
    'DisplacementCriterion',
    'EntropyCriterion',
    'EntropyGate',
    'ExhaustiveSearch',
    'Feedback',
    'FixedStates',
    'ForwardSelection',
    'Gate',
    'GreedySearch',
    'KnownStates',
    'MarginGate',
    'Prices',
    'RecordedSearch',
    'RandomCriterion',
    'Rows',
    'Search',
    'SearchRounds',
    'Signals',
    'SpreadStates',
    'Step',
    'Trails',
    'Witness',
    'branches',
    'each_of',
    'read_states',
    'worth',
    'write_states',
]
