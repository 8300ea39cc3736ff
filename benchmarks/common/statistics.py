"""Intervals for paired comparisons."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Interval:
    """A mean with the half width of its 95 % confidence interval (NaN for a single value)."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f'{self.mean:+.2f}'
        return f'{self.mean:+.2f} ± {self.half_width:.2f}'


def paired_interval(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean difference ``after - before`` of paired runs with its Student interval.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    gains = [b - a for a, b in zip(before, after, strict=True)]
    mean = statistics.fmean(gains)
    if len(gains) == 1:
        return Interval(mean, math.nan)
    t = _T95[len(gains) - 2] if len(gains) - 2 < len(_T95) else 1.96
    return Interval(mean, t * statistics.stdev(gains) / math.sqrt(len(gains)))
