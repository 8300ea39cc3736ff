"""What a search is: a conversation about states and scores, without a model in sight."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..registry import GATES, build
from ..subsampling import Fingerprint, StateSpace
from .budget import Prices


@dataclass(frozen=True)
class Rows:
    """States to compute, of many images at once.

    Attributes:
        images: ``(M,)`` long, which image of the batch each row belongs to: first one row for each
            image that has any, ascending, then the second row of each, and so on.
        states: ``(M, G)`` long.
        open: ``(M, G)`` bool, the groups at which states that are yet to be asked for may branch
            off the row, so that what they share with it is worth keeping; None for nowhere.
    """

    images: Tensor
    states: Tensor
    open: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice | Tensor) -> 'Rows':
        open_groups = None if self.open is None else self.open[part]
        return Rows(self.images[part], self.states[part], open_groups)

    def runs(self) -> Iterator[slice]:
        """Slices in which no image stands twice."""
        ends = (self.images.diff() <= 0).nonzero().flatten() + 1
        bounds = [0, *ends.tolist(), len(self)]
        return (slice(start, stop) for start, stop in pairwise(bounds) if stop > start)


@dataclass(frozen=True)
class Feedback:
    """What a search is told of the rows it asked for.

    Attributes:
        scores: ``(M,)`` float on the CPU, lower is better; None if the search has no criterion.
        confident: ``(M,)`` bool on the CPU; None if the search has no gate.
        uncertainty: ``(M,)`` float64 on the CPU, what the gate compares with its limit; None if the
            search has no gate, or a budget of one state.
    """

    scores: Tensor | None = None
    confident: Tensor | None = None
    uncertainty: Tensor | None = None


SearchRounds = Generator[Rows, Feedback, None]


class Search:
    """Chooses the states of every image. Subclasses implement `rounds`.

    A search yields `Rows` and is sent `Feedback`; it ends when its budget is spent.

    Args:
        gate: config of a gate, which lets confident images end with fewer states; None for none.
    """

    #: scores the rows; None for a search that asks for no scores
    criterion = None
    #: whether a gate is asked about the first state alone, the others being known beforehand
    gate_looks_once = False

    def __init__(self, gate: Mapping[str, Any] | None = None) -> None:
        self.gate = gate and build(GATES, gate)

    @property
    def needs_prediction(self) -> bool:
        """Whether the next round depends on what the model predicts for this one."""
        scored = self.criterion is not None and self.criterion.needs_prediction
        return scored or self.gate is not None

    @property
    def runs_head(self) -> bool:
        """Whether the head runs for every state so that the search can go on."""
        scored = self.needs_prediction and self.criterion is not None and self.criterion.runs_head
        return scored or self.gate is not None

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        """Check the search against the groups it will run on. Subclasses begin with this.

        Args:
            space: the states there are.
            fingerprint: of the model, against which files are checked; None for no such check.

        Raises:
            MMDiscardError: if they do not fit.
        """
        if self.gate is not None:
            self.gate.prepare(fingerprint)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        """Number of states that a prediction uses at most, ``B``."""
        raise NotImplementedError

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        """Yield rows round by round for ``num_images`` images."""
        raise NotImplementedError


def each_of(states: Tensor, images: Tensor, open_groups: Tensor | None = None) -> Rows:
    """Each of ``images`` in each of ``states``: ``(P, G)``, ``(m,)`` -> ``P * m`` rows.

    Args:
        open_groups: ``(G,)`` bool, where later states branch off each of them.
    """
    every = states.repeat_interleave(len(images), 0)
    return Rows(
        images.repeat(len(states)),
        every,
        None if open_groups is None else open_groups.expand_as(every),
    )


def branches(state: Tensor, others: Tensor) -> Tensor:
    """``(G,)`` bool: the groups at which ``others`` ``(P, G)`` branch off ``state`` ``(G,)``."""
    differ = others != state
    first = differ & (differ.cumsum(1) == 1)
    return first.any(0)
