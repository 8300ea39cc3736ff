"""Mergers without parameters: mean, maximum, entropy."""

import math

import torch
from torch import Tensor

from ...aggregation.aggregators import SMALLEST_WEIGHT
from ...errors import MMDiscardError
from ...registry import MERGERS
from .base import Merger, Merging


@MERGERS.register_module()
class MeanMerger(Merger):
    """Every view counts the same. On probabilities this is what MM's own TTA models do."""

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return 1


@MERGERS.register_module()
class EntropyMerger(Merger):
    """Weight ``1 - H / log K``: confident views count more, pixel by pixel in dense predictions.

    Where the states inside a view are weighed by entropy too (`EntropyAggregator`), the two are one
    average over all pairs of a view and a state: a view brings the weight that its states have
    together, and all weights are normalised at once.

    Args:
        on: see `Merger`. With ``'logits'`` here and in the aggregator the joint average is exactly
            the one over all pairs; with ``'probabilities'`` states meet as logits or features and
            views as probabilities.
        joint: whether to use the weight of the states; otherwise views are weighed by the entropy
            of their merged prediction.
    """

    def __init__(self, on: str = 'probabilities', joint: bool = True) -> None:
        super().__init__(on)
        self.joint = joint

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> Tensor:
        if self.joint and weight is not None:
            return weight
        return confidence(self.probabilities(values))


@MERGERS.register_module()
class MaxMerger(Merger):
    """The view that is surest of its first class, place by place.

    Args:
        on: see `Merger`; logits in the published comparison.
    """

    def __init__(self, on: str = 'logits') -> None:
        super().__init__(on)

    def begin(self) -> Merging:
        return _Surest(self)


class _Surest(Merging):
    """The values of the surest view so far."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self._values: Tensor | None = None
        self._peak: Tensor | None = None

    def add(self, view: int, values: Tensor, weight: Tensor | None = None) -> None:
        peak = self._sureness(values)
        if self._values is None:
            self._values, self._peak = values, peak
        else:
            surer = peak > self._peak
            self._values = torch.where(surer, values, self._values)
            self._peak = torch.where(surer, peak, self._peak)

    def result(self) -> Tensor:
        if self._values is None:
            raise MMDiscardError('there is no view to merge')
        return self._values

    def _sureness(self, values: Tensor) -> Tensor:
        if len(values) > 1:
            return values.amax(0)
        # One channel is a binary decision, and a view can be sure of either side.
        return (self._merger.probabilities(values)[0] - 0.5).abs()


def confidence(probabilities: Tensor) -> Tensor:
    """``1 - H / log K`` of ``(K, ...)``, above 0; a single channel is a binary probability."""
    if len(probabilities) == 1:
        probabilities = torch.cat([probabilities, 1 - probabilities])
    entropy = torch.special.entr(probabilities.float()).sum(0)
    return (1 - entropy / math.log(len(probabilities))).clamp(min=SMALLEST_WEIGHT)
