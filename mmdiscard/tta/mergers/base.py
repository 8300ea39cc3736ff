"""What merges views: begin, add them one by one, ask for the result.

Values are ``(K, ...)``: classes first, then whatever places there are (none for one classified
image, rows and columns for a segmented one, images where many are merged at once). Only running
sums are kept, so memory does not grow with the number of views.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ...errors import MMDiscardError


def _probabilities(merged: Tensor) -> Tensor:
    return merged


def _softmax(merged: Tensor) -> Tensor:
    return merged.softmax(0) if len(merged) > 1 else merged.sigmoid()


#: what can be merged, and how the result becomes probabilities
INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'probabilities': _probabilities,
    'logits': _softmax,
}


class Merging:
    """A weighted mean on its way; kept in the precision of the first view."""

    def __init__(self, merger: 'Merger') -> None:
        self._merger = merger
        self._sum: Tensor | None = None
        self._weights: Tensor | float = 0.0

    def add(self, view: int, values: Tensor, weight: Tensor | None = None) -> None:
        """Take in one view.

        Args:
            view: its position in the pipeline, from 0.
            values: ``(K, ...)``, probabilities or logits as the merger asks (``on``).
            weight: ``(...)`` or a number, what the states inside this view weigh together; None if
                nothing is known of them. See `EntropyMerger`.
        """
        own = self._merger.weight(view, values, weight)
        weighted = own * values
        self._sum = weighted if self._sum is None else self._sum.add_(weighted)
        self._weights = self._weights + own

    def result(self) -> Tensor:
        """The merged values ``(K, ...)``.

        Raises:
            MMDiscardError: if no view was taken in.
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

    #: whether the weight that the states inside a view have together is of use
    joint = False

    def __init__(self, on: str = 'probabilities') -> None:
        if on not in INPUTS:
            raise MMDiscardError(
                f'{type(self).__name__}: `on` has to be one of {", ".join(INPUTS)}; got {on!r}'
            )
        self.on = on

    def fit_to(self, names: Sequence[str]) -> None:
        """Learn the names of the views of the pipeline, in its order.

        Raises:
            MMDiscardError: if this merger was fitted to others.
        """

    def uses(self, view: int) -> bool:
        """Whether the view has to be computed at all."""
        return True

    def begin(self) -> Merging:
        """Begin an image."""
        return Merging(self)

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> Tensor | float:
        """Weight of a view: a number, ``(...)`` for each place, or ``(K, ...)``."""
        raise NotImplementedError

    def normalize(self, total: Tensor, weights: Tensor | float) -> Tensor:
        """The merged values of a weighted sum and the sum of weights."""
        return total / weights

    def probabilities(self, merged: Tensor) -> Tensor:
        """Merged values as probabilities ``(K, ...)``."""
        return INPUTS[self.on](merged)

    def merge(self, views: Iterable[Tensor]) -> Tensor:
        """Merge all views of a pipeline at once, each ``(K, ...)``."""
        merging = self.begin()
        for view, values in enumerate(views):
            if self.uses(view):
                merging.add(view, values)
        return merging.result()


def per_class(coefficients: Tensor, values: Tensor) -> Tensor:
    """``(K,)`` so that it multiplies ``(K, ...)``."""
    return torch.as_tensor(coefficients).to(values).view(-1, *[1] * (values.ndim - 1))
