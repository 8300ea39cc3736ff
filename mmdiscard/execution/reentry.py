"""Find the groups at which a backbone can be entered, by trying.

To enter at a group, the backbone's own forward is called with a batch of no rows, or of one where
its code refuses none, and the group's hooks put recorded inputs in place. A backbone that keeps the
number of images in mind while it runs comes out wrong or not at all: there, states are computed
from further ahead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..subsampling import StateHooks
from .reference_executor import Levels

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
DUMMIES = (0, 1)


@dataclass(frozen=True)
class ReentryPoints:
    """The groups at which a backbone can be entered.

    Attributes:
        dummy_rows: by column, with how many rows its forward is called; None where it cannot be.
    """

    dummy_rows: tuple[int | None, ...]

    def possible(self, column: int) -> bool:
        return self.dummy_rows[column] is not None


@torch.no_grad()
def find_reentry_points(
    forward: Callable[[Tensor], Levels],
    hooks: StateHooks,
    images: Tensor,
    columns: Sequence[int] | None = None,
) -> ReentryPoints:
    """Try groups: entered there, the backbone has to give the same output as run whole.

    Args:
        forward: the backbone, ``(M, 3, H, W)`` to its output levels.
        hooks: of the searched groups.
        images: ``(2, 3, H, W)``, different from each other.
        columns: of the groups to try; None for all.
    """
    groups = hooks.space.groups
    columns = range(len(groups)) if columns is None else columns
    if not columns:
        return ReentryPoints((None,) * len(groups))
    states = torch.tensor([[group.num_indices - 1 for group in groups], [0] * len(groups)])
    with hooks.select(states, record=columns) as selection:
        expected = forward(images)
    rows = {
        column: _dummy_rows(forward, hooks, images, states, column, fed, expected)
        for column, fed in selection.recorded.items()
    }
    return ReentryPoints(tuple(map(rows.get, range(len(groups)))))


def _dummy_rows(
    forward: Callable[[Tensor], Levels],
    hooks: StateHooks,
    images: Tensor,
    states: Tensor,
    column: int,
    fed: dict[str, Tensor],
    expected: Levels,
) -> int | None:
    """The fewest rows with which the backbone can be entered at one group."""
    group = hooks.space.groups[column]
    if set(fed) != set(group.members) or any(len(t) != len(states) for t in fed.values()):
        return None
    for dummies in DUMMIES:
        try:
            with hooks.select(states, entry=column, fed=fed):
                found = forward(images[:dummies])
        except Exception:  # whatever a backbone of others raises: then not like this
            continue
        # Two rows behind none or one: a backbone that keeps its number in mind comes out wrong.
        if all(_close(found[level], expected[level]) for level in group.levels):
            return dummies
    return None


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    tolerance = TOLERANCE.get(expected.dtype, 2e-2)
    largest = float(expected.abs().max()) or 1.0
    return torch.allclose(
        found.float(), expected.float(), tolerance, tolerance * largest, equal_nan=True
    )
