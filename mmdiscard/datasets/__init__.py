"""Small real data for the demo and the tests, and the views of test-time augmentation."""

from .digit_scenes import DigitSceneParams, make_digit_scenes, split_handwriting
from .policies import ExpandedPolicy, Policy, StandardPolicy, View
from .subset import SeededSubset
from .transforms import CornerCrop, FixedCutout, TestTimePolicy, Zoom

__all__ = [
    'CornerCrop',
    'DigitSceneParams',
    'ExpandedPolicy',
    'FixedCutout',
    'Policy',
    'SeededSubset',
    'StandardPolicy',
    'TestTimePolicy',
    'View',
    'Zoom',
    'make_digit_scenes',
    'split_handwriting',
]
