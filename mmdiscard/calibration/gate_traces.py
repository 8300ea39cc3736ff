"""Cost of a search with any threshold of a gate, from one run without the gate."""

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..search import Feedback, Rows, Search, SearchRounds, next_round
from ..search.budget import Prices
from ..search.gates import Gate
from ..subsampling import Fingerprint, StateSpace


@dataclass
class GateTrace:
    """Uncertainty and cost of one image after every round of a search without a gate.

    Attributes:
        uncertainties: the least uncertainty of any state so far, in 0..1.
        costs: of all states so far, in plain forwards.
        counts: number of states so far.
    """

    uncertainties: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class RecordedSearch(Search):
    """Runs another search without stopping images, and records the uncertainty that its gate reads.

    Images do not influence one another, so a trace cut at the first round in which the gate is
    confident is what the search with the gate does. Where a search asks the gate only once, the
    states that follow are recorded without being computed. The gate takes the place of the search's
    own; its threshold is not used.

    Attributes:
        traces: one per image and forward pass so far.
    """

    def __init__(self, search: Search, gate: Gate) -> None:
        self.search = search
        self.gate = search.gate = gate
        self.criterion = search.criterion
        self.traces: list[GateTrace] = []

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        self.search.prepare(space, fingerprint)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        return self.search.most_states(space, prices)

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        recorder = _TraceRecorder(num_images, prices)
        self.traces += recorder.traces
        rounds = self.search.rounds(num_images, space, prices)
        rows = next(rounds)
        while rows is not None:
            feedback = yield rows
            recorder.add(rows, feedback.uncertainty)
            none = torch.zeros(len(rows), dtype=torch.bool)
            rows = next_round(rounds, Feedback(feedback.scores, confident=none))
            if self.search.gate_looks_once and rows is not None:
                recorder.add(rows, torch.full((len(rows),), np.inf))
                rows = None


class _TraceRecorder:
    """Writes the traces of one batch."""

    def __init__(self, num_images: int, prices: Prices) -> None:
        self.traces = [GateTrace() for _ in range(num_images)]
        self._states: list[list[tuple[int, ...]]] = [[] for _ in range(num_images)]
        self._prices = prices

    def add(self, rows: Rows, uncertainties: Tensor) -> None:
        """Add one round: rows and their uncertainties ``(M,)``."""
        least: dict[int, float] = {}
        for image, state, uncertainty in zip(
            rows.images.tolist(), rows.states.tolist(), uncertainties.tolist(), strict=True
        ):
            self._states[image].append(tuple(state))
            uncertainty = np.inf if np.isnan(uncertainty) else uncertainty
            least[image] = min(least.get(image, np.inf), uncertainty)
        for image, uncertainty in least.items():
            trace, states = self.traces[image], self._states[image]
            trace.uncertainties.append(min([uncertainty, *trace.uncertainties[-1:]]))
            trace.costs.append(self._prices.of(states))
            trace.counts.append(len(states))


class GateTraces:
    """Costs of many images with a gate, as a function of its limit."""

    def __init__(self, traces: list[GateTrace]) -> None:
        length = max(len(trace.uncertainties) for trace in traces)
        self.uncertainties = _table([trace.uncertainties for trace in traces], length)
        self.costs = _table([trace.costs for trace in traces], length)
        self.counts = _table([trace.counts for trace in traces], length)

    def stops(self, limit: float) -> np.ndarray:
        """Round ``(P,)`` after which each trace ends if uncertainty up to ``limit`` stops it."""
        confident = self.uncertainties <= limit
        confident[:, -1] = True
        return confident.argmax(1)

    def cost(self, limit: float) -> float:
        """Mean cost in plain forwards."""
        return float(np.take_along_axis(self.costs, self.stops(limit)[:, None], 1).mean())

    def states(self, limit: float) -> np.ndarray:
        """Number of states ``(P,)`` that each trace uses."""
        return np.take_along_axis(self.counts, self.stops(limit)[:, None], 1)[:, 0]

    def limit_for(self, cost: float) -> float:
        """The least limit with which the mean cost is at most ``cost`` plain forwards.

        It lies halfway to the next recorded uncertainty, so that rounding errors do not matter.

        Raises:
            MMDiscardError: if the search costs no more than that without a gate, or costs more even
                if every image stops after the first round.
        """
        full, least = self.cost(-np.inf), self.cost(np.inf)
        if full <= cost:
            raise MMDiscardError(
                f'the search costs {full:.2f} plain forwards on average without a gate, within '
                f'the cost {cost} asked for; ask for a lower cost, or leave the gate out'
            )
        uncertainties = np.unique(self.uncertainties[np.isfinite(self.uncertainties)])
        if least > cost or not len(uncertainties):
            raise MMDiscardError(
                f'one state alone costs {least:.2f} plain forwards with this search and '
                f'aggregator, more than the cost {cost} asked for; ask for a higher cost'
            )
        last = len(uncertainties) - 1
        low = bisect_left(  # the cost falls as the limit rises
            uncertainties, True, hi=last, key=lambda limit: self.cost(limit) <= cost
        )
        return float(uncertainties[low : low + 2].mean())


def _table(lists: list[list[float]], length: int) -> np.ndarray:
    """``(P, R)``, each list padded with its last entry."""
    return np.array([values + values[-1:] * (length - len(values)) for values in lists])
