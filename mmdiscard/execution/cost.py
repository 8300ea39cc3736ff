"""What states cost: multiply-accumulates between groups, and the prefix-tree bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..subsampling import StateHooks


@dataclass(frozen=True)
class CostModel:
    """Shares of one plain forward (backbone and head together are 1).

    Attributes:
        before: per searched group, what is computed before its first member.
        backbone: the whole backbone.
        num_levels: how many output levels the backbone has.
        macs: multiply-accumulates of one plain forward at the size it was measured with.
    """

    before: tuple[float, ...]
    backbone: float
    num_levels: int
    macs: int

    @property
    def head(self) -> float:
        """Everything after the backbone."""
        return 1 - self.backbone

    def between(self, entry: int | None, stop: int | None) -> float:
        """Cost of the backbone from one group to another; None for its beginning and its end."""
        start = 0.0 if entry is None else self.before[entry]
        end = self.backbone if stop is None else self.before[stop]
        return end - start

    def bound(self, states: Sequence[Sequence[int]], heads: float | None = None) -> float:
        """The prefix-tree bound: every distinct prefix of ``states`` computed once.

        Args:
            states: distinct states over the searched groups.
            heads: how often the head runs; once per state if None.

        Returns:
            Cost in units of a plain forward.
        """
        edges = (0.0, *self.before, self.backbone)
        segments = [
            len({tuple(state[:depth]) for state in states}) * (edges[depth + 1] - edges[depth])
            for depth in range(len(self.before) + 1)
        ]
        return sum(segments) + self.head * (len(states) if heads is None else heads)


@torch.no_grad()
def measure_cost(
    hooks: StateHooks,
    backbone: Callable[[Tensor], tuple[Tensor, ...]],
    head: Callable[[tuple[Tensor, ...]], object],
    image: Tensor,
) -> CostModel:
    """Count the multiply-accumulates of one forward.

    Args:
        hooks: of the searched groups.
        backbone: image ``(1, 3, H, W)`` to output levels.
        head: output levels to whatever the model makes of them.
        image: the image to measure with.
    """
    groups = hooks.space.groups
    seen: dict[int, int] = {}
    with FlopCounterMode(display=False) as counter:

        def reached(column: int) -> None:
            seen.setdefault(column, counter.get_total_flops())

        with hooks.select(hooks.space.default(1), reached=reached):
            levels = backbone(image)
        whole_backbone = counter.get_total_flops()
        head(levels)
        total = max(counter.get_total_flops(), 1)
    return CostModel(
        before=tuple(seen.get(column, 0) / total for column in range(len(groups))),
        backbone=whole_backbone / total,
        num_levels=len(levels),
        macs=total // 2,
    )
