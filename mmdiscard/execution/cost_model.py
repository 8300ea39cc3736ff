"""Cost of states: multiply-accumulates between groups, and the prefix-tree bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch.utils.flop_counter import FlopCounterMode

from ..search import Prices
from ..subsampling import SubsamplingGroup, SubsamplingMap


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
        """Prices of states where the head runs for every state, or on what was merged, or both."""
        return Prices(
            before=self.before,
            backbone=self.backbone,
            head=self.head * head_per_state,
            final=self.head * head_after,
        )


def measure_cost(
    found: SubsamplingMap,
    groups: Sequence[SubsamplingGroup],
    head: Callable[[], object] = lambda: None,
) -> CostModel:
    """Count the multiply-accumulates of one forward.

    Args:
        found: what discovery counted in the backbone.
        groups: the searched groups.
        head: runs what comes after the backbone, at the size of the images that were traced.
    """
    with FlopCounterMode(display=False) as counter:
        head()
    total = max(found.macs + counter.get_total_flops() // 2, 1)
    return CostModel(
        before=tuple(found.macs_before(group) / total for group in groups),
        backbone=found.macs / total,
        macs=total,
    )
