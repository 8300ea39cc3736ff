"""What is known of some computed rows, worked out when first asked for."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ..execution import Computed, Levels
from .alignment import Alignment
from .geometry import Geometry

Head = Callable[[Levels, Computed], Tensor]


class Evaluation:
    """One part of the rows on its way from features to what is merged.

    Args:
        computed: rows and features.
        head: turns levels into logits ``(M, K)`` or ``(M, K, H, W)``.
        geometry: of the searched groups.
        alignment: how states are brought together.
        reads: which features the head reads for a single state.
    """

    def __init__(
        self,
        computed: Computed,
        head: Head,
        geometry: Geometry,
        alignment: Alignment,
        reads: Callable[['Evaluation'], Levels],
    ) -> None:
        self.computed = computed
        self.rows = computed.rows
        self._head = head
        self._geometry = geometry
        self._alignment = alignment
        self._reads = reads

    @cached_property
    def aligned(self) -> Levels:
        """Features per level after alignment, ``(M, C, h, w)``."""
        return self._alignment.features(self.computed.features, self.rows.states, self._geometry)

    @cached_property
    def logits(self) -> Tensor:
        """What the head says of each row, ``(M, K)`` or ``(M, K, H, W)``, where it lies."""
        return self._head(self._reads(self), self.computed)

    @cached_property
    def output(self) -> Tensor:
        """`logits` moved back by the displacement."""
        if not self._alignment.in_output_space:
            return self.logits
        return self._alignment.output(self.logits, self.shift(self.logits))

    @cached_property
    def entropy(self) -> Tensor:
        """Normalised entropy ``(M,)`` in 0..1 of each row, the mean over pixels if dense."""
        return _per_row(normalized_entropy(self.logits))

    @cached_property
    def margin(self) -> Tensor:
        """Lead of the first class over the second, ``(M,)`` in 0..1, the mean if dense."""
        return _per_row(probability_margin(self.logits))

    def shift(self, logits: Tensor) -> Tensor:
        """Displacement ``(M, 2)`` in whole pixels of ``logits``."""
        displacement = self._geometry.space.displacement(self.rows.states)
        ratio = [
            out / size
            for out, size in zip(logits.shape[2:], self.computed.inputs.shape[2:], strict=True)
        ]
        return (displacement * torch.tensor(ratio)).round().long()


def normalized_entropy(logits: Tensor) -> Tensor:
    """Entropy over classes divided by its maximum: ``(M, K, ...)`` -> ``(M, ...)`` in 0..1.

    A single channel is the logit of a binary decision.
    """
    logp = _log_probabilities(logits)
    return -(logp.exp() * logp).sum(1) / math.log(logp.shape[1])


def probability_margin(logits: Tensor) -> Tensor:
    """Lead of the first class over the second: ``(M, K, ...)`` -> ``(M, ...)`` in 0..1."""
    first, second = _log_probabilities(logits).exp().topk(2, dim=1).values.unbind(1)
    return first - second


def _log_probabilities(logits: Tensor) -> Tensor:
    logits = logits.float()
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def _per_row(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)
