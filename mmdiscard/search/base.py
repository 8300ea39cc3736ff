"""What a search is: a conversation about states and scores, without a model in sight."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..subsampling import StateSpace


@dataclass(frozen=True)
class Rows:
    """States to compute, of many images at once.

    Attributes:
        images: ``(M,)`` long, which image of the batch each row belongs to: first one row for each
            image that has any, ascending, then the second row of each, and so on.
        states: ``(M, G)`` long.
    """

    images: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> 'Rows':
        return Rows(self.images[part], self.states[part])

    def runs(self) -> Iterator[slice]:
        """Slices in which no image stands twice."""
        ends = (self.images.diff() <= 0).nonzero().flatten() + 1
        bounds = [0, *ends.tolist(), len(self)]
        return (slice(start, stop) for start, stop in pairwise(bounds) if stop > start)


SearchRounds = Generator[Rows, Tensor, None]


class Search:
    """Chooses the states of every image. Subclasses implement `rounds`.

    A search yields `Rows` and is sent their scores, ``(M,)`` float, lower is better; it ends when
    its budget is spent.
    """

    #: scores the rows; None for a search that asks for no scores
    criterion = None

    def prepare(self, space: StateSpace) -> None:
        """Check the search against the groups it will run on.

        Raises:
            MMDiscardError: if the two do not fit.
        """
        raise NotImplementedError

    def budget_for(self, space: StateSpace) -> int:
        """Number of states a prediction uses, ``B``."""
        raise NotImplementedError

    def rounds(self, num_images: int, space: StateSpace) -> SearchRounds:
        """Yield rows round by round for ``num_images`` images; the first is the default state."""
        raise NotImplementedError


def check_budget(budget: int, space: StateSpace | None = None) -> int:
    """Return ``budget`` if it is a whole number from 1 to the number of states.

    Raises:
        MMDiscardError: otherwise.
    """
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise MMDiscardError(f'budget must be a whole number of states, at least 1; got {budget!r}')
    if space is not None and budget > len(space):
        sizes = ' x '.join(str(group.num_indices) for group in space.groups)
        raise MMDiscardError(
            f'budget {budget} is more than the {len(space)} states ({sizes}) of the searched '
            f'groups ({", ".join(group.name for group in space.groups)}); lower it or search '
            'more groups'
        )
    return budget


def same_for_all(states: Tensor, num_images: int) -> Rows:
    """Every image in each of ``states``: ``(P, G)`` -> ``P * num_images`` rows, state by state."""
    return Rows(
        images=torch.arange(num_images).repeat(len(states)),
        states=states.repeat_interleave(num_images, 0),
    )
