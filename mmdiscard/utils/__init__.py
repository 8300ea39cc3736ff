"""Helpers that several parts share: files, data sets, progress."""

from .datasets import draw, innermost_datasets, without_repeats
from .io import read_json, write_atomically, write_json, write_text
from .progress import Progress, report

__all__ = [
    'Progress',
    'draw',
    'innermost_datasets',
    'read_json',
    'report',
    'without_repeats',
    'write_atomically',
    'write_json',
    'write_text',
]
