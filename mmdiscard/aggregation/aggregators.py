"""Aggregation: states become one prediction, as a running mean that the budget does not grow."""

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..registry import AGGREGATORS, ALIGNMENTS, SPACES, lookup
from ..subsampling.layers import memory_format
from .evaluation import Evaluation

SMALLEST_WEIGHT = 1e-6


class Aggregator:
    """Weighs states. Subclasses implement `weights`.

    Args:
        on: ``'features'`` or ``'logits'``, what is merged.
        align: ``'none'``, ``'bilinear'`` or ``'exact'``, how states are brought together first.

    Raises:
        MMDiscardError: if either is unknown, or ``'exact'`` is asked for features.
    """

    #: whether a weight depends on what the model predicts for the row
    needs_prediction = False

    def __init__(self, on: str = 'features', align: str = 'none') -> None:
        self.space = lookup(SPACES, on)()
        self.alignment = lookup(ALIGNMENTS, align)()
        if self.alignment.in_output_space and on != 'logits':
            raise MMDiscardError(
                f"align={align!r} moves the output maps of a segmentor, so it needs on='logits', "
                f"got on={on!r}; a classifier has no such maps: use align='bilinear' or 'none'"
            )

    def check(self, dense: bool) -> None:
        """Check that a model fits.

        Args:
            dense: whether its logits are maps.

        Raises:
            MMDiscardError: if this aggregator moves the output and the model's is not a map.
        """
        if self.alignment.in_output_space and not dense:
            raise MMDiscardError(
                "align='exact' moves output maps, and a classifier's output is none; use "
                "align='bilinear' or align='none'"
            )

    def weights(self, evaluation: Evaluation) -> Tensor:
        """Weight of each row, above 0: ``(M,)``, or ``(M, H, W)`` where values are dense logits."""
        raise NotImplementedError

    def merge(self, num_images: int) -> 'Merge':
        """Begin a batch."""
        return Merge(self, num_images)


@AGGREGATORS.register_module()
class AverageAggregator(Aggregator):
    """The plain mean over states."""

    def weights(self, evaluation: Evaluation) -> Tensor:
        return torch.ones(len(evaluation.rows), device=evaluation.computed.inputs.device)


@AGGREGATORS.register_module()
class EntropyAggregator(Aggregator):
    """Weight ``1 - H / log K``, normalised over states: confident states count more (the paper).

    On dense logits every pixel has weights of its own.
    """

    needs_prediction = True

    def weights(self, evaluation: Evaluation) -> Tensor:
        return (1 - self.space.entropy(evaluation)).clamp(min=SMALLEST_WEIGHT)


class Merge:
    """The running weighted means of one batch.

    Args:
        aggregator: says what is merged with which weights.
        num_images: ``N``.
    """

    def __init__(self, aggregator: Aggregator, num_images: int) -> None:
        self.aggregator = aggregator
        self.num_images = num_images
        self._means: list[RunningMean] = []

    def add(self, evaluation: Evaluation) -> None:
        """Take in some rows."""
        values = self.aggregator.space.values(evaluation)
        weights = self.aggregator.weights(evaluation)
        if not self._means:
            self._means = [RunningMean(self.num_images) for _ in values]
        for run in evaluation.rows.runs():
            images = evaluation.rows.images[run]
            for mean, value in zip(self._means, values, strict=True):
                mean.add(images, value[run], weights[run])

    def result(self) -> tuple[Tensor, ...]:
        """The merged tensors, each ``(N, ...)``."""
        return tuple(mean.value for mean in self._means)


class RunningMean:
    """Weighted mean per image that takes in values one at a time.

    The first value of an image is kept as it is, so one state alone comes out bit for bit.

    Attributes:
        value: ``(N, ...)``, the means; never written to in place while others may hold it.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.value: Tensor | None = None
        self._total: Tensor | None = None
        self._owned = False

    def add(self, images: Tensor, values: Tensor, weights: Tensor) -> None:
        """Take in one value for each of ``images``, which are distinct.

        Args:
            images: ``(m,)`` long.
            values: ``(m, ...)``.
            weights: ``(m,)`` or ``(m, H, W)``, above 0.
        """
        weights = _expand(weights, values)
        if self.value is None and len(images) == self.num_images:
            self.value, self._total = values, weights  # the usual beginning, without a copy
        else:
            self._begin(values, weights)
            index = slice(None) if len(images) == self.num_images else images.to(values.device)
            self._mix(index, values.to(self.value.dtype), weights)

    def _begin(self, values: Tensor, weights: Tensor) -> None:
        """Make sure that there is memory of our own to write to."""
        if self.value is None:
            # In the memory format of the values: kernels that follow may round by it.
            shape = (self.num_images, *values.shape[1:])
            self.value = values.new_zeros(shape).to(memory_format=memory_format(values))
            self._total = weights.new_zeros((self.num_images, *weights.shape[1:]))
        elif not self._owned:
            self.value, self._total = self.value.clone(), self._total.clone()
        self._owned = True

    def _mix(self, index: Tensor | slice, values: Tensor, weights: Tensor) -> None:
        total = self._total[index] + weights
        share = (weights / total).to(values.dtype)  # 1 for the first value of an image
        self.value[index] = torch.lerp(self.value[index], values, share)
        self._total[index] = total


def _expand(weights: Tensor, values: Tensor) -> Tensor:
    """``(m,)`` or ``(m, H, W)`` so that it multiplies ``(m, C, ...)``."""
    if weights.ndim == 1:
        return weights.view(-1, *[1] * (values.ndim - 1))
    return weights.unsqueeze(1)
