"""A graph held against the attached model that it was made of."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import MMDiscardError

TOLERANCE = 1e-3  # of the largest logit: other kernels add in another order
TIMED_RUNS = 5


def largest_difference(found: Tensor, logits: Tensor, labels: bool) -> float:
    """Largest error of a graph's output, relative to the largest logit of the attached model.

    Args:
        found: logits of the graph, or its labels.
        logits: of the attached model, ``(N, K)`` or ``(N, K, H, W)``.
        labels: whether ``found`` are labels. They may be wrong where classes are equally likely:
            what counts is how much lower than the largest the logit of a label is.
    """
    scale = float(logits.abs().max()) or 1.0
    if not labels:
        return _difference(found, logits) / scale
    if logits.ndim == 4 and logits.shape[1] == 1:  # class 1 from a logit on that is in between
        low, high = logits[found[:, None] > 0], logits[found[:, None] == 0]
        overlap = float(high.max() - low.min()) if len(low) and len(high) else 0.0
        return max(0.0, overlap) / scale
    chosen = logits.gather(1, found[:, None])
    return float((logits.amax(1, keepdim=True) - chosen).max()) / scale


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        raise MMDiscardError(
            f'the graph gives {tuple(found.shape)} where the attached model gives '
            f'{tuple(expected.shape)}; nothing was written'
        )
    return float((found - expected).abs().max())


def check_difference(difference: float, images: Tensor) -> None:
    """Raise `MMDiscardError` unless a graph computes what the attached model does."""
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise MMDiscardError(
            f'on images of {tuple(images.shape)} the graph is off by {difference:.1e} of the '
            f'largest logit, and {TOLERANCE:.0e} is allowed; nothing was written. Some layer of '
            'the model cannot be traced at that size; a fixed --size, or the other --format, may do'
        )


def median_time(run: Callable[[], object]) -> float:
    """Seconds of a call, the median of a few after one to warm up."""
    run()
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(torch.tensor(times).median())
