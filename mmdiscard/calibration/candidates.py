"""What a prediction would be if it used one more state."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.batch_inference import BatchInference
from ..models.ensemble import Ensemble
from ..search import Prices, Search, SearchRounds, branches, each_of
from ..subsampling import StateSpace

State = Sequence[int]


class ExternalStates(Search):
    """Stands in an ensemble whose states are chosen from outside; costs as known states do."""

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        return len(space)

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        raise NotImplementedError('the states of this ensemble are chosen by `merged_with_each`')


@torch.no_grad()
def merged_with_each(
    ensemble: Ensemble,
    images: Tensor,
    context: Any,
    chosen: Sequence[State],
    candidates: Sequence[State],
) -> Iterator[tuple[int, Tensor]]:
    """Merge ``chosen`` with each of ``candidates``, as the ensemble's aggregator does.

    The chosen states are computed once, candidates share prefixes with them and with one another,
    and no more than one candidate is held at a time.

    Args:
        ensemble: attached with `ExternalStates`.
        images: ``(N, 3, H, W)``, preprocessed.
        context: as for `Ensemble.predict`.
        chosen: states of one selection index per searched group; may be empty.
        candidates: states not among them.

    Yields:
        Position of a candidate, and logits ``(N, K)`` or ``(N, K, H, W)``; in the order that shares
        most.
    """
    batch = BatchInference(ensemble.pipeline, images, context)
    every = torch.arange(len(images))
    order = sorted(range(len(candidates)), key=lambda position: tuple(candidates[position]))
    line = torch.tensor([*map(list, chosen), *(list(candidates[p]) for p in order)])
    for row in range(len(chosen)):
        batch.add(each_of(line[row : row + 1], every, branches(line[row], line[row + 1 :])))
    for row, position in enumerate(order, len(chosen)):
        trial = batch.fork()
        trial.add(each_of(line[row : row + 1], every, branches(line[row], line[row + 1 :])))
        yield position, trial.logits()
