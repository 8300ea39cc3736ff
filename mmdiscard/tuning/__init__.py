"""Which views and states pay on a model: procedures measured on labelled images, and a choice."""

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
