"""Risk against coverage: how well a score tells wrong predictions from right ones.

Counts are kept in bins of the score, so that pixels of many images need no memory, and images can
be drawn again for intervals.
"""

import numpy as np

from benchmarks.common.statistics import image_draws

BINS = 1024
SMALLEST = 1e-7
LARGEST = 4.0  # bits of entropy of 16 classes


def histogram(score: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Counts ``(2, BINS)`` of right and wrong predictions by score, from sure to unsure.

    Args:
        score: ``(n,)``, higher is less sure, from 0 to `LARGEST`.
        wrong: ``(n,)`` bool.
    """
    place = np.log(np.maximum(score, SMALLEST) / SMALLEST) / np.log(LARGEST / SMALLEST)
    bins = np.minimum((place * BINS).astype(np.int64), BINS - 1)
    return np.bincount(bins + BINS * wrong, minlength=2 * BINS).reshape(2, BINS)


def area_under_risk_coverage(counts: np.ndarray) -> np.ndarray:
    """Mean over coverages of the error rate among the surest predictions: AURC, 0..1.

    Of predictions with equal scores, wrong ones are spread evenly (Geifman and El-Yaniv, Selective
    classification for deep neural networks, 2017).

    Args:
        counts: ``(..., 2, BINS)``, see `histogram`.
    """
    number = counts.sum(-2).astype(np.float64)
    wrong = counts[..., 1, :].astype(np.float64)
    after, errors = number.cumsum(-1), wrong.cumsum(-1)
    before, rate = after - number, wrong / np.maximum(number, 1)
    # In a bin the errors among the first n are e + r (n - n0): integrated over n of errors / n.
    offset = errors - wrong - rate * before
    logs = np.log(np.maximum(after, 1) / np.where(before > 0, before, np.maximum(after, 1)))
    area = offset * logs + rate * number
    return area.sum(-1) / after[..., -1]


def interval(before: np.ndarray, after: np.ndarray, draws: int = 500) -> tuple[float, float, float]:
    """AURC of ``after`` less that of ``before`` in percent, with its 95 % interval by bootstrap.

    Args:
        before: ``(images, 2, BINS)``.
        after: likewise, of the same images.
        draws: how often images are drawn.
    """
    count = len(before)
    weights = np.concatenate([np.ones((1, count)), image_draws(count, draws)])
    areas = [
        area_under_risk_coverage((weights @ one.reshape(count, -1)).reshape(-1, 2, BINS))
        for one in (before, after)
    ]
    gain = 100 * (areas[1] - areas[0])
    return tuple(map(float, (gain[0], *np.percentile(gain[1:], [2.5, 97.5]))))
