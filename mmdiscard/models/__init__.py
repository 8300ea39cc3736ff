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
from .ensemble import Ensemble
from .results import SearchResult, StateOutputs
from .timm_adapter import TimmAdapter
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
    'TimmAdapter',
    'adapter_class',
    'attach',
    'searched_module',
    'unwrap',
]
