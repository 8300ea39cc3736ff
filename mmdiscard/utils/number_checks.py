"""Checks of numbers in configs; True and False are no numbers."""

import math
from typing import Any


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether a value is an integer of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float, most: float = math.inf) -> bool:
    """Whether a value is a finite number from ``least`` to ``most``.

    Args:
        value: anything.
        least: the lower bound, which is allowed.
        most: the upper bound, likewise.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and least <= value <= most and value < math.inf
