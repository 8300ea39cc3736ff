"""An ensemble of states inside one model: the walk from images to merged logits."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
from ..search import Feedback, Rows, Search, SearchRounds, Signals
from ..subsampling import StateHooks, SubsamplingGroup, SubsamplingMap
from ..subsampling.discovery import blank_image, inference_mode
from .adapters import ModelAdapter


@dataclass(frozen=True)
class SearchResult:
    """What the search did for one batch.

    Attributes:
        states: ``(N, B, G)`` states of every image, in the order in which they were found. Where
            images used different numbers of states, the rest of a row is -1.
        scores: ``(N, B)`` their scores, lower is better (the rest NaN); None where the search asks
            for none.
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
        cost_model: what the parts of the model cost.
        prices: what states cost with this search and aggregator; ``prices.of(states)`` is the
            prefix-tree bound of a set of states.
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
        self._hooks = StateHooks(adapter.backbone, groups)
        self._space = self._hooks.space
        self._geometry = Geometry(self._space, found.strides)
        try:
            self.cost_model = self._measure_cost(found.input_size)
        except BaseException:
            self.detach()
            raise
        self.prices = self.cost_model.prices(
            head_per_state=search.needs_prediction
            or aggregator.needs_prediction
            or not aggregator.space.head_after,
            head_after=aggregator.space.head_after,
        )
        self._executor = PrefixExecutor(adapter.features, self._hooks, self.cost_model, max_rows)
        adapter.install(self.predict)

    @property
    def budget(self) -> int:
        """Number of states per image at most, ``B``."""
        return self.search.most_states(self._space, self.prices)

    def predict(self, images: Tensor, context: Any = None) -> Tensor:
        """Search, compute, align and merge.

        Args:
            images: ``(N, 3, H, W)``, preprocessed.
            context: what the head asks for besides; the image metas of a segmentor.

        Returns:
            Logits ``(N, K)``, or ``(N, K, H, W)`` if dense.
        """
        batch = _Batch(self, images, context)
        rounds = self.search.rounds(len(images), self._space, self.prices)
        if self.search.needs_prediction:
            rows, scores = _converse(rounds, partial(batch.take_in, more_to_come=True))
        else:
            # The states are known before anything is computed, so compute them in one go.
            rows, scores = _converse(rounds, batch.judge)
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
        backbone = self.adapter.backbone
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
        counts = rows.images.bincount(minlength=count)
        states = rows.states[by_image].split(counts.tolist())
        self.last = SearchResult(
            states=pad_sequence(states, batch_first=True, padding_value=-1),
            scores=None
            if scores is None
            else pad_sequence(
                scores[by_image].split(counts.tolist()),
                batch_first=True,
                padding_value=float('nan'),
            ),
            counts=counts,
            cost=batch.run.cost + self.cost_model.head * batch.heads / count,
            bound=sum(self.prices.of(own.tolist()) for own in states) / count,
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

    def take_in(self, rows: Rows, more_to_come: bool = False) -> Feedback:
        """Compute rows, merge them, and judge them if the search looks at predictions."""
        parts = []
        for computed in self.run.compute(rows, more_to_come):
            evaluation = Evaluation(
                computed,
                self._head,
                self.ensemble._geometry,
                self.ensemble.aggregator.alignment,
                self.ensemble.aggregator.space.head_input,
            )
            if more_to_come:
                parts.append((computed.positions, self.judge(computed.rows, evaluation)))
            self._merge.add(evaluation)
        return _in_order(parts)

    def judge(self, rows: Rows, evaluation: Evaluation | None = None) -> Feedback:
        """What the search is told of rows."""
        search = self.ensemble.search
        signals = Signals(
            displacement=self.ensemble._space.displacement(rows.states),
            image_keys=lambda: image_keys(self.images)[rows.images],
            entropy=lambda: evaluation.entropy,
            margin=lambda: evaluation.margin,
        )
        return Feedback(
            scores=search.criterion and search.criterion.score(rows, signals),
            confident=search.gate and search.gate.confident(signals),
        )

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
    rounds: SearchRounds, answer: Callable[[Rows], Feedback]
) -> tuple[Rows, Tensor | None]:
    """Answer a search until it ends; all its rows and their scores."""
    asked, scores = [next(rounds)], []
    while True:
        feedback = answer(asked[-1])
        scores.append(feedback.scores)
        try:
            asked.append(rounds.send(feedback))
        except StopIteration:
            break
    rows = Rows(
        torch.cat([rows.images for rows in asked]), torch.cat([rows.states for rows in asked])
    )
    return rows, None if scores[0] is None else torch.cat(scores)


def _in_order(parts: list[tuple[Tensor, Feedback]]) -> Feedback:
    """Feedback on parts as feedback on the rows in the order in which they were asked for."""
    if not parts:
        return Feedback()
    order = torch.cat([positions for positions, _ in parts]).argsort()

    def joined(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat(values)[order]

    return Feedback(
        scores=joined([feedback.scores for _, feedback in parts]),
        confident=joined([feedback.confident for _, feedback in parts]),
    )


def image_keys(images: Tensor) -> Tensor:
    """A number per image that depends on its content alone: ``(N, 3, H, W)`` -> ``(N,)`` long."""
    step = max(1, min(images.shape[2:]) // 16)
    sample = images[:, :, ::step, ::step].float().cpu().numpy()
    return torch.tensor([zlib.crc32(image.tobytes()) for image in sample])
