"""Alignment: undoes the displacement of states before they are merged."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..execution import Levels
from ..registry import ALIGNMENTS
from ..subsampling import StateSpace
from ..subsampling.translation import translate
from ..utils import on_device_of


@dataclass(frozen=True)
class Geometry:
    """Displacement of each output level of the backbone.

    Attributes:
        space: states over the searched groups.
        strides: ``(Sy, Sx)`` in image pixels of every output level.
    """

    space: StateSpace
    strides: Sequence[tuple[int, int]]

    @property
    def coarsest_stride(self) -> tuple[int, int]:
        """Largest stride of any level, along each axis."""
        return tuple(map(max, zip(*self.strides, strict=True)))

    def cells_to_meet(self, states: Tensor, level: int) -> Tensor:
        """Whole cells ``(M, 2)`` by which a level is displaced less than the deepest level.

        A group displaces by multiples of its input stride, and the levels in front of it have at
        most that stride, so this is always a whole number.
        """
        lag = self.space.displacement(states) - self.space.displacement(states, level)
        return lag // torch.tensor(self.strides[level]).clamp(min=1)

    def fraction_of_cell(self, states: Tensor, level: int) -> Tensor:
        """Displacement of a level in cells, as in the official code: ``(M, 2)`` in 0..1.

        It is divided by the output stride of the last searched group in front of the level. If
        further groups that are not searched come before the level, its stride is larger, and the
        true displacement in cells is smaller than this.
        """
        carrying = [group for group in self.space.groups if level in group.levels]
        reach = carrying[-1].output_stride if carrying else (1, 1)
        return self.space.displacement(states, level) / torch.tensor(reach)


class Alignment:
    """Moves feature levels before the head. The base class leaves them where they are."""

    #: whether logits are moved after the head too, which needs dense logits
    in_output_space = False

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        """Move feature levels back to the default state.

        Args:
            levels: per level ``(M, C, h, w)``.
            states: ``(M, G)``, one per row.
            geometry: strides of the levels and groups.
        """
        return levels


@ALIGNMENTS.register_module(name='none')
class NoAlignment(Alignment):
    """No alignment: states are merged as they are."""


@ALIGNMENTS.register_module(name='bilinear')
class BilinearAlignment(Alignment):
    """The paper's alignment of feature maps, in closed form.

    Upsampling a map by R (nearest), shifting it by d and average-pooling it by R is a two-tap blend
    per axis, ``aligned[i] = ((R - d) * f[i] + d * f[i - 1]) / R`` with ``f[-1] = 0``.
    """

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        return tuple(
            blend(level, geometry.fraction_of_cell(states, index)) if level.ndim == 4 else level
            for index, level in enumerate(levels)
        )


@ALIGNMENTS.register_module(name='exact')
class ExactAlignment(Alignment):
    """Alignment of dense predictions by whole cells and pixels, without interpolation.

    Levels in front of a searched group are displaced less than the deepest level, so they are first
    moved by whole cells to match it. Then the head runs, and its output is moved back by the full
    displacement. Cells and pixels that move in over a border repeat the edge.
    """

    in_output_space = True

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        return tuple(
            translate(level, -geometry.cells_to_meet(states, index)) if level.ndim == 4 else level
            for index, level in enumerate(levels)
        )


def blend(maps: Tensor, fraction: Tensor) -> Tensor:
    """Two-tap blend ``(1 - t) * f[i] + t * f[i - 1]`` of maps ``(M, C, h, w)`` along both axes.

    Outside a map is 0; ``fraction`` ``(M, 2)`` is t for each row and axis, in 0..1.
    """
    for axis in (0, 1):
        if fraction[:, axis].any():
            t = on_device_of(fraction[:, axis].to(maps.dtype), maps).view(-1, 1, 1, 1)
            before = F.pad(maps, (0, 0, 1, -1) if axis == 0 else (1, -1, 0, 0))
            maps = (1 - t) * maps + t * before
    return maps
