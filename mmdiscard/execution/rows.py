"""How states are computed: rows of many images and states through one forward, within a limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..search import Rows
from ..subsampling import StateHooks

Levels = tuple[Tensor, ...]


@dataclass(frozen=True)
class Computed:
    """Some rows and what the backbone made of them.

    Attributes:
        rows: the rows, ``M`` of them.
        inputs: ``(M, 3, H, W)`` images, of which heads read the size alone.
        features: per output level ``(M, C, h, w)``, not aligned.
        positions: ``(M,)`` long, where the rows stand among those that were asked for; None if
            they come in order.
    """

    rows: Rows
    inputs: Tensor
    features: Levels
    positions: Tensor | None = None


class RowExecutor:
    """Computes each row by one pass through the backbone.

    An executor is the one place that decides how states share computation: whatever replaces this
    one needs `run` alone.

    Args:
        forward: the backbone, ``(M, 3, H, W)`` to its output levels.
        hooks: put states into that backbone.
        max_rows: at most so many rows are in flight at once; None for as many as the batch has
            images, which is what fits in memory without mmdiscard.

    Raises:
        MMDiscardError: if ``max_rows`` is not a whole number of at least 1.
    """

    def __init__(
        self, forward: Callable[[Tensor], Levels], hooks: StateHooks, max_rows: int | None = None
    ) -> None:
        self.forward = forward
        self.hooks = hooks
        self.max_rows = check_max_rows(max_rows)

    def run(self, inputs: Tensor, rows: Rows) -> Iterator[Computed]:
        """Yield the rows in order, in parts of at most ``max_rows``."""
        limit = self.max_rows or len(inputs)
        for start in range(0, len(rows), limit):
            part = rows[start : start + limit]
            yield self._compute(inputs, part)

    def _compute(self, inputs: Tensor, rows: Rows) -> Computed:
        whole_batch = torch.equal(rows.images, torch.arange(len(inputs)))
        images = inputs if whole_batch else inputs[rows.images.to(inputs.device)]
        with self.hooks.select(rows.states):
            return Computed(rows, images, self.forward(images))


def check_max_rows(max_rows: int | None) -> int | None:
    """Return ``max_rows`` if it is None or a whole number of at least 1.

    Raises:
        MMDiscardError: otherwise.
    """
    whole = isinstance(max_rows, int) and not isinstance(max_rows, bool)
    if max_rows is not None and (not whole or max_rows < 1):
        raise MMDiscardError(f'max_rows must be a whole number of at least 1; got {max_rows!r}')
    return max_rows
