"""Mergers: merge the views of an image, added one by one to a running mean.

Values are ``(K, ...)``: classes first, then positions (none for a classified image, rows and
columns for a segmented one, images if many are merged at once). Only sums are kept, so memory does
not grow with the number of views.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..aggregation.aggregators import SMALLEST_WEIGHT
from ..aggregation.disagreement import entropy_in_nats
from ..errors import MMDiscardError
from ..registry import MERGERS

INPUTS = ('probabilities', 'logits')


class Merging:
    """Running weighted mean of the views of one image, in the precision of the first view."""

    def __init__(self, merger: 'Merger') -> None:
        self._merger = merger
        self._sum: Tensor | None = None
        self._weights: Tensor | float = 0.0

    def add(self, view: int, values: Tensor, weight: Tensor | None = None) -> None:
        """Add one view.

        Args:
            view: its position in the pipeline, from 0.
            values: ``(K, ...)``, probabilities or logits, see ``on`` of the merger.
            weight: ``(...)`` or a number, sum of the weights of the states of this view; None if
                it is not known. See `EntropyMerger`.
        """
        own = self._merger.weight(view, values, weight)
        weighted = own * values
        self._sum = weighted if self._sum is None else self._sum.add_(weighted)
        self._weights = self._weights + own

    def result(self) -> Tensor:
        """The merged values ``(K, ...)``.

        Raises:
            MMDiscardError: if no view was added.
        """
        if self._sum is None:
            raise MMDiscardError('there is no view to merge')
        return self._merger.normalize(self._sum, self._weights)


class Merger:
    """Merges views. Subclasses implement `weight`, or `begin` if they are no weighted mean.

    ``on`` says what is merged: ``'probabilities'`` (as MM does) or ``'logits'``.

    Raises:
        MMDiscardError: if ``on`` is neither.
    """

    #: whether the merger uses the weights of the states inside a view
    joint = False
    #: whether classes are independent decisions (sigmoid, multi-label) instead of exclusive ones
    independent_classes = False

    def __init__(self, on: str = 'probabilities') -> None:
        if on not in INPUTS:
            raise MMDiscardError(
                f'{type(self).__name__}: `on` has to be one of {", ".join(INPUTS)}; got {on!r}'
            )
        self.on = on

    def prepare(self, names: Sequence[str], independent_classes: bool = False) -> None:
        """Check the merger against views and model. Subclasses call this first.

        Raises:
            MMDiscardError: if the merger was fitted to other views, or needs exclusive classes.
        """
        self.independent_classes = independent_classes

    def uses(self, view: int) -> bool:
        """Whether the view has to be computed."""
        return True

    def begin(self) -> Merging:
        """Begin to merge the views of one image."""
        return Merging(self)

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> Tensor | float:
        """Weight of a view: a number, ``(...)`` for each position, or ``(K, ...)``.

        Args:
            view: its position in the pipeline.
            values: ``(K, ...)``.
            weight: see `Merging.add`.
        """
        raise NotImplementedError

    def normalize(self, total: Tensor, weights: Tensor | float) -> Tensor:
        """Merged values from the weighted sum and the sum of the weights."""
        return total / weights

    def probabilities(self, merged: Tensor) -> Tensor:
        """Probabilities ``(K, ...)`` of merged values, or of those of one view."""
        if self.on == 'probabilities':
            return merged
        if self.independent_classes or len(merged) == 1:
            return merged.sigmoid()
        return merged.softmax(0)

    def merge(self, views: Iterable[Tensor]) -> Tensor:
        """Merge all views of a pipeline at once, each ``(K, ...)``."""
        merging = self.begin()
        for view, values in enumerate(views):
            if self.uses(view):
                merging.add(view, values)
        return merging.result()


@MERGERS.register_module()
class MeanMerger(Merger):
    """Mean over views. On probabilities it is that of MM's `AverageClsScoreTTA`, `SegTTAModel`."""

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return 1


@MERGERS.register_module()
class EntropyMerger(Merger):
    """Mean with weights ``1 - H / log K``: confident views count more.

    Every pixel of a dense prediction has its own weights. If classes are independent, H is the mean
    of their binary entropies and K is 2.

    If the states of a view are weighted by entropy too (`EntropyAggregator`), the result is
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

    ``on``: see `Merger`; the paper's comparison uses logits.
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
        # One channel is a binary decision, and a view can be confident of either class.
        return (self._merger.probabilities(values)[0] - 0.5).abs()


def confidence(probabilities: Tensor, independent: bool = False) -> Tensor:
    """``1 - H / log K`` of probabilities ``(K, ...)``, above 0.

    A single channel is a binary decision, and so is each of ``independent`` classes: then the mean
    over classes.
    """
    probabilities = probabilities.float()
    outcomes = 2 if independent or len(probabilities) == 1 else len(probabilities)
    entropy = entropy_in_nats(probabilities[None], independent)[0] / math.log(outcomes)
    return (1 - entropy).clamp(min=SMALLEST_WEIGHT)
