"""Gains over the plain model with intervals by paired bootstrap over images, and the choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .measures import Measure

RESAMPLES = 1000
#: a cost may be so much above the limit, as a factor: times vary by some percent
TOLERANCE = 1.05


@dataclass(frozen=True)
class Gain:
    """The metric of a procedure, and what it gains over the plain model.

    Attributes:
        metric: in percent.
        mean: gain on the images, in points.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    metric: float
    mean: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0


def bootstrap(
    statistics: np.ndarray, measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> list[Gain]:
    """Gains over the first procedure, with intervals by resampling images with replacement.

    Every resample takes the same images for all procedures, and the metric is computed anew from
    the sums over these images. The interval goes from percentile 2.5 to 97.5.

    Args:
        statistics: ``(N, P, D)``: of N images and P procedures, what `Measure.of` returned.
        measure: its metric.
        resamples: number of resamples.
        seed: of the draw.
    """
    count = len(statistics)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    metrics = measure.value(statistics.sum(0))
    plain = measure.value(times @ statistics[:, 0])
    gains = []
    for index, metric in enumerate(metrics):
        resampled = measure.value(times @ statistics[:, index]) - plain
        low, high = np.percentile(resampled, [2.5, 97.5])
        gains.append(Gain(float(metric), float(metric - metrics[0]), float(low), float(high)))
    return gains


def choose(gains: Sequence[Gain], costs: Sequence[float], limit: float) -> int:
    """Position of the largest gain that is certain and costs at most ``limit``; else 0, plain.

    Args:
        gains: of the procedures, plain first.
        costs: of the same, in plain forwards.
        limit: accepted up to `TOLERANCE`.
    """
    fit = [
        index
        for index, (gain, cost) in enumerate(zip(gains, costs, strict=True))
        if index and gain.certain and cost <= limit * TOLERANCE
    ]
    return max(fit, key=lambda index: gains[index].mean, default=0)


def pareto(gains: Sequence[Gain], costs: Sequence[float]) -> list[int]:
    """Positions of procedures that none gains more than at the same or a lower cost; by cost."""
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i].mean)):
        if not front or gains[index].mean > gains[front[-1]].mean:
            front.append(index)
    return front
