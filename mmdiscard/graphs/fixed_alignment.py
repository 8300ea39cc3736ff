"""Alignment of one known state, by operations that can be traced into a graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..aggregation import Geometry
from ..aggregation.alignment import Alignment, BilinearAlignment, ExactAlignment, NoAlignment
from ..errors import MMDiscardError
from ..execution import Levels


class FixedAlignment(Alignment):
    """An alignment of the output levels of one state, as constants.

    Args:
        move: moves one map by two numbers.
        amounts: those numbers, by output level.
        in_output_space: see `Alignment`.
    """

    def __init__(
        self, move: Callable, amounts: Sequence[Sequence[float]], in_output_space: bool
    ) -> None:
        self.move = move
        self.amounts = amounts
        self.in_output_space = in_output_space

    @classmethod
    def of(cls, alignment: Alignment, geometry: Geometry, state: Tensor) -> 'FixedAlignment':
        """Work out the numbers for one state.

        Args:
            alignment: of the aggregator.
            geometry: of the searched groups.
            state: ``(1, G)``.

        Raises:
            MMDiscardError: if the alignment is not one of mmdiscard's own.
        """
        if type(alignment) not in MOVES:
            raise MMDiscardError(
                f'{type(alignment).__name__} cannot be exported; align none, bilinear or exact can'
            )
        move, amount = MOVES[type(alignment)]
        levels = range(len(geometry.strides))
        amounts = [amount(geometry, state, level)[0].tolist() for level in levels]
        return cls(move, amounts, alignment.in_output_space)

    def features(self, levels: Levels, states: Tensor, geometry: Geometry) -> Levels:
        pairs = zip(levels, self.amounts, strict=True)
        return tuple(self.move(level, *by) if level.ndim == 4 else level for level, by in pairs)


def blend(maps: Tensor, down: float, right: float) -> Tensor:
    """`mmdiscard.aggregation.alignment.blend` by the same fractions of a cell for all rows.

    Args:
        maps: ``(M, C, h, w)``.
        down: share of the row above, 0 to 1.
        right: share of the column to the left, 0 to 1.
    """
    for share, padding in ((down, (0, 0, 1, -1)), (right, (1, -1, 0, 0))):
        if share:
            maps = (1 - share) * maps + share * F.pad(maps, padding)
    return maps


def translate(maps: Tensor, down: int, right: int) -> Tensor:
    """`mmdiscard.subsampling.translation.translate` by the same whole cells for all rows.

    Args:
        maps: ``(M, C, h, w)``, larger than the move.
        down: cells to move down; up if negative.
        right: cells to move to the right; to the left if negative.
    """
    if not (down or right):
        return maps
    height, width = maps.shape[2:]
    kept = maps[
        ...,
        max(-down, 0) : height - max(down, 0),
        max(-right, 0) : width - max(right, 0),
    ]
    padding = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    return F.pad(kept, padding, mode='replicate')


#: by class of an alignment: how it moves a map, and by how much in one state
MOVES = {
    NoAlignment: (translate, lambda geometry, state, level: torch.zeros(1, 2, dtype=torch.long)),
    BilinearAlignment: (blend, Geometry.fraction_of_cell),
    ExactAlignment: (translate, lambda *of: -Geometry.cells_to_meet(*of)),
}
