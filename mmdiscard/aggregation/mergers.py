"""Merging the probabilities of views, as running sums."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..registry import MERGERS
from .aggregators import SMALLEST_WEIGHT


class Merger:
    """A weighted mean over views. Subclasses implement `weight`."""

    def weight(self, probabilities: Tensor) -> Tensor | float:
        """Weight of a view ``(K,)`` or ``(K, H, W)``: a number, or one per pixel ``(H, W)``."""
        raise NotImplementedError

    def merge(self, views: Iterable[Tensor]) -> Tensor:
        """Merge probabilities, each ``(K,)`` or ``(K, H, W)``."""
        total, weights = 0.0, 0.0
        for probabilities in views:
            weight = self.weight(probabilities)
            total = total + weight * probabilities
            weights = weights + weight
        return total / weights


@MERGERS.register_module()
class MeanMerger(Merger):
    """Every view counts the same."""

    def weight(self, probabilities: Tensor) -> float:
        return 1


@MERGERS.register_module()
class EntropyMerger(Merger):
    """Weight ``1 - H / log K``: confident views count more, pixel by pixel in dense predictions."""

    def weight(self, probabilities: Tensor) -> Tensor:
        if len(probabilities) == 1:
            probabilities = torch.cat([probabilities, 1 - probabilities])
        entropy = torch.special.entr(probabilities).sum(0)
        highest = torch.log(torch.tensor(float(len(probabilities))))
        return (1 - entropy / highest).clamp(min=SMALLEST_WEIGHT)
