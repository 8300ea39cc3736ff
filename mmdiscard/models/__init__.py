"""Where the method meets MM models: adapters, the ensemble, TTA models."""

from .adapters import ClassifierAdapter, ModelAdapter, SegmentorAdapter, adapter_class
from .attach import attach, unwrap
from .ensemble import Ensemble, SearchResult, StateOutputs
from .tta import DiscardClsTTA, DiscardSegTTA

__all__ = [
    'ClassifierAdapter',
    'DiscardClsTTA',
    'DiscardSegTTA',
    'Ensemble',
    'ModelAdapter',
    'SearchResult',
    'SegmentorAdapter',
    'StateOutputs',
    'adapter_class',
    'attach',
    'unwrap',
]
