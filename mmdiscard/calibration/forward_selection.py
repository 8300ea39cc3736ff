"""Greedy forward selection of one set of states for all images, as GPS does for TTA policies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import MMDiscardError
from ..search import gain_per_cost
from ..search.budget import Budget, Prices
from ..search.predefined import MAX_ENUMERATED, farthest_first
from ..subsampling import StateSpace

State = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One chosen state.

    Attributes:
        state: one selection index per searched group.
        loss: of the prediction that merges this and all states chosen before.
        cost: of these states together, in plain forwards.
    """

    state: State
    loss: float
    cost: float


class ForwardSelection:
    """Adds one state at a time, the one with which the loss is lowest.

    Where the budget is a cost, it adds the state with the best `gain_per_cost`: reduction of the
    loss per additional cost. The first state is the default one, the plain prediction. States are
    added until the budget is spent, even if the loss rises, because a state that does not help
    alone may help together with the next one; `best` then drops the last states if they only raised
    the loss.

    Args:
        space: the states to choose from.
        prices: of the states.
        budget: how many states to choose, or what they may cost.
        candidates: number of states that are tried; where more fit the budget, those whose
            displacements are farthest apart.

    Attributes:
        pool: the states that are tried, the default one first.
        steps: the states chosen so far.

    Raises:
        MMDiscardError: if the budget does not fit the space or the states cannot be enumerated.
    """

    def __init__(
        self, space: StateSpace, prices: Prices, budget: Budget, candidates: int = 64
    ) -> None:
        budget.check(space)
        self.prices = prices
        self.budget = budget
        self.pool = self._pool(space, candidates)
        self.steps: list[Step] = []

    @property
    def states(self) -> list[State]:
        """The states chosen so far."""
        return [step.state for step in self.steps]

    def candidates(self) -> list[State]:
        """States to try next; empty when the budget is spent."""
        if not self.steps:
            return self.pool[:1]
        if self.budget.states is not None and len(self.steps) >= self.budget.states:
            return []
        chosen = self.states
        return [
            state
            for state in self.pool
            if state not in chosen and self.budget.affords(self.prices, [*chosen, state])
        ]

    def take(self, losses: Sequence[float]) -> Step:
        """Add the best of `candidates`, by the loss of the states so far with each.

        Raises `MMDiscardError` if no loss is a finite number.
        """
        candidates = self.candidates()
        losses = np.asarray(losses, dtype=np.float64)
        if not np.isfinite(losses).any():
            raise MMDiscardError(
                'the loss is not a finite number for any state; check that the checkpoint belongs '
                'to this config and that the labels are those of its classes'
            )
        best = int(self._rank(candidates, losses).argmax())
        state = candidates[best]
        step = Step(state, float(losses[best]), self._cost(state))
        self.steps.append(step)
        return step

    def best(self) -> list[Step]:
        """The steps up to the one with the lowest loss."""
        losses = [step.loss for step in self.steps]
        return self.steps[: losses.index(min(losses)) + 1]

    def _rank(self, candidates: Sequence[State], losses: np.ndarray) -> np.ndarray:
        """Score of each candidate, higher is better."""
        losses = np.where(np.isfinite(losses), losses, np.inf)
        if self.budget.cost is None or not self.steps:
            return -losses
        gains = self.steps[-1].loss - losses
        extra = [self._cost(state) - self.steps[-1].cost for state in candidates]
        return gain_per_cost(gains, np.array(extra))

    def _cost(self, state: State) -> float:
        """Cost of the states so far and one more."""
        return self.prices.of([*self.states, state])

    def _pool(self, space: StateSpace, most: int) -> list[State]:
        if len(space) > MAX_ENUMERATED:
            raise MMDiscardError(
                f'{len(space)} states are too many to choose from; search fewer groups'
            )
        default = (0,) * space.num_groups
        affordable = [s for s in space if self.budget.affords(self.prices, {default, s})]
        if len(affordable) <= most:
            return affordable
        spread = farthest_first(torch.tensor(affordable), space)
        return [affordable[next(spread)] for _ in range(most)]
