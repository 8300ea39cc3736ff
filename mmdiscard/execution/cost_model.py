"""What states cost: multiply-accumulates between groups, and the prefix-tree bound."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..search import Prices
from ..subsampling import StateHooks


@dataclass(frozen=True)
class CostModel:
    """Shares of one plain forward (backbone and head together are 1).

    Attributes:
        before: per searched group, what is computed before its first member.
        backbone: the whole backbone.
        macs: multiply-accumulates of one plain forward at the size it was measured with.
    """

    before: tuple[float, ...]
    backbone: float
    macs: int

    @property
    def head(self) -> float:
        """Everything after the backbone."""
        return 1 - self.backbone

    @property
    def segments(self) -> tuple[int, ...]:
        """Multiply-accumulates before the first group, from each group on, and of the head."""
        edges = (0.0, *self.before, self.backbone, 1.0)
        return tuple(round((end - start) * self.macs) for start, end in pairwise(edges))

    def after(self, column: int) -> float:
        """The backbone from a group to its end."""
        return self.backbone - self.before[column]

    def prices(self, head_per_state: bool = True, head_after: bool = False) -> Prices:
        """What states cost.

        Args:
            head_per_state: whether the head runs for every state.
            head_after: whether it runs on what was merged.
        """
        return Prices(
            before=self.before,
            backbone=self.backbone,
            head=self.head * head_per_state,
            final=self.head * head_after,
        )


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
        macs=total // 2,
    )
