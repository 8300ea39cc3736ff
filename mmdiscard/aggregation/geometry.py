"""Where the feature maps of a state lie, level by level."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..subsampling import StateSpace


@dataclass(frozen=True)
class Geometry:
    """The searched groups together with the backbone's output levels.

    Attributes:
        space: states over the searched groups.
        strides: ``(Sy, Sx)`` in image pixels of every output level.
    """

    space: StateSpace
    strides: Sequence[tuple[int, int]]

    def cells_to_meet(self, states: Tensor, level: int) -> Tensor:
        """Whole cells by which a level lags behind the full displacement: ``(M, 2)`` long.

        A group's displacement is a multiple of its input stride, and a level that does not carry it
        is at most that coarse, so this is always a whole number.
        """
        lag = self.space.displacement(states) - self.space.displacement(states, level)
        return lag // torch.tensor(self.strides[level]).clamp(min=1)

    def fraction_of_cell(self, states: Tensor, level: int) -> Tensor:
        """Displacement of a level over the searched factors in front of it: ``(M, 2)`` in 0..1.

        As published: in units of the first searched group's input, over the product of the searched
        factors. Where a group between the last searched one and the level is not searched, the true
        displacement in cells is smaller than this. Groups skipped between searched ones count.
        """
        carrying = [group for group in self.space.groups if level in group.levels]
        reach = carrying[-1].output_stride if carrying else (1, 1)
        return self.space.displacement(states, level) / torch.tensor(reach)
