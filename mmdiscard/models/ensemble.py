"""An ensemble of states inside one model: the walk from images to merged logits."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..aggregation import Aggregator, Evaluation, Geometry, Merge
from ..execution import Computed, Levels, RowExecutor
from ..search import Rows, Search, SearchRounds, Signals
from ..subsampling import StateHooks, SubsamplingGroup, SubsamplingMap
from .adapters import ModelAdapter


@dataclass(frozen=True)
class SearchResult:
    """What the search did for one batch.

    Attributes:
        states: ``(N, B, G)`` states of every image, in the order in which they were found.
        scores: ``(N, B)`` their scores, lower is better; None where the search asks for none.
        cost: backbone passes per image, in units of one plain forward.
    """

    states: Tensor
    scores: Tensor | None
    cost: float


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
        max_rows: bound on rows in flight, see `RowExecutor`.

    Attributes:
        groups: the searched groups, in the order in which states index them.
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
        self._executor = RowExecutor(adapter.features, self._hooks, max_rows)
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
        merge = self.aggregator.merge(len(images))
        rounds = self.search.rounds(len(images), self._space)
        if self.search.criterion is not None and self.search.criterion.needs_prediction:
            rows, scores = _converse(rounds, partial(self._take_in, images, context, merge))
        else:
            # The states are known before anything is computed, so compute them in one go.
            rows, scores = _converse(rounds, lambda asked: self._score(asked, images))
            self._take_in(images, context, merge, rows)
        self._publish(rows, scores, len(images))
        whole = Computed(rows[: len(images)], images, ())
        return self.aggregator.space.logits(
            merge.result(), lambda levels: self._head(context, levels, whole)
        )

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
        parts = list(self._executor.run(inputs, rows))
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

    def _take_in(self, images: Tensor, context: Any, merge: Merge, rows: Rows) -> Tensor | None:
        """Compute rows, merge them, and score them if the search looks at predictions."""
        scores = []
        for computed in self._executor.run(images, rows):
            evaluation = Evaluation(
                computed,
                partial(self._head, context),
                self._geometry,
                self.aggregator.alignment,
                self.aggregator.space,
            )
            scores.append(self._score(computed.rows, images, evaluation))
            merge.add(evaluation)
        return None if scores[0] is None else torch.cat(scores)

    def _score(
        self, rows: Rows, images: Tensor, evaluation: Evaluation | None = None
    ) -> Tensor | None:
        if self.search.criterion is None:
            return None
        signals = Signals(
            displacement=self._space.displacement(rows.states),
            image_keys=lambda: image_keys(images)[rows.images],
            entropy=lambda: evaluation.entropy,
        )
        return self.search.criterion.score(rows, signals)

    def _head(self, context: Any, levels: Levels, computed: Computed) -> Tensor:
        if context is None:
            context = self.adapter.default_context(computed.inputs)
            return self.adapter.head(levels, computed.inputs, context)
        rows = computed.rows.images.tolist()
        return self.adapter.head(levels, computed.inputs, self.adapter.context_of(context, rows))

    def _publish(self, rows: Rows, scores: Tensor | None, num_images: int) -> None:
        by_image = rows.images.argsort(stable=True)
        self.last = SearchResult(
            states=rows.states[by_image].unflatten(0, (num_images, -1)),
            scores=None if scores is None else scores[by_image].unflatten(0, (num_images, -1)),
            cost=len(rows) / num_images,
        )
        for listener in self.listeners:
            listener(self.last)


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
