"""Helpers that several parts share: files, progress."""

from .io import read_json, write_json
from .progress import Progress, report

__all__ = [
    'Progress',
    'read_json',
    'report',
    'write_json',
]
