"""How states become one prediction: alignment, then a weighted mean of features or logits."""

from .aggregators import Aggregator, AverageAggregator, EntropyAggregator, Merge
from .alignment import Alignment, BilinearAlignment, ExactAlignment, NoAlignment, blend, translate
from .geometry import Geometry
from .merge_stage import FeatureStage, LogitStage, MergeStage
from .merge_target import MergeTarget
from .row_outputs import RowOutputs, normalized_entropy
from .running_mean import RunningMean

__all__ = [
    'Aggregator',
    'Alignment',
    'AverageAggregator',
    'BilinearAlignment',
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
