"""Alignment: bringing a displaced state back onto the default one before merging."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor
from torch.nn import functional as F

from ..execution import Levels
from ..registry import ALIGNMENTS
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


class Alignment:
    """Moves feature levels before the head, and the output after it. This one moves nothing."""

    #: whether it moves the output, so that only dense logits can be merged
    in_output_space = False

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        """Move feature levels, each ``(M, C, h, w)`` for ``(M, G)`` states."""
        return levels


@ALIGNMENTS.register_module(name='none')
class NoAlignment(Alignment):
    """Merge states where they lie."""


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
    """Lossless alignment of dense predictions, in output space.

    Shallow levels, which do not carry the displacement of later groups, first move by whole cells
    to meet the deepest; the head runs; its output is translated by the full displacement. What
    moves in over a border replicates the edge.
    """

    in_output_space = True

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        return tuple(
            translate(level, -geometry.cells_to_meet(states, index)) if level.ndim == 4 else level
            for index, level in enumerate(levels)
        )


def blend(maps: Tensor, fraction: Tensor) -> Tensor:
    """``(1 - t) * f[i] + t * f[i - 1]`` along both axes, zeros outside.

    Args:
        maps: ``(M, C, h, w)``.
        fraction: ``(M, 2)``, t for each row and axis, in 0..1.
    """
    for axis in (0, 1):
        t = fraction[:, axis].to(maps).view(-1, 1, 1, 1)
        if t.any():
            before = F.pad(maps, (0, 0, 1, -1) if axis == 0 else (1, -1, 0, 0))
            maps = (1 - t) * maps + t * before
    return maps


def translate(maps: Tensor, cells: Tensor) -> Tensor:
    """Move each row's content by its own whole number of cells, edges replicated.

    Args:
        maps: ``(M, C, h, w)``.
        cells: ``(M, 2)`` long, (dy, dx); positive moves content down and to the right.
    """
    if not cells.any():
        return maps
    moved = torch.empty_like(maps)
    for rows, (dy, dx) in equal_moves(cells):
        for into, of in pieces(dy, dx, maps.shape[2:]):
            moved[rows][into] = maps[rows][of]
    return moved


def equal_moves(cells: Tensor) -> Iterator[tuple[slice, list[int]]]:
    """Neighbouring rows that move alike, and by how much: ``(M, 2)`` cells."""
    ends = (cells.diff(dim=0) != 0).any(1).nonzero().flatten() + 1
    for start, stop in pairwise([0, *ends.tolist(), len(cells)]):
        yield slice(start, stop), cells[start].tolist()


def pieces(dy: int, dx: int, size: Sequence[int]) -> Iterator[tuple[tuple, tuple]]:
    """What goes where in a move by (dy, dx): index of the moved map, index of the map.

    Two pieces per axis at most: what stays inside, and the edge that fills up what was left. The
    edge is one cell wide, to be broadcast.
    """
    for rows, columns in product(_parts(dy, size[0]), _parts(dx, size[1])):
        yield (..., rows[0], columns[0]), (..., rows[1], columns[1])


def _parts(move: int, size: int) -> list[tuple[slice, slice]]:
    """The pieces along one axis; a move out of the map leaves its last cell."""
    edge = min(abs(move), size - 1)
    if edge == 0:
        return [(slice(None), slice(None))]
    if move > 0:
        return [(slice(edge, size), slice(0, size - edge)), (slice(0, edge), slice(0, 1))]
    last = (slice(size - edge, size), slice(size - 1, size))
    return [(slice(0, size - edge), slice(edge, size)), last]
