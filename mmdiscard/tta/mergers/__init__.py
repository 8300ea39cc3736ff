"""Mergers of the views of test-time augmentation."""

from .base import Merger, Merging
from .fitted import AugTTAMerger, ClassTTAMerger, FittedMerger, GPSMerger
from .simple import EntropyMerger, MaxMerger, MeanMerger

__all__ = [
    'AugTTAMerger',
    'ClassTTAMerger',
    'EntropyMerger',
    'FittedMerger',
    'GPSMerger',
    'MaxMerger',
    'MeanMerger',
    'Merger',
    'Merging',
]
