"""Mergers without parameters: mean, maximum, entropy."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...aggregation.aggregators import SMALLEST_WEIGHT
from ...errors import MMDiscardError
from ...registry import MERGERS
from .merger import Merger, Merging


@MERGERS.register_module()
class MeanMerger(Merger):
    """Plain mean over views. On probabilities this is what MM's own TTA models compute."""

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return 1


@MERGERS.register_module()
class EntropyMerger(Merger):
    """Mean with weights ``1 - H / log K``: confident views count more.

    In dense predictions every pixel has weights of its own. Where classes are independent, H is the
    mean of their binary entropies and K is 2.

    Where the states inside a view are weighted by entropy too (`EntropyAggregator`), the result is
    one average over all pairs of a view and a state: the weight of a view is the sum of the weights
    of its states, and all weights are normalised together.

    Args:
        on: see `Merger`. With ``'logits'`` here and in the aggregator, the average over all pairs
            is exact; with ``'probabilities'`` states are averaged as logits or features and views
            as probabilities.
        joint: whether to use the weights of the states; otherwise the weight of a view comes from
            the entropy of its merged prediction.
    """

    def __init__(self, on: str = 'probabilities', joint: bool = True) -> None:
        super().__init__(on)
        self.joint = joint

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> Tensor:
        if self.joint and weight is not None:
            return weight
        return confidence(self.probabilities(values), self.independent_classes)


@MERGERS.register_module()
class MaxMerger(Merger):
    """At every position, the values of the view with the largest value of any class.

    Args:
        on: see `Merger`; logits in the published comparison.
    """

    def __init__(self, on: str = 'logits') -> None:
        super().__init__(on)

    def prepare(self, names: Sequence[str], independent_classes: bool = False) -> None:
        super().prepare(names, independent_classes)
        if independent_classes:
            raise MMDiscardError(
                'MaxMerger takes the view with the largest score of one class, and this model '
                'decides every class on its own (multi-label); use MeanMerger or EntropyMerger'
            )

    def begin(self) -> Merging:
        return _Maximum(self)


class _Maximum(Merging):
    """The values of the most confident view so far."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self._values: Tensor | None = None
        self._peak: Tensor | None = None

    def add(self, view: int, values: Tensor, weight: Tensor | None = None) -> None:
        peak = self._peak_of(values)
        if self._values is None:
            self._values, self._peak = values, peak
        else:
            higher = peak > self._peak
            self._values = torch.where(higher, values, self._values)
            self._peak = torch.where(higher, peak, self._peak)

    def result(self) -> Tensor:
        if self._values is None:
            raise MMDiscardError('there is no view to merge')
        return self._values

    def _peak_of(self, values: Tensor) -> Tensor:
        if len(values) > 1:
            return values.amax(0)
        # One channel is a binary decision, and a view can be confident of either side.
        return (self._merger.probabilities(values)[0] - 0.5).abs()


def confidence(probabilities: Tensor, independent: bool = False) -> Tensor:
    """``1 - H / log K`` of ``(K, ...)``, above 0.

    Args:
        probabilities: ``(K, ...)``; a single channel is a binary decision.
        independent: whether every class is a binary decision; then the mean over classes.
    """
    probabilities = probabilities.float()
    if independent or len(probabilities) == 1:
        binary = torch.stack([probabilities, 1 - probabilities])
        entropy = torch.special.entr(binary).sum(0).mean(0) / math.log(2)
    else:
        entropy = torch.special.entr(probabilities).sum(0) / math.log(len(probabilities))
    return (1 - entropy).clamp(min=SMALLEST_WEIGHT)
