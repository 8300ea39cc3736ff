"""The reference executor: rows of many images and states in one forward, within a memory limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..search import Rows
from ..subsampling import StateHooks
from .memory_limits import MemoryLimits

Levels = tuple[Tensor, ...]


@dataclass(frozen=True)
class BackboneOutputs:
    """Some rows and the output of the backbone for them.

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

    def moved(self, places: Tensor) -> 'BackboneOutputs':
        """The same outputs, at ``places`` ``(P,)`` among the rows that were asked for."""
        return replace(self, positions=places[self.positions])


class ReferenceExecutor:
    """Computes each row by a whole pass through the backbone; a reference for other executors.

    Args:
        forward: the backbone, ``(M, 3, H, W)`` to its output levels.
        hooks: put states into that backbone.
        limits: bounds on memory.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Levels],
        hooks: StateHooks,
        limits: MemoryLimits | None = None,
    ) -> None:
        self.forward = forward
        self.hooks = hooks
        self.limits = limits or MemoryLimits()

    def run(self, inputs: Tensor, rows: Rows) -> Iterator[BackboneOutputs]:
        """Yield the rows in order, in parts within the limit."""
        limit = self.limits.rows(len(inputs))
        for start in range(0, len(rows), limit):
            part = rows[start : start + limit]
            whole_batch = torch.equal(part.images, torch.arange(len(inputs)))
            images = inputs if whole_batch else inputs[part.images.to(inputs.device)]
            with self.hooks.select(part.states):
                outputs = BackboneOutputs(part, images, self.forward(images))
            yield outputs
