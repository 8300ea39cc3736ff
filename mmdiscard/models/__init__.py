"""Where the method meets MM models: adapters, the ensemble, TTA models."""

from .adapters import ClassifierAdapter, ModelAdapter, SegmentorAdapter, adapter_class
from .attach import attach, unwrap
from .ensemble import Ensemble, SearchResult, StateOutputs

__all__ = [
    'ClassifierAdapter',
    'Ensemble',
    'ModelAdapter',
    'SearchResult',
    'SegmentorAdapter',
    'StateOutputs',
    'adapter_class',
    'attach',
    'unwrap',
]
