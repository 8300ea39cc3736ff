"""Export: a model with a fixed set of states as one graph, in a file."""

from .export_model import ExportRequest, GraphFigures, export
from .merged_model import MergedModel, fixed_states

__all__ = ['ExportRequest', 'GraphFigures', 'MergedModel', 'export', 'fixed_states']
