"""What an ensemble tells of its work."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..search import Feedback, Prices, Rows


@dataclass(frozen=True)
class SearchResult:
    """What the search did for one batch.

    Attributes:
        states: ``(N, B, G)`` states of every image, in the order in which they were found. Where
            images used different numbers of states, the rest of a row is -1.
        scores: ``(N, B)`` their scores, lower is better (the rest NaN); None where the search asks
            for none, or has a budget of one state and so nothing to compare.
        counts: ``(N,)`` how many states each image used.
        cost: multiply-accumulates per image, in units of one plain forward.
        bound: the least they could be: every distinct prefix of the states computed once, and the
            head run as often as the aggregator and the criterion ask for. The mean over images.
    """

    states: Tensor
    scores: Tensor | None
    counts: Tensor
    cost: float
    bound: float


@dataclass(frozen=True)
class StateOutputs:
    """What single states give, not aligned.

    Attributes:
        features: per output level ``(N, P, C, h, w)``.
        logits: ``(N, P, K)``, or ``(N, P, K, H, W)`` if dense.
    """

    features: tuple[Tensor, ...]
    logits: Tensor


def search_result(
    count: int,
    asked: Sequence[Rows],
    answers: Sequence[Feedback],
    cost: float,
    prices: Prices,
) -> SearchResult:
    """Sort what was asked for, in rounds, by image.

    Args:
        count: number of images.
        asked: rows of every round.
        answers: what the search was told of them.
        cost: per image, in plain forwards.
        prices: of states, for the bound.
    """
    images = torch.cat([rows.images for rows in asked])
    by_image = images.argsort(stable=True)
    counts = images.bincount(minlength=count)

    def sorted_out(values: Sequence[Tensor], rest: float) -> Tensor:
        own = torch.cat(list(values))[by_image].split(counts.tolist())
        return pad_sequence(own, batch_first=True, padding_value=rest)

    states = sorted_out([rows.states for rows in asked], -1)
    known = [answer.scores for answer in answers if answer.scores is not None]
    sets = [tuple(map(tuple, own[:n].tolist())) for own, n in zip(states, counts, strict=True)]
    bounds = {own: prices.of(own) for own in set(sets)}
    return SearchResult(
        states=states,
        scores=sorted_out(known, float('nan')) if len(known) == len(asked) else None,
        counts=counts,
        cost=cost,
        bound=sum(bounds[own] for own in sets) / count,
    )
