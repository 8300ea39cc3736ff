"""Helpers that several parts share: files, data sets, configs, progress."""

from .datasets import MIXING, REPEATING, draw, innermost_datasets, type_name, without_wrappers
from .io import as_json, read_json, write_atomically, write_json, write_text
from .json_format import JsonFormat
from .number_checks import is_number, is_whole
from .progress import Progress, report
from .tables import markdown_table
from .tensors import on_device_of

__all__ = [
    'JsonFormat',
    'MIXING',
    'REPEATING',
    'Progress',
    'as_json',
    'draw',
    'innermost_datasets',
    'is_number',
    'is_whole',
    'markdown_table',
    'on_device_of',
    'read_json',
    'report',
    'type_name',
    'without_wrappers',
    'write_atomically',
    'write_json',
    'write_text',
]
