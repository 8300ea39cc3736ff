"""Predictions from the chosen states and one candidate, for every candidate."""

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
    """Search of an ensemble whose states are given to `merged_with_each` instead."""

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
    """Merge the chosen states with each of the candidates, by the ensemble's aggregator.

    The chosen states are computed once, and candidates share prefixes with them and with one
    another. Memory does not grow with the number of candidates.

    Args:
        ensemble: attached with `ExternalStates`.
        images: ``(N, 3, H, W)``, preprocessed.
        context: see `Ensemble.predict`.
        chosen: states, each with one selection index per searched group; may be empty.
        candidates: states that are not among the chosen ones.

    Yields:
        Position of a candidate and its logits ``(N, K)`` or ``(N, K, H, W)``, in the order in which
        neighbours share the longest prefixes.
    """
    batch = BatchInference(ensemble.pipeline, images, context)
    every = torch.arange(len(images))
    order = sorted(range(len(candidates)), key=lambda position: tuple(candidates[position]))
    states = torch.tensor([list(state) for state in [*chosen, *(candidates[p] for p in order)]])
    rows = [
        each_of(state[None], every, branches(state, states[number:]))
        for number, state in enumerate(states, 1)
    ]
    for part in rows[: len(chosen)]:
        batch.add(part)
    for position, part in zip(order, rows[len(chosen) :], strict=True):
        trial = batch.fork()
        trial.add(part)
        yield position, trial.logits()
