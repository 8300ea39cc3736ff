"""Learned aggregation: modules with parameters that merge states, and their training."""

from .attention import StateAttention
from .attention_aggregator import AttentionAggregator
from .learned_aggregator import LearnedAggregator
from .learner import AggregatorLearner
from .phase_aggregator import PhaseAggregator
from .seeded_subset import SeededSubset
from .training_hook import AggregatorTrainingHook

__all__ = [
    'AggregatorLearner',
    'AggregatorTrainingHook',
    'AttentionAggregator',
    'LearnedAggregator',
    'PhaseAggregator',
    'SeededSubset',
    'StateAttention',
]
