"""Greedy forward selection of one set of states for all images, as GPS does for augmentations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import MMDiscardError
from ..search import gain_per_cost
from ..search.budget import Budget, Prices
from ..search.predefined import MAX_ENUMERATED, farthest_first
from ..subsampling import StateSpace

ROUNDING = 1e-9
State = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One state of the set, in the order in which they were chosen.

    Attributes:
        state: one selection index per searched group.
        loss: of the prediction merged from this and all earlier states.
        cost: of these states together, in plain forwards.
    """

    state: State
    loss: float
    cost: float


class ForwardSelection:
    """Adds one state at a time, the one that lowers the loss most.

    Where the budget is a cost, the state with the best loss reduction per marginal cost (`worth`)
    is added. The default state comes first: it is the plain prediction. It goes on to the end of
    the budget, because a state that does not help alone may help with the next; `best` then leaves
    out the last states that only did harm.

    Args:
        space: the states there are.
        prices: what they cost.
        budget: how many states, or what they may cost.
        candidates: at most so many states are tried; where there are more, those that can be paid
            for and lie farthest apart.

    Attributes:
        steps: what was chosen so far.

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

    @property
    def most_rounds(self) -> int:
        """How often `take` may be called, at most."""
        most = math.inf if self.budget.states is None else self.budget.states
        return int(min(most, len(self.pool)))

    def candidates(self) -> list[State]:
        """The states to try next; empty when the budget is spent."""
        if not self.steps:
            return self.pool[:1]
        if self.budget.states is not None and len(self.steps) >= self.budget.states:
            return []
        return [state for state in self.pool if state not in self.states and self._pays(state)]

    def take(self, losses: Sequence[float]) -> Step:
        """Add the best of `candidates`.

        Args:
            losses: of the states so far merged with each candidate.

        Raises:
            MMDiscardError: if no loss is a finite number.
        """
        candidates = self.candidates()
        losses = np.asarray(losses, dtype=np.float64)
        if not np.isfinite(losses).any():
            raise MMDiscardError(
                'the loss is not a finite number for any state; check that the checkpoint belongs '
                'to this config and that the labels are those of its classes'
            )
        best = int(self._promise(candidates, losses).argmax())
        step = self._step(candidates[best], float(losses[best]))
        self.steps.append(step)
        return step

    def best(self) -> list[Step]:
        """The steps up to the lowest loss."""
        losses = [step.loss for step in self.steps]
        return self.steps[: losses.index(min(losses)) + 1]

    def _promise(self, candidates: Sequence[State], losses: np.ndarray) -> np.ndarray:
        losses = np.where(np.isfinite(losses), losses, np.inf)
        if self.budget.cost is None or not self.steps:
            return -losses
        gains = self.steps[-1].loss - losses
        extra = [self._cost(state) - self.steps[-1].cost for state in candidates]
        return gain_per_cost(gains, np.array(extra))

    def _step(self, state: State, loss: float) -> Step:
        return Step(state, loss, self._cost(state))

    def _cost(self, state: State) -> float:
        """Of the states so far and one more."""
        return self.prices.of([*self.states, state])

    def _pays(self, state: State) -> bool:
        return self.budget.cost is None or self._cost(state) <= self.budget.cost + ROUNDING

    def _pool(self, space: StateSpace, most: int) -> list[State]:
        if len(space) > MAX_ENUMERATED:
            raise MMDiscardError(
                f'{len(space)} states are too many to choose from; search fewer groups'
            )
        every = [state for state in space if self._pays_beside_default(state)]
        if len(every) <= most:
            return every
        spread = farthest_first(torch.tensor(every), space)
        return [every[next(spread)] for _ in range(most)]

    def _pays_beside_default(self, state: State) -> bool:
        default = (0,) * len(state)
        cost = self.prices.of(list({default, state}))
        return self.budget.cost is None or cost <= self.budget.cost + ROUNDING
