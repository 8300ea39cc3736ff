"""Mergers: views are added one by one to a running mean.

Values are ``(K, ...)``: classes first, then positions (none for a classified image, rows and
columns for a segmented one, images where many are merged at once). Only sums are kept, so that
memory does not grow with the number of views.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...errors import MMDiscardError

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
            values: ``(K, ...)``, probabilities or logits as the merger asks (``on``).
            weight: ``(...)`` or a number, sum of the weights of the states inside this view; None
                if it is not known. See `EntropyMerger`.
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
    """Merges views. Subclasses implement `weight`, or `begin` if theirs is no weighted mean.

    Args:
        on: what is merged, ``'probabilities'`` (MM's way) or ``'logits'``.

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
        """Check the merger against the pipeline and the model. Subclasses begin with this.

        Args:
            names: of the views of the pipeline, in its order.
            independent_classes: whether the model decides every class on its own.

        Raises:
            MMDiscardError: if the merger was fitted to other views, or needs exclusive classes.
        """
        self.independent_classes = independent_classes

    def uses(self, view: int) -> bool:
        """Whether the view has to be computed at all."""
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


def per_class(coefficients: Tensor, values: Tensor) -> Tensor:
    """``(K,)`` in a shape that multiplies ``(K, ...)``."""
    return torch.as_tensor(coefficients).to(values).view(-1, *[1] * (values.ndim - 1))
