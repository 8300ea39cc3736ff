"""mmdiscard inside MM models: adapters, `attach`, and the ensemble of states."""

from .adapters import ClassifierAdapter, ModelAdapter, SegmentorAdapter
from .attach import attach
from .ensemble import Ensemble, ensemble_of
from .results import SearchResult, StateOutputs
from .timm_adapter import TimmAdapter
from .unsure_windows import UnsureWindows
from .wrappers import adapter_class, searched_module, unwrap

__all__ = [
    'ClassifierAdapter',
    'Ensemble',
    'ModelAdapter',
    'SearchResult',
    'SegmentorAdapter',
    'StateOutputs',
    'TimmAdapter',
    'UnsureWindows',
    'adapter_class',
    'attach',
    'ensemble_of',
    'searched_module',
    'unwrap',
]
