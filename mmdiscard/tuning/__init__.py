"""Choose views and states for a model: procedures are measured on labelled images."""

from .evaluation import evaluate_procedures
from .gains import bootstrap
from .measures import Measure, measure_of
from .procedures import PLAIN, Procedure, candidates

__all__ = [
    'PLAIN',
    'Measure',
    'Procedure',
    'bootstrap',
    'candidates',
    'evaluate_procedures',
    'measure_of',
]
