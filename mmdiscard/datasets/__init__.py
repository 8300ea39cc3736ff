"""Small real data for the demo and the tests."""

from .digit_scenes import DigitSceneParams, make_digit_scenes, split_handwriting

__all__ = ['DigitSceneParams', 'make_digit_scenes', 'split_handwriting']
