"""Merging that needs all states of an image at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..aggregation import RowOutputs, RunningMean


class StateBuffer:
    """Keeps what is merged of all rows of a batch, and hands it out image by image.

    Args:
        num_images: ``N``.
        kept: which of the tensors are kept; of the others only a running mean is.
    """

    def __init__(self, num_images: int, kept: Sequence[int]) -> None:
        self.num_images = num_images
        self.kept = kept
        self._images: list[Tensor] = []
        self._states: list[Tensor] = []
        self._values: dict[int, list[Tensor]] = {index: [] for index in kept}
        self._means: dict[int, RunningMean] = {}

    def add(self, outputs: RowOutputs, values: Sequence[Tensor]) -> None:
        """Take in ``values``, each ``(M, ...)``, of some rows."""
        rows = outputs.rows
        self._images.append(rows.images)
        self._states.append(rows.states)
        for index, value in enumerate(values):
            if index in self._values:
                self._values[index].append(value)
            else:
                mean = self._means.setdefault(index, RunningMean(self.num_images))
                for run in rows.runs():
                    part = value[run]
                    mean.add(rows.images[run], part, torch.ones(len(part), device=part.device))

    def means(self) -> dict[int, Tensor]:
        """By index, means ``(N, ...)`` of what is not kept."""
        return {index: mean.value for index, mean in self._means.items()}

    def layout(self) -> 'Layout':
        """Where the rows so far belong."""
        return Layout(torch.cat(self._images), torch.cat(self._states), self.num_images)

    def values(self, index: int) -> Tensor:
        """All rows so far of a tensor that is kept, ``(M, ...)``, in order of arrival."""
        parts = self._values[index]
        if len(parts) > 1:
            self._values[index] = parts = [torch.cat(parts)]
        return parts[0]


class Layout:
    """Rows in order of arrival, and the same as ``(image, place)``.

    Args:
        images: ``(M,)`` long.
        states: ``(M, G)`` long.
        num_images: ``N``.

    Attributes:
        states: ``(N, P, G)``; where an image has fewer states than others, the rest is 0.
        present: ``(N, P)`` bool; None if all images have as many states.
        counts: ``(N,)``, how many states each image has.
        first: ``(N,)``, the row of each image that came first.
    """

    def __init__(self, images: Tensor, states: Tensor, num_images: int) -> None:
        self.counts = images.bincount(minlength=num_images)
        most = int(self.counts.max())
        order = images.argsort(stable=True)
        place = torch.arange(len(images)) - (self.counts.cumsum(0) - self.counts)[images[order]]
        # An absent place repeats some row, and is masked wherever it would count.
        self._row = torch.zeros(num_images, most, dtype=torch.long)
        self._row[images[order], place] = order
        self.first = self._row[:, 0]
        self._at = torch.empty(len(images), dtype=torch.long)
        self._at[order] = images[order] * most + place
        full = bool((self.counts == most).all())
        self.present = None if full else torch.arange(most) < self.counts[:, None]
        self.states = states[self._row]

    def by_image(self, values: Tensor) -> Tensor:
        """``(M, ...)`` in order of arrival -> ``(N, P, ...)``."""
        return values[self._row.to(values.device)]

    def by_row(self, values: Tensor) -> Tensor:
        """``(N, P)`` -> ``(M,)`` in order of arrival."""
        return values.flatten()[self._at.to(values.device)]
