"""What a search would have cost if a gate had stopped it: one run, then any threshold."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..subsampling import Fingerprint, StateSpace
from .base import Feedback, Rows, Search, SearchRounds
from .budget import Prices
from .gates import Gate, Witness


@dataclass
class Trail:
    """One image on its way through a search without a gate, round by round.

    Attributes:
        doubts: the least doubt in any state so far, in 0..1.
        costs: of all states so far, in plain forwards.
        counts: how many states.
    """

    doubts: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class RecordedSearch(Search):
    """Runs another search without its gate, and keeps what a gate would have seen.

    Images do not influence one another, so a trail cut at the first round in which the gate is
    confident is what the search with the gate does. Where a gate looks at the first state alone,
    the others are not computed.

    Args:
        search: without a gate.
        gate: of the type whose doubt is recorded.

    Attributes:
        trails: one per image and forward pass so far.
    """

    def __init__(self, search: Search, gate: Gate) -> None:
        self.search = search
        self.gate = search.gate = Witness(gate)
        self.criterion = search.criterion
        self.trails: list[Trail] = []

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        self.search.prepare(space, fingerprint)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        return self.search.most_states(space, prices)

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        record = _Record(num_images, prices)
        self.trails += record.trails
        rounds = self.search.rounds(num_images, space, prices)
        rows = next(rounds)
        while rows is not None:
            feedback = yield rows
            record.add(rows, feedback.confident)
            rows = _send(rounds, feedback.scores, len(rows))
            if self.search.gate_looks_once and rows is not None:
                record.add(rows, torch.full((len(rows),), np.inf))
                rows = None


class _Record:
    def __init__(self, num_images: int, prices: Prices) -> None:
        self.trails = [Trail() for _ in range(num_images)]
        self._states: list[list[tuple[int, ...]]] = [[] for _ in range(num_images)]
        self._prices = prices

    def add(self, rows: Rows, doubts: Tensor) -> None:
        """Take in one round."""
        seen: dict[int, float] = {}
        for image, state, doubt in zip(
            rows.images.tolist(), rows.states.tolist(), doubts.tolist(), strict=True
        ):
            self._states[image].append(tuple(state))
            doubt = np.inf if np.isnan(doubt) else doubt
            seen[image] = min(seen.get(image, np.inf), doubt)
        for image, doubt in seen.items():
            trail, states = self.trails[image], self._states[image]
            trail.doubts.append(min([doubt, *trail.doubts[-1:]]))
            trail.costs.append(self._prices.of(states))
            trail.counts.append(len(states))


def _send(rounds: SearchRounds, scores: Tensor | None, count: int) -> Rows | None:
    """Go on as if no row were confident; None at the end."""
    try:
        return rounds.send(Feedback(scores, torch.zeros(count, dtype=torch.bool)))
    except StopIteration:
        return None


class Trails:
    """Many trails, and where a gate would have cut them.

    Args:
        trails: at least one.
    """

    def __init__(self, trails: list[Trail]) -> None:
        length = max(len(trail.doubts) for trail in trails)
        self.doubts = _table([trail.doubts for trail in trails], length)
        self.costs = _table([trail.costs for trail in trails], length)
        self.counts = _table([trail.counts for trail in trails], length)

    def stops(self, limit: float) -> np.ndarray:
        """``(P,)``: the round after which each ends if doubt up to ``limit`` is confident."""
        confident = self.doubts <= limit
        confident[:, -1] = True
        return confident.argmax(1)

    def cost(self, limit: float) -> float:
        """Mean cost in plain forwards."""
        return float(np.take_along_axis(self.costs, self.stops(limit)[:, None], 1).mean())

    def states(self, limit: float) -> np.ndarray:
        """``(P,)``: how many states each uses."""
        return np.take_along_axis(self.counts, self.stops(limit)[:, None], 1)[:, 0]

    def limit_for(self, cost: float) -> float:
        """The least limit with which the mean cost is at most ``cost``.

        It lies halfway to the next doubt that was seen, so that rounding does not move an image.

        Raises:
            MMDiscardError: if the search costs no more than that without a gate, or more with every
                image at one state.
        """
        full, least = self.cost(-np.inf), self.cost(np.inf)
        if full <= cost:
            raise MMDiscardError(
                f'without a gate the search costs {full:.2f} plain forwards on average, which is '
                f'not above {cost}; ask for less, or leave the gate out'
            )
        doubts = np.unique(self.doubts[np.isfinite(self.doubts)])
        if least > cost or not len(doubts):
            raise MMDiscardError(
                f'one state alone costs {least:.2f} plain forwards with this search and '
                f'aggregator, which is above {cost}; ask for more'
            )
        low, high = 0, len(doubts) - 1  # the cost falls as the limit rises
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.cost(doubts[middle]) <= cost else (middle + 1, high)
        return float(doubts[low : low + 2].mean())


def _table(lists: list[list[float]], length: int) -> np.ndarray:
    """``(P, R)``, each list with its last entry repeated."""
    return np.array([values + values[-1:] * (length - len(values)) for values in lists])
