"""Choose views and states for a model: procedures are measured on labelled images."""

from .evaluation import ImageResult, evaluate_procedures
from .gains import Gain, bootstrap
from .measures import Measure, measure_of
from .procedures import PLAIN, Procedure, candidates

__all__ = [
    'PLAIN',
    'Gain',
    'ImageResult',
    'Measure',
    'Procedure',
    'bootstrap',
    'candidates',
    'evaluate_procedures',
    'measure_of',
]
