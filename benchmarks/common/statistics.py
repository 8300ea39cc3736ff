"""Intervals for paired comparisons."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


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


def image_draws(images: int, draws: int) -> np.ndarray:
    """How often every image is drawn, with replacement: ``(draws, images)``, for a bootstrap."""
    return np.random.default_rng(0).multinomial(images, [1 / images] * images, size=draws)


def paired_interval(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean difference ``after - before`` of paired runs with the 95 % interval of Student's t.

    Args:
        before: a value for each run.
        after: of the same runs, in the same order.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    gains = [b - a for a, b in zip(before, after, strict=True)]
    mean = statistics.fmean(gains)
    if len(gains) == 1:
        return Interval(mean, math.nan)
    t = float(student.ppf(0.975, len(gains) - 1))
    return Interval(mean, t * statistics.stdev(gains) / math.sqrt(len(gains)))
