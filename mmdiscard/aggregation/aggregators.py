"""Aggregation: states become one prediction, as a running mean that the budget does not grow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..registry import AGGREGATORS, ALIGNMENTS, SPACES, lookup
from ..subsampling.layers import memory_format
from .alignment import equal_moves, pieces, translate
from .evaluation import Evaluation
from .spaces import Space

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
    #: whether weights say how sure a prediction is, so that those of other views can be compared
    weighs_confidence = False
    #: whether it says how much attention states receive
    gives_attention = False

    def __init__(self, on: str = 'features', align: str = 'none') -> None:
        self.on = on
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

    def prepare(self, describe: Callable[[], Any]) -> None:
        """Get ready for a model.

        Args:
            describe: gives a `MergeTarget`, what those with parameters are made for.

        Raises:
            MMDiscardError: if the two do not fit.
        """

    def weights(self, evaluation: Evaluation) -> Tensor:
        """Weight of each row, above 0: ``(M,)``, or ``(M, H, W)`` at the places of dense values."""
        raise NotImplementedError

    def merge(self, num_images: int, budget: int) -> 'Merge':
        """Begin a batch.

        Args:
            num_images: ``N``.
            budget: number of states per image at most; a single one needs no weight.
        """
        return Merge(self.space, self.weights if budget > 1 else ones, num_images)


def ones(evaluation: Evaluation) -> Tensor:
    """The same weight for every row."""
    return torch.ones(len(evaluation.rows), device=evaluation.computed.inputs.device)


@AGGREGATORS.register_module()
class AverageAggregator(Aggregator):
    """The plain mean over states."""

    def weights(self, evaluation: Evaluation) -> Tensor:
        return ones(evaluation)


@AGGREGATORS.register_module()
class EntropyAggregator(Aggregator):
    """Weight ``1 - H / log K``, normalised over states: confident states count more (the paper).

    On dense logits every pixel has weights of its own.
    """

    needs_prediction = True
    weighs_confidence = True

    def weights(self, evaluation: Evaluation) -> Tensor:
        return (1 - self.space.entropy(evaluation)).clamp(min=SMALLEST_WEIGHT)


class Merge:
    """The running weighted means of one batch.

    Args:
        space: says what is merged.
        weights: says how much each row counts.
        num_images: ``N``.
    """

    def __init__(
        self, space: Space, weights: Callable[[Evaluation], Tensor], num_images: int
    ) -> None:
        self.space = space
        self.weights = weights
        self.num_images = num_images
        self._means: list[RunningMean] = []

    def add(self, evaluation: Evaluation, last_use: bool = False) -> None:
        """Take in some rows.

        Args:
            evaluation: of those rows.
            last_use: nobody looks at it again, so its tensors may be written to.
        """
        values = self.space.values(evaluation)
        weights = self.weights(evaluation)
        shift = self.space.shift(evaluation)
        if not self._means:
            self._means = [RunningMean(self.num_images) for _ in values]
        for run in evaluation.rows.runs():
            images = evaluation.rows.images[run]
            move = None if shift is None else shift[run]
            for mean, value in zip(self._means, values, strict=True):
                mean.add(images, value[run], weights[run], move, last_use and self.space.fresh)

    def result(self) -> tuple[Tensor, ...]:
        """The merged tensors, each ``(N, ...)``."""
        return tuple(mean.value for mean in self._means)

    @property
    def total(self) -> Tensor:
        """What the states of each image weigh together, ``(N, 1, ...)``."""
        return self._means[0].total


class RunningMean:
    """Weighted mean per image that takes in values one at a time.

    The first value of an image is kept as it is, so one state alone comes out bit for bit.

    Attributes:
        value: ``(N, ...)``, the means; never written to in place while others may hold it.
        total: ``(N, 1, ...)``, the sums of the weights.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.value: Tensor | None = None
        self.total: Tensor | None = None
        self._owned = False

    def add(
        self,
        images: Tensor,
        values: Tensor,
        weights: Tensor,
        shift: Tensor | None = None,
        writable: bool = False,
    ) -> None:
        """Take in one value for each of ``images``, which are distinct.

        Args:
            images: ``(m,)`` long.
            values: ``(m, ...)``.
            weights: ``(m,)`` or ``(m, H, W)``, above 0.
            shift: ``(m, 2)`` long, whole cells by which values and weights are moved first, as in
                `translate`; None for not at all.
            writable: nobody else needs values and weights.
        """
        weights = _expand(weights, values)
        if shift is None or not shift.any():
            self._add(images, values, weights, writable)
        elif self.value is None:
            self._add(images, translate(values, shift), translate_maps(weights, shift), False)
        else:
            self._add_moved(images, values, translate_maps(weights, shift), shift)

    def _add(self, images: Tensor, values: Tensor, weights: Tensor, writable: bool) -> None:
        every = len(images) == self.num_images
        if self.value is None and every:
            self.value, self.total = values, weights  # the usual beginning, without a copy
            self._owned = writable
            return
        self._begin(values, weights)
        index = slice(None) if every else images.to(values.device)
        share = self._share(index, weights).to(values.dtype)
        if every:
            self.value.lerp_(values.to(self.value.dtype), share)
        else:
            mixed = torch.lerp(self.value[index], values.to(self.value.dtype), share)
            self.value[index] = mixed

    def _add_moved(self, images: Tensor, values: Tensor, weights: Tensor, shift: Tensor) -> None:
        """Move and mix in one go: dense values are too large to be written twice."""
        self._begin(values, weights)
        values = values.to(self.value.dtype)
        every = len(images) == self.num_images
        index = slice(None) if every else images.to(values.device)
        shares = self._share(index, weights).to(values.dtype)
        for rows, (dy, dx) in equal_moves(shift):
            targets = self.value[rows] if every else None
            for into, of in pieces(dy, dx, values.shape[2:]):
                share = shares[rows][into] if _is_map(shares) else shares[rows]
                if targets is not None:
                    targets[into].lerp_(values[rows][of], share)
                    continue
                for row, image in enumerate(images[rows].tolist()):
                    self.value[image][into].lerp_(values[rows][row][of], share[row])

    def _begin(self, values: Tensor, weights: Tensor) -> None:
        """Make sure that there is memory of our own to write to."""
        if self.value is None:
            # In the memory format of the values: kernels that follow may round by it.
            shape = (self.num_images, *values.shape[1:])
            self.value = values.new_zeros(shape).to(memory_format=memory_format(values))
            self.total = weights.new_zeros((self.num_images, *weights.shape[1:]))
        elif not self._owned:
            self.value, self.total = self.value.clone(), self.total.clone()
        self._owned = True

    def _share(self, index: Tensor | slice, weights: Tensor) -> Tensor:
        """Count new weights in; their share of the totals, 1 for the first value of an image."""
        self.total[index] += weights
        return weights / self.total[index]


def _expand(weights: Tensor, values: Tensor) -> Tensor:
    """``(m,)`` or ``(m, H, W)`` so that it multiplies ``(m, C, ...)``."""
    if weights.ndim == 1:
        return weights.view(-1, *[1] * (values.ndim - 1))
    return weights.unsqueeze(1)


def _is_map(weights: Tensor) -> bool:
    return weights.shape[2:].numel() > 1


def translate_maps(weights: Tensor, shift: Tensor) -> Tensor:
    """`translate` for weights, which are single numbers where they are no maps."""
    return translate(weights, shift) if _is_map(weights) else weights
