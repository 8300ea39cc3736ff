"""Budgets: the number of states per image, or their cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import MMDiscardError
from ..subsampling import StateSpace
from ..utils import is_number, is_whole

Number = TypeVar('Number', float, np.ndarray)
LOWEST_COST = 1e-6
ROUNDING = 1e-9  # by how much sums of costs may exceed a budget


@dataclass(frozen=True)
class Prices:
    """Cost of states, in forwards of the plain model (backbone and head together are 1).

    Attributes:
        before: per searched group, cost of the layers in front of it.
        backbone: cost of the whole backbone.
        head: cost of the head per state (0 where it runs on the merged features only).
        final: cost of the head on the merged features (0 where it does not run again).
    """

    before: tuple[float, ...]
    backbone: float
    head: float
    final: float = 0.0

    @property
    def root(self) -> float:
        """Cost of the first state."""
        return self.backbone + self.head + self.final

    def branch(self, column: int) -> float:
        """Cost of a state that first differs from a computed one at group ``column``."""
        return self.backbone - self.before[column] + self.head

    def of(self, states: Sequence[Sequence[int]]) -> float:
        """Cost of ``states`` if every prefix that they share is computed once."""
        edges = (0.0, *self.before, self.backbone)
        segments = (
            len({tuple(state[:depth]) for state in states}) * (edges[depth + 1] - edges[depth])
            for depth in range(len(self.before) + 1)
        )
        return sum(segments) + self.head * len(states) + self.final


@dataclass(frozen=True)
class Budget:
    """Limit on the number of states per image, on their cost, or on both.

    Attributes:
        states: number of states per image, at least 1; None for no limit.
        cost: plain forwards per image, at least 1; None for no limit.
    """

    states: int | None = None
    cost: float | None = None

    @classmethod
    def parse(cls, value: Any) -> 'Budget':
        """Read a budget from a config: ``10``, ``dict(cost=2.0)`` or ``dict(states=, cost=)``.

        Raises:
            MMDiscardError: if it is none of these, or below 1.
        """
        if not isinstance(value, Mapping):
            return cls(states=_check_states(value))
        unknown = value.keys() - {'states', 'cost'}
        if unknown or not value:
            raise MMDiscardError(
                f'budget takes `states` and `cost`, such as dict(cost=2.0); got {dict(value)}'
            )
        states, cost = value.get('states'), value.get('cost')
        if cost is not None and not is_number(cost, least=1):
            raise MMDiscardError(
                'budget: cost is counted in plain forwards, and the first state is one; it has to '
                f'be a number of at least 1, got {cost!r}'
            )
        return cls(None if states is None else _check_states(states), cost)

    def check(self, space: StateSpace) -> None:
        """Check the budget against the searched groups.

        Raises:
            MMDiscardError: if they have fewer states than the budget.
        """
        if self.states is not None and self.states > len(space):
            sizes = ' x '.join(str(group.num_indices) for group in space.groups)
            raise MMDiscardError(
                f'budget {self.states} is more than the {len(space)} states ({sizes}) of the '
                f'searched groups ({", ".join(group.name for group in space.groups)}); lower it or '
                'search more groups'
            )

    def affords(self, prices: Prices, states: Sequence[Sequence[int]]) -> bool:
        """Whether the cost of ``states`` is within the budget."""
        return self.cost is None or prices.of(states) <= self.cost + ROUNDING

    def most_states(self, space: StateSpace, prices: Prices, num_views: int = 1) -> int:
        """Largest number of states per image.

        Args:
            space: the states of one view.
            prices: what they cost.
            num_views: number of views that share the budget.
        """
        most = num_views * len(space) if self.states is None else self.states
        if self.cost is not None:
            cheapest = min(map(prices.branch, range(space.num_groups)))
            most = min(most, 1 + whole_times(self.cost - prices.root, cheapest))
        return most


def whole_times(amount: float, price: float) -> int:
    """Number of times that ``price`` fits into ``amount``, with tolerance for rounding errors."""
    return max(0, math.floor(amount / max(price, 1e-9) + 1e-6))


def _check_states(states: Any) -> int:
    if not is_whole(states):
        raise MMDiscardError(f'budget must be a whole number of states, at least 1; got {states!r}')
    return states


def gain_per_cost(gain: Number, cost: Number) -> Number:
    """Gain divided by cost, or a loss (negative) multiplied by cost; higher is better.

    Dividing a loss by its cost would rank the more expensive of two equal losses higher. So of two
    equal gains or losses the cheaper one always ranks higher. Costs are at least 0, in plain
    forwards; below 1e-6 they count as that.
    """
    cost = np.maximum(cost, LOWEST_COST)
    return np.where(gain > 0, gain / cost, gain * cost)
