"""Interface of searches: a generator that yields states to compute and is sent their scores."""

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
    """States to compute, one row per image and state.

    Attributes:
        images: ``(M,)`` long, the image of the batch that each row belongs to: first one row of
            every image that has any, ascending, then the second row of each, and so on.
        states: ``(M, G)`` long, the selection indices.
        open: ``(M, G)`` bool, the groups at which states of later rounds may first differ from the
            row: features in front of these groups are cached; None for no groups.
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
        """Slices in which every image occurs at most once."""
        ends = (self.images.diff() <= 0).nonzero().flatten() + 1
        bounds = [0, *ends.tolist(), len(self)]
        return (slice(start, stop) for start, stop in pairwise(bounds) if stop > start)


@dataclass(frozen=True)
class Feedback:
    """Scores of the rows that a search yielded.

    Attributes:
        scores: ``(M,)`` float on the CPU, lower is better; None if the search has no criterion.
        confident: ``(M,)`` bool on the CPU, whether the gate ends the search of the image; None if
            the search has no gate.
        uncertainty: ``(M,)`` float64 on the CPU, which the gate compares with its limit; None if
            the search has no gate or the budget is one state.
    """

    scores: Tensor | None = None
    confident: Tensor | None = None
    uncertainty: Tensor | None = None


SearchRounds = Generator[Rows, Feedback, None]


class Search:
    """Chooses the states of every image. Subclasses implement `rounds` and `most_states`.

    A search yields `Rows` and is sent `Feedback`; it ends when its budget is spent. ``gate`` is the
    config of a gate, which ends the search of confident images early.
    """

    #: the `Criterion` that scores rows; None for a search that needs no scores
    criterion = None
    #: whether the gate is asked once, after the first states, instead of after every round
    gate_looks_once = False

    def __init__(self, gate: Mapping[str, Any] | None = None) -> None:
        self.gate = gate and build(GATES, gate)

    @property
    def needs_prediction(self) -> bool:
        """Whether the next round depends on the features or predictions of this one."""
        scored = self.criterion is not None and self.criterion.needs_prediction
        return scored or self.gate is not None

    @property
    def runs_head(self) -> bool:
        """Whether the search needs the logits of every state."""
        scored = self.needs_prediction and self.criterion is not None and self.criterion.runs_head
        return scored or self.gate is not None

    @property
    def same_for_all(self) -> bool:
        """Whether every image gets the states that ``states_in`` returns, see `KnownStates`."""
        return False

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        """Check the search against the searched groups, and its files against the model.

        Subclasses begin with this. Without a fingerprint, files are not checked.

        Raises:
            MMDiscardError: if budget, states or files do not fit the model.
        """
        if self.gate is not None:
            self.gate.prepare(fingerprint)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        """Largest number of states per image, ``B``."""
        raise NotImplementedError

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        """Yield the rows of every round, and be sent `Feedback` on them.

        Args:
            num_images: ``N``.
            space: the states of the searched groups.
            prices: what states cost.
        """
        raise NotImplementedError


def next_round(rounds: Generator, feedback: Any) -> Any:
    """Send feedback to a search; returns its next rows, or None if it has ended."""
    try:
        return rounds.send(feedback)
    except StopIteration:
        return None


def each_of(states: Tensor, images: Tensor, open_groups: Tensor | None = None) -> Rows:
    """Rows of every image in every state, ``P * m`` in all.

    Args:
        states: ``(P, G)``.
        images: ``(m,)`` long.
        open_groups: ``(G,)`` bool, groups at which later states may differ, see `Rows`.
    """
    every = states.repeat_interleave(len(images), 0)
    return Rows(
        images.repeat(len(states)),
        every,
        None if open_groups is None else open_groups.expand_as(every),
    )


def branches(state: Tensor, others: Tensor) -> Tensor:
    """The groups at which ``others`` ``(P, G)`` first differ from ``state`` ``(G,)``: ``(G,)``."""
    differ = others != state
    first = differ & (differ.cumsum(1) == 1)
    return first.any(0)
