"""An ensemble of states inside one model: the walk from images to merged logits."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..aggregation import Aggregator, Evaluation, Geometry
from ..errors import MMDiscardError
from ..execution import (
    Computed,
    CostModel,
    Levels,
    PrefixExecutor,
    RowExecutor,
    measure_cost,
)
from ..search import Rows, Search, SearchRounds, Signals
from ..subsampling import StateHooks, SubsamplingGroup, SubsamplingMap
from ..subsampling.discovery import blank_image, inference_mode
from .adapters import ModelAdapter


@dataclass(frozen=True)
class SearchResult:
    """What the search did for one batch.

    Attributes:
        states: ``(N, B, G)`` states of every image, in the order in which they were found.
        scores: ``(N, B)`` their scores, lower is better; None where the search asks for none.
        cost: multiply-accumulates per image, in units of one plain forward.
        bound: the least they could be: every distinct prefix of the states computed once, and the
            head run as often as the aggregator and the criterion ask for. The mean over images.
    """

    states: Tensor
    scores: Tensor | None
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


class Ensemble:
    """A model whose predictions merge several states. Made by `mmdiscard.attach`.

    Also a context manager: leaving it detaches.

    Args:
        adapter: of the model.
        found: what discovery says of the model's backbone.
        groups: the groups to search.
        search: chooses states.
        aggregator: merges them.
        max_rows: bound on rows in flight, see `PrefixExecutor`.

    Attributes:
        groups: the searched groups, in the order in which states index them.
        cost_model: what the parts of the model cost, and the bound for any set of states.
        last: `SearchResult` of the last batch; None before the first.
        listeners: called with every `SearchResult`.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        found: SubsamplingMap,
        groups: tuple[SubsamplingGroup, ...],
        search: Search,
        aggregator: Aggregator,
        max_rows: int | None = None,
    ) -> None:
        self.adapter = adapter
        self.groups = groups
        self.search = search
        self.aggregator = aggregator
        self.last: SearchResult | None = None
        self.listeners: list[Callable[[SearchResult], None]] = []
        self._hooks = StateHooks(adapter.model.backbone, groups)
        self._space = self._hooks.space
        self._geometry = Geometry(self._space, found.strides)
        try:
            self.cost_model = self._measure_cost(found.input_size)
        except BaseException:
            self.detach()
            raise
        self._executor = PrefixExecutor(adapter.features, self._hooks, self.cost_model, max_rows)
        adapter.install(self.predict)

    @property
    def budget(self) -> int:
        """Number of states per image, ``B``."""
        return self.search.budget_for(self._space)

    def predict(self, images: Tensor, context: Any = None) -> Tensor:
        """Search, compute, align and merge.

        Args:
            images: ``(N, 3, H, W)``, preprocessed.
            context: what the head asks for besides; the image metas of a segmentor.

        Returns:
            Logits ``(N, K)``, or ``(N, K, H, W)`` if dense.
        """
        batch = _Batch(self, images, context)
        rounds = self.search.rounds(len(images), self._space)
        if self.search.criterion is not None and self.search.criterion.needs_prediction:
            rows, scores = _converse(rounds, partial(batch.take_in, more_to_come=True))
        else:
            # The states are known before anything is computed, so compute them in one go.
            rows, scores = _converse(rounds, batch.score)
            batch.take_in(rows)
        logits = batch.logits()
        self._publish(rows, scores, batch)
        return logits

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, states: Tensor, context: Any = None) -> StateOutputs:
        """Compute given states, without search, alignment or merging.

        Args:
            inputs: ``(N, 3, H, W)``, preprocessed.
            states: ``(P, G)`` for all images alike, or ``(N, P, G)``.
            context: as for `predict`.

        Raises:
            MMDiscardError: if a state does not fit `groups`.
        """
        count = len(inputs)
        states = self._space.check(states)
        states = states.expand(count, *states.shape[-2:]).transpose(0, 1)
        rows = Rows(torch.arange(count).repeat(len(states)), states.flatten(0, 1))
        parts = list(RowExecutor(self.adapter.features, self._hooks).run(inputs, rows))
        context = context or self.adapter.default_context(inputs)
        logits = [self._head(context, part.features, part) for part in parts]
        levels = zip(*(part.features for part in parts), strict=True)

        def per_image(tensors: tuple[Tensor, ...]) -> Tensor:
            return torch.cat(tensors).unflatten(0, (len(states), count)).transpose(0, 1)

        return StateOutputs(tuple(per_image(level) for level in levels), per_image(tuple(logits)))

    def detach(self) -> None:
        """Give the model back bit for bit as it was; a second call does nothing."""
        if self._hooks is not None:
            self._hooks.remove()
            self.adapter.uninstall()
            self._hooks = None

    def __enter__(self) -> 'Ensemble':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _head(self, context: Any, levels: Levels, computed: Computed) -> Tensor:
        rows = computed.rows.images.tolist()
        return self.adapter.head(levels, computed.inputs, self.adapter.context_of(context, rows))

    def _measure_cost(self, input_size: tuple[int, int]) -> CostModel:
        backbone = self.adapter.model.backbone
        image = blank_image(backbone, input_size)
        context = self.adapter.default_context(image)
        try:
            with inference_mode(self.adapter.model):
                return measure_cost(
                    self._hooks,
                    self.adapter.features,
                    lambda levels: self.adapter.head(levels, image, context),
                    image,
                )
        except (RuntimeError, AssertionError, IndexError) as error:
            raise MMDiscardError(
                f'the model does not run on an image of {input_size}: {error}; if another size '
                'would do, set `input_size` in `subsampling`'
            ) from error

    def _publish(self, rows: Rows, scores: Tensor | None, batch: '_Batch') -> None:
        count = len(batch.images)
        by_image = rows.images.argsort(stable=True)
        states = rows.states[by_image].unflatten(0, (count, -1))
        heads = batch.heads / count
        bounds = [self.cost_model.bound(own, heads) for own in states.tolist()]
        self.last = SearchResult(
            states=states,
            scores=None if scores is None else scores[by_image].unflatten(0, (count, -1)),
            cost=batch.run.cost + self.cost_model.head * heads,
            bound=sum(bounds) / count,
        )
        for listener in self.listeners:
            listener(self.last)


