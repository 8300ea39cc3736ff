"""Mergers of the views of test-time augmentation."""

from .fitted import AugTTAMerger, ClassTTAMerger, FittedMerger, GPSMerger
from .merger import Merger, Merging
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
