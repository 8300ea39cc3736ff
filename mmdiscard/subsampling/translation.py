"""Translation of maps and images by whole cells or pixels."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import torch
from torch import Tensor


def translate(maps: Tensor, cells: Tensor) -> Tensor:
    """Move each row by its own whole number of cells; edges are replicated.

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
    """Runs of rows with equal moves, from ``(M, 2)`` cells: their slice and [dy, dx]."""
    ends = (cells.diff(dim=0) != 0).any(1).nonzero().flatten() + 1
    for start, stop in pairwise([0, *ends.tolist(), len(cells)]):
        yield slice(start, stop), cells[start].tolist()


def pieces(dy: int, dx: int, size: Sequence[int]) -> Iterator[tuple[tuple, tuple]]:
    """Pieces of a map that moves by (dy, dx): index in the moved map, index in the map.

    There are at most two pieces per axis: the part that stays inside, and the edge, one cell wide,
    which is broadcast to what remains.

    Args:
        dy: cells down.
        dx: cells to the right.
        size: ``(h, w)`` of the map.
    """
    for rows, columns in product(_parts(dy, size[0]), _parts(dx, size[1])):
        yield (..., rows[0], columns[0]), (..., rows[1], columns[1])


def _parts(move: int, size: int) -> list[tuple[slice, slice]]:
    """The pieces along one axis; if the map moves out completely, its last cell is repeated."""
    edge = min(abs(move), size - 1)
    if edge == 0:
        return [(slice(None), slice(None))]
    if move > 0:
        return [(slice(edge, size), slice(0, size - edge)), (slice(0, edge), slice(0, 1))]
    last = (slice(size - edge, size), slice(size - 1, size))
    return [(slice(0, size - edge), slice(edge, size)), last]
