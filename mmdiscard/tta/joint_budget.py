"""One cost per image for the views and states of a TTA model together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models import unwrap
from ..models.batch_inference import BatchInference
from ..models.ensemble import Ensemble, ensemble_of
from ..models.results import SearchResult
from ..models.views import errors_name_view, preprocess
from ..search import Budget, GreedySearch, next_round
from .fitted_mergers import FittedMerger
from .joint_search import JointSearch
from .mergers import Merger


@dataclass(frozen=True)
class JointResult:
    """Views and states of one batch.

    Attributes:
        states: ``(N, V)`` long, number of states in each view; 0 if a view was not taken.
        cost: ``(N,)``, in plain forwards, if every shared prefix is computed once.
    """

    states: Tensor
    cost: Tensor


class JointBudget:
    """Divides one cost per image between views and states, see `JointSearch`.

    Args:
        settings: ``dict(cost=4.0)``, in plain forwards per image, at least 1.
        merger: merges the views.

    Raises:
        MMDiscardError: if the cost is not such a number, or the merger was fitted to all views.

    Attributes:
        cost: the budget.
        last: `JointResult` of the last batch; None before the first.
    """

    def __init__(self, settings: Mapping[str, Any], merger: Merger) -> None:
        budget = Budget.parse(dict(settings)) if isinstance(settings, Mapping) else Budget()
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
        """The ensemble attached to a model, and the search over its views and states.

        Raises:
            MMDiscardError: if views and states of the model cannot be compared.
        """
        ensemble = ensemble_of(model)
        if ensemble is None:
            raise MMDiscardError(
                'joint=... divides a cost between views and states, and no states are searched; '
                'add a SubsamplingSearchHook, or leave joint out and shorten tta_pipeline instead'
            )
        if not isinstance(ensemble.search, GreedySearch) or ensemble.budget == 1:
            raise MMDiscardError(
                'joint=... needs a GreedySearch with a budget of more than one state, whose '
                'criterion ranks views and states'
            )
        if ensemble.search.criterion.needs_attention or not ensemble.aggregator.adds_states:
            raise MMDiscardError(
                'joint=... compares states of different views, and attention compares those of '
                'one view; use EntropyCriterion with EntropyAggregator or AverageAggregator'
            )
        if ensemble.windows is not None:
            raise MMDiscardError(
                'joint=... divides a cost between views and states of whole images; leave out '
                "where='unsure', or joint"
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
        """Search the views of a batch, and merge the states of each view.

        The merged states of every view that any image took are kept until the search has ended.

        Args:
            model: the attached model.
            views: as `split_views` returns them.
            names: of the views, for error messages.

        Yields:
            The views that any image took, one after the other.
        """
        ensemble, search = self.search(model)
        batches: dict[int, BatchInference] = {}

        def batch_of(view: int) -> BatchInference:
            if view not in batches:
                batches[view] = _batch(model, ensemble, views[view])
            return batches[view]

        count = len(batch_of(0).images)
        states = torch.zeros(count, len(views), dtype=torch.long)
        cost = torch.zeros(count, dtype=torch.float64)
        rounds = search.rounds(count, len(views), ensemble.space, ensemble.prices)
        asked = next(rounds)
        while asked:
            feedback = {}
            for view, rows in asked.items():
                with errors_name_view(views[view], names[view]):
                    feedback[view] = batch_of(view).ask(rows)
                states[:, view] += rows.images.bincount(minlength=count)
            asked = next_round(rounds, feedback)
        for view in sorted(batches):
            batch, taken = batches.pop(view), states[:, view] > 0
            logits, result = batch.logits(), batch.result()
            # Images that did not take the view have no cost in it.
            result = replace(result, costs=result.costs * taken, bounds=result.bounds * taken)
            cost += result.bounds
            yield ViewLogits(view, logits, result, taken)
        self.last = JointResult(states, cost)


@dataclass(frozen=True)
class ViewLogits:
    """Merged prediction for one view of a batch.

    Attributes:
        view: its position.
        logits: ``(N, K)`` or ``(N, K, H, W)``, invalid where ``taken`` is False.
        result: states and costs of this view.
        taken: ``(N,)`` bool, whether an image took the view.
    """

    view: int
    logits: Tensor
    result: SearchResult
    taken: Tensor


def _batch(model: nn.Module, ensemble: Ensemble, view: Any) -> BatchInference:
    images, samples = preprocess(unwrap(model), view)
    context = [sample.metainfo for sample in samples] if ensemble.adapter.dense else None
    return BatchInference(ensemble.pipeline, images, context)
