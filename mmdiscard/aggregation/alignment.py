"""Alignment: bringing a displaced state back onto the default one before merging."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..execution import Levels
from ..registry import ALIGNMENTS
from .geometry import Geometry


class Alignment:
    """Moves feature levels before the head, and the output after it. This one moves nothing."""

    #: whether it moves the output, so that only dense logits can be merged
    in_output_space = False

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        """Move feature levels, each ``(M, C, h, w)`` for ``(M, G)`` states."""
        return levels

    def output(self, logits: Tensor, shift: Tensor) -> Tensor:
        """Move dense logits ``(M, K, H, W)``, displaced by ``(M, 2)`` whole output pixels."""
        return logits


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

    def output(self, logits: Tensor, shift: Tensor) -> Tensor:
        return translate(logits, shift)


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
    distinct, which = cells.unique(dim=0, return_inverse=True)
    if len(distinct) == 1:
        return _translate(maps, *distinct[0].tolist())
    moved = torch.empty_like(maps)
    for index, (dy, dx) in enumerate(distinct.tolist()):
        rows = (which == index).nonzero().flatten().to(maps.device)
        moved[rows] = _translate(maps[rows], dy, dx)
    return moved


def _translate(maps: Tensor, dy: int, dx: int) -> Tensor:
    height, width = maps.shape[2:]
    top, bottom = _margins(dy, height)
    left, right = _margins(dx, width)
    kept = maps[..., bottom : height - top, right : width - left]
    return F.pad(kept, (left, right, top, bottom), mode='replicate')


def _margins(move: int, size: int) -> tuple[int, int]:
    """Cells to fill before and after; a move out of the map leaves its last cell."""
    return min(max(move, 0), size - 1), min(max(-move, 0), size - 1)
