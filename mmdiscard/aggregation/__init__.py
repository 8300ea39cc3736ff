"""Merging the states of an image: alignment, then a weighted mean of features or logits."""

from .aggregators import (
    Aggregator,
    AverageAggregator,
    EntropyAggregator,
    FeatureStage,
    LogitStage,
    Merge,
    MergeStage,
    MergeTarget,
)
from .alignment import (
    Alignment,
    BilinearAlignment,
    ExactAlignment,
    Geometry,
    NoAlignment,
    blend,
    translate,
)
from .disagreement import Disagreement
from .row_outputs import RowOutputs, normalized_entropy
from .running_mean import RunningMean

__all__ = [
    'Aggregator',
    'Alignment',
    'AverageAggregator',
    'BilinearAlignment',
    'Disagreement',
    'EntropyAggregator',
    'ExactAlignment',
    'FeatureStage',
    'Geometry',
    'LogitStage',
    'Merge',
    'MergeStage',
    'MergeTarget',
    'NoAlignment',
    'RowOutputs',
    'RunningMean',
    'blend',
    'normalized_entropy',
    'translate',
]
