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
from .mergers import (
    AugTTAMerger,
    ClassTTAMerger,
    EntropyMerger,
    GPSMerger,
    MaxMerger,
    MeanMerger,
    Merger,
)
from .spaces import FeatureSpace, LogitSpace, Space

__all__ = [
    'Aggregator',
    'Alignment',
    'AugTTAMerger',
    'AverageAggregator',
    'BilinearAlignment',
    'ClassTTAMerger',
    'EntropyAggregator',
    'EntropyMerger',
    'Evaluation',
    'ExactAlignment',
    'FeatureSpace',
    'GPSMerger',
    'Geometry',
    'LogitSpace',
    'MaxMerger',
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
