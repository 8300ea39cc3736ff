"""What becomes of the states: alignment, then averaging."""

from .aggregators import Aggregator, AverageAggregator, EntropyAggregator, Merge, RunningMean
from .alignment import (
    Alignment,
    BilinearAlignment,
    ExactAlignment,
    NoAlignment,
    blend,
    translate,
)
from .evaluation import Evaluation, normalized_entropy
from .geometry import Geometry
from .mergers import EntropyMerger, MeanMerger, Merger
from .spaces import FeatureSpace, LogitSpace, Space

__all__ = [
    'Aggregator',
    'Alignment',
    'AverageAggregator',
    'BilinearAlignment',
    'EntropyAggregator',
    'EntropyMerger',
    'Evaluation',
    'ExactAlignment',
    'FeatureSpace',
    'Geometry',
    'LogitSpace',
    'MeanMerger',
    'Merge',
    'Merger',
    'NoAlignment',
    'RunningMean',
    'Space',
    'blend',
    'normalized_entropy',
    'translate',
]