class _Batch:
    """One batch on its way through an ensemble.

    Attributes:
        run: computes its states.
        heads: how many rows went through the head.
    """

    def __init__(self, ensemble: Ensemble, images: Tensor, context: Any) -> None:
        self.ensemble = ensemble
        self.images = images
        self.run = ensemble._executor.start(images)
        self.heads = 0
        self._context = ensemble.adapter.default_context(images) if context is None else context
        self._merge = ensemble.aggregator.merge(len(images))

    def take_in(self, rows: Rows, more_to_come: bool = False) -> Tensor | None:
        """Compute rows, merge them, and score them if the search looks at predictions."""
        scores = None
        for computed in self.run.compute(rows, more_to_come):
            evaluation = Evaluation(
                computed,
                self._head,
                self.ensemble._geometry,
                self.ensemble.aggregator.alignment,
                self.ensemble.aggregator.space.head_input,
            )
            if more_to_come:
                part = self.score(computed.rows, evaluation)
                scores = part.new_empty(len(rows)) if scores is None else scores
                scores[computed.positions] = part
            self._merge.add(evaluation)
        return scores

    def score(self, rows: Rows, evaluation: Evaluation | None = None) -> Tensor | None:
        """Scores of rows; None where the search asks for none."""
        criterion = self.ensemble.search.criterion
        if criterion is None:
            return None
        signals = Signals(
            displacement=self.ensemble._space.displacement(rows.states),
            image_keys=lambda: image_keys(self.images)[rows.images],
            entropy=lambda: evaluation.entropy,
        )
        return criterion.score(rows, signals)

    def logits(self) -> Tensor:
        """The merged prediction."""
        count = len(self.images)
        whole = Computed(
            Rows(torch.arange(count), self.ensemble._space.default(count)), self.images, ()
        )
        return self.ensemble.aggregator.space.logits(
            self._merge.result(), lambda levels: self._head(levels, whole)
        )

    def _head(self, levels: Levels, computed: Computed) -> Tensor:
        self.heads += len(computed.rows)
        return self.ensemble._head(self._context, levels, computed)


def _converse(
    rounds: SearchRounds, answer: Callable[[Rows], Tensor | None]
) -> tuple[Rows, Tensor | None]:
    """Answer a search until it ends; all its rows and their scores."""
    asked, scores = [next(rounds)], []
    while True:
        scores.append(answer(asked[-1]))
        try:
            asked.append(rounds.send(scores[-1]))
        except StopIteration:
            break
    rows = Rows(
        torch.cat([rows.images for rows in asked]), torch.cat([rows.states for rows in asked])
    )
    return rows, None if scores[0] is None else torch.cat(scores)


def image_keys(images: Tensor) -> Tensor:
    """A number per image that depends on its content alone: ``(N, 3, H, W)`` -> ``(N,)`` long."""
    step = max(1, min(images.shape[2:]) // 16)
    sample = images[:, :, ::step, ::step].float().cpu().numpy()
    return torch.tensor([zlib.crc32(image.tobytes()) for image in sample])
