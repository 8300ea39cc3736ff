"""Find the groups at which a backbone can be entered, by trying.

To enter at a group, the backbone's own forward is called with a batch of no rows, or of one where
its code refuses none, and the group's hooks put recorded inputs in place. A backbone that keeps the
number of images in mind while it runs comes out wrong or not at all: there, states are computed
from further ahead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..subsampling import StateHooks
from ..subsampling.hooks import Inputs
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
    rows: dict[int, int | None] = {}
    for column in sorted(selection.recorded, reverse=True):
        trial = _Trial(forward, hooks, images, states, column, selection.recorded, expected)
        rows[column] = trial.dummy_rows(rows)
    return ReentryPoints(tuple(map(rows.get, range(len(groups)))))


@dataclass(frozen=True)
class _Trial:
    """Entering at the group of one column."""

    forward: Callable[[Tensor], Levels]
    hooks: StateHooks
    images: Tensor
    states: Tensor
    column: int
    recorded: dict[int, Inputs]
    expected: Levels

    def dummy_rows(self, later: Mapping[int, int | None]) -> int | None:
        """The fewest rows to enter the backbone with; ``later`` has those of the groups behind."""
        fed, members = self.recorded[self.column], self.hooks.space.groups[self.column].members
        if set(fed) != set(members) or any(len(t) != len(self.states) for t in fed.values()):
            return None
        return next((count for count in DUMMIES if self._comes_out_right(count, later)), None)

    def _comes_out_right(self, dummies: int, later: Mapping[int, int | None]) -> bool:
        """Whether two rows behind ``dummies`` give what the whole backbone gives.

        What is behind a later group need not run again where that is entered with as many rows.
        """
        until = self._end(later, dummies)
        options = dict(entry=self.column, fed=self.recorded[self.column])
        if until is not None:
            options |= dict(until=until, record=[until])
        try:
            with self.hooks.select(self.states, **options) as selection:
                found = self.forward(self.images[:dummies])
        except Exception:  # whatever a backbone of others raises: then not like this
            return False
        if until is None:
            levels = self.hooks.space.groups[self.column].levels
            return all(_close(found[level], self.expected[level]) for level in levels)
        inputs, expected = selection.recorded.get(until, {}), self.recorded[until]
        return all(name in inputs and _close(inputs[name], expected[name]) for name in expected)

    def _end(self, later: Mapping[int, int | None], dummies: int) -> int | None:
        """The first group behind with the same levels that is entered with as many rows."""
        groups = self.hooks.space.groups
        levels = groups[self.column].levels
        fit = (c for c in sorted(later) if later[c] == dummies and groups[c].levels == levels)
        return next(fit, None)


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    tolerance = TOLERANCE.get(expected.dtype, 2e-2)
    largest = float(expected.abs().max()) or 1.0
    return torch.allclose(
        found.float(), expected.float(), tolerance, tolerance * largest, equal_nan=True
    )
