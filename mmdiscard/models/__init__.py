"""Where the method meets MM models: adapters, the ensemble, TTA models."""

from .adapters import (
    ClassifierAdapter,
    ModelAdapter,
    SegmentorAdapter,
    adapter_class,
    searched_module,
    unwrap,
)
from .attach import attach
from .ensemble import Ensemble, ensemble_of
from .learner import AggregatorLearner
from .results import SearchResult, StateOutputs
from .timm_adapter import TimmAdapter
from .tta import DiscardClsTTA, DiscardSegTTA, DiscardTTA
from .views import ViewOutput

__all__ = [
    'AggregatorLearner',
    'ClassifierAdapter',
    'DiscardClsTTA',
    'DiscardSegTTA',
    'DiscardTTA',
    'Ensemble',
    'ModelAdapter',
    'SearchResult',
    'SegmentorAdapter',
    'StateOutputs',
    'TimmAdapter',
    'ViewOutput',
    'adapter_class',
    'attach',
    'ensemble_of',
    'searched_module',
    'unwrap',
]
