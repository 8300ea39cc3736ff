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
from .attention import StateAttention
from .attention_aggregator import AttentionAggregator
from .evaluation import Evaluation, normalized_entropy
from .geometry import Geometry
from .learned import LearnedAggregator, MergeTarget
from .mergers import (
    AugTTAMerger,
    ClassTTAMerger,
    EntropyMerger,
    GPSMerger,
    MaxMerger,
    MeanMerger,
    Merger,
)
from .phase_aggregator import PhaseAggregator
from .spaces import FeatureSpace, LogitSpace, Space

__all__ = [
    'Aggregator',
    'Alignment',
    'AttentionAggregator',
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
    'LearnedAggregator',
    'LogitSpace',
    'MaxMerger',
    'MeanMerger',
    'Merge',
    'MergeTarget',
    'Merger',
    'NoAlignment',
    'PhaseAggregator',
    'RunningMean',
    'Space',
    'StateAttention',
    'blend',
    'normalized_entropy',
    'translate',
]
