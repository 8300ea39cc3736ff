"""Buffer of the states of a batch, for aggregators that need all of them at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..aggregation import RowOutputs, RunningMean


class StateBuffer:
    """Buffer of the tensors of all rows of a batch.

    Those with an index in ``kept`` are kept; of the others only the running mean is.
    """

    def __init__(self, num_images: int, kept: Sequence[int]) -> None:
        self.num_images = num_images
        self.kept = kept
        self._images: list[Tensor] = []
        self._states: list[Tensor] = []
        self._values: dict[int, list[Tensor]] = {index: [] for index in kept}
        self._means: dict[int, RunningMean] = {}

    def add(self, outputs: RowOutputs, values: Sequence[Tensor]) -> None:
        """Add rows and their ``values``, tensors of ``(M, ...)`` each."""
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
        """Means ``(N, ...)`` of the tensors that are not kept, by index."""
        return {index: mean.value for index, mean in self._means.items()}

    def layout(self) -> 'Layout':
        """Image and state of each row so far."""
        return Layout(torch.cat(self._images), torch.cat(self._states), self.num_images)

    def values(self, index: int) -> Tensor:
        """All rows so far of a kept tensor, ``(M, ...)``, in the order in which they were added."""
        parts = self._values[index]
        if len(parts) > 1:
            self._values[index] = parts = [torch.cat(parts)]
        return parts[0]


def rank_in_image(images: Tensor) -> Tensor:
    """Position of each row among the rows of its image, by the images ``(M,)`` of the rows."""
    order, counts = images.argsort(stable=True), images.bincount()
    rank = torch.empty_like(images)
    rank[order] = torch.arange(len(images)) - (counts.cumsum(0) - counts)[images[order]]
    return rank


class Layout:
    """Mapping between rows and the states of each image.

    Args:
        images: ``(M,)`` long, image of each row.
        states: ``(M, G)`` long, state of each row.
        num_images: ``N``.

    Attributes:
        states: ``(N, P, G)``, with padding for images that have fewer than ``P``.
        present: ``(N, P)`` bool, False for padding; None if there is no padding.
        counts: ``(N,)``, number of states of each image.
        first: ``(N,)``, the first row of each image.
    """

    def __init__(self, images: Tensor, states: Tensor, num_images: int) -> None:
        self.counts = images.bincount(minlength=num_images)
        most = int(self.counts.max())
        rank = rank_in_image(images)
        self._row = torch.zeros(num_images, most, dtype=torch.long)  # padding repeats row 0
        self._row[images, rank] = torch.arange(len(images))
        self.first = self._row[:, 0]
        self._at = images * most + rank
        full = bool((self.counts == most).all())
        self.present = None if full else torch.arange(most) < self.counts[:, None]
        self.states = states[self._row]

    def by_image(self, values: Tensor) -> Tensor:
        """``(M, ...)`` by row -> ``(N, P, ...)``."""
        return values[self._row.to(values.device)]

    def by_row(self, values: Tensor) -> Tensor:
        """``(N, P)`` -> ``(M,)`` by row."""
        return values.flatten()[self._at.to(values.device)]
