"""What a search would have cost if a gate had stopped it: one run, then any threshold."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..search.base import Feedback, Rows, Search, SearchRounds
from ..search.budget import Prices
from ..search.criteria import Signals
from ..search.gates import Gate
from ..subsampling import Fingerprint, StateSpace


@dataclass
class GateTrace:
    """One image on its way through a search without a gate, round by round.

    Attributes:
        uncertainties: the least uncertainty in any state so far, in 0..1.
        costs: of all states so far, in plain forwards.
        counts: how many states.
    """

    uncertainties: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class RecordingGate(Gate):
    """A gate that ends no search and reports the uncertainty of each row instead.

    `Feedback.confident` then holds uncertainties. Only `RecordedSearch`, which replaces them, may
    run with it.

    Args:
        gate: whose uncertainty to report.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def prepare(self, fingerprint: Fingerprint | None) -> None:
        self.gate.prepare(fingerprint)

    def confident(self, signals: Signals) -> Tensor:
        return self.gate.uncertainty(signals).double().cpu()


class RecordedSearch(Search):
    """Runs another search without its gate, and keeps what a gate would have seen.

    Images do not influence one another, so a trace cut at the first round in which the gate is
    confident is what the search with the gate does. Where a gate looks at the first state alone,
    the others are not computed.

    Args:
        search: without a gate.
        gate: of the type whose uncertainty is recorded.

    Attributes:
        traces: one per image and forward pass so far.
    """

    def __init__(self, search: Search, gate: Gate) -> None:
        self.search = search
        self.gate = search.gate = RecordingGate(gate)
        self.criterion = search.criterion
        self.traces: list[GateTrace] = []

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        self.search.prepare(space, fingerprint)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        return self.search.most_states(space, prices)

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        record = _Record(num_images, prices)
        self.traces += record.traces
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
        self.traces = [GateTrace() for _ in range(num_images)]
        self._states: list[list[tuple[int, ...]]] = [[] for _ in range(num_images)]
        self._prices = prices

    def add(self, rows: Rows, uncertainties: Tensor) -> None:
        """Take in one round."""
        seen: dict[int, float] = {}
        for image, state, uncertainty in zip(
            rows.images.tolist(), rows.states.tolist(), uncertainties.tolist(), strict=True
        ):
            self._states[image].append(tuple(state))
            uncertainty = np.inf if np.isnan(uncertainty) else uncertainty
            seen[image] = min(seen.get(image, np.inf), uncertainty)
        for image, uncertainty in seen.items():
            trace, states = self.traces[image], self._states[image]
            trace.uncertainties.append(min([uncertainty, *trace.uncertainties[-1:]]))
            trace.costs.append(self._prices.of(states))
            trace.counts.append(len(states))


def _send(rounds: SearchRounds, scores: Tensor | None, count: int) -> Rows | None:
    """Go on as if no row were confident; None at the end."""
    try:
        return rounds.send(Feedback(scores, torch.zeros(count, dtype=torch.bool)))
    except StopIteration:
        return None


class GateTraces:
    """Many traces, and where a gate would have cut them.

    Args:
        traces: at least one.
    """

    def __init__(self, traces: list[GateTrace]) -> None:
        length = max(len(trace.uncertainties) for trace in traces)
        self.uncertainties = _table([trace.uncertainties for trace in traces], length)
        self.costs = _table([trace.costs for trace in traces], length)
        self.counts = _table([trace.counts for trace in traces], length)

    def stops(self, limit: float) -> np.ndarray:
        """``(P,)``: the round after which each ends if uncertainty up to ``limit`` is confident."""
        confident = self.uncertainties <= limit
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

        It lies halfway to the next recorded uncertainty, so that rounding does not move an image.

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
        uncertainties = np.unique(self.uncertainties[np.isfinite(self.uncertainties)])
        if least > cost or not len(uncertainties):
            raise MMDiscardError(
                f'one state alone costs {least:.2f} plain forwards with this search and '
                f'aggregator, which is above {cost}; ask for more'
            )
        low, high = 0, len(uncertainties) - 1  # the cost falls as the limit rises
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self.cost(uncertainties[middle]) <= cost else (middle + 1, high)
            )
        return float(uncertainties[low : low + 2].mean())


def _table(lists: list[list[float]], length: int) -> np.ndarray:
    """``(P, R)``, each list with its last entry repeated."""
    return np.array([values + values[-1:] * (length - len(values)) for values in lists])
