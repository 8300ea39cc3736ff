"""Test-time augmentation: TTA models, policies, transforms, mergers, joint budget."""

from .fitted_mergers import AugTTAMerger, ClassTTAMerger, GPSMerger
from .mergers import EntropyMerger, MaxMerger, MeanMerger, Merger
from .models import DiscardClsTTA, DiscardSegTTA, DiscardTTA
from .policies import ExpandedPolicy, Policy, StandardPolicy, View
from .transforms import CornerCrop, FixedCutout, TestTimePolicy, Zoom
from .view_output import ViewOutput

__all__ = [
    'AugTTAMerger',
    'ClassTTAMerger',
    'CornerCrop',
    'DiscardClsTTA',
    'DiscardSegTTA',
    'DiscardTTA',
    'EntropyMerger',
    'ExpandedPolicy',
    'FixedCutout',
    'GPSMerger',
    'MaxMerger',
    'MeanMerger',
    'Merger',
    'Policy',
    'StandardPolicy',
    'TestTimePolicy',
    'View',
    'ViewOutput',
    'Zoom',
]
