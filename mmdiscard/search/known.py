"""Searches whose states are known before any image is seen."""

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..registry import SEARCHES
from ..subsampling import StateSpace
from .base import Search, SearchRounds, check_budget, same_for_all

MAX_ENUMERATED = 2**20


class KnownStates(Search):
    """The same states for every image. Subclasses implement `states_in`."""

    def states_in(self, space: StateSpace) -> Tensor:
        """``(B, G)`` states, the default state first where it is one of them."""
        raise NotImplementedError

    def prepare(self, space: StateSpace) -> None:
        self.states_in(space)

    def budget_for(self, space: StateSpace) -> int:
        return len(self.states_in(space))

    def rounds(self, num_images: int, space: StateSpace) -> SearchRounds:
        yield same_for_all(self.states_in(space), num_images)


@SEARCHES.register_module()
class FixedStates(KnownStates):
    """States that the user names.

    Args:
        states: ``B`` lists of one selection index per searched group.

    Raises:
        MMDiscardError: if states do not fit the groups, or one stands twice.
    """

    def __init__(self, states: list[list[int]]) -> None:
        self.states = states

    def states_in(self, space: StateSpace) -> Tensor:
        try:
            states = space.check(torch.tensor(self.states))
        except (TypeError, ValueError, RuntimeError) as error:
            raise MMDiscardError(f'FixedStates: {error}') from error
        if len(states.unique(dim=0)) < len(states):
            raise MMDiscardError('FixedStates: a state stands there twice; name each one once')
        return states


@SEARCHES.register_module()
class ExhaustiveSearch(KnownStates):
    """Every state there is, late groups varying first.

    Raises:
        MMDiscardError: if there are more than ``max_states``.
    """

    def __init__(self, max_states: int = 1024) -> None:
        self.max_states = max_states

    def states_in(self, space: StateSpace) -> Tensor:
        if len(space) > self.max_states:
            raise MMDiscardError(
                f'ExhaustiveSearch over {len(space)} states is more than max_states='
                f'{self.max_states}; search fewer groups or raise the limit'
            )
        return space.first(len(space))


@SEARCHES.register_module()
class SpreadStates(KnownStates):
    """The default state and those whose displacements lie farthest apart; needs no data.

    Farthest-point selection on the torus of displacements: a displacement by the stride of the
    deepest searched group's output is a move by one whole cell, so distance wraps around there.
    Among equally far states the one that changes only late groups comes first: it shares the most
    computation with the default state.

    Args:
        budget: number of states, ``B``.

    Raises:
        MMDiscardError: if the budget is not a whole number from 1 to the number of states.
    """

    def __init__(self, budget: int) -> None:
        self.budget = check_budget(budget)

    def states_in(self, space: StateSpace) -> Tensor:
        check_budget(self.budget, space)
        if len(space) > MAX_ENUMERATED:
            raise MMDiscardError(
                f'SpreadStates cannot spread over {len(space)} states; search fewer groups'
            )
        states = space.first(len(space))
        displacement = space.displacement(states)
        chosen = [0]
        distance = self._distance(displacement, displacement[0], space.period)
        while len(chosen) < self.budget:
            distance[
                chosen[-1]
            ] = -1  # states of equal displacement stay available, chosen ones not
            farthest = int((distance == distance.max()).nonzero()[0])
            chosen.append(farthest)
            new = self._distance(displacement, displacement[farthest], space.period)
            distance = torch.minimum(distance, new)
        return states[chosen]

    @staticmethod
    def _distance(a: Tensor, b: Tensor, period: tuple[int, int]) -> Tensor:
        """Squared distance on the torus; whole numbers, so that equal is equal."""
        difference = (a - b).abs()
        return torch.minimum(difference, torch.tensor(period) - difference).square().sum(-1)
