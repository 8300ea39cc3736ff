"""Views and states in competition, inside a TTA model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..aggregation import Aggregator
from ..errors import MMDiscardError
from ..models.adapters import unwrap
from ..models.batch_inference import BatchInference
from ..models.ensemble import Ensemble, ensemble_of
from ..models.results import SearchResult
from ..search import Budget, GreedySearch
from .joint_search import JointSearch
from .mergers import FittedMerger, Merger
from .view_output import naming


@dataclass(frozen=True)
class JointResult:
    """What became of the last batch.

    Attributes:
        states: ``(N, V)`` long, how many states of each view; 0 where a view was not taken.
        cost: ``(N,)``, what they cost if every prefix is computed once, in plain forwards.
    """

    states: Tensor
    cost: Tensor


class JointBudget:
    """Spends one cost per image on views and states, see `JointSearch`.

    Args:
        cost: plain forwards per image, at least 1.

    Raises:
        MMDiscardError: if it is no such number, or the merger was fitted to all views.

    Attributes:
        last: of the last batch; None before the first.
    """

    def __init__(self, settings: Mapping[str, Any], merger: Merger) -> None:
        budget = Budget.parse(dict(settings))
        if budget.cost is None or budget.states is not None:
            raise MMDiscardError(f'joint takes a cost, such as dict(cost=4.0); got {settings}')
        if isinstance(merger, FittedMerger):
            raise MMDiscardError(
                f'joint leaves out views image by image, and {type(merger).__name__} was fitted to '
                'all of them; use MeanMerger, MaxMerger or EntropyMerger'
            )
        self.cost = budget.cost
        self.last: JointResult | None = None

    def search(self, model: nn.Module) -> tuple[Ensemble, JointSearch]:
        """What to search with.

        Raises:
            MMDiscardError: if the model cannot be searched so.
        """
        ensemble = ensemble_of(model)
        if ensemble is None:
            raise MMDiscardError(
                'joint=... divides a cost between views and states, and no states are searched; '
                'add a SubsamplingSearchHook, or take so many views in tta_pipeline'
            )
        if not isinstance(ensemble.search, GreedySearch) or ensemble.budget == 1:
            raise MMDiscardError(
                'joint=... needs a GreedySearch with a budget of more than one state, whose '
                'criterion says what comes next'
            )
        if ensemble.search.criterion.needs_attention or not _is_mean(ensemble.aggregator):
            raise MMDiscardError(
                'joint=... compares states of different views, and attention is among those of '
                'one; use EntropyCriterion with EntropyAggregator or AverageAggregator'
            )
        test_cfg = getattr(unwrap(model), 'test_cfg', None) or {}
        if test_cfg.get('mode', 'whole') != 'whole':
            raise MMDiscardError(
                'joint=... looks at whole images, and model.test_cfg.mode is '
                f'{test_cfg["mode"]!r}; without joint every mode works'
            )
        return ensemble, JointSearch(ensemble.search, self.cost)

    @torch.no_grad()
    def logits(
        self, model: nn.Module, views: Sequence[Any], names: Sequence[str]
    ) -> Iterator['ViewLogits']:
        """Search a batch; then, one after the other, what every view that any image took says.

        Until then the features or logits merged so far are kept of every such view.
        """
        ensemble, search = self.search(model)
        batches: dict[int, BatchInference] = {}

        def batch_of(view: int) -> BatchInference:
            if view not in batches:
                batches[view] = _batch(model, ensemble, views[view])
            return batches[view]

        count = len(batch_of(0).images)
        taken = torch.zeros(count, len(views), dtype=torch.long)
        rounds = search.rounds(count, len(views), ensemble.space, ensemble.prices)
        asked = next(rounds)
        while asked:
            feedback = {}
            for view, rows in asked.items():
                with naming(views[view], names[view]):
                    batch = batch_of(view)
                    feedback[view] = batch.ask(rows)
                taken[:, view] += rows.images.bincount(minlength=count)
            asked = next_or_none(rounds, feedback)
        self.last = JointResult(taken, torch.zeros(count, dtype=torch.float64))
        for view in sorted(batches):
            batch = batches.pop(view)
            logits = batch.logits()
            self.last.cost.add_(_publish(ensemble, batch, taken[:, view] > 0).bounds)
            yield ViewLogits(view, logits, batch.weight, taken[:, view] > 0)


@dataclass(frozen=True)
class ViewLogits:
    """What one view says.

    Attributes:
        view: its position.
        logits: ``(N, K)`` or ``(N, K, H, W)``, of no meaning where ``taken`` is false.
        weight: see `BatchInference.weight`.
        taken: ``(N,)`` bool, which images took it.
    """

    view: int
    logits: Tensor
    weight: Tensor | None
    taken: Tensor


def _publish(ensemble: Ensemble, batch: BatchInference, taken: Tensor) -> SearchResult:
    """Tell the ensemble's listeners what became of one view; of images without it, nothing did."""
    result = batch.result()
    ensemble.publish(replace(result, costs=result.costs * taken, bounds=result.bounds * taken))
    return ensemble.last


def _is_mean(aggregator: Aggregator) -> bool:
    """Whether states are merged one by one, as a weighted mean."""
    return type(aggregator).merge is Aggregator.merge


def next_or_none(rounds: Any, feedback: Any) -> Any:
    """Send to a generator; None where it ends."""
    try:
        return rounds.send(feedback)
    except StopIteration:
        return None


def _batch(model: nn.Module, ensemble: Ensemble, view: Any) -> BatchInference:
    data = unwrap(model).data_preprocessor(view, False)
    samples = data['data_samples']
    context = [sample.metainfo for sample in samples] if ensemble.adapter.dense else None
    return BatchInference(ensemble.pipeline, data['inputs'], context)
