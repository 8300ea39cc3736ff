"""Searches that use the same states for every image."""

from collections.abc import Iterator, Mapping
from itertools import islice
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..registry import SEARCHES
from ..subsampling import Fingerprint, ModelFile, StateSpace
from ..utils import is_whole
from .budget import Budget, Prices
from .interface import Search, SearchRounds, branches, each_of

MAX_ENUMERATED = 2**20
STATE_FILE = ModelFile(
    'mmdiscard states', 1, '`python -m mmdiscard.calibrate CONFIG CHECKPOINT ...`'
)


class KnownStates(Search):
    """The same states for every image. Subclasses implement `states_in`.

    With a gate, the first ``gate_after`` states are computed for every image, and the rest only for
    images for which none of these is confident.

    Args:
        gate: config of a gate.
        gate_after: number of states that are computed before the gate is asked.

    Raises:
        MMDiscardError: if ``gate_after`` is not a whole number of at least 1.
    """

    gate_looks_once = True

    def __init__(self, gate: Mapping[str, Any] | None = None, gate_after: int = 1) -> None:
        super().__init__(gate)
        if not is_whole(gate_after):
            raise MMDiscardError(
                f'gate_after has to be a whole number of states, at least 1; got {gate_after!r}'
            )
        self.gate_after = gate_after

    @property
    def same_for_all(self) -> bool:
        return self.gate is None

    def states_in(self, space: StateSpace, prices: Prices | None = None) -> Tensor:
        """The states, ``(B, G)``; the default state comes first if it is one of them.

        A budget in cost is ignored where the prices are not known yet.
        """
        raise NotImplementedError

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        super().prepare(space, fingerprint)
        self.states_in(space)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        return len(self.states_in(space, prices))

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        states = self.states_in(space, prices)
        images = torch.arange(num_images)
        if self.gate is not None:
            first, states = states[: self.gate_after], states[self.gate_after :]
            later = torch.stack([branches(state, states) for state in first]).any(0)
            feedback = yield each_of(first, images, later)
            images = images[~feedback.confident.view(len(first), -1).any(0)]
        if len(states) and len(images):
            yield each_of(states, images)


@SEARCHES.register_module()
class FixedStates(KnownStates):
    """States that are listed in the config, or that `mmdiscard.calibrate` chose.

    Args:
        states: ``B`` lists of one selection index per searched group.
        gate: config of a gate.
        file: a file that `mmdiscard.calibrate` wrote, instead of ``states``.
        gate_after: see `KnownStates`.

    Raises:
        MMDiscardError: if neither or both are given, if states do not fit the groups, if a state
            occurs twice, or if the file is damaged or was made for another model or other groups.
    """

    def __init__(
        self,
        states: list[list[int]] | None = None,
        gate: Mapping[str, Any] | None = None,
        file: str | PathLike | None = None,
        gate_after: int = 1,
    ) -> None:
        super().__init__(gate, gate_after)
        if (states is None) == (file is None):
            raise MMDiscardError(
                'FixedStates takes either `states`, such as [[0, 0], [0, 3]], or a `file` that '
                'python -m mmdiscard.calibrate wrote'
            )
        self.file = file
        self.states = states
        self.made_for: Fingerprint | None = None
        if file is not None:
            self.made_for, self.states = _read_states(file)

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        if self.made_for is not None and fingerprint is not None:
            self.made_for.check(fingerprint, str(self.file))
        super().prepare(space, fingerprint)

    def states_in(self, space: StateSpace, prices: Prices | None = None) -> Tensor:
        try:
            states = space.check(torch.tensor(self.states))
        except (TypeError, ValueError, RuntimeError) as error:
            raise MMDiscardError(f'FixedStates: {error}') from error
        if len(states.unique(dim=0)) < len(states):
            raise MMDiscardError('FixedStates: a state occurs twice; list every state once')
        return states


