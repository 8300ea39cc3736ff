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
from .spaces import FeatureSpace, LogitSpace, Space

__all__ = [
    'Aggregator',
    'Alignment',
    'AverageAggregator',
    'BilinearAlignment',
    'EntropyAggregator',
    'Evaluation',
    'ExactAlignment',
    'FeatureSpace',
    'Geometry',
    'LogitSpace',
    'Merge',
    'NoAlignment',
    'RunningMean',
    'Space',
    'blend',
    'normalized_entropy',
    'translate',
]
