"""Aligned features, logits, entropy and margin of computed rows, each computed on first use."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ..execution import BackboneOutputs, Levels
from .alignment import Alignment, Geometry, translate

PART = 2**18  # numbers worked on at once, on a CPU
PART_ON_GPU = 2**26
LARGE = 1e30
Head = Callable[[Levels, BackboneOutputs], Tensor]


class RowOutputs:
    """Outputs of some rows, from features to logits. Properties are computed on first use.

    Args:
        computed: rows and features.
        head: turns levels into logits ``(M, K)`` or ``(M, K, H, W)``.
        geometry: of the searched groups.
        alignment: of states.
        reads: returns the features that the head reads for a single state.
        independent: whether classes are independent decisions (sigmoid), not exclusive ones.
        mirrored: whether these are rows of mirror images, whose logits are to be mirrored back.
    """

    def __init__(
        self,
        computed: BackboneOutputs,
        head: Head,
        geometry: Geometry,
        alignment: Alignment,
        reads: Callable[['RowOutputs'], Levels],
        independent: bool = False,
        mirrored: bool = False,
    ) -> None:
        self.computed = computed
        self.rows = computed.rows
        self.positions = computed.positions
        self._head = head
        self._geometry = geometry
        self._alignment = alignment
        self._reads = reads
        self._independent = independent
        self._mirrored = mirrored

    @cached_property
    def aligned(self) -> Levels:
        """Features per level after alignment, ``(M, C, h, w)``."""
        return self._alignment.features(self.computed.features, self.rows.states, self._geometry)

    @cached_property
    def logits(self) -> Tensor:
        """Logits of each row, ``(M, K)`` or ``(M, K, H, W)``, before they are moved."""
        logits = self._head(self._reads(self), self.computed)
        return logits.flip(3) if self._mirrored else logits

    @cached_property
    def shift(self) -> Tensor | None:
        """Displacement ``(M, 2)`` of `logits` in whole pixels; None if they stay in place."""
        if not self._alignment.in_output_space:
            return None
        displacement = self._geometry.space.displacement(self.rows.states)
        if self._mirrored:
            displacement[:, 1] *= -1
        sizes = zip(self.logits.shape[2:], self.computed.inputs.shape[2:], strict=True)
        return (displacement * torch.tensor([out / size for out, size in sizes])).round().long()

    @cached_property
    def output(self) -> Tensor:
        """`logits` after alignment: moved by `shift`."""
        return self.logits if self.shift is None else translate(self.logits, self.shift)

    @property
    def prediction(self) -> Tensor:
        """Logits of the aligned features, before they are moved by `shift`.

        These are `logits`, unless the head reads features where they lie; then it runs once more.
        """
        if self._reads(self) is self.aligned:
            return self.logits
        return self._head(self.aligned, self.computed)

    @cached_property
    def entropies(self) -> Tensor:
        """Normalised entropy of `logits` in 0..1: ``(M,)``, or ``(M, H, W)`` if dense."""
        return normalized_entropy(self.logits, self._independent)

    @cached_property
    def entropy(self) -> Tensor:
        """Normalised entropy ``(M,)`` in 0..1 of each row, the mean over pixels if dense."""
        return _per_row(self.entropies)

    @cached_property
    def margin(self) -> Tensor:
        """Lead of the first class over the second, ``(M,)`` in 0..1, the mean if dense."""
        return _per_row(probability_margin(self.logits, self._independent))


def normalized_entropy(logits: Tensor, independent: bool = False, in_parts: bool = True) -> Tensor:
    """Entropy over classes divided by its maximum: ``(M, K, ...)`` -> ``(M, ...)`` in 0..1.

    A single channel is the logit of a binary decision.

    Args:
        logits: ``(M, K, ...)``.
        independent: every class is a binary decision of its own (sigmoid, as of multi-label heads):
            the mean of their entropies.
        in_parts: work on a few rows of pixels at a time, which is faster but cannot be traced.
    """
    entropy = _independent_entropy if independent else _entropy
    return _in_parts(entropy, logits) if in_parts else entropy(logits)


def probability_margin(logits: Tensor, independent: bool = False) -> Tensor:
    """Lead of the first class over the second: ``(M, K, ...)`` -> ``(M, ...)`` in 0..1.

    Of ``independent`` classes it is the mean lead of yes over no, or of no over yes.
    """
    return _in_parts(_independent_margin if independent else _margin, logits)


def _in_parts(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Apply ``function`` to a few rows of pixels at a time, to work in the processor's cache."""
    if logits.ndim < 4:
        return function(logits)
    elements = PART_ON_GPU if logits.is_cuda else PART
    height = max(1, elements * logits.shape[2] // logits.numel())
    return torch.cat([function(part) for part in logits.split(height, dim=2)], dim=1)


def _entropy(logits: Tensor) -> Tensor:
    # With e = exp(x - max) and Z its sum, H = log Z - sum(e (x - max)) / Z: one exponential.
    below = _centred(logits)
    powers = below.exp()
    total = powers.sum(1)
    entropy = total.log() - powers.mul_(below).sum(1).div_(total)
    return entropy.clamp_(min=0).div_(math.log(below.shape[1]))


def _margin(logits: Tensor) -> Tensor:
    below = _centred(logits)
    second = below.topk(2, dim=1).values[:, 1]
    return (1 - second.exp()) / below.exp().sum(1)


def _independent_entropy(logits: Tensor) -> Tensor:
    logits = logits.float().clamp(-LARGE, LARGE)
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    entropy = -(yes.exp() * yes + no.exp() * no).mean(1)
    return entropy.div_(math.log(2)).clamp_(0, 1)


def _independent_margin(logits: Tensor) -> Tensor:
    return (2 * logits.float().sigmoid() - 1).abs().mean(1)


def _centred(logits: Tensor) -> Tensor:
    """Logits less the largest of their row or pixel; a binary decision gets its second class.

    Infinite ones, as of masked classes, become large: their probability of 0 times infinity is NaN.
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    largest = logits.amax(1, keepdim=True).clamp_(-LARGE, LARGE)
    return (logits - largest).clamp_(-LARGE, 0)


def _per_row(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)