def _read_states(path: str | PathLike) -> tuple[Fingerprint, list[list[int]]]:
    """Fingerprint of the model that states were chosen for, and the states."""
    fingerprint, content = STATE_FILE.read(path)
    states = content.get('states')
    width = len(fingerprint.groups)
    if not isinstance(states, list) or not states or not all(_fits(s, width) for s in states):
        raise STATE_FILE.damaged(path, f'states are to be lists of {width} selection indices')
    return fingerprint, states


def _fits(state: Any, width: int) -> bool:
    return (
        isinstance(state, list)
        and len(state) == width
        and all(isinstance(index, int) and not isinstance(index, bool) for index in state)
    )


@SEARCHES.register_module()
class ExhaustiveSearch(KnownStates):
    """All states, those that differ in the deepest group first.

    Args:
        max_states: largest number of states that is allowed.
        gate: config of a gate.
        gate_after: see `KnownStates`.

    Raises:
        MMDiscardError: if there are more than ``max_states``.
    """

    def __init__(
        self,
        max_states: int = 1024,
        gate: Mapping[str, Any] | None = None,
        gate_after: int = 1,
    ) -> None:
        super().__init__(gate, gate_after)
        self.max_states = max_states

    def states_in(self, space: StateSpace, prices: Prices | None = None) -> Tensor:
        if len(space) > self.max_states:
            raise MMDiscardError(
                f'ExhaustiveSearch over {len(space)} states is more than max_states='
                f'{self.max_states}; search fewer groups or raise the limit'
            )
        return space.first(len(space))


@SEARCHES.register_module()
class SpreadStates(KnownStates):
    """The default state and states whose displacements lie far apart; needs no data.

    Farthest-point selection on the torus of displacements: a displacement by the output stride of
    the deepest searched group is a shift by one whole cell, so distances wrap around there. Of
    equally far states, one that differs from the default state only in deep groups is preferred,
    because it shares most of its computation.

    Args:
        budget: number of states, ``B``, or their cost: ``dict(cost=2.0)`` for at most two plain
            forwards; the selection ends at the first state that exceeds it.
        gate: config of a gate.
        gate_after: see `KnownStates`.

    Raises:
        MMDiscardError: if the budget is not a whole number from 1 to the number of states nor a
            cost of at least 1.
    """

    def __init__(
        self,
        budget: int | Mapping[str, Any],
        gate: Mapping[str, Any] | None = None,
        gate_after: int = 1,
    ) -> None:
        super().__init__(gate, gate_after)
        self.budget = Budget.parse(budget)

    def states_in(self, space: StateSpace, prices: Prices | None = None) -> Tensor:
        self.budget.check(space)
        if len(space) > MAX_ENUMERATED:
            raise MMDiscardError(
                f'SpreadStates cannot spread over {len(space)} states; search fewer groups'
            )
        states = space.first(len(space))
        chosen: list[int] = []
        for farthest in islice(farthest_first(states, space), self.budget.states):
            more = states[[*chosen, farthest]]
            if chosen and prices is not None and not self.budget.affords(prices, more.tolist()):
                break
            chosen.append(farthest)
        return states[chosen]


def farthest_first(states: Tensor, space: StateSpace) -> Iterator[int]:
    """Positions in ``states`` ``(P, G)``: the first, then always the farthest from those before."""
    displacement = space.displacement(states)
    distance = torch.full((len(states),), torch.iinfo(torch.long).max)
    for _ in range(len(states)):
        farthest = int((distance == distance.max()).nonzero()[0])
        yield farthest
        new = _distance(displacement, displacement[farthest], space.period)
        distance = torch.minimum(distance, new)
        distance[farthest] = -1  # other states with this displacement stay available


def _distance(a: Tensor, b: Tensor, period: tuple[int, int]) -> Tensor:
    """Squared distance on the torus, as integers, so that equal distances compare as equal."""
    difference = (a - b).abs()
    return torch.minimum(difference, torch.tensor(period) - difference).square().sum(-1)
