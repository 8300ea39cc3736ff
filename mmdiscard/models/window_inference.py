"""States and mirror images in windows alone: around the unsure parts of a plain prediction."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..aggregation import RowOutputs
from ..errors import MMDiscardError
from ..execution import BackboneOutputs
from ..search import Rows
from .batch_inference import BatchInference
from .pipeline import Pipeline
from .results import SearchResult
from .unsure_windows import UNKNOWN_STRIDE, UnsureWindows
from .windows import Size, Windows


class WindowSearch:
    """Predicts images plainly, and their unsure windows again: other states, mirror images.

    Args:
        where: how windows are chosen.
        pipeline: what the windows go through. Its states are the same for all windows.
        frame: ``(H, W)`` of the images that will come.

    Attributes:
        where: the same, with a share of the area.
        step: windows begin at multiples of it.
        price: of the second look at a whole image, in plain forwards.

    Raises:
        MMDiscardError: if the search, the aggregator or the model cannot be used with windows, or
            windows do not fit the images.
    """

    def __init__(self, where: UnsureWindows, pipeline: Pipeline, frame: Size) -> None:
        _check(pipeline)
        self.step = coarsest_stride(pipeline)
        self.price = price_of_look(pipeline)
        self.where = where.resolved(self.price)
        self.where.check(frame, self.step)

    def describe(self, frame: Size) -> str:
        """For the log: the windows in images of ``frame``."""
        size = self.where.size_in(frame, self.step)
        count = self.where.number(frame, size)
        mirrored = ', mirrored' * self.where.flip
        return (
            f'{count} window{"s" * (count != 1)} of {size[0]} x {size[1]}{mirrored} '
            f'({self._area(frame):.0%} of an image of {frame[0]} x {frame[1]}), about '
            f'{self.cost(frame):.2f} plain forwards'
        )

    def cost(self, frame: Size) -> float:
        """Cost of an image of ``frame`` at most, in plain forwards."""
        return 1 + self._area(frame) * self.price

    def _area(self, frame: Size) -> float:
        """Sum of the areas of the windows, relative to an image of ``frame``."""
        size = self.where.size_in(frame, self.step)
        return self.where.number(frame, size) * math.prod(size) / math.prod(frame)

    def predict(
        self, pipeline: Pipeline, images: Tensor, context: Any = None
    ) -> tuple[Tensor, SearchResult]:
        """Predict a batch.

        Args:
            pipeline: what the windows go through.
            images: ``(N, C, H, W)``, preprocessed.
            context: as for `Ensemble.predict`.

        Returns:
            Logits ``(N, K, H, W)``, and what was computed.
        """
        adapter = pipeline.adapter
        context = adapter.default_context(images) if context is None else context
        logits = adapter.logits(images, context)
        if logits.shape[2:] != images.shape[2:]:
            raise MMDiscardError(
                f'where: logits of {tuple(logits.shape[2:])} are not of the size of the images, '
                f'{tuple(images.shape[2:])}, so windows of one cannot be found in the other'
            )
        count = len(images)
        plain = _outputs(pipeline, Rows(torch.arange(count), pipeline.space.default(count)), logits)
        windows = self.where.choose(
            plain.entropies, self.step, adapter.valid_sizes(images, context)
        )
        whole = pipeline.begin_merge(count)
        whole.add(plain, last_use=True)
        weight = whole.total if pipeline.weighs_confidence else None
        costs = torch.ones(count, dtype=torch.float64)
        disagreement = torch.zeros_like(plain.entropies) if pipeline.uncertainty else None
        if len(windows):
            weight = None if weight is None else weight.clone()
            batch = WindowBatch(pipeline, windows, images, context, logits)
            batch.follow(pipeline.search.rounds(len(windows), pipeline.space, pipeline.prices))
            windows.paste(whole.result()[0], batch.logits())
            if weight is not None:
                windows.paste(weight, batch.weight)
            if batch.disagreement is not None:
                windows.paste(disagreement.unsqueeze(1), batch.disagreement.unsqueeze(1))
            costs.index_add_(0, windows.images, batch.costs * windows.area)
        uncertain = dict(weight=weight, disagreement=disagreement)
        return whole.result()[0], self._result(pipeline, windows, costs, **uncertain)

    def _result(
        self, pipeline: Pipeline, windows: Windows, costs: Tensor, **uncertain: Tensor | None
    ) -> SearchResult:
        states = pipeline.known_states
        looked = windows.images.bincount(minlength=len(costs)) > 0
        counts = torch.where(looked, len(states), 1)
        own = states.expand(len(costs), *states.shape).clone()
        own[~looked, 1:] = -1
        return SearchResult(
            states=own,
            scores=None,
            counts=counts,
            costs=costs,
            bounds=costs,
            size=windows.frame,
            windows=tuple(windows.of_image(image) for image in range(len(costs))),
            **uncertain,
        )


class WindowBatch(BatchInference):
    """Windows as a batch, whose default state is known already: cut out of the plain prediction.

    If the second look is at mirror images, these are what the executor computes.

    Args:
        pipeline: what the windows go through.
        windows: of ``images``.
        images: ``(N, C, H, W)``.
        context: of the images.
        logits: ``(N, K, H, W)`` plain prediction.
    """

    def __init__(
        self, pipeline: Pipeline, windows: Windows, images: Tensor, context: Any, logits: Tensor
    ) -> None:
        crops = windows.crop(images)
        crops = crops.flip(3) if pipeline.mirrors else crops
        context = pipeline.adapter.window_context(context, windows.images.tolist(), crops)
        super().__init__(pipeline, crops, context)
        self._plain = windows.crop(logits)

    def compute(self, rows: Rows) -> Iterator[RowOutputs]:
        known = _is_default(self.pipeline, rows.states)
        places = known.nonzero().flatten()
        if len(places):
            plain = self._plain[rows.images[known].to(self._plain.device)]
            yield _outputs(self.pipeline, rows[known], plain, places)
        again = _looked_again(self.pipeline, rows.states).nonzero().flatten()
        for computed in self._run.compute(rows[again]):
            yield self.outputs(computed.moved(again), self.pipeline.mirrors)


def _outputs(
    pipeline: Pipeline, rows: Rows, logits: Tensor, positions: Tensor | None = None
) -> RowOutputs:
    """Outputs of rows of the default state whose logits are known."""
    computed = BackboneOutputs(rows, logits, (), positions)
    return pipeline.outputs(computed, lambda levels, computed: logits)


def price_of_look(pipeline: Pipeline) -> float:
    """Cost of all but the plain prediction, in plain forwards of the same area."""
    states = pipeline.known_states
    again = states[_looked_again(pipeline, states)]
    return pipeline.prices.of(again.tolist()) if len(again) else 0.0


def _is_default(pipeline: Pipeline, states: Tensor) -> Tensor:
    return (states == pipeline.space.default(1)).all(1)


def _looked_again(pipeline: Pipeline, states: Tensor) -> Tensor:
    """``(M,)`` bool, which of ``states`` the second look computes."""
    default_alone = bool(_is_default(pipeline, pipeline.known_states).all())
    if pipeline.mirrors and default_alone:
        return torch.ones(len(states), dtype=torch.bool)
    return ~_is_default(pipeline, states)


def coarsest_stride(pipeline: Pipeline) -> Size:
    """Of the output levels; `UNKNOWN_STRIDE` where the image is searched in front of a model."""
    if pipeline.adapter.whole:
        return UNKNOWN_STRIDE, UNKNOWN_STRIDE
    return pipeline.geometry.coarsest_stride


def _check(pipeline: Pipeline) -> None:
    search, aggregator = pipeline.search, pipeline.aggregator
    names = type(search).__name__, type(aggregator).__name__
    if not pipeline.adapter.dense:
        raise MMDiscardError(
            "where='unsure' is for segmentors: a classifier has no map to choose windows in; give "
            'its search a gate, which spares images that are sure'
        )
    if not search.same_for_all:
        raise MMDiscardError(
            f'where: {names[0]} chooses states by what it sees of each image, and windows need '
            'the same for all; take SpreadStates or FixedStates, without a gate'
        )
    if getattr(getattr(search, 'budget', None), 'cost', None) is not None:
        raise MMDiscardError(
            'where: the budget of the search counts states, and where the cost: '
            'search=dict(budget=2) with where=dict(cost=1.4)'
        )
    if aggregator.stage.head_after or not aggregator.adds_states:
        raise MMDiscardError(
            f'where: windows of logits are merged into a plain prediction, and {names[1]} of the '
            "config merges otherwise; take dict(type='AverageAggregator', on='logits', "
            "align='exact')"
        )
    if not _is_default(pipeline, pipeline.known_states).any():
        raise MMDiscardError(
            'where: the default state is missing among the states of the search, and the plain '
            'prediction has it; add it'
        )
