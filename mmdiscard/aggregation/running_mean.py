"""Running weighted mean of the states of each image."""

import torch
from torch import Tensor

from ..subsampling.layers import memory_format
from ..subsampling.translation import equal_moves, pieces, translate
from ..utils import on_device_of


class RunningMean:
    """Weighted mean for each of ``num_images`` images, to which values are added one at a time.

    The first value of an image is stored unchanged, so the mean of one state is bit for bit that
    state.

    Attributes:
        value: ``(N, ...)``, the means; not changed in place if the first values were not
            ``writable``.
        total: ``(N, 1, ...)``, the sums of the weights.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.value: Tensor | None = None
        self.total: Tensor | None = None
        self._owned = self._finite = False

    def add(
        self,
        images: Tensor,
        values: Tensor,
        weights: Tensor,
        shift: Tensor | None = None,
        writable: bool = False,
    ) -> None:
        """Add one value for each of ``images``, which are distinct.

        Args:
            images: ``(m,)`` long.
            values: ``(m, ...)``; infinite ones count as the largest finite number.
            weights: ``(m,)`` or ``(m, H, W)``, above 0.
            shift: ``(m, 2)`` long, whole cells by which values and weights are moved first, as in
                `translate`; None for not at all.
            writable: whether values and weights may be overwritten.
        """
        weights = expand_weights(weights, values)
        if shift is None or not shift.any():
            self._add(images, values, weights, writable)
        elif self.value is None:
            self._add(images, translate(values, shift), translate_maps(weights, shift), False)
        else:
            self._add_moved(images, values, translate_maps(weights, shift), shift, writable)

    def _add(self, images: Tensor, values: Tensor, weights: Tensor, writable: bool) -> None:
        every = len(images) == self.num_images
        if self.value is None and every:
            self.value, self.total = values, weights  # the usual beginning, without a copy
            self._owned = writable
            return
        values = self._begin(values, weights, writable)
        index = slice(None) if every else on_device_of(images, values)
        share = self._share(index, weights).to(values.dtype)
        if every:
            self.value.lerp_(values, share)
        else:
            mixed = torch.lerp(self.value[index], values, share)
            self.value[index] = mixed

    def _add_moved(
        self, images: Tensor, values: Tensor, weights: Tensor, shift: Tensor, writable: bool
    ) -> None:
        """Move and add in one pass, because dense values are large."""
        values = self._begin(values, weights, writable)
        every = len(images) == self.num_images
        index = slice(None) if every else on_device_of(images, values)
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

    def _begin(self, values: Tensor, weights: Tensor, writable: bool) -> Tensor:
        """Allocate the means, or copy them if they must not be overwritten.

        Returns:
            The values in the precision of the means. These and the means are finite from now on:
            infinite logits, as of masked classes, have no mean that could be computed step by step.
        """
        if self.value is None:
            # In the memory format of the values: kernels that follow may round by it.
            shape = (self.num_images, *values.shape[1:])
            self.value = values.new_zeros(shape).to(memory_format=memory_format(values))
            self.total = weights.new_zeros((self.num_images, *weights.shape[1:]))
        elif not self._finite:
            self.value = finite(self.value, self._owned)
            self.total = self.total if self._owned else self.total.clone()
        self._owned = self._finite = True
        return finite(values, writable).to(self.value.dtype)

    def _share(self, index: Tensor | slice, weights: Tensor) -> Tensor:
        """Add weights to the totals; returns their share, 1 for the first value of an image."""
        self.total[index] += weights
        return weights / self.total[index]


def finite(values: Tensor, writable: bool) -> Tensor:
    """Values with the largest finite number in the place of infinity; a copy if not writable."""
    largest = torch.finfo(values.dtype).max
    return (values.clamp_ if writable else values.clamp)(-largest, largest)


def expand_weights(weights: Tensor, values: Tensor) -> Tensor:
    """``(m,)`` or ``(m, H, W)`` so that it multiplies ``(m, C, ...)``."""
    if weights.ndim == 1:
        return weights.view(-1, *[1] * (values.ndim - 1))
    return weights.unsqueeze(1)


def _is_map(weights: Tensor) -> bool:
    return weights.shape[2:].numel() > 1


def translate_maps(weights: Tensor, shift: Tensor) -> Tensor:
    """`translate` for weights, which are single numbers where they are no maps."""
    return translate(weights, shift) if _is_map(weights) else weights
